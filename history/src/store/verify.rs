//! Rows in order, for whoever checks them against each other.

use super::page::{Archived, archived};
use super::{Columns as _, Doing as _, Snapshot, StoreError, int, write};
use crate::projector::rows::RoomRow;
use protocol::chain::Hash;
use protocol::{RoomId, Seq, Timestamp, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Uuid;

const ROOMS: &str = "select room from rooms order by room";

/// Every room.
///
/// # Errors
/// If the statement fails.
pub async fn rooms(snapshot: &mut Snapshot) -> Result<Vec<RoomId>, StoreError> {
    let rows = sqlx::query(ROOMS)
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("listing rooms")?;
    rows.iter()
        .map(|row| row.room("room"))
        .collect::<Result<_, _>>()
        .doing("listing rooms")
}

const ROOM: &str = "select * from rooms where room = $1";

/// The row of a room.
///
/// # Errors
/// If the statement fails.
pub async fn room(snapshot: &mut Snapshot, room: &RoomId) -> Result<Option<RoomRow>, StoreError> {
    let row = sqlx::query(ROOM)
        .bind(room.as_str())
        .fetch_optional(&mut *snapshot.tx)
        .await;
    row.doing("reading a room")?
        .map(|row| write::room_row(&row))
        .transpose()
        .doing("reading a room")
}

const EVENTS: &str =
    "select room, seq, stream_seq, idx, line, hash, poison, kind, author, cid, first
    from events where room = $1 and seq > $2 order by seq limit $3";

/// A row of `events`, with what the archive says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventCheck {
    /// The row.
    pub event: Archived,
    /// Its column `hash`.
    pub hash: Hash,
    /// Why it was not applied.
    pub poison: Option<String>,
    /// Its place in the record.
    pub index: i32,
    /// Its column `kind`.
    pub kind: String,
    /// Its author, as the row says.
    pub author: Option<UserId>,
    /// Its command, as the row says.
    pub cid: Option<Uuid>,
    /// Whether it is the first event of its command, as the row says.
    pub first: bool,
}

/// The next events of a room behind `after`, `limit` at most.
///
/// # Errors
/// If the statement fails.
pub async fn events(
    snapshot: &mut Snapshot,
    room: &RoomId,
    after: Seq,
    limit: u32,
) -> Result<Vec<EventCheck>, StoreError> {
    let query = sqlx::query(EVENTS)
        .bind(room.as_str())
        .bind(int(after.0))
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading events")?;
    let check = |row: &PgRow| {
        Ok(EventCheck {
            event: archived(row)?,
            // Neither a hash of another length nor an author outside the grammar is the event's.
            hash: row.hash("hash").unwrap_or(Hash::ZERO),
            poison: row.try_get("poison")?,
            index: row.try_get("idx")?,
            kind: row.try_get("kind")?,
            author: row
                .try_get::<Option<&str>, _>("author")?
                .and_then(|author| UserId::parse(author).ok()),
            cid: row.try_get("cid")?,
            first: row.try_get("first")?,
        })
    };
    rows.iter()
        .map(check)
        .collect::<Result<_, _>>()
        .doing("reading events")
}

const MESSAGES: &str =
    "select seq, author, ts, cid, n, thread, tn, reply_to, meta, text, coalesce(mentions, '{}') as mentions,
        rev, shown_rev, eff, edited, deleted, deleted_seq, replies, replies_deleted
    from messages where room = $1 and seq > $2 order by seq limit $3";

/// A row of `messages`, as far as events determine it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageCheck {
    /// The message.
    pub seq: Seq,
    /// Its author.
    pub author: UserId,
    /// When it was ordered.
    pub ts: Timestamp,
    /// Its ordinal in the main timeline.
    pub n: Option<u64>,
    /// The root of its thread.
    pub thread: Option<Seq>,
    /// The command it came from.
    pub cid: Uuid,
    /// Its ordinal in the thread.
    pub tn: Option<u64>,
    /// The message it answers.
    pub reply_to: Option<Seq>,
    /// The client's marks, as stored.
    pub meta: Option<String>,
    /// The shown text.
    pub text: String,
    /// The shown mentions, as stored.
    pub mentions: Vec<String>,
    /// The greatest revision.
    pub rev: u64,
    /// The shown revision.
    pub shown_rev: u64,
    /// Its effective time.
    pub eff: Timestamp,
    /// When the shown revision came; `None` for the first.
    pub edited: Option<Timestamp>,
    /// Whether it was removed.
    pub deleted: bool,
    /// The event that removed it first.
    pub deleted_seq: Option<Seq>,
    /// Greatest ordinal in the thread it is the root of.
    pub replies: u64,
    /// How many of those replies were removed.
    pub replies_deleted: u64,
}

/// The next messages of a room behind `after`, `limit` at most.
///
/// # Errors
/// If the statement fails.
pub async fn messages(
    snapshot: &mut Snapshot,
    room: &RoomId,
    after: Seq,
    limit: u32,
) -> Result<Vec<MessageCheck>, StoreError> {
    let query = sqlx::query(MESSAGES)
        .bind(room.as_str())
        .bind(int(after.0))
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading messages")?;
    let check = |row: &PgRow| {
        Ok(MessageCheck {
            seq: row.seq("seq")?,
            author: row.user("author")?,
            ts: Timestamp(row.try_get("ts")?),
            n: row.number_or_null("n")?,
            thread: row.number_or_null("thread")?.map(Seq),
            cid: row.try_get("cid")?,
            tn: row.number_or_null("tn")?,
            reply_to: row.number_or_null("reply_to")?.map(Seq),
            meta: row.try_get("meta")?,
            text: row.words("text")?,
            mentions: row.try_get("mentions")?,
            rev: row.number("rev")?,
            shown_rev: row.number("shown_rev")?,
            eff: Timestamp(row.try_get("eff")?),
            edited: row.try_get::<Option<i64>, _>("edited")?.map(Timestamp),
            deleted: row.try_get("deleted")?,
            deleted_seq: row.number_or_null("deleted_seq")?.map(Seq),
            replies: row.number("replies")?,
            replies_deleted: row.number("replies_deleted")?,
        })
    };
    rows.iter()
        .map(check)
        .collect::<Result<_, _>>()
        .doing("reading messages")
}
