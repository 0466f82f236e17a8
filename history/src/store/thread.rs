//! Threads: the replies to one message.

use super::page::{End, message};
use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::frame::TimelineEntry;
use protocol::{RoomId, Seq};
use sqlx::postgres::PgRow;

const ROOT: &str = "select seq from messages where room = $1 and seq = $2 and thread is null";

/// Whether there is a message in the main timeline that a thread can hang on.
///
/// # Errors
/// If the statement fails.
pub async fn is_root(
    snapshot: &mut Snapshot,
    room: &RoomId,
    root: Seq,
) -> Result<bool, StoreError> {
    let query = sqlx::query(ROOT).bind(room.as_str()).bind(int(root.0));
    let row = query
        .fetch_optional(&mut *snapshot.tx)
        .await
        .doing("reading a thread's root")?;
    row.map(|row| row.seq("seq"))
        .transpose()
        .doing("reading a thread's root")
        .map(|seq| seq.is_some())
}

const NEWEST: &str = "select * from messages
    where room = $1 and thread = $2 and seq between $3 and $4 order by seq desc limit $5";
const OLDEST: &str = "select * from messages
    where room = $1 and thread = $2 and seq between $3 and $4 order by seq limit $5";

/// The replies at one end of a range of seqs, both ends included, `limit` at most, oldest first.
///
/// # Errors
/// If the statement fails.
pub async fn replies(
    snapshot: &mut Snapshot,
    (room, root): (&RoomId, Seq),
    (from, to): (Seq, Seq),
    end: End,
    limit: u32,
) -> Result<Vec<TimelineEntry>, StoreError> {
    let sql = match end {
        End::Newest => NEWEST,
        End::Oldest => OLDEST,
    };
    let query = sqlx::query(sql)
        .bind(room.as_str())
        .bind(int(root.0))
        .bind(int(from.0))
        .bind(int(to.0))
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading a thread")?;
    let entry = |row: &PgRow| message(room, row);
    let mut replies: Vec<TimelineEntry> = rows
        .iter()
        .map(entry)
        .collect::<Result<_, _>>()
        .doing("reading a thread")?;
    replies.sort_by_key(|entry| entry.event.seq);
    Ok(replies)
}
