//! What can go wrong between this process and the broker, one variant per thing a caller can do.

use async_nats::RequestErrorKind;
use serde::Deserialize;

use crate::config::Problems;

/// A connection could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The client refused the settings.
    #[error("setting up the NATS client failed")]
    Client(#[from] async_nats::ConnectError),
}

/// A request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens on the subject: the request was not received by anyone.
    #[error("nobody answers this subject")]
    NoResponders,
    /// No answer came in time; the request may have been received.
    #[error("no answer in time")]
    Timeout,
    /// The connection did not stand or was lost; the request may have been received.
    #[error("not connected to NATS")]
    Disconnected,
    /// The request was never sent: its subject is malformed or it is larger than the server allows.
    #[error("the request cannot be sent")]
    Invalid(#[source] async_nats::RequestError),
    /// The client failed in another way; the request may have been received.
    #[error("the NATS client failed")]
    Failed(#[source] async_nats::RequestError),
}

impl From<async_nats::RequestError> for RequestError {
    fn from(error: async_nats::RequestError) -> Self {
        match error.kind() {
            RequestErrorKind::NoResponders => Self::NoResponders,
            RequestErrorKind::TimedOut => Self::Timeout,
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                Self::Invalid(error)
            }
            RequestErrorKind::Other => Self::Failed(error),
        }
    }
}

/// A message could not be handed to the broker.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection does not stand; the message was not queued.
    #[error("not connected to NATS")]
    Disconnected,
    /// The connection's queue is full, or it did not take the message in time.
    #[error("the NATS connection is too busy")]
    Timeout,
    /// The reply subject is not one that answers may go to.
    #[error("the reply subject is no inbox")]
    NotAnInbox,
    /// The subject or the size is impossible, or the client has been closed.
    #[error("the NATS client refused it")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<async_nats::PublishError> for SendError {
    fn from(error: async_nats::PublishError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<async_nats::SubscribeError> for SendError {
    fn from(error: async_nats::SubscribeError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// A request to JetStream's own API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It got no answer; try again.
    #[error("JetStream does not answer")]
    Unavailable(#[source] RequestError),
    /// The server refused it.
    #[error("JetStream refused: {text} (error {code})")]
    Refused {
        /// The server's error code, such as 10059 for a stream that is absent.
        code: u64,
        /// The server's text.
        text: String,
    },
    /// The answer is not what this version of the server promises.
    #[error("JetStream's answer cannot be read")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        Self::Unavailable(error)
    }
}

impl ApiError {
    /// Whether the server refused with this error code.
    #[must_use]
    pub fn is(&self, expected: u64) -> bool {
        match self {
            Self::Refused { code, .. } => *code == expected,
            Self::Unavailable(_) | Self::Malformed(_) => false,
        }
    }

    /// Whether trying again later can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            // 503: JetStream is starting, without a leader, or out of resources.
            Self::Refused { code, .. } => matches!(code, 10_008 | 10_009 | 10_023 | 10_047),
            Self::Malformed(_) => false,
        }
    }
}

/// What JetStream answers to anything.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Answer<T> {
    /// Tried first: a refused publish also has a sequence, 0.
    Error { error: ServerError },
    /// What was asked for.
    Done(T),
}

#[derive(Deserialize)]
pub(super) struct ServerError {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}
