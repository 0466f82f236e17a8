//! Pages of a room: the timeline as it is shown, and the dense events as they were.

use super::text::{decode, parse_mention};
use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::event::{EventBody, LogEvent, Message};
use protocol::frame::{ThreadSummary, TimelineEntry};
use protocol::{Cid, Event, RoomId, Seq, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use std::collections::{BTreeMap, BTreeSet};

/// Which end of a span is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The entries next to its lower end.
    Oldest,
    /// The entries next to its upper end.
    Newest,
}

/// A part of a room, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The room.
    pub room: RoomId,
    /// First seq.
    pub from: Seq,
    /// Last seq.
    pub to: Seq,
}

macro_rules! timeline {
    ($order:literal) => {
        concat!(
            "select k.place, t.*
            from unnest($1::text[], $2::bigint[], $3::bigint[])
                with ordinality as k (room, lo, hi, place)
            cross join lateral (
                (select m.seq, m.author, m.ts, m.cid, m.n, m.thread, m.tn, m.reply_to, m.meta,
                    m.text, m.mentions, m.shown_rev, m.edited, m.deleted,
                    m.replies, m.replies_deleted, null::text as line
                from messages m
                where m.room = k.room and m.seq between k.lo and k.hi and m.n is not null
                order by m.seq ",
            $order,
            " limit $4)
                union all
                (select e.seq, null, null, null, null, null, null, null, null,
                    null, null, null, null, null, null, null, e.line
                from events e
                where e.room = k.room and e.seq between k.lo and k.hi
                    and e.kind in ('room', 'member', 'role')
                order by e.seq ",
            $order,
            " limit $4)
                order by seq ",
            $order,
            " limit $4
            ) as t
            order by k.place, t.seq"
        )
    };
}

const TIMELINE_NEWEST: &str = timeline!("desc");
const TIMELINE_OLDEST: &str = timeline!("asc");

/// Of each span the entries at one end, `limit` at most, oldest first.
///
/// # Errors
/// If a statement fails.
pub async fn timelines(
    snapshot: &mut Snapshot,
    spans: &[Span],
    end: End,
    limit: u32,
) -> Result<Vec<Vec<TimelineEntry>>, StoreError> {
    const DOING: &str = "reading timelines";
    let mut pages: Vec<Vec<TimelineEntry>> = spans.iter().map(|_| Vec::new()).collect();
    if spans.is_empty() {
        return Ok(pages);
    }
    let sql = match end {
        End::Newest => TIMELINE_NEWEST,
        End::Oldest => TIMELINE_OLDEST,
    };
    let query = sqlx::query(sql)
        .bind(
            spans
                .iter()
                .map(|span| span.room.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            spans
                .iter()
                .map(|span| int(span.from.0))
                .collect::<Vec<_>>(),
        )
        .bind(spans.iter().map(|span| int(span.to.0)).collect::<Vec<_>>())
        .bind(i64::from(limit));
    let rows = query.fetch_all(&mut *snapshot.tx).await.doing(DOING)?;
    for row in &rows {
        let place = row.number("place").doing(DOING)?;
        let index = usize::try_from(place).unwrap_or(0).wrapping_sub(1);
        if let (Some(span), Some(page)) = (spans.get(index), pages.get_mut(index)) {
            page.push(entry(&span.room, row).doing(DOING)?);
        }
    }
    summaries(snapshot, &mut pages).await?;
    Ok(pages)
}

/// An entry: a message row, or the line of another event.
fn entry(room: &RoomId, row: &PgRow) -> Result<TimelineEntry, sqlx::Error> {
    let line: Option<&str> = row.try_get("line")?;
    match line {
        None => message(room, row),
        Some(line) => {
            let event = LogEvent::parse(&decode(line)).map_err(super::odd("line"))?;
            Ok(TimelineEntry::plain(event.event))
        }
    }
}

/// A row of `messages` as it is shown. The summary of its thread has no last seq yet.
pub(super) fn message(room: &RoomId, row: &PgRow) -> Result<TimelineEntry, sqlx::Error> {
    let deleted: bool = row.try_get("deleted")?;
    let shown_rev = row.number("shown_rev")?;
    let edited: Option<i64> = row.try_get("edited")?;
    let cid: uuid::Uuid = row.try_get("cid")?;
    let mut message = Message {
        reply_to: row.number_or_null("reply_to")?.map(Seq),
        thread: row.number_or_null("thread")?.map(Seq),
        n: row.number_or_null("n")?,
        tn: row.number_or_null("tn")?,
        ..Message::default()
    };
    if !deleted {
        message.text = row.words("text")?;
        let mentions: Option<Vec<String>> = row.try_get("mentions")?;
        let mentions = mentions.unwrap_or_default();
        message.mentions = mentions
            .iter()
            .filter_map(|mention| parse_mention(mention))
            .collect();
        let meta: Option<&str> = row.try_get("meta")?;
        let meta = meta.map(serde_json::from_str).transpose();
        message.meta = meta.map_err(super::odd("meta"))?;
    }
    let replies = row
        .number("replies")?
        .saturating_sub(row.number("replies_deleted")?);
    let shown = (!deleted && shown_rev > 1).then(|| u32::try_from(shown_rev).unwrap_or(u32::MAX));
    Ok(TimelineEntry {
        event: Event {
            room: room.clone(),
            seq: row.seq("seq")?,
            ts: Timestamp(row.try_get("ts")?),
            by: row.user("author")?,
            cid: Cid::from_uuid(cid).map_err(super::odd("cid"))?,
            body: EventBody::Msg(message),
        },
        rev: shown,
        edited: edited.filter(|_| shown.is_some()).map(Timestamp),
        deleted,
        summary: (replies > 0).then_some(ThreadSummary {
            count: replies,
            last: Seq(0),
        }),
    })
}

const LAST_REPLIES: &str = "select k.room, k.root,
        coalesce((select c.seq from messages c
            where c.room = k.room and c.thread = k.root and not c.deleted
            order by c.seq desc limit 1), 0) as last
    from unnest($1::text[], $2::bigint[]) as k (room, root)";

/// Completes the summaries of threads.
async fn summaries(
    snapshot: &mut Snapshot,
    pages: &mut [Vec<TimelineEntry>],
) -> Result<(), StoreError> {
    const DOING: &str = "reading the last replies of threads";
    let roots = pages
        .iter()
        .flatten()
        .filter(|entry| entry.summary.is_some());
    let (rooms, seqs): (Vec<String>, Vec<i64>) = roots
        .map(|entry| (entry.event.room.as_str().to_owned(), int(entry.event.seq.0)))
        .unzip();
    if rooms.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(LAST_REPLIES).bind(rooms).bind(seqs);
    let mut last = BTreeMap::new();
    for row in query.fetch_all(&mut *snapshot.tx).await.doing(DOING)? {
        let root = (
            row.room("room").doing(DOING)?,
            row.seq("root").doing(DOING)?,
        );
        last.insert(root, row.seq("last").doing(DOING)?);
    }
    for entry in pages.iter_mut().flatten() {
        if let Some(summary) = &mut entry.summary {
            let root = (entry.event.room.clone(), entry.event.seq);
            summary.last = last.get(&root).copied().unwrap_or_default();
        }
    }
    Ok(())
}

/// A row of `events` for the wire: its line is as in the log still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archived {
    /// The room.
    pub room: RoomId,
    /// Its position there.
    pub seq: Seq,
    /// Its record.
    pub position: protocol::StreamSeq,
    /// The line to the byte.
    pub line: String,
}

pub(super) fn archived(row: &PgRow) -> Result<Archived, sqlx::Error> {
    Ok(Archived {
        room: row.room("room")?,
        seq: row.seq("seq")?,
        position: row.position("stream_seq")?,
        line: row.words("line")?,
    })
}

const DENSE_NEWEST: &str = "select room, seq, stream_seq, line from events
    where room = $1 and seq between $2 and $3 order by seq desc limit $4";
const DENSE_OLDEST: &str = "select room, seq, stream_seq, line from events
    where room = $1 and seq between $2 and $3 order by seq limit $4";

/// Every event at one end of a span, `limit` at most, oldest first.
///
/// # Errors
/// If the statement fails.
pub async fn dense(
    snapshot: &mut Snapshot,
    span: &Span,
    end: End,
    limit: u32,
) -> Result<Vec<Archived>, StoreError> {
    let sql = match end {
        End::Newest => DENSE_NEWEST,
        End::Oldest => DENSE_OLDEST,
    };
    let query = sqlx::query(sql)
        .bind(span.room.as_str())
        .bind(int(span.from.0))
        .bind(int(span.to.0))
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading events")?;
    let mut events: Vec<Archived> = rows
        .iter()
        .map(archived)
        .collect::<Result<_, _>>()
        .doing("reading events")?;
    events.sort_by_key(|event| event.seq);
    Ok(events)
}

const REMOVED: &str = "select m.room, m.seq
    from unnest($1::text[], $2::bigint[]) as k (room, seq)
    join messages m on m.room = k.room and m.seq = k.seq and m.deleted";

/// Which of these messages were removed.
///
/// # Errors
/// If the statement fails.
pub async fn removed(
    snapshot: &mut Snapshot,
    messages: &[(RoomId, Seq)],
) -> Result<BTreeSet<(RoomId, Seq)>, StoreError> {
    const DOING: &str = "looking for removed messages";
    if messages.is_empty() {
        return Ok(BTreeSet::new());
    }
    let query = sqlx::query(REMOVED)
        .bind(
            messages
                .iter()
                .map(|(room, _)| room.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(
            messages
                .iter()
                .map(|(_, seq)| int(seq.0))
                .collect::<Vec<_>>(),
        );
    let rows = query.fetch_all(&mut *snapshot.tx).await.doing(DOING)?;
    let key = |row: &PgRow| Ok((row.room("room")?, row.seq("seq")?));
    rows.iter().map(key).collect::<Result<_, _>>().doing(DOING)
}
