//! Publishing to a stream under a compare-and-set, and telling "not stored" from "unknown".
//!
//! Nothing is retried here: after an unknown outcome only the owner of the subject may decide, and
//! only after reading the leader.

use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use serde::Deserialize;

use super::error::Answer;
use super::{Nats, REQUEST_TIMEOUT, RequestError};

/// The server compares this with the last sequence of the message's subject.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// The time after which the server removes the message.
const TTL: &str = "Nats-TTL";

/// A message for a stream.
#[derive(Debug, Clone)]
pub struct Append {
    /// The subject, which decides the stream.
    pub subject: Subject,
    /// Further headers.
    pub headers: HeaderMap,
    /// The payload.
    pub payload: Bytes,
    /// Store only if this is the stream sequence of the subject's last message; 0 means it has none.
    pub expected: u64,
    /// Remove the message after this time (whole seconds); only in streams that allow it.
    pub ttl: Option<Duration>,
    /// How long to wait for the answer.
    pub timeout: Duration,
}

impl Append {
    /// A message without headers that stays, with the usual timeout.
    #[must_use]
    pub fn new(subject: impl Into<Subject>, payload: Bytes, expected: u64) -> Self {
        Self {
            subject: subject.into(),
            headers: HeaderMap::new(),
            payload,
            expected,
            ttl: None,
            timeout: REQUEST_TIMEOUT,
        }
    }
}

/// The message is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Its stream sequence.
    pub seq: u64,
}

/// The message was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject's last sequence is another one (10071).
    ///
    /// It may be this very message's, stored by a copy that was delivered late: read the leader.
    #[error("the subject has moved on")]
    Conflict,
    /// It may be stored now, later, or never: read the leader.
    #[error("whether the message was stored is unknown")]
    Unknown(#[source] Unknown),
    /// It is proven that it was not stored.
    #[error("the server refused the message: {text} (error {code})")]
    Refused {
        /// The server's error code; 0 if the client refused.
        code: u64,
        /// The reason.
        text: String,
    },
}

/// Why the outcome of a publish is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// No answer: timeout, no responders, disconnected.
    #[error(transparent)]
    Request(RequestError),
    /// The server's answer proves nothing: 10164, or a failed store, which may be half done or
    /// already replicated.
    #[error("{text} (error {code})")]
    Server {
        /// The server's error code.
        code: u64,
        /// The server's text.
        text: String,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Malformed(#[source] serde_json::Error),
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
}

impl Nats {
    /// Appends a message under a compare-and-set and waits for the acknowledgement.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// Cancel safety: not safe; a dropped future leaves the outcome unknown.
    pub async fn append(&self, append: Append) -> Result<Ack, PublishError> {
        let Append {
            subject,
            mut headers,
            payload,
            expected,
            ttl,
            timeout,
        } = append;
        headers.insert(EXPECTED, expected.to_string());
        if let Some(ttl) = ttl {
            headers.insert(TTL, format!("{}s", ttl.as_secs()));
        }
        match self.request(subject, headers, payload, timeout).await {
            Ok(answer) => outcome(&answer),
            Err(RequestError::Invalid(error)) => Err(PublishError::Refused {
                code: 0,
                text: error.to_string(),
            }),
            Err(error) => Err(PublishError::Unknown(Unknown::Request(error))),
        }
    }

    /// [`Nats::append`] with the usual timeout: stores only if `expected` is the stream sequence of
    /// the subject's last message.
    ///
    /// # Errors
    /// See [`PublishError`].
    ///
    /// Cancel safety: not safe; a dropped future leaves the outcome unknown.
    pub async fn publish_expect(
        &self,
        subject: impl Into<Subject>,
        payload: Bytes,
        headers: HeaderMap,
        expected: u64,
    ) -> Result<Ack, PublishError> {
        self.append(Append {
            headers,
            ..Append::new(subject, payload, expected)
        })
        .await
    }
}

fn outcome(answer: &[u8]) -> Result<Ack, PublishError> {
    match serde_json::from_slice(answer) {
        Ok(Answer::Done(Stored { seq })) => Ok(Ack { seq }),
        Ok(Answer::Error { error }) => Err(refusal(error.err_code, error.description)),
        Err(error) => Err(PublishError::Unknown(Unknown::Malformed(error))),
    }
}

/// Only checks that the server makes before it proposes or stores anything are proof.
fn refusal(code: u64, text: String) -> PublishError {
    match code {
        10_071 => PublishError::Conflict,
        // Too large for the stream; another stream was expected; sealed.
        10_054 | 10_060 | 10_109 => PublishError::Refused { code, text },
        _ => PublishError::Unknown(Unknown::Server { code, text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u64) -> PublishError {
        let answer = format!(
            r#"{{"error":{{"code":400,"err_code":{code},"description":"why"}},"stream":"S","seq":0}}"#
        );
        outcome(answer.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_stored_message_has_its_sequence() {
        assert_eq!(
            outcome(br#"{"stream":"S","seq":7}"#).unwrap(),
            Ack { seq: 7 }
        );
    }

    #[test]
    fn only_a_proof_counts_as_not_stored() {
        assert!(matches!(refused(10_071), PublishError::Conflict));
        assert!(matches!(
            refused(10_054),
            PublishError::Refused { code: 10_054, .. }
        ));
        // 10164: a conflict that may be with this message; 10077: store failed; 10023: no space.
        for code in [0, 10_008, 10_023, 10_047, 10_077, 10_164] {
            assert!(matches!(refused(code), PublishError::Unknown(_)), "{code}");
        }
        assert!(matches!(
            outcome(b"oops"),
            Err(PublishError::Unknown(Unknown::Malformed(_)))
        ));
    }
}
