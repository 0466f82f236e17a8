//! What each service may publish and subscribe at the broker: the least that it works with.
//!
//! Broker permissions, not good manners: only messages writes the log, nobody the live feed, which is
//! the broker's own republication, and nobody reads another's replies. Beside the grammar, so that code
//! and broker cannot disagree; `tests/e2e/broker.rs` holds the same table written out by hand.

use super::{LEASE_BUCKET, LOG_STREAM};

/// Who connects to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BrokerUser {
    /// Terminates sockets: asks messages and history, reads the log.
    Gateway,
    /// Orders: the only writer of the log.
    Messages,
    /// Keeps: reads the log, answers questions.
    History,
}

/// What a broker user may do; subjects with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Subjects that it may publish to.
    pub publish: Vec<String>,
    /// Subjects that it may not publish to, though `publish` covers them.
    pub publish_never: Vec<String>,
    /// Subjects that it may subscribe.
    pub subscribe: Vec<String>,
}

/// Where replies arrive of whoever connects without a name; the prefix of all inboxes.
pub const INBOX: &str = "_INBOX";
/// The live feed: the broker alone writes it.
const LIVE: &str = "live.>";
/// Every inbox: who answers requests has to reach them all.
const INBOXES: &str = "_INBOX.>";

/// The prefix of the inboxes of a broker user: nobody else may subscribe there.
#[must_use]
pub fn inbox_of(user: &str) -> String {
    format!("{INBOX}.{user}")
}

impl BrokerUser {
    /// Every service's user.
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Messages, Self::History];

    /// The name to connect as; also the service's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Messages => "messages",
            Self::History => "history",
        }
    }

    /// The user of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|user| user.name() == name)
    }

    /// What it may do.
    #[must_use]
    pub fn rights(self) -> Rights {
        let inbox = format!("{}.>", inbox_of(self.name()));
        match self {
            Self::Gateway => Rights {
                publish: [
                    // It answers nobody, and sends itself a message to know that the connection works.
                    texts(&["cmd.*.u.>", "cmd.*.m.>", "hint.*", "svc.history.*", &inbox]),
                    reads(LOG_STREAM),
                ]
                .concat(),
                publish_never: texts(&[LIVE]),
                subscribe: texts(&["live.*", "wm.*", &inbox]),
            },
            Self::Messages => Rights {
                publish: [
                    texts(&["log.*", "wm.*", "own.*", "hint.*", "svc.history.*", INBOXES]),
                    // An owner that hands over sends on what came meanwhile.
                    texts(&["cmd.*.>"]),
                    vec![format!("$KV.{LEASE_BUCKET}.>")],
                    reads(LOG_STREAM),
                    reads(&lease_stream()),
                    makes(LOG_STREAM),
                    makes(&lease_stream()),
                    consumes(LOG_STREAM),
                ]
                .concat(),
                publish_never: texts(&[LIVE]),
                subscribe: texts(&["cmd.*.>", "own.*", "hint.*", &inbox]),
            },
            Self::History => Rights {
                publish: [
                    texts(&[INBOXES]),
                    reads(LOG_STREAM),
                    // The log is kept longer while history lags.
                    vec![api("STREAM.UPDATE", LOG_STREAM)],
                    consumes(LOG_STREAM),
                ]
                .concat(),
                publish_never: texts(&[LIVE]),
                subscribe: texts(&["svc.history.*", "$SRV.>", &inbox]),
            },
        }
    }
}

impl Rights {
    /// Whether it may publish to this subject.
    #[must_use]
    pub fn may_publish(&self, subject: &str) -> bool {
        let covered = |patterns: &[String]| patterns.iter().any(|one| covers(one, subject));
        covered(&self.publish) && !covered(&self.publish_never)
    }

    /// Whether it may subscribe to this subject, which may have wildcards.
    #[must_use]
    pub fn may_subscribe(&self, subject: &str) -> bool {
        self.subscribe.iter().any(|one| covers(one, subject))
    }
}

/// Whether everything that `subject` stands for is covered by a pattern of the broker.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(other)) if other != ">" => {}
            (Some(token), Some(other)) if token == other => {}
            _ => return false,
        }
    }
}

fn texts(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|&s| s.to_owned()).collect()
}

fn lease_stream() -> String {
    format!("KV_{LEASE_BUCKET}")
}

fn api(operation: &str, stream: &str) -> String {
    format!("$JS.API.{operation}.{stream}")
}

/// Reading a stream's state and its messages, from the leader and from any replica.
fn reads(stream: &str) -> Vec<String> {
    vec![
        api("STREAM.INFO", stream),
        api("STREAM.MSG.GET", stream),
        api("DIRECT.GET", stream),
    ]
}

/// Making a stream and bringing it up to date; nobody may delete or purge one.
fn makes(stream: &str) -> Vec<String> {
    vec![api("STREAM.CREATE", stream), api("STREAM.UPDATE", stream)]
}

/// Reading a stream from a position on, by an ordered consumer.
fn consumes(stream: &str) -> Vec<String> {
    let of_any = |operation: &str| format!("{}.*", api(operation, stream));
    vec![
        api("CONSUMER.CREATE", stream),
        // With a name and, if there is just one, the subject that it filters.
        format!("{}.>", api("CONSUMER.CREATE", stream)),
        of_any("CONSUMER.INFO"),
        of_any("CONSUMER.DELETE"),
        of_any("CONSUMER.MSG.NEXT"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_writes_the_log_and_nobody_the_live_feed() {
        for user in BrokerUser::ALL {
            let (writes, rights) = (user == BrokerUser::Messages, user.rights());
            assert_eq!(rights.may_publish("log.3"), writes, "{user:?}");
            assert_eq!(rights.may_publish("wm.k7"), writes, "{user:?}");
            assert!(!rights.may_publish("live.3"), "{user:?}");
        }
    }

    #[test]
    fn nobody_takes_a_record_out_of_the_log() {
        for user in BrokerUser::ALL {
            for operation in ["STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE"] {
                let subject = format!("$JS.API.{operation}.{LOG_STREAM}");
                assert!(!user.rights().may_publish(&subject), "{user:?} {subject}");
            }
        }
    }

    #[test]
    fn commands_come_from_gateways_and_never_as_a_bot() {
        let (gateway, history) = (BrokerUser::Gateway.rights(), BrokerUser::History.rights());
        assert!(gateway.may_publish("cmd.3.u.alice.send.r1"));
        assert!(gateway.may_publish("cmd.3.m.alice.ban.r1"));
        assert!(!gateway.may_publish("cmd.3.bot.b1.send.r1"));
        assert!(!history.may_publish("cmd.3.u.alice.send.r1"));
    }

    #[test]
    fn nobody_listens_at_anothers_inbox() {
        for user in BrokerUser::ALL {
            for other in BrokerUser::ALL {
                let inbox = format!("{}.x.1", inbox_of(other.name()));
                assert_eq!(user.rights().may_subscribe(&inbox), user == other);
            }
            assert!(!user.rights().may_subscribe("_INBOX.>"), "{user:?}");
        }
    }

    #[test]
    fn a_wider_pattern_is_not_covered_by_a_narrower_one() {
        assert!(covers("a.*", "a.b") && covers("a.>", "a.*") && covers("a.*", "a.*"));
        assert!(!covers("a.*", "a.>") && !covers("a.b", "a.*") && !covers("a.>", "a"));
    }

    #[test]
    fn a_name_finds_its_user() {
        assert_eq!(BrokerUser::named("history"), Some(BrokerUser::History));
        assert_eq!(BrokerUser::named("all"), None);
    }
}
