//! What happened after a position of the log, per room, and what it changed of older messages.

use super::page::{Archived, Span, archived};
use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::event::{EventBody, LogEvent};
use protocol::{RoomId, Seq, StreamSeq, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::collections::{BTreeMap, BTreeSet};

/// One membership of a user, as far as catching up needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The room.
    pub room: RoomId,
    /// The event that began it.
    pub from: Seq,
    /// Its record.
    pub from_stream: StreamSeq,
    /// The event that ended it, and its record.
    pub to: Option<(Seq, StreamSeq)>,
    /// The room's head.
    pub head: Seq,
    /// Its record.
    pub head_stream: StreamSeq,
}

const INTERVALS: &str = "select m.*, r.head, r.head_stream from (
        select room, from_seq, from_stream, to_seq, to_stream from memberships
            where user_id = $1 and to_seq is null
        union all
        select room, from_seq, from_stream, to_seq, to_stream from memberships
            where user_id = $1 and to_seq is not null and to_stream > $2
    ) as m
    join rooms r on r.room = m.room
    where r.kind <> 'self' and r.poison is null and r.head_stream > $2
    order by m.room, m.from_seq";

/// The memberships of `user` that lasted beyond a position, in rooms where something happened since,
/// by room and time; the own room and poisoned ones are left out.
///
/// # Errors
/// If the statement fails.
pub async fn intervals(
    snapshot: &mut Snapshot,
    user: &UserId,
    after: StreamSeq,
) -> Result<Vec<Interval>, StoreError> {
    let query = sqlx::query(INTERVALS)
        .bind(user.as_str())
        .bind(int(after.0));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading a user's memberships")?;
    let interval = |row: &PgRow| {
        let to_seq = row.number_or_null("to_seq")?.map(Seq);
        let to_stream = row.number_or_null("to_stream")?.map(StreamSeq);
        Ok(Interval {
            room: row.room("room")?,
            from: row.seq("from_seq")?,
            from_stream: row.position("from_stream")?,
            to: to_seq.zip(to_stream),
            head: row.seq("head")?,
            head_stream: row.position("head_stream")?,
        })
    };
    rows.iter()
        .map(interval)
        .collect::<Result<_, _>>()
        .doing("reading a user's memberships")
}

const FIRST_AFTER: &str = "select k.room, (select e.seq from events e
            where e.room = k.room and e.stream_seq > $2
            order by e.stream_seq, e.idx limit 1) as seq
    from unnest($1::text[]) as k (room)";

/// The first event of each of these rooms after a position; rooms without one are left out.
///
/// # Errors
/// If the statement fails.
pub async fn first_after(
    snapshot: &mut Snapshot,
    rooms: &[RoomId],
    after: StreamSeq,
) -> Result<BTreeMap<RoomId, Seq>, StoreError> {
    const DOING: &str = "finding what was missed";
    if rooms.is_empty() {
        return Ok(BTreeMap::new());
    }
    let query = sqlx::query(FIRST_AFTER)
        .bind(rooms.iter().map(RoomId::as_str).collect::<Vec<_>>())
        .bind(int(after.0));
    let mut first = BTreeMap::new();
    for row in query.fetch_all(&mut *snapshot.tx).await.doing(DOING)? {
        if let Some(seq) = row.number_or_null("seq").doing(DOING)? {
            first.insert(row.room("room").doing(DOING)?, Seq(seq));
        }
    }
    Ok(first)
}

/// The rows whose lines are read are chosen by the lengths alone, which are stored beside the lines.
const RANGES: &str = "select room, seq, stream_seq, line from (
        select f.*, sum(octet_length(f.line)) over (order by f.stream_seq, f.idx)
            - octet_length(f.line) as bytes_before
        from (
            select e.room, e.seq, e.stream_seq, e.idx, e.line
            from unnest($1::text[], $2::bigint[], $3::bigint[]) as k (room, lo, hi)
            join events e on e.room = k.room and e.seq between k.lo and k.hi
            order by e.stream_seq, e.idx
            limit $4
        ) as f
    ) as g
    where bytes_before <= $5
    order by stream_seq, idx";

/// How much of some spans is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events at most.
    pub events: usize,
    /// Bytes of lines; the event that passes them is the last.
    pub bytes: usize,
}

/// The events of these spans in the order of the log, as far as the bounds allow.
///
/// # Errors
/// If the statement fails.
pub async fn ranges(
    snapshot: &mut Snapshot,
    spans: &[Span],
    bounds: Bounds,
) -> Result<Vec<Archived>, StoreError> {
    if spans.is_empty() {
        return Ok(Vec::new());
    }
    let (rooms, lows, highs) = columns(spans);
    let query = sqlx::query(RANGES)
        .bind(rooms)
        .bind(lows)
        .bind(highs)
        .bind(i64::try_from(bounds.events).unwrap_or(i64::MAX))
        .bind(i64::try_from(bounds.bytes).unwrap_or(i64::MAX));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading missed events")?;
    rows.iter()
        .map(archived)
        .collect::<Result<_, _>>()
        .doing("reading missed events")
}

const SIZES: &str = "select e.room, sum(octet_length(e.line) + 1)::bigint as bytes
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as k (room, lo, hi)
    join events e on e.room = k.room and e.seq between k.lo and k.hi
    group by e.room";

/// Bytes of the lines of these spans by room, a byte more for each line.
///
/// # Errors
/// If the statement fails.
pub async fn sizes(
    snapshot: &mut Snapshot,
    spans: &[Span],
) -> Result<BTreeMap<RoomId, usize>, StoreError> {
    const DOING: &str = "measuring missed events";
    if spans.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (rooms, lows, highs) = columns(spans);
    let query = sqlx::query(SIZES).bind(rooms).bind(lows).bind(highs);
    let rows = query.fetch_all(&mut *snapshot.tx).await.doing(DOING)?;
    let size = |row: &PgRow| {
        let bytes = usize::try_from(row.number("bytes")?).unwrap_or(usize::MAX);
        Ok((row.room("room")?, bytes))
    };
    rows.iter().map(size).collect::<Result<_, _>>().doing(DOING)
}

/// Spans as columns.
fn columns(spans: &[Span]) -> (Vec<&str>, Vec<i64>, Vec<i64>) {
    let rooms = spans.iter().map(|span| span.room.as_str()).collect();
    let lows = spans.iter().map(|span| int(span.from.0)).collect();
    let highs = spans.iter().map(|span| int(span.to.0)).collect();
    (rooms, lows, highs)
}

const TOUCHING: &str = "select line from events
    where room = $1 and seq >= $2 and kind in ('edit', 'reply') order by seq limit $3";
const REMOVED: &str = "select seq, thread from messages
    where room = $1 and deleted_seq >= $2 order by deleted_seq, seq limit $3";

const NEXT: &str = "select line from events
    where room = $1 and seq >= $2 and kind <> 'poison' order by seq limit 1";

/// What lies below `from` in a range of lost numbers that reaches above it: events that a client has and
/// the archive never had.
async fn lost_below(
    snapshot: &mut Snapshot,
    room: &RoomId,
    from: Seq,
) -> Result<impl Iterator<Item = Seq> + use<>, StoreError> {
    const DOING: &str = "looking for lost numbers";
    let query = sqlx::query(NEXT).bind(room.as_str()).bind(int(from.0));
    let next = query.fetch_optional(&mut *snapshot.tx).await.doing(DOING)?;
    let mut lost = from.0..from.0;
    if let Some(row) = next {
        let line: &str = row.try_get("line").doing(DOING)?;
        let logged = LogEvent::parse(&super::text::decode(line));
        let logged = logged.map_err(super::odd("line")).doing(DOING)?;
        if let EventBody::Void { from: first } = logged.event.body {
            lost.start = first.0.min(from.0);
        }
    }
    Ok(lost.map(Seq))
}

const READ: &str = "select line from events
    where room = $1 and seq >= $2 and kind = 'read' order by seq limit $3";

/// The rooms whose read marks moved in an own room from a seq on; `None`: too many to say.
///
/// # Errors
/// If the statement fails.
pub async fn marked(
    snapshot: &mut Snapshot,
    own: &RoomId,
    from: Seq,
) -> Result<Option<BTreeSet<RoomId>>, StoreError> {
    const DOING: &str = "finding moved marks";
    let query = sqlx::query(READ)
        .bind(own.as_str())
        .bind(int(from.0))
        .bind(i64::try_from(CHANGES_MAX + 1).unwrap_or(i64::MAX));
    let rows = query.fetch_all(&mut *snapshot.tx).await.doing(DOING)?;
    if rows.len() > CHANGES_MAX {
        return Ok(None);
    }
    let mut marked = BTreeSet::new();
    for row in &rows {
        let line: &str = row.try_get("line").doing(DOING)?;
        let logged = LogEvent::parse(&super::text::decode(line));
        let logged = logged.map_err(super::odd("line")).doing(DOING)?;
        if let EventBody::Read { target, .. } = logged.event.body {
            marked.insert(target);
        }
    }
    Ok(Some(marked))
}

/// Changes beyond this number are not told apart: everything is dirty then.
const CHANGES_MAX: usize = 20_000;

/// Which messages below `from` show something else since the events from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dirty {
    /// These.
    Messages(BTreeSet<Seq>),
    /// Too many to say.
    All,
}

/// Finds the messages of a room below `from` that events at or above it have changed: edited,
/// removed, or with other replies.
///
/// # Errors
/// If a statement fails.
pub async fn dirty(snapshot: &mut Snapshot, room: &RoomId, from: Seq) -> Result<Dirty, StoreError> {
    const DOING: &str = "finding changed messages";
    let limit = i64::try_from(CHANGES_MAX + 1).unwrap_or(i64::MAX);
    let bound = |sql| {
        sqlx::query(sql)
            .bind(room.as_str())
            .bind(int(from.0))
            .bind(limit)
    };
    let touching = bound(TOUCHING)
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing(DOING)?;
    let removed = bound(REMOVED)
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing(DOING)?;
    if touching.len() > CHANGES_MAX || removed.len() > CHANGES_MAX {
        return Ok(Dirty::All);
    }
    let mut dirty: BTreeSet<Seq> = lost_below(snapshot, room, from).await?.collect();
    if dirty.len() > CHANGES_MAX {
        return Ok(Dirty::All);
    }
    for row in &touching {
        let line: &str = row.try_get("line").doing(DOING)?;
        let logged = LogEvent::parse(&super::text::decode(line));
        let logged = logged.map_err(super::odd("line")).doing(DOING)?;
        match logged.event.body {
            EventBody::Edit { on, .. } => dirty.extend([on]),
            EventBody::Msg(message) => dirty.extend(message.thread),
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }
    for row in &removed {
        dirty.insert(row.seq("seq").doing(DOING)?);
        dirty.extend(row.number_or_null("thread").doing(DOING)?.map(Seq));
    }
    dirty.retain(|seq| *seq < from);
    Ok(Dirty::Messages(dirty))
}
