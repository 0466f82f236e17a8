//! Taking partitions over: reads the tails of all of them through one consumer.
//!
//! Where to begin: at history's cursor or at the age of the window, whichever is older; a small log, and
//! one whose history has never answered, is read whole as far as that is bounded.

use crate::history::View;
use crate::partition::Record;
use crate::sequencer::{LogBounds, Sequencer, Start};
use crate::shared::Shared;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use chassis::topology::LOG_STREAM;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use protocol::subject::Subject;
use protocol::{Partition, StreamSeq, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

/// How long one record may take to arrive.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long JetStream may take to answer.
const API_TIMEOUT: Duration = Duration::from_secs(3);
/// Records that are read at most while history's cursor is not known.
const BLIND_RECORDS_MAX: u64 = 200_000;

/// A takeover did not succeed; it can be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeoverError {
    /// The log's state is not known yet.
    #[error("the log does not answer")]
    NoLog,
    /// JetStream did not answer in time.
    #[error("{0} took too long")]
    Late(&'static str),
    /// JetStream answered with an error.
    #[error("{0} failed")]
    Failed(
        &'static str,
        #[source] Box<dyn std::error::Error + Send + Sync>,
    ),
}

/// Age of a tail at least: what is older bears no time that an owner's clock has not passed, though the
/// clocks of two owners differ by 20 s. So time never falls within a partition.
const TAIL_MS_MIN: i64 = 30_000;

/// Where the tails begin.
struct Origin {
    above: StreamSeq,
    time: Option<Timestamp>,
}

/// Reads the tails of these partitions; each sequencer is ready to publish its epoch record.
pub(crate) async fn take_over(
    shared: &Shared,
    partitions: &[Partition],
) -> Result<BTreeMap<Partition, Sequencer>, TakeoverError> {
    let since = Instant::now();
    let view = *shared.view.borrow();
    let Some(log) = view.log else {
        return Err(TakeoverError::NoLog);
    };
    let stream = timed(
        "opening the log",
        shared.nats.jetstream.get_stream(LOG_STREAM),
    )
    .await?;
    let origin = origin(shared, &stream, partitions, (view, log)).await?;
    let found_ms = since.elapsed().as_millis();
    let mut sequencers: BTreeMap<Partition, Sequencer> = partitions
        .iter()
        .map(|partition| {
            let start = Start {
                partition: *partition,
                instance: shared.instance.clone(),
                epoch: shared.next_epoch(),
                seed: rand::random(),
                above: origin.above,
                above_time: origin.time,
                log,
                cursor: view.cursor,
            };
            (*partition, Sequencer::new(shared.sequencer, start))
        })
        .collect();
    let from = DeliverPolicy::ByStartSequence {
        start_sequence: origin.above.next().0,
    };
    if log.last > origin.above {
        let consumer = consumer(&stream, partitions, from).await?;
        let read = replay(&consumer, &mut sequencers).await;
        forget(shared, &stream, &consumer);
        read?;
    }
    let read_ms = since.elapsed().as_millis();
    finish(shared, &mut sequencers, view).await?;
    tracing::debug!(
        partitions = partitions.len(),
        above = origin.above.0,
        events = sequencers
            .values()
            .map(|s| s.load().pieces())
            .sum::<usize>(),
        found_ms,
        read_ms,
        duration_ms = since.elapsed().as_millis(),
        "the tails of {} partitions are read",
        partitions.len()
    );
    Ok(sequencers)
}

/// Tells each sequencer that its tail was given, and where its subject ended before the tail.
async fn finish(
    shared: &Shared,
    sequencers: &mut BTreeMap<Partition, Sequencer>,
    view: View,
) -> Result<(), TakeoverError> {
    let idle = sequencers
        .iter()
        .filter(|(_, sequencer)| sequencer.end() == StreamSeq(0))
        .map(|(partition, _)| async move {
            let subject = Subject::Log(*partition).to_string();
            let last = shared.nats.last_for_subject(LOG_STREAM, &subject).await;
            let last = last.map_err(failed("reading a record of the log"))?;
            Ok((*partition, StreamSeq(last.map_or(0, |record| record.seq))))
        });
    let lasts: BTreeMap<Partition, StreamSeq> = try_join_all(idle).await?.into_iter().collect();
    for (partition, sequencer) in sequencers {
        sequencer.handle_clock(view.clock_offset_ms);
        sequencer.handle_caught_up(lasts.get(partition).copied().unwrap_or_default());
    }
    Ok(())
}

async fn origin(
    shared: &Shared,
    stream: &Stream,
    partitions: &[Partition],
    (view, log): (View, LogBounds),
) -> Result<Origin, TakeoverError> {
    let before_all = log.first.before();
    let whole = u64::from(shared.config.messages_replay_whole_records);
    let above = if log.last.0 - before_all.0 <= whole {
        before_all
    } else if let Some(cursor) = view.cursor {
        let age_ms = i64::from(shared.config.messages_dedup_age_ms).max(TAIL_MS_MIN);
        let since = shared.now().plus_ms(view.clock_offset_ms - age_ms);
        let start_time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(since.0) * 1_000_000);
        let start_time = start_time.map_err(failed("computing the window's begin"))?;
        let from = DeliverPolicy::ByStartTime { start_time };
        let consumer = consumer(stream, partitions, from).await?;
        let by_time = StreamSeq(consumer.cached_info().delivered.stream_sequence);
        forget(shared, stream, &consumer);
        by_time.min(cursor).max(before_all)
    } else {
        before_all.max(StreamSeq(log.last.0.saturating_sub(BLIND_RECORDS_MAX)))
    };
    let time = if above == before_all {
        None
    } else {
        let record = shared.nats.get_by_seq(LOG_STREAM, above.0).await;
        let record = record.map_err(failed("reading a record of the log"))?;
        record.map(|record| Timestamp(record.time_ms))
    };
    Ok(Origin { above, time })
}

async fn consumer(
    stream: &Stream,
    partitions: &[Partition],
    deliver_policy: DeliverPolicy,
) -> Result<Consumer<pull::OrderedConfig>, TakeoverError> {
    let config = pull::OrderedConfig {
        filter_subjects: partitions
            .iter()
            .map(|partition| Subject::Log(*partition).to_string())
            .collect(),
        deliver_policy,
        ..pull::OrderedConfig::default()
    };
    timed(
        "creating a consumer of the log",
        stream.create_consumer(config),
    )
    .await
}

/// Has the broker forget a consumer, beside everything else.
///
/// It would by itself, after half a minute; but a stream has only so many, and a rolling restart of many
/// processes makes one after the other.
fn forget(shared: &Shared, stream: &Stream, consumer: &Consumer<pull::OrderedConfig>) {
    let (stream, name) = (stream.clone(), consumer.cached_info().name.clone());
    shared.tasks.spawn("forget", async move {
        if let Err(error) = timed("deleting a consumer", stream.delete_consumer(&name)).await {
            tracing::debug!(%error, "a consumer of the log is left to the broker");
        }
    });
}

/// Folds everything that the consumer has now.
async fn replay(
    consumer: &Consumer<pull::OrderedConfig>,
    sequencers: &mut BTreeMap<Partition, Sequencer>,
) -> Result<(), TakeoverError> {
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = timed("reading the log", consumer.clone().messages()).await?;
    loop {
        let next = tokio::time::timeout(RECORD_TIMEOUT, messages.next()).await;
        let next = next.map_err(|_elapsed| TakeoverError::Late("reading the log"))?;
        let Some(message) = next else {
            return Err(TakeoverError::Late("reading the log"));
        };
        let message = message.map_err(failed("reading the log"))?;
        let info = message
            .info()
            .map_err(|source| TakeoverError::Failed("reading the log", source))?;
        let time_ms = info.published.unix_timestamp_nanos() / 1_000_000;
        let (position, pending) = (StreamSeq(info.stream_sequence), info.pending);
        let record = Record {
            position,
            time: Timestamp(i64::try_from(time_ms).unwrap_or(i64::MAX)),
            payload: message.payload.clone(),
        };
        if let Ok(Subject::Log(partition)) = Subject::parse(&message.subject)
            && let Some(sequencer) = sequencers.get_mut(&partition)
        {
            sequencer.handle_record(&record);
        }
        if pending == 0 {
            return Ok(());
        }
        // A long tail must not keep the worker from its other tasks.
        tokio::task::yield_now().await;
    }
}

async fn timed<T, E>(
    doing: &'static str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, TakeoverError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match tokio::time::timeout(API_TIMEOUT, call).await {
        Ok(result) => result.map_err(failed(doing)),
        Err(_) => Err(TakeoverError::Late(doing)),
    }
}

fn failed<E>(doing: &'static str) -> impl FnOnce(E) -> TakeoverError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| TakeoverError::Failed(doing, Box::new(source))
}
