//! Hourly anchors: the heads of rooms that moved since the last ones.
//!
//! Whoever can write to the tables can write a new chain; the same heads in the process log, outside
//! of the tables, show it.

use super::{Columns as _, Doing as _, StoreError};
use protocol::chain::Hash;
use protocol::{RoomId, Seq, Timestamp};
use sqlx::PgPool;
use sqlx::postgres::PgRow;

/// A head as it was written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The room.
    pub room: RoomId,
    /// Its head.
    pub seq: Seq,
    /// The head's hash.
    pub hash: Hash,
}

const WRITE: &str = "insert into checkpoints (room, seq, hash, stream_seq, ts)
    select r.room, r.head, r.head_hash, r.head_stream, $1 from rooms r
    where r.head_stream > (select coalesce(max(stream_seq), 0) from checkpoints)
    order by r.head_stream
    on conflict on constraint checkpoints_key do nothing
    returning room, seq, hash";

/// Writes the heads that moved since the last checkpoint.
///
/// # Errors
/// If the statement fails.
pub async fn write(pool: &PgPool, now: Timestamp) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = sqlx::query(WRITE)
        .bind(now.0)
        .fetch_all(pool)
        .await
        .doing("writing checkpoints")?;
    let checkpoint = |row: &PgRow| {
        Ok(Checkpoint {
            room: row.room("room")?,
            seq: row.seq("seq")?,
            hash: row.hash("hash")?,
        })
    };
    rows.iter()
        .map(checkpoint)
        .collect::<Result<_, _>>()
        .doing("writing checkpoints")
}
