//! What each service may publish and subscribe at the broker: the least that it works with.
//!
//! Broker permissions, not good manners: only messages writes the log, and nobody the live feed, which
//! is the broker's own republication. Beside the grammar, so that code and broker cannot disagree.

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

/// Where replies arrive; a connection also sends itself a message there, to know that it works.
const INBOXES: &str = "_INBOX.>";
/// The live feed: the broker alone writes it.
const LIVE: &str = "live.>";

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

    /// What it may do.
    #[must_use]
    pub fn rights(self) -> Rights {
        let api = |operation: &str| format!("$JS.API.{operation}");
        let of_log = |operation: &str| format!("$JS.API.{operation}.{LOG_STREAM}");
        let read_log = [
            of_log("STREAM.INFO"),
            of_log("STREAM.MSG.GET"),
            of_log("DIRECT.GET"),
            format!("{}.>", of_log("DIRECT.GET")),
        ];
        let text = |subjects: &[&str]| subjects.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        match self {
            Self::Gateway => Rights {
                publish: [
                    text(&["cmd.*.u.>", "cmd.*.m.>", "hint.*", "svc.history.*", INBOXES]),
                    read_log.to_vec(),
                ]
                .concat(),
                publish_never: text(&[LIVE]),
                subscribe: text(&["live.*", "wm.*", INBOXES]),
            },
            Self::Messages => Rights {
                publish: [
                    text(&["log.*", "wm.*", "own.*", "hint.*", "svc.history.*", INBOXES]),
                    // An owner that hands over sends on what came meanwhile.
                    text(&["cmd.>"]),
                    // It makes the streams; what would lose a record is below.
                    text(&["$JS.API.>", "$JS.ACK.>", "$JS.FC.>"]),
                    vec![format!("$KV.{LEASE_BUCKET}.>")],
                ]
                .concat(),
                publish_never: [
                    text(&[LIVE]),
                    vec![
                        api("STREAM.DELETE.>"),
                        api("STREAM.PURGE.>"),
                        api("STREAM.MSG.DELETE.>"),
                        api("STREAM.RESTORE.>"),
                    ],
                ]
                .concat(),
                subscribe: text(&["cmd.>", "own.*", "hint.*", INBOXES]),
            },
            Self::History => Rights {
                publish: [
                    text(&[INBOXES, "$JS.ACK.>", "$JS.FC.>"]),
                    read_log.to_vec(),
                    vec![
                        // The log is kept longer while history lags.
                        of_log("STREAM.UPDATE"),
                        of_log("CONSUMER.CREATE"),
                        format!("{}.>", of_log("CONSUMER.CREATE")),
                        format!("{}.>", of_log("CONSUMER.INFO")),
                        format!("{}.>", of_log("CONSUMER.DELETE")),
                        format!("{}.>", of_log("CONSUMER.MSG.NEXT")),
                    ],
                ]
                .concat(),
                publish_never: text(&[LIVE]),
                subscribe: text(&["svc.history.>", "$SRV.>", INBOXES]),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pattern of the broker covers a subject.
    fn covers(pattern: &str, subject: &str) -> bool {
        let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
        loop {
            match (pattern.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some(token), Some(other)) if token == "*" || token == other => {}
                _ => return false,
            }
        }
    }

    fn may_publish(user: BrokerUser, subject: &str) -> bool {
        let rights = user.rights();
        rights
            .publish
            .iter()
            .any(|pattern| covers(pattern, subject))
            && !rights
                .publish_never
                .iter()
                .any(|pattern| covers(pattern, subject))
    }

    #[test]
    fn only_messages_writes_the_log_and_nobody_the_live_feed() {
        for user in BrokerUser::ALL {
            let writes = user == BrokerUser::Messages;
            assert_eq!(may_publish(user, "log.3"), writes, "{user:?}");
            assert_eq!(may_publish(user, "wm.k7"), writes, "{user:?}");
            assert!(!may_publish(user, "live.3"), "{user:?}");
        }
    }

    #[test]
    fn nobody_takes_a_record_out_of_the_log() {
        for user in BrokerUser::ALL {
            for operation in ["STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE"] {
                let subject = format!("$JS.API.{operation}.{LOG_STREAM}");
                assert!(!may_publish(user, &subject), "{user:?} {subject}");
            }
        }
    }

    #[test]
    fn commands_come_from_gateways_and_never_as_a_bot() {
        assert!(may_publish(BrokerUser::Gateway, "cmd.3.u.alice.send.r1"));
        assert!(may_publish(BrokerUser::Gateway, "cmd.3.m.alice.ban.r1"));
        assert!(!may_publish(BrokerUser::Gateway, "cmd.3.bot.b1.send.r1"));
        assert!(!may_publish(BrokerUser::History, "cmd.3.u.alice.send.r1"));
    }
}
