//! Reading streams: from the leader where truth is needed, in batches from anyone where speed is.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::Answer;
use super::{ApiError, Nats, REQUEST_TIMEOUT, RequestError, SendError};

/// Where JetStream's API listens.
const API: &str = "$JS.API";

/// The server's code for "no message found".
const NO_MESSAGE: u64 = 10_037;

/// The server's code for a stream that is absent.
pub(crate) const NO_STREAM: u64 = 10_059;

/// Followers elect another leader when they have not heard from theirs for four seconds at least; they
/// answer it each second.
const HEARD_WITHIN: Duration = Duration::from_millis(2_500);

/// The most bytes that one batch of direct reads asks for: it must pass the receiving buffers.
const BATCH_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// A message as a stream holds it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The stream sequence.
    pub seq: u64,
    /// When the broker stored it, in milliseconds since 1970.
    pub time_ms: i64,
    /// The subject.
    pub subject: Subject,
    /// The headers.
    pub headers: HeaderMap,
    /// The payload.
    pub payload: Bytes,
}

impl From<StreamMessage> for StoredMessage {
    fn from(message: StreamMessage) -> Self {
        let time_ms = message.time.unix_timestamp_nanos() / 1_000_000;
        Self {
            seq: message.sequence,
            time_ms: i64::try_from(time_ms).expect("the broker's year has four digits"),
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
        }
    }
}

/// What a stream's leader says about it.
#[derive(Debug, Clone)]
pub struct StreamState {
    /// The sequence of the oldest message; when there is none, one above the last.
    pub first_seq: u64,
    /// The sequence of the newest message ever stored; 0 if there never was one.
    pub last_seq: u64,
    /// How many messages there are.
    pub messages: u64,
    /// How many bytes they take.
    pub bytes: u64,
    /// The stream's metadata.
    pub metadata: BTreeMap<String, String>,
    /// The stream's settings, by their names in the API.
    pub config: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Info {
    config: serde_json::Map<String, serde_json::Value>,
    state: InfoState,
}

#[derive(Deserialize)]
struct InfoState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

/// How the stream's leader stands with its followers.
#[derive(Deserialize)]
struct Standing {
    cluster: Option<Group>,
}

#[derive(Deserialize)]
struct Group {
    /// A server that is cut off answers too, and names none.
    #[serde(default)]
    leader: String,
    #[serde(default)]
    replicas: Vec<Follower>,
}

#[derive(Deserialize)]
struct Follower {
    /// Nanoseconds since it was heard from.
    active: u64,
}

impl Group {
    fn is_proven(&self) -> bool {
        let lately = |follower: &&Follower| Duration::from_nanos(follower.active) < HEARD_WITHIN;
        let heard = self.replicas.iter().filter(lately).count();
        // With the leader itself a majority of all.
        !self.leader.is_empty() && heard >= self.replicas.len().div_ceil(2)
    }
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

#[derive(Serialize)]
enum Which<'a> {
    #[serde(rename = "seq")]
    Seq(u64),
    #[serde(rename = "last_by_subj")]
    LastOf(&'a str),
}

#[derive(Serialize)]
struct Next<'a> {
    seq: u64,
    next_by_subj: &'a str,
}

#[derive(Serialize)]
struct Batch<'a> {
    seq: u64,
    batch: u32,
    max_bytes: u32,
    next_by_subj: &'a str,
}

impl Nats {
    /// The last message of a subject, from the stream's leader; `None` if it has none.
    ///
    /// # Errors
    /// If the leader does not answer or refuses.
    pub async fn last_for_subject(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.get(stream, &Which::LastOf(subject)).await
    }

    /// The message of a stream sequence, from the stream's leader; `None` if there is none.
    ///
    /// # Errors
    /// If the leader does not answer or refuses.
    pub async fn get_by_seq(
        &self,
        stream: &str,
        seq: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        self.get(stream, &Which::Seq(seq)).await
    }

    /// The first message of a subject at or above `from_seq`, from the stream's leader.
    ///
    /// # Errors
    /// If the leader does not answer or refuses.
    pub async fn next_for_subject(
        &self,
        stream: &str,
        subject: &str,
        from_seq: u64,
    ) -> Result<Option<StoredMessage>, ApiError> {
        let next = Next {
            seq: from_seq.max(1),
            next_by_subj: subject,
        };
        self.get(stream, &next).await
    }

    async fn get(
        &self,
        stream: &str,
        which: &impl Serialize,
    ) -> Result<Option<StoredMessage>, ApiError> {
        match self
            .api::<Got>(&format!("STREAM.MSG.GET.{stream}"), which)
            .await
        {
            Ok(got) => {
                let message = StreamMessage::try_from(got.message).map_err(ApiError::Malformed)?;
                Ok(Some(message.into()))
            }
            Err(error) if error.is(NO_MESSAGE) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The messages of a stream from `from_seq` on, in order, `max` at most, from any replica.
    ///
    /// May be fewer than there are: a replica can be behind, an answer ends at 8 MiB, and what has
    /// arrived when the time is up is returned. Empty if nothing is at or above `from_seq`.
    /// The caller looks at the sequences.
    ///
    /// # Errors
    /// If nobody answers, or refuses.
    pub async fn direct_get_batch(
        &self,
        stream: &str,
        from_seq: u64,
        max: u32,
    ) -> Result<Vec<StoredMessage>, ApiError> {
        let subject = format!("{API}.DIRECT.GET.{stream}");
        let batch = Batch {
            seq: from_seq.max(1),
            batch: max,
            max_bytes: BATCH_BYTES_MAX,
            next_by_subj: ">",
        };
        let body = serde_json::to_vec(&batch).map_err(malformed)?;
        let connects = self.connects();
        if !self.is_connected() {
            return Err(RequestError::Disconnected.into());
        }
        let inbox = self.client.new_inbox();
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let mut messages = Vec::new();
        let collect = async {
            let mut answers = self
                .client
                .subscribe(inbox.clone())
                .await
                .map_err(SendError::from)?;
            let sent = self
                .client
                .publish_with_reply(subject, inbox, body.into())
                .await;
            sent.map_err(SendError::from)?;
            while let Some(answer) = answers.next().await {
                match answer.status.map(|status| status.as_u16()) {
                    None | Some(200) => {
                        messages.push(StreamMessage::try_from(answer).map_err(malformed)?.into());
                    }
                    // The end of the batch; nothing at or above `from_seq`.
                    Some(204 | 404) => break,
                    Some(503) => return Err(RequestError::NoResponders.into()),
                    Some(status) => {
                        let text = answer.description.unwrap_or_default();
                        return Err(ApiError::Refused {
                            code: status.into(),
                            text,
                        });
                    }
                }
            }
            Ok(())
        };
        let result = tokio::select! {
            biased;
            result = collect => result,
            error = self.lost_or_late(connects, deadline) => Err(error.into()),
        };
        match result {
            Err(error) if messages.is_empty() => Err(error),
            Err(_) | Ok(()) => Ok(messages),
        }
    }

    /// A stream's state and settings, from its leader; `None` if there is no such stream.
    ///
    /// # Errors
    /// If the leader does not answer or refuses.
    pub async fn stream_state(&self, stream: &str) -> Result<Option<StreamState>, ApiError> {
        match self
            .api::<Info>(&format!("STREAM.INFO.{stream}"), &())
            .await
        {
            Ok(info) => Ok(Some(info.into())),
            Err(error) if error.is(NO_STREAM) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the stream's leader was still its only one when this was called.
    ///
    /// A leader that was cut off answers reads for ten seconds more, while another is elected after four.
    /// Who has lately heard from so many followers that with it they are a majority is not replaced yet.
    /// Without replicas there is no other.
    ///
    /// # Errors
    /// If the leader does not answer or refuses.
    pub async fn leader_is_proven(&self, stream: &str) -> Result<bool, ApiError> {
        let operation = format!("STREAM.INFO.{stream}");
        let Standing { cluster } = self.api(&operation, &()).await?;
        Ok(cluster.is_none_or(|cluster| cluster.is_proven()))
    }

    /// Creates a stream with these settings, or finds it with exactly these.
    ///
    /// # Errors
    /// If JetStream does not answer or refuses.
    pub(crate) async fn create_stream(
        &self,
        name: &str,
        config: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<StreamState, ApiError> {
        Ok(self
            .api::<Info>(&format!("STREAM.CREATE.{name}"), config)
            .await?
            .into())
    }

    /// Gives a stream these settings, all of them.
    ///
    /// # Errors
    /// If JetStream does not answer or refuses.
    pub(crate) async fn update_stream(
        &self,
        name: &str,
        config: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<StreamState, ApiError> {
        Ok(self
            .api::<Info>(&format!("STREAM.UPDATE.{name}"), config)
            .await?
            .into())
    }

    /// Removes a stream with everything in it; none of that name is as good.
    ///
    /// # Errors
    /// If JetStream does not answer or refuses.
    pub(crate) async fn delete_stream(&self, name: &str) -> Result<(), ApiError> {
        // It must not have a body.
        let deleted = self
            .api_bytes::<serde::de::IgnoredAny>(&format!("STREAM.DELETE.{name}"), Bytes::new())
            .await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if error.is(NO_STREAM) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        operation: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(malformed)?;
        self.api_bytes(operation, body.into()).await
    }

    async fn api_bytes<T: DeserializeOwned>(
        &self,
        operation: &str,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let subject = format!("{API}.{operation}");
        let answer = self
            .request(subject, HeaderMap::new(), body, API_TIMEOUT)
            .await?;
        match serde_json::from_slice(&answer).map_err(malformed)? {
            Answer::Done(value) => Ok(value),
            Answer::Error { error } => Err(ApiError::Refused {
                code: error.err_code,
                text: error.description,
            }),
        }
    }
}

/// Creating a file stream on a busy disk can take a second; reading never does.
const API_TIMEOUT: Duration = REQUEST_TIMEOUT;

impl From<Info> for StreamState {
    fn from(info: Info) -> Self {
        let metadata = match info.config.get("metadata") {
            Some(serde_json::Value::Object(entries)) => entries
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            Some(_) | None => BTreeMap::new(),
        };
        let (first, last) = (info.state.first_seq, info.state.last_seq);
        Self {
            // A stream that never held anything says 0.
            first_seq: if info.state.messages == 0 {
                first.max(last + 1)
            } else {
                first
            },
            last_seq: last,
            messages: info.state.messages,
            bytes: info.state.bytes,
            metadata,
            config: info.config,
        }
    }
}

impl From<SendError> for ApiError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Timeout => Self::Unavailable(RequestError::Timeout),
            SendError::Disconnected | SendError::NotAnInbox | SendError::Failed(_) => {
                Self::Unavailable(RequestError::Disconnected)
            }
        }
    }
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
    ApiError::Malformed(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_proven(active_ms: &[u64]) -> bool {
        is_proven_with("n1", active_ms)
    }

    fn is_proven_with(leader: &str, active_ms: &[u64]) -> bool {
        let follower = |ms: &u64| Follower {
            active: ms * 1_000_000,
        };
        let replicas = active_ms.iter().map(follower).collect();
        let leader = leader.to_owned();
        Group { leader, replicas }.is_proven()
    }

    #[test]
    fn a_leader_is_believed_that_has_lately_heard_from_a_majority() {
        assert!(is_proven(&[]), "alone");
        assert!(is_proven(&[900, 60_000]), "two of three");
        assert!(!is_proven(&[2_600, 60_000]), "one of three");
        assert!(is_proven(&[10, 20, 9_000, 9_000]), "three of five");
        assert!(!is_proven(&[10, 9_000, 9_000, 9_000]), "two of five");
        assert!(!is_proven_with("", &[10, 20]), "there is none");
    }
}
