//! Reads the log ahead of the writer: an ordered consumer from the cursor on, parsed and batched.
//!
//! While the writer is busy, records gather up to a bound; as soon as it is free it gets them all.
//! Any doubt about the feed (a reconnect, a gap, silence although there is more) ends it; whoever
//! started it begins again from the cursor.

use crate::record::Record;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use chassis::nats::{ApiError, Nats};
use futures_util::StreamExt as _;
use protocol::subject::LOG_STREAM;
use protocol::{StreamSeq, Subject, Timestamp};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Silence after which the feed is checked against the log's end.
const SILENCE: Duration = Duration::from_secs(1);

/// How long making the consumer may take.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that gather while the writer is busy, at most; a single record may pass it.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a feed has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error("making a consumer of the log failed")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the consumer of the log failed")]
    Consumer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("reading the log's end failed")]
    End(#[source] ApiError),
    #[error("the connection to NATS was lost")]
    Reconnected,
    #[error("the consumer stands at {at} although the log ends at {last}")]
    Stalled { at: StreamSeq, last: StreamSeq },
    #[error("expected record {expected}, found {found}")]
    Gap {
        expected: StreamSeq,
        found: StreamSeq,
    },
    #[error("a record came without its position")]
    Position(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the feed has ended")]
    Ended,
}

/// What the writer gets.
pub(super) type Batch = Result<Vec<Record>, FeedError>;

/// One feed.
pub(super) struct Feed {
    pub(super) nats: Nats,
    /// The last record that is applied.
    pub(super) after: StreamSeq,
    pub(super) batch_events: usize,
    pub(super) batches: mpsc::Sender<Batch>,
}

/// Records that wait for the writer.
#[derive(Default)]
struct Pending {
    records: Vec<Record>,
    events: usize,
    bytes: usize,
}

impl Feed {
    /// Runs until `stop`, or until the feed is in doubt, which is the last thing that is sent.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if let Some(Err(error)) = stop.run_until_cancelled(self.feed()).await {
            // A writer that is gone has begun again already.
            self.batches.send(Err(error)).await.ok();
        }
    }

    async fn feed(&mut self) -> Result<(), FeedError> {
        let connects = self.nats.connects();
        let batches = self.batches.clone();
        let mut messages = self.consumer().await?;
        let mut pending = Pending::default();
        // A check that found the feed behind; a second one in a row ends it.
        let mut behind = false;
        loop {
            let full = pending.events >= self.batch_events || pending.bytes >= BATCH_BYTES_MAX;
            tokio::select! {
                biased;
                permit = batches.reserve(), if !pending.records.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(Ok(std::mem::take(&mut pending).records));
                }
                message = tokio::time::timeout(SILENCE, messages.next()), if !full => match message {
                    Ok(Some(Ok(message))) => {
                        behind = false;
                        self.take(&message, &mut pending)?;
                    }
                    Ok(Some(Err(error))) => return Err(FeedError::Consumer(error.into())),
                    Ok(None) => return Err(FeedError::Ended),
                    Err(_) => behind = self.check(connects, behind).await?,
                },
            }
        }
    }

    async fn consumer(&self) -> Result<Ordered, FeedError> {
        let create = async {
            let stream = self.nats.jetstream.get_stream_no_info(LOG_STREAM).await?;
            let start_sequence = self.after.next().0;
            let consumer = stream
                .create_consumer(OrderedConfig {
                    description: Some("history".to_owned()),
                    deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
                    ..OrderedConfig::default()
                })
                .await?;
            Ok(consumer.messages().await?)
        };
        match tokio::time::timeout(CREATE_TIMEOUT, create).await {
            Ok(created) => created.map_err(FeedError::Create),
            Err(late) => Err(FeedError::Create(late.into())),
        }
    }

    /// Parses a record, which must be the next one.
    ///
    /// An ordered consumer that is made anew before its first message begins with the whole log
    /// (async-nats 0.51); passing over a week of it would take longer than making our own.
    fn take(
        &mut self,
        message: &async_nats::jetstream::Message,
        pending: &mut Pending,
    ) -> Result<(), FeedError> {
        let info = message.info().map_err(FeedError::Position)?;
        let position = StreamSeq(info.stream_sequence);
        let expected = self.after.next();
        if position != expected {
            return Err(FeedError::Gap {
                expected,
                found: position,
            });
        }
        let partition = match Subject::parse(&message.subject) {
            Ok(Subject::Log(partition)) => Some(partition),
            Ok(_) | Err(_) => None,
        };
        let ms = info.published.unix_timestamp_nanos() / 1_000_000;
        let time = Timestamp(i64::try_from(ms).unwrap_or(i64::MAX));
        let record = Record::parse(position, partition, time, &message.payload);
        pending.events += record.event_count().max(1);
        pending.bytes += message.payload.len();
        pending.records.push(record);
        self.after = position;
        Ok(())
    }

    /// After a silence: whether the connection still is the one the consumer was made on, and
    /// whether the log has more. Returns whether the feed is behind.
    async fn check(&self, connects: u64, behind: bool) -> Result<bool, FeedError> {
        if self.nats.connects() != connects {
            return Err(FeedError::Reconnected);
        }
        let state = self
            .nats
            .stream_state(LOG_STREAM)
            .await
            .map_err(FeedError::End)?;
        let last = StreamSeq(state.map_or(0, |state| state.last_seq));
        if last < self.after {
            // The log was replaced or rolled back: the cursor has to be compared anew.
            return Err(FeedError::Stalled {
                at: self.after,
                last,
            });
        }
        if last > self.after && behind {
            return Err(FeedError::Stalled {
                at: self.after,
                last,
            });
        }
        Ok(last > self.after)
    }
}
