//! Where the log has been applied to, and which process may apply it.

use super::{Columns as _, Doing as _, StoreError, int};
use protocol::{LogId, StreamSeq, Timestamp};
use sqlx::{PgConnection, Row as _};

/// A row of `cursors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which life of the log.
    pub log: LogId,
    /// The last applied record.
    pub applied: StreamSeq,
    /// When the broker stored it.
    pub time: Timestamp,
}

const READ: &str = "select log_id, applied, broker_time from cursors where name = 'log'";

/// The cursor of ingestion; `None` before anything was applied.
///
/// # Errors
/// If the statement fails.
pub async fn read(db: &mut PgConnection) -> Result<Option<Cursor>, StoreError> {
    const DOING: &str = "reading the cursor";
    let Some(row) = sqlx::query(READ).fetch_optional(db).await.doing(DOING)? else {
        return Ok(None);
    };
    let cursor = || {
        let log: &str = row.try_get("log_id")?;
        Ok(Cursor {
            log: LogId::parse(log).map_err(super::odd("log_id"))?,
            applied: row.position("applied")?,
            time: Timestamp(row.try_get("broker_time")?),
        })
    };
    cursor().map(Some).doing(DOING)
}

const BEGIN: &str = "insert into cursors (name, log_id, applied, broker_time)
    values ('log', $1, $2, 0) on conflict on constraint cursors_key do nothing";

/// Starts to follow a log of which nothing was applied yet.
///
/// # Errors
/// If the statement fails.
pub async fn begin(db: &mut PgConnection, log: &LogId) -> Result<(), StoreError> {
    let query = sqlx::query(BEGIN).bind(log.as_str()).bind(0_i64);
    query.execute(db).await.doing("beginning a cursor")?;
    Ok(())
}

const MOVE: &str = "update cursors set applied = $3, broker_time = $4
    where name = 'log' and log_id = $1 and applied = $2";

/// Moves the cursor from one record to a later one; false if it was not there any more.
///
/// # Errors
/// If the statement fails.
pub async fn advance(
    db: &mut PgConnection,
    from: &Cursor,
    to: StreamSeq,
    time: Timestamp,
) -> Result<bool, StoreError> {
    let query = sqlx::query(MOVE)
        .bind(from.log.as_str())
        .bind(int(from.applied.0))
        .bind(int(to.0))
        .bind(time.0);
    let done = query.execute(db).await.doing("moving the cursor")?;
    Ok(done.rows_affected() == 1)
}

const SUCCEED: &str = "update cursors set log_id = $3, applied = $4
    where name = 'log' and log_id = $1 and applied = $2";

/// Goes on with another log, of which everything up to `applied` counts as applied; false if the cursor
/// was not at `from` any more.
///
/// # Errors
/// If the statement fails.
pub async fn succeed(
    db: &mut PgConnection,
    from: &Cursor,
    log: &LogId,
    applied: StreamSeq,
) -> Result<bool, StoreError> {
    let query = sqlx::query(SUCCEED)
        .bind(from.log.as_str())
        .bind(int(from.applied.0))
        .bind(log.as_str())
        .bind(int(applied.0));
    let done = query.execute(db).await.doing("changing to another log")?;
    Ok(done.rows_affected() == 1)
}

/// "natter" and "log" in ASCII, 63 bits: nobody else's lock in this database.
const LOCK: i64 = 0x6e61_7474_6c6f_6700;

const TRY_LOCK: &str = "select pg_try_advisory_lock($1)";

/// Tries to become the one process that applies the log; holds for as long as the connection lives.
///
/// # Errors
/// If the statement fails.
pub async fn try_lock(db: &mut PgConnection) -> Result<bool, StoreError> {
    let query = sqlx::query_scalar(TRY_LOCK).bind(LOCK);
    query
        .fetch_one(db)
        .await
        .doing("asking for the lock of ingestion")
}
