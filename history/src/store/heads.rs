//! Where each room ends, for whoever makes a log that goes on from the archive.

use super::{Columns as _, Doing as _, Snapshot, StoreError};
use protocol::chain::Hash;
use protocol::{RoomId, Seq, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

const HEADS: &str = "select room, head, head_hash, head_ts from rooms
    where room > $1 order by room limit $2";

/// The end of a room's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The room.
    pub room: RoomId,
    /// Seq of its last event.
    pub seq: Seq,
    /// The hash of that event.
    pub hash: Hash,
    /// When it happened.
    pub ts: Timestamp,
}

/// The rooms behind `after` in the order of their ids, `limit` at most.
///
/// # Errors
/// If the statement fails.
pub async fn heads(
    snapshot: &mut Snapshot,
    after: Option<&RoomId>,
    limit: u32,
) -> Result<Vec<Head>, StoreError> {
    const DOING: &str = "reading where rooms end";
    let query = sqlx::query(HEADS)
        .bind(after.map_or("", RoomId::as_str))
        .bind(i64::from(limit));
    let rows = query.fetch_all(&mut *snapshot.tx).await.doing(DOING)?;
    let head = |row: &PgRow| {
        Ok(Head {
            room: row.room("room")?,
            seq: row.seq("head")?,
            hash: row.hash("head_hash")?,
            ts: Timestamp(row.try_get("head_ts")?),
        })
    };
    rows.iter().map(head).collect::<Result<_, _>>().doing(DOING)
}
