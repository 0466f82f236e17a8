//! Watches what ingestion cannot see of itself: Postgres, the distance to the log's end, checkpoints.

use crate::ingest::chain;
use crate::metrics::Metrics;
use crate::store::{Snapshot, StoreError, checkpoint};
use chassis::Context;
use chassis::topology;
use protocol::subject::LOG_STREAM;
use protocol::{StreamSeq, Timestamp};
use sqlx::PgPool;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// The component of the health board for the database.
pub(crate) const POSTGRES: &str = "postgres";

/// Between two looks at Postgres.
const POSTGRES_INTERVAL: Duration = Duration::from_secs(1);

/// How long one look may take.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at the log's end.
const LAG_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the component `postgres` true: whether it answers, and has the tables.
pub async fn postgres(context: Context, pool: PgPool) {
    let watch = async {
        loop {
            match tokio::time::timeout(POSTGRES_TIMEOUT, look(&pool)).await {
                Ok(Ok(())) => context.health.set_ready(POSTGRES),
                Ok(Err(error)) if error.is_missing_table() => {
                    context
                        .health
                        .set_down(POSTGRES, "the tables are missing: run natter migrate");
                }
                Ok(Err(error)) => context.health.set_down(POSTGRES, chain(&error)),
                Err(_) => context.health.set_down(POSTGRES, "no answer in time"),
            }
            tokio::time::sleep(POSTGRES_INTERVAL).await;
        }
    };
    context.shutdown.run_until_cancelled(watch).await;
}

async fn look(pool: &PgPool) -> Result<(), StoreError> {
    Snapshot::begin(pool).await?.end().await
}

/// How far the archive is behind the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lag {
    records: u64,
    age: Duration,
    max_age: Duration,
}

/// Measures the lag; when it passes half of what the log keeps, alarms and makes it keep more.
pub async fn lag(context: Context, pool: PgPool, metrics: Metrics) {
    let watch = async {
        let mut alarmed = false;
        loop {
            tokio::time::sleep(LAG_INTERVAL).await;
            let Some(lag) = measure(&context, &pool).await else {
                continue;
            };
            metrics
                .lag_records
                .set(i64::try_from(lag.records).unwrap_or(i64::MAX));
            metrics
                .lag_seconds
                .set(i64::try_from(lag.age.as_secs()).unwrap_or(i64::MAX));
            let dangerous = !lag.max_age.is_zero() && lag.age > lag.max_age / 2;
            if dangerous && !alarmed {
                raise(&context, lag).await;
            }
            alarmed = dangerous;
        }
    };
    context.shutdown.run_until_cancelled(watch).await;
}

/// `None` if the log or the database does not answer: others tell about that.
async fn measure(context: &Context, pool: &PgPool) -> Option<Lag> {
    let log = topology::inspect(&context.nats).await.ok()?;
    let snapshot = tokio::time::timeout(POSTGRES_TIMEOUT, Snapshot::begin(pool))
        .await
        .ok()?
        .ok()?;
    let (applied, known) = (snapshot.applied, snapshot.log.clone());
    snapshot.end().await.ok()?;
    let same = known.is_none_or(|known| known.as_str() == log.log_id);
    let records = if same {
        log.last_seq.saturating_sub(applied.0)
    } else {
        0
    };
    let mut lag = Lag {
        records,
        age: Duration::ZERO,
        max_age: log.max_age,
    };
    if records > 0 {
        let next = applied.next().max(StreamSeq(log.first_seq));
        let oldest = context.nats.get_by_seq(LOG_STREAM, next.0).await.ok()?;
        let age_ms = oldest.map_or(0, |oldest| context.clock.now_ms() - oldest.time_ms);
        lag.age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
    }
    Some(lag)
}

async fn raise(context: &Context, lag: Lag) {
    let (age_s, max_age_s) = (lag.age.as_secs(), lag.max_age.as_secs());
    tracing::error!(
        age_s,
        max_age_s,
        lag.records,
        "the archive is {age_s} s behind a log that keeps {max_age_s} s: records will be lost"
    );
    match topology::raise_max_age(&context.nats, lag.max_age * 2).await {
        Ok(now) => tracing::warn!(
            max_age_s = now.as_secs(),
            "the log keeps its records longer now"
        ),
        Err(error) => tracing::error!(error = %chain(&error), "making the log keep more failed"),
    }
}

/// Writes checkpoints, to the table and to the process log.
pub async fn checkpoints(context: Context, pool: PgPool, interval: Duration) {
    let write = async {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, when nothing was said yet.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            match checkpoint::write(&pool, Timestamp(context.clock.now_ms())).await {
                Ok(written) => {
                    for checkpoint in written {
                        tracing::info!(
                            room.id = %checkpoint.room, message.seq = checkpoint.seq.0,
                            hash = %checkpoint.hash,
                            "checkpoint {} {}:{}", checkpoint.room, checkpoint.seq, checkpoint.hash
                        );
                    }
                }
                Err(error) => tracing::warn!(error = %chain(&error), "no checkpoint this time"),
            }
        }
    };
    context.shutdown.run_until_cancelled(write).await;
}
