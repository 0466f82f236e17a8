//! Tries out what a user of the broker may do, where nothing comes of it.
//!
//! Subjects name a part that does not exist, and nobody listens there. What a stream would take carries
//! the demand to be another stream, and what JetStream's API would do has a body that it refuses. The
//! broker answers in order and complains of what it does not allow; what it does not complain of, it allows.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap, ServerError};
use chassis::config::NatsArgs;
use protocol::subject::rights::{BrokerUser, inbox_of};
use protocol::subject::{LEASE_BUCKET, LOG_STREAM, Subject};
use tokio::sync::mpsc;

use super::broker::open;
use super::facts::{Act, Probe, User};

/// Stands for what does not exist.
const NOBODY: &str = "natter-doctor";
/// A stream whose name is another one refuses the message.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// JetStream's API refuses this as a body of any request.
const NO_BODY: &str = "!";
/// Tries on one connection: async-nats drops events beyond 128.
const TRIES_MAX: usize = 48;
/// How long the broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// What nobody may do: these would lose records.
const HARMFUL: [&str; 4] = [
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.DELETE",
    "STREAM.RESTORE",
];

/// What a user may do, of everything that any service does and of what nobody may.
pub(super) async fn user(nats: &NatsArgs, name: &str, password: &str) -> User {
    let wanted: Vec<(Act, String)> = all().into_iter().collect();
    let mut probes = Vec::new();
    for tries in wanted.chunks(TRIES_MAX) {
        let options = ConnectOptions::with_user_and_password(name.to_owned(), password.to_owned())
            .custom_inbox_prefix(inbox_of(name));
        match tried(nats, options, tries).await {
            Ok(tried) => probes.extend(tried),
            Err(error) => {
                return User {
                    name: name.to_owned(),
                    probes: Err(error),
                };
            }
        }
    }
    User {
        name: name.to_owned(),
        probes: Ok(probes),
    }
}

/// What whoever names no user may do; `None` if the broker does not let them in.
pub(super) async fn anonymous(nats: &NatsArgs) -> Option<Vec<Probe>> {
    let commands = BrokerUser::Gateway.rights().publish.into_iter();
    let commands = commands.filter(|pattern| pattern.contains(".u."));
    let tries: Vec<(Act, String)> = commands
        .chain([Subject::Logs.to_string()])
        .map(|pattern| (Act::Publish, concrete(&pattern)))
        .collect();
    tried(nats, ConnectOptions::new(), &tries).await.ok()
}

/// Everything that is tried.
fn all() -> BTreeSet<(Act, String)> {
    let mut all = BTreeSet::new();
    for user in BrokerUser::ALL {
        let rights = user.rights();
        let publish = rights.publish.iter().chain(&rights.publish_never);
        all.extend(publish.map(|pattern| (Act::Publish, concrete(pattern))));
        let subscribe = rights.subscribe.iter();
        all.extend(subscribe.map(|pattern| (Act::Subscribe, concrete(pattern))));
    }
    for operation in HARMFUL {
        for stream in [LOG_STREAM.to_owned(), format!("KV_{LEASE_BUCKET}")] {
            all.insert((Act::Publish, format!("$JS.API.{operation}.{stream}")));
        }
    }
    all.insert((Act::Subscribe, concrete(&Subject::Logs.to_string())));
    all.insert((Act::Subscribe, format!("{NOBODY}.anything")));
    all
}

/// A subject that a pattern covers, and where nobody is.
fn concrete(pattern: &str) -> String {
    let token = |token| match token {
        "*" | ">" => NOBODY,
        other => other,
    };
    pattern.split('.').map(token).collect::<Vec<_>>().join(".")
}

/// Tries these on a connection of their own.
async fn tried(
    nats: &NatsArgs,
    options: ConnectOptions,
    tries: &[(Act, String)],
) -> Result<Vec<Probe>, String> {
    let (event_tx, event_rx) = mpsc::channel(256);
    let options = options.event_callback(move |event| {
        let event_tx = event_tx.clone();
        async move {
            // Fewer come than fit in.
            event_tx.try_send(event).ok();
        }
    });
    let client = open(nats, options).await?;
    for (act, subject) in tries {
        try_one(&client, *act, subject).await?;
    }
    // Nobody listens there, and the answer that says so comes behind all complaints.
    let nobody = client.new_inbox();
    let answered = client.send_request(nobody, async_nats::Request::new().timeout(None));
    drop(tokio::time::timeout(ANSWER_MAX, answered).await);
    client.drain().await.map_err(|error| error.to_string())?;
    let refused = complaints(event_rx).await;
    let probe = |(act, subject): &(Act, String)| Probe {
        act: *act,
        subject: subject.clone(),
        allowed: !refused.contains(&(*act, subject.clone())),
    };
    Ok(tries.iter().map(probe).collect())
}

async fn try_one(client: &Client, act: Act, subject: &str) -> Result<(), String> {
    match act {
        Act::Publish => {
            let (mut headers, mut body) = (HeaderMap::new(), "");
            if subject.starts_with("$JS.API.") {
                body = NO_BODY;
            } else {
                headers.insert(EXPECTED_STREAM, NOBODY);
            }
            let publish =
                client.publish_with_headers(subject.to_owned(), headers, body.as_bytes().into());
            publish.await.map_err(|error| error.to_string())
        }
        Act::Subscribe => {
            let subscribed = client.subscribe(subject.to_owned()).await;
            // Dropped, it is ended.
            subscribed.map(drop).map_err(|error| error.to_string())
        }
    }
}

/// What the broker complained of until the connection was closed.
async fn complaints(mut events: mpsc::Receiver<Event>) -> BTreeSet<(Act, String)> {
    let mut refused = BTreeSet::new();
    while let Ok(Some(event)) = tokio::time::timeout(ANSWER_MAX, events.recv()).await {
        match event {
            Event::ServerError(ServerError::Other(text)) => refused.extend(complaint(&text)),
            // Its own words come last.
            Event::Closed => break,
            _ => {}
        }
    }
    refused
}

/// `Permissions Violation for Publish to "log.3"`, or `for Subscription to`.
fn complaint(text: &str) -> Option<(Act, String)> {
    let (what, rest) = text
        .split_once("Permissions Violation for ")?
        .1
        .split_once(" to \"")?;
    let act = match what {
        "Publish" => Act::Publish,
        "Subscription" => Act::Subscribe,
        _ => return None,
    };
    Some((act, rest.split_once('"')?.0.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_what_was_refused() {
        let publish = complaint("nats: Permissions Violation for Publish to \"log.3\"");
        assert_eq!(publish, Some((Act::Publish, "log.3".to_owned())));
        let subscribe =
            complaint("Permissions Violation for Subscription to \"live.*\" using queue \"q\"");
        assert_eq!(subscribe, Some((Act::Subscribe, "live.*".to_owned())));
        assert_eq!(complaint("Authorization Violation"), None);
    }

    #[test]
    fn nothing_is_tried_where_somebody_is() {
        for (act, subject) in all() {
            let harmless = subject.starts_with("$JS.API.") || subject.contains(NOBODY);
            assert!(harmless, "{act:?} {subject}");
            assert!(!subject.contains(['*', '>']), "{act:?} {subject}");
        }
    }
}
