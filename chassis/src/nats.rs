//! The connection to NATS, with settings and errors that its dangers call for.
//!
//! Two of them shape this module. While disconnected, async-nats accepts a publish and delivers it
//! late, so everything here looks at the connection first. And its events can be dropped when many
//! come at once, so whether we are connected is read from the client, never concluded from events.
//!
//! Knows JetStream's API; does not know what is in the streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, HeaderMap, Subscriber, ToSubject, jetstream};
use bytes::Bytes;
use protocol::subject::rights;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Bounds};
use crate::config::{NatsArgs, Problems};
use crate::health::Health;

pub use append::{Ack, Append, PublishError, Unknown};
pub use error::{ApiError, NatsError, RequestError, SendError};
pub use stream::{StoredMessage, StreamState};

use events::{COMPONENT, NEVER_CONNECTED};

mod append;
pub mod clocks;
mod error;
mod events;
mod stranded;
mod stream;

/// Two missed pings end a connection, so a silent network costs about 10 seconds.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request waits for its answer unless its caller says otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long handing a message to the connection may take; more means its queue is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a closing connection may take to hand over what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits between attempts to connect again: short, because every client waits for them.
const RECONNECT: Bounds = Bounds {
    first: Duration::from_millis(100),
    max: Duration::from_secs(1),
};

/// Messages that a subscription holds before it drops the newest.
///
/// A quarter of a million envelopes is seconds of the busiest feed; a subscriber drains this into a
/// bounded place of its own and treats a slow consumer as a gap.
const SUBSCRIPTION_CAPACITY: usize = 262_144;

/// Commands that the connection holds while it writes; beyond that, senders wait.
const SENDER_CAPACITY: usize = 8_192;

/// How often a waiting request looks whether its connection is still there.
const LINK_CHECK: Duration = Duration::from_millis(50);

/// How often the health board is brought up to date.
const HEALTH_CHECK: Duration = Duration::from_millis(250);

/// One service's connection; clones share it.
#[derive(Debug, Clone)]
pub struct Nats {
    /// The client, for what this type does not offer.
    pub client: Client,
    /// JetStream over the client, for consumers and key-value buckets.
    pub jetstream: jetstream::Context,
    slow_consumers: Arc<AtomicU64>,
}

/// Sets up a connection named `name`, which is tried for ever; returns before it stands.
///
/// Its condition is the component `nats` of `health`.
///
/// # Errors
/// If the settings cannot be used, or the TLS files cannot be read; not if no server answers.
pub async fn connect(arguments: &NatsArgs, name: &str, health: &Health) -> Result<Nats, NatsError> {
    let mut problems = Problems::new();
    let servers = arguments.servers(&mut problems);
    let credentials = arguments.credentials(&mut problems);
    problems.finish()?;
    health.set_down(COMPONENT, NEVER_CONNECTED);
    let slow_consumers = Arc::<AtomicU64>::default();
    let mut options = ConnectOptions::new()
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(reconnect_wait)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(SENDER_CAPACITY)
        .custom_inbox_prefix(inbox_prefix(
            credentials.as_ref().map(|(user, _)| user.as_str()),
        ))
        .event_callback(events::callback(name, health, Arc::clone(&slow_consumers)));
    if let Some((user, password)) = credentials {
        options = options.user_and_password(user, password.expose().to_owned());
    }
    let client = options.connect(servers).await?;
    let jetstream = jetstream::ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .build(client.clone());
    Ok(Nats {
        client,
        jetstream,
        slow_consumers,
    })
}

/// The wait before attempt number `attempts`: none at first, then full jitter.
fn reconnect_wait(attempts: usize) -> Duration {
    if attempts <= 1 {
        return Duration::ZERO;
    }
    // Stateless, as async-nats wants it: walk the sequence to where it reaches its bound.
    let mut backoff = Backoff::new(RECONNECT);
    (0..attempts.min(8))
        .map(|_| backoff.next_wait())
        .last()
        .unwrap_or(RECONNECT.first)
}

impl Nats {
    /// Whether the connection stands now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until the connection stands.
    ///
    /// Cancel safety: safe.
    pub async fn connected(&self) {
        while !self.is_connected() {
            tokio::time::sleep(LINK_CHECK).await;
        }
    }

    /// How often the connection was made; a changed number means that messages may have been missed.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// How many messages were dropped because a subscription was not drained; growth means a gap.
    #[must_use]
    pub fn slow_consumers(&self) -> u64 {
        self.slow_consumers.load(Ordering::Relaxed)
    }

    /// Keeps the component `nats` of `health` true until `stop`; a context runs this as a task.
    pub async fn keep_health(self, health: Health, stop: CancellationToken) {
        let check = async {
            loop {
                if self.is_connected() {
                    health.set_ready(COMPONENT);
                } else if self.connects() == 0 {
                    health.set_down(COMPONENT, NEVER_CONNECTED);
                } else {
                    health.set_down(COMPONENT, events::DISCONNECTED);
                }
                tokio::time::sleep(HEALTH_CHECK).await;
            }
        };
        stop.run_until_cancelled(check).await;
    }

    /// Sends a request and waits for the payload of its one answer, `timeout` at most.
    ///
    /// # Errors
    /// See [`RequestError`]; after any but [`RequestError::NoResponders`] and
    /// [`RequestError::Invalid`] the request may have been, or may yet be, received.
    ///
    /// Cancel safety: dropping the future forgets the answer, not the request.
    pub async fn request(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        Ok(self
            .request_message(subject, headers, payload, timeout)
            .await?
            .payload)
    }

    /// Like [`Nats::request`], with the headers of the answer.
    ///
    /// # Errors
    /// As [`Nats::request`].
    pub async fn request_message(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, RequestError> {
        let connects = self.connects();
        if !self.is_connected() {
            return Err(RequestError::Disconnected);
        }
        let mut request = async_nats::Request::new().payload(payload).timeout(None);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let subject = subject.to_subject();
        tokio::select! {
            biased;
            answer = self.client.send_request(subject, request) => Ok(answer?),
            error = self.lost_or_late(connects, Instant::now() + timeout) => Err(error),
        }
    }

    /// Sends a message to whoever listens; nobody may, and then it is gone.
    ///
    /// # Errors
    /// If it was not handed to a standing connection; with [`SendError::Timeout`] it may yet go out.
    pub async fn publish(
        &self,
        subject: impl ToSubject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), SendError> {
        if !self.is_connected() {
            return Err(SendError::Disconnected);
        }
        let subject = subject.to_subject();
        let send = async {
            if headers.is_empty() {
                self.client.publish(subject, payload).await
            } else {
                self.client
                    .publish_with_headers(subject, headers, payload)
                    .await
            }
        };
        Ok(tokio::time::timeout(SEND_TIMEOUT, send)
            .await
            .map_err(late)??)
    }

    /// Answers a request, unless its reply subject is none that a requester of ours would use.
    ///
    /// A reply subject is input: a requester that could name any subject would make this process
    /// publish where only this process may.
    ///
    /// # Errors
    /// As [`Nats::publish`]; [`SendError::NotAnInbox`] for a reply subject that is refused.
    pub async fn respond(
        &self,
        request: &async_nats::Message,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), SendError> {
        match &request.reply {
            Some(reply) if is_inbox(reply) => self.publish(reply.clone(), headers, payload).await,
            Some(_) | None => Err(SendError::NotAnInbox),
        }
    }

    /// Subscribes to a subject; the server knows of it when this returns.
    ///
    /// The subscription outlives disconnections, but not what was sent meanwhile: compare
    /// [`Nats::connects`].
    ///
    /// # Errors
    /// If the connection does not stand or does not answer in time.
    pub async fn subscribe(&self, subject: impl ToSubject) -> Result<Subscriber, SendError> {
        let subject = subject.to_subject();
        self.subscribed(self.client.subscribe(subject)).await
    }

    /// Subscribes to a subject as one of `queue`, which get each message once together.
    ///
    /// # Errors
    /// As [`Nats::subscribe`].
    pub async fn queue_subscribe(
        &self,
        subject: impl ToSubject,
        queue: impl Into<String>,
    ) -> Result<Subscriber, SendError> {
        let (subject, queue) = (subject.to_subject(), queue.into());
        self.subscribed(self.client.queue_subscribe(subject, queue))
            .await
    }

    async fn subscribed(
        &self,
        subscribe: impl Future<Output = Result<Subscriber, async_nats::SubscribeError>>,
    ) -> Result<Subscriber, SendError> {
        if !self.is_connected() {
            return Err(SendError::Disconnected);
        }
        let subscriber = tokio::time::timeout(SEND_TIMEOUT, subscribe)
            .await
            .map_err(late)??;
        self.flush().await?;
        Ok(subscriber)
    }

    /// Waits until the server has processed all that was sent before on this connection.
    ///
    /// A round trip: async-nats' own flush ends when the bytes have left, and then a subscription
    /// may not be known to a publisher on another connection.
    ///
    /// # Errors
    /// If the connection does not stand or the server does not answer in time.
    pub async fn flush(&self) -> Result<(), SendError> {
        // Nobody listens on a fresh inbox, and saying so is an answer.
        let nobody = self.client.new_inbox();
        match self
            .request(nobody, HeaderMap::new(), Bytes::new(), REQUEST_TIMEOUT)
            .await
        {
            Ok(_) | Err(RequestError::NoResponders) => Ok(()),
            Err(RequestError::Timeout) => Err(SendError::Timeout),
            Err(RequestError::Disconnected) => Err(SendError::Disconnected),
            Err(RequestError::Invalid(error) | RequestError::Failed(error)) => {
                Err(SendError::Failed(Box::new(error)))
            }
        }
    }

    /// Hands over what is queued and closes the connection.
    ///
    /// async-nats' own drain ends when it is asked for, and the process may be gone before the last
    /// bytes have left: then a command that was sent on to the next owner is answered by nobody.
    pub async fn close(&self) {
        let close = async {
            if let Err(error) = self.flush().await {
                tracing::warn!(%error, "what was sent last may not have arrived");
            }
            if let Err(error) = self.client.drain().await {
                tracing::debug!(%error, "closing the NATS connection failed");
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, close).await.is_err() {
            tracing::warn!("what was sent last may not have arrived in time");
        }
    }

    /// Ends when the connection of number `connects` is lost, or at the deadline.
    async fn lost_or_late(&self, connects: u64, deadline: Instant) -> RequestError {
        loop {
            let next = (Instant::now() + LINK_CHECK).min(deadline);
            tokio::time::sleep_until(next).await;
            if !self.is_connected() || self.connects() != connects {
                return RequestError::Disconnected;
            }
            if Instant::now() >= deadline {
                return RequestError::Timeout;
            }
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> SendError {
    SendError::Timeout
}

/// Where replies to this process arrive: below its user's name, so that the broker can keep other users
/// from listening there. A name that is no token of a subject has no place of its own.
fn inbox_prefix(user: Option<&str>) -> String {
    let is_token = |name: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        !name.is_empty() && name.chars().all(plain)
    };
    user.filter(is_token)
        .map_or_else(|| rights::INBOX.to_owned(), rights::inbox_of)
}

/// Whether a reply subject is an inbox: below the prefix, without wildcards.
fn is_inbox(reply: &str) -> bool {
    reply.strip_prefix(rights::INBOX).is_some_and(|rest| {
        rest.starts_with(['.', '_']) && rest.len() > 1 && !rest.contains(['*', '>'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_goes_to_an_inbox_only() {
        assert!(is_inbox("_INBOX.abc.1") && is_inbox("_INBOX_bot.42.x"));
        for subject in [
            "log.3",
            "$JS.API.STREAM.DELETE.X",
            "_INBOX",
            "_INBOX.>",
            "_INBOX.*.a",
            "",
        ] {
            assert!(!is_inbox(subject), "{subject}");
        }
    }

    #[test]
    fn each_user_has_an_inbox_of_its_own() {
        assert_eq!(inbox_prefix(Some("gateway")), "_INBOX.gateway");
        for user in [None, Some(""), Some("a b"), Some(">"), Some("a.b")] {
            assert_eq!(inbox_prefix(user), "_INBOX");
        }
        assert!(is_inbox("_INBOX.gateway.abc.1"));
    }

    #[test]
    fn reconnecting_waits_within_its_bounds() {
        assert_eq!(reconnect_wait(1), Duration::ZERO);
        for attempts in [2, 3, 10, usize::MAX] {
            assert!(reconnect_wait(attempts) <= RECONNECT.max);
        }
    }
}
