//! From the log into Postgres: one process at a time, exactly the next record, forever.
//!
//! An ordered consumer reads from the committed cursor, and the cursor moves in the transaction that
//! writes the rows, so a record is applied exactly once whatever fails in between. Whoever holds the
//! advisory lock applies; it is held by the connection that writes, so losing one is losing both.
//! On any failure everything is thrown away and begun again from the cursor.

mod feed;
mod fit;

use crate::applied::Applied;
use crate::database::Connector;
use crate::metrics::{Metrics, PoisonKind};
use crate::projector::rows::{Poisoned, Reason};
use crate::projector::{Gap, needs, project};
use crate::record::Record;
use crate::store::cursor::{self, Cursor};
use crate::store::{Doing as _, StoreError, write};
use chassis::Context;
use chassis::backoff::{Backoff, INFRASTRUCTURE};
use chassis::topology::TopologyError;
use feed::{Feed, FeedError};
use fit::{Fit, Misfit};
use protocol::LogId;
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

/// The component of the health board that says whether the log can be applied.
const LOG: &str = "log";

/// How often a process that stands by tries to take over.
const STAND_BY_INTERVAL: Duration = Duration::from_millis(250);

/// How often a log that cannot be applied is looked at again.
const MISFIT_INTERVAL: Duration = Duration::from_secs(2);

/// How long one batch may take; a statement has a shorter limit of its own.
const BATCH_TIMEOUT: Duration = Duration::from_secs(120);

/// How long no record may come before the connection to Postgres is looked at.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// How long that look may take.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches that wait while one is written: one is enough to keep both sides busy.
const BATCHES_WAITING: usize = 1;

/// Why ingestion has to begin again.
#[derive(Debug, thiserror::Error)]
enum IngestError {
    #[error("connecting to Postgres failed")]
    Connect(#[source] sqlx::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("reading the log's state failed")]
    Log(#[from] TopologyError),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("the feed is not dense")]
    Gap(#[from] Gap),
    #[error("the cursor was moved by somebody else")]
    CursorMoved,
    #[error("Postgres does not answer in time")]
    Timeout(#[from] Elapsed),
}

/// Applies the log until the process stops.
#[derive(Debug)]
pub struct Ingest {
    /// What the service lives with.
    pub context: Context,
    /// How to reach Postgres.
    pub connector: Connector,
    /// Events in one transaction, at most.
    pub batch_events: usize,
    /// Where progress is told.
    pub applied: Applied,
    /// What is measured.
    pub metrics: Metrics,
}

impl Ingest {
    /// Runs until the context's shutdown; begins again after every failure.
    pub async fn run(self) {
        let stop = self.context.shutdown.clone();
        let mut backoff = Backoff::new(INFRASTRUCTURE);
        self.context.health.set_ready(LOG);
        let forever = async {
            loop {
                let before = self.applied.get();
                let Err(error) = self.attempt().await;
                self.metrics.ingesting.set(0);
                self.metrics.failures_total.inc();
                if self.applied.get() != before {
                    backoff.reset();
                }
                let wait = backoff.next_wait();
                let retry_in_ms = wait.as_millis();
                tracing::warn!(error = %chain(&error), retry_in_ms, "applying the log was interrupted");
                tokio::time::sleep(wait).await;
            }
        };
        stop.run_until_cancelled(forever).await;
        self.metrics.ingesting.set(0);
    }

    async fn attempt(&self) -> Result<std::convert::Infallible, IngestError> {
        let mut db = self
            .connector
            .connect()
            .await
            .map_err(IngestError::Connect)?;
        while !cursor::try_lock(&mut db).await? {
            if let Some(cursor) = cursor::read(&mut db).await? {
                self.applied.set(cursor.applied);
            }
            tokio::time::sleep(STAND_BY_INTERVAL).await;
        }
        self.context.nats.connected().await;
        let cursor = self.fitting_cursor(&mut db).await?;
        tracing::info!(applied = cursor.applied.0, log.id = %cursor.log, "applying the log");
        self.metrics.ingesting.set(1);
        self.follow(&mut db, cursor).await
    }

    /// The cursor, once it fits the log; until then alarms and waits, for applying could only harm.
    async fn fitting_cursor(&self, db: &mut PgConnection) -> Result<Cursor, IngestError> {
        let mut known: Option<Misfit> = None;
        loop {
            let found = cursor::read(&mut *db).await?;
            let log = match chassis::topology::inspect(&self.context.nats).await {
                Ok(log) => Some(log),
                // A new installation has no log yet; one that was being applied is lost.
                Err(TopologyError::NoLog) if found.is_some() => None,
                Err(error) => return Err(error.into()),
            };
            match fit::fit(found.as_ref(), log.as_ref()) {
                Fit::Follow(cursor) => {
                    self.metrics.stopped.set(0);
                    self.context.health.set_ready(LOG);
                    return Ok(cursor);
                }
                Fit::Begin(log) => self.begin(&mut *db, &log).await?,
                Fit::Misfit(misfit) => {
                    self.metrics.stopped.set(1);
                    self.context.health.set_down(LOG, misfit.to_string());
                    if known.as_ref() != Some(&misfit) {
                        tracing::error!("the log cannot be applied: {misfit}");
                        known = Some(misfit);
                    }
                    tokio::time::sleep(MISFIT_INTERVAL).await;
                }
            }
        }
    }

    async fn begin(&self, db: &mut PgConnection, log: &LogId) -> Result<(), IngestError> {
        tracing::info!(log.id = %log, "beginning to follow log {log}");
        Ok(cursor::begin(db, log).await?)
    }

    /// Applies what the feed brings, until something fails.
    async fn follow(
        &self,
        db: &mut PgConnection,
        mut cursor: Cursor,
    ) -> Result<std::convert::Infallible, IngestError> {
        self.applied.set(cursor.applied);
        let (batches_tx, mut batches_rx) = mpsc::channel(BATCHES_WAITING);
        // Ends the feed when this function is left in any way.
        let stop = CancellationToken::new();
        let _stop_feed = stop.clone().drop_guard();
        let feed = Feed {
            nats: self.context.nats.clone(),
            after: cursor.applied,
            batch_events: self.batch_events,
            batches: batches_tx,
        };
        self.context.tasks.spawn("feed", feed.run(stop));
        loop {
            let batch = tokio::time::timeout(IDLE_INTERVAL, batches_rx.recv()).await;
            let Ok(batch) = batch else {
                self.confirm(&mut *db, &cursor).await?;
                continue;
            };
            let batch = batch.ok_or(FeedError::Ended)??;
            let started = Instant::now();
            let apply = self.apply(&mut *db, &cursor, &batch);
            cursor = tokio::time::timeout(BATCH_TIMEOUT, apply).await??;
            self.applied.set(cursor.applied);
            self.measure(&cursor, &batch, started);
        }
    }

    /// Without records a lost connection, and with it the lost lock, would not be noticed.
    async fn confirm(&self, db: &mut PgConnection, cursor: &Cursor) -> Result<(), IngestError> {
        let found = tokio::time::timeout(CONFIRM_TIMEOUT, cursor::read(db)).await??;
        if found.as_ref() == Some(cursor) {
            return Ok(());
        }
        Err(IngestError::CursorMoved)
    }

    fn measure(&self, cursor: &Cursor, batch: &[Record], started: Instant) {
        let events: usize = batch.iter().map(Record::event_count).sum();
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        self.metrics
            .commit_seconds
            .observe(started.elapsed().as_secs_f64());
        self.metrics.batch_events.observe(events.into());
        self.metrics.events_total.inc_by(events.into());
        self.metrics
            .applied_position
            .set(i64::try_from(cursor.applied.0).unwrap_or(i64::MAX));
    }

    /// Applies a batch in one transaction; returns the cursor behind it.
    async fn apply(
        &self,
        db: &mut PgConnection,
        at: &Cursor,
        batch: &[Record],
    ) -> Result<Cursor, IngestError> {
        match self.transact(&mut *db, at, batch, false).await {
            Err(IngestError::Store(error)) if error.constraint() == Some(write::COMMAND_KEY) => {
                tracing::error!("the log holds a command twice, looking for it");
                self.transact(db, at, batch, true).await
            }
            result => result,
        }
    }

    async fn transact(
        &self,
        db: &mut PgConnection,
        at: &Cursor,
        batch: &[Record],
        check_commands: bool,
    ) -> Result<Cursor, IngestError> {
        let mut tx = db.begin().await.doing("beginning a transaction")?;
        let mut base = write::base(&mut tx, at, &needs(batch)).await?;
        if check_commands {
            base.repeated = Some(write::repeated(&mut tx, batch).await?);
        }
        let rows = project(base, batch)?;
        if !write::rows(&mut tx, at, &rows).await? {
            return Err(IngestError::CursorMoved);
        }
        tx.commit().await.doing("committing a batch")?;
        rows.poisoned
            .iter()
            .for_each(|poisoned| self.alarm(poisoned));
        Ok(Cursor {
            log: at.log.clone(),
            applied: rows.applied,
            time: rows.time,
        })
    }

    fn alarm(&self, poisoned: &Poisoned) {
        let kind = match &poisoned.reason {
            Reason::Record(_) => PoisonKind::Record,
            Reason::Event(poison) => poison.into(),
        };
        self.metrics.poison_total.get(kind).inc();
        let position = poisoned.position;
        match (&poisoned.room, poisoned.seq) {
            (Some(room), Some(seq)) => tracing::error!(
                room.id = %room, message.seq = seq.0, position = position.0,
                "poison in room {room} at seq {seq} (record {position}): {}; the room is unavailable until repaired",
                poisoned.reason
            ),
            (_, _) => tracing::error!(
                position = position.0,
                "poison in record {position}: {}",
                poisoned.reason
            ),
        }
    }
}

/// An error with its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
