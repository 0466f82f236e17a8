//! How far the log is applied, as this process knows it, and waiting for more.
//!
//! The process that ingests says so itself; one that stands by asks the database, but only while
//! somebody waits.

use crate::store::cursor;
use protocol::StreamSeq;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

/// How often a process that stands by looks at the cursor for those who wait.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long one look may take.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// The last applied record; clones share it.
#[derive(Clone, Debug)]
pub struct Applied {
    position: Arc<watch::Sender<StreamSeq>>,
    polling: Arc<Mutex<()>>,
    pool: PgPool,
}

impl Applied {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            position: Arc::new(watch::Sender::new(StreamSeq(0))),
            polling: Arc::default(),
            pool,
        }
    }

    /// Everything up to here is committed.
    pub fn set(&self, position: StreamSeq) {
        self.position
            .send_if_modified(|known| std::mem::replace(known, position) != position);
    }

    /// What was last known.
    #[must_use]
    pub fn get(&self) -> StreamSeq {
        *self.position.borrow()
    }

    /// Waits until a record is applied; false if it is not at the deadline.
    ///
    /// Cancel safety: safe.
    pub async fn reaches(&self, wanted: StreamSeq, deadline: Instant) -> bool {
        let mut positions = self.position.subscribe();
        while *positions.borrow_and_update() < wanted {
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            let until = deadline.min(now + POLL_INTERVAL);
            let changed = tokio::time::timeout_at(until, positions.changed()).await;
            if changed.is_err() {
                self.poll().await;
            }
        }
        true
    }

    /// Reads the cursor, unless somebody else is doing so.
    async fn poll(&self) {
        let Ok(_polling) = self.polling.try_lock() else {
            return;
        };
        let read = async {
            let mut db = self.pool.acquire().await.ok()?;
            cursor::read(&mut db).await.ok()?
        };
        if let Ok(Some(cursor)) = tokio::time::timeout(POLL_TIMEOUT, read).await {
            self.set(cursor.applied);
        }
    }
}
