//! Single facts: what owners of partitions and gateways ask for.

use super::text::{decode, parse_mention};
use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::event::{EventBody, LogEvent};
use protocol::frame::listing::Revision;
use protocol::query::{CidKey, Record, UserFacts};
use protocol::request::Accepted;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq, StreamSeq, Timestamp, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

const MESSAGE_STATES: &str = "select k.place, m.author, m.rev, m.shown_rev, m.eff, m.deleted,
        m.thread, m.replies
    from unnest($2::bigint[]) with ordinality as k (seq, place)
    join messages m on m.room = $1 and m.seq = k.seq";

/// The states of these messages, in this order.
///
/// # Errors
/// If the statement fails.
pub async fn message_states(
    snapshot: &mut Snapshot,
    room: &RoomId,
    seqs: &[Seq],
) -> Result<Vec<Option<MessageState>>, StoreError> {
    let query = sqlx::query(MESSAGE_STATES)
        .bind(room.as_str())
        .bind(seqs.iter().map(|seq| int(seq.0)).collect::<Vec<_>>());
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading message states")?;
    let state = |row: &PgRow| {
        Ok(MessageState {
            author: row.user("author")?,
            rev: revision_number(row, "rev")?,
            shown_rev: revision_number(row, "shown_rev")?,
            eff: Timestamp(row.try_get("eff")?),
            deleted: row.try_get("deleted")?,
            thread: row.number_or_null("thread")?.map(Seq),
            replies: row.number("replies")?,
        })
    };
    placed(&rows, seqs.len(), state).doing("reading message states")
}

fn revision_number(row: &PgRow, column: &'static str) -> Result<u32, sqlx::Error> {
    let value = row.number(column)?;
    u32::try_from(value).map_err(super::odd(column))
}

/// Puts what was found where it was asked for; `place` counts from 1.
fn placed<T>(
    rows: &[PgRow],
    asked: usize,
    value: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
) -> Result<Vec<Option<T>>, sqlx::Error> {
    let mut found: Vec<Option<T>> = (0..asked).map(|_| None).collect();
    for row in rows {
        let index = usize::try_from(row.number("place")?)
            .unwrap_or(0)
            .wrapping_sub(1);
        if let Some(place) = found.get_mut(index) {
            *place = Some(value(row)?);
        }
    }
    Ok(found)
}

const CIDS: &str = "select k.place, e.line
    from unnest($1::text[], $2::text[], $3::uuid[]) with ordinality as k (room, author, cid, place)
    join events e on e.cid = k.cid and e.room = k.room and e.author = k.author and e.first";

/// What became of these commands, in this order; `None` for those that were never stored.
///
/// # Errors
/// If the statement fails.
pub async fn cids(
    snapshot: &mut Snapshot,
    cids: &[CidKey],
) -> Result<Vec<Option<Accepted>>, StoreError> {
    let query = sqlx::query(CIDS)
        .bind(cids.iter().map(|key| key.room.as_str()).collect::<Vec<_>>())
        .bind(
            cids.iter()
                .map(|key| key.author.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(cids.iter().map(|key| key.cid.uuid()).collect::<Vec<_>>());
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("looking up commands")?;
    let accepted = |row: &PgRow| {
        let line: &str = row.try_get("line")?;
        let logged = LogEvent::parse(&decode(line)).map_err(super::odd("line"))?;
        Ok(accepted(&logged))
    };
    placed(&rows, cids.len(), accepted).doing("looking up commands")
}

/// The answer that the author of this first event of a command got, now to a repeat of it.
fn accepted(logged: &LogEvent) -> Accepted {
    let event = &logged.event;
    let mut accepted = Accepted {
        dup: true,
        ..Accepted::stored(event.seq, event.ts)
    };
    match &event.body {
        EventBody::Room { kind: Some(_), .. } => accepted.room = Some(event.room.clone()),
        EventBody::Edit { rev, won, .. } => (accepted.rev, accepted.won) = (Some(*rev), Some(*won)),
        EventBody::Room { kind: None, .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Msg(_)
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => {}
    }
    accepted
}

const USER_FACTS: &str = "select exists (select from users where user_id = $1) as known,
        (select count(*) from memberships m join rooms r on r.room = m.room
            where m.user_id = $1 and m.to_seq is null and r.kind <> 'self') as rooms";

/// Facts about a user that other partitions need.
///
/// # Errors
/// If the statement fails.
pub async fn user_facts(snapshot: &mut Snapshot, user: &UserId) -> Result<UserFacts, StoreError> {
    let query = sqlx::query(USER_FACTS).bind(user.as_str());
    let row = query
        .fetch_one(&mut *snapshot.tx)
        .await
        .doing("reading facts about a user")?;
    let facts = || {
        Ok(UserFacts {
            known: row.try_get("known")?,
            rooms: u32::try_from(row.number("rooms")?).unwrap_or(u32::MAX),
        })
    };
    facts().doing("reading facts about a user")
}

const RECORDS: &str = "select r.stream_seq, e.line
    from records r
    left join events e on e.room = any(string_to_array(r.rooms, ' ')) and e.stream_seq = r.stream_seq
    where r.stream_seq between $1 and $2
    order by r.stream_seq, e.idx";

/// The archived records of a range of positions, both ends included.
///
/// # Errors
/// If the statement fails.
pub async fn records(
    snapshot: &mut Snapshot,
    from: StreamSeq,
    to: StreamSeq,
) -> Result<Vec<Record>, StoreError> {
    const DOING: &str = "reading archived records";
    let query = sqlx::query(RECORDS).bind(int(from.0)).bind(int(to.0));
    let mut records: Vec<Record> = Vec::new();
    for row in query.fetch_all(&mut *snapshot.tx).await.doing(DOING)? {
        let position = row.position("stream_seq").doing(DOING)?;
        let line: Option<&str> = row.try_get("line").doing(DOING)?;
        let line = line.map(|line| decode(line).into_owned());
        match records
            .last_mut()
            .filter(|record| record.position == position)
        {
            Some(record) => record.lines.extend(line),
            None => records.push(Record {
                position,
                lines: line.into_iter().collect(),
            }),
        }
    }
    Ok(records)
}

const REVISIONS: &str = "select rev, seq, ts, author, text, mentions, won from revisions
    where room = $1 and on_seq = $2 and seq > $3 order by seq limit $4";
const AS_SENT: &str =
    "select line from events where room = $1 and seq = $2 and kind in ('msg', 'reply')";

/// The text of a message as it was sent; `None` if there is no such message.
///
/// # Errors
/// If the statement fails.
pub async fn as_sent(
    snapshot: &mut Snapshot,
    room: &RoomId,
    on: Seq,
) -> Result<Option<Revision>, StoreError> {
    const DOING: &str = "reading a message as it was sent";
    let query = sqlx::query(AS_SENT).bind(room.as_str()).bind(int(on.0));
    let Some(row) = query.fetch_optional(&mut *snapshot.tx).await.doing(DOING)? else {
        return Ok(None);
    };
    let line: &str = row.try_get("line").doing(DOING)?;
    let logged = LogEvent::parse(&decode(line));
    let event = logged.map_err(super::odd("line")).doing(DOING)?.event;
    let EventBody::Msg(message) = event.body else {
        return Ok(None);
    };
    Ok(Some(Revision {
        rev: 1,
        seq: event.seq,
        ts: event.ts,
        by: event.by,
        text: message.text,
        mentions: message.mentions,
        won: true,
    }))
}

/// The edits of a message behind the event `after`, in order.
///
/// # Errors
/// If the statement fails.
pub async fn revisions(
    snapshot: &mut Snapshot,
    (room, on): (&RoomId, Seq),
    after: Seq,
    limit: u32,
) -> Result<Vec<Revision>, StoreError> {
    let query = sqlx::query(REVISIONS)
        .bind(room.as_str())
        .bind(int(on.0))
        .bind(int(after.0))
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading revisions")?;
    let revision = |row: &PgRow| {
        let mentions: Option<Vec<String>> = row.try_get("mentions")?;
        let mentions = mentions.unwrap_or_default();
        Ok(Revision {
            rev: revision_number(row, "rev")?,
            seq: row.seq("seq")?,
            ts: Timestamp(row.try_get("ts")?),
            by: row.user("author")?,
            text: row.words("text")?,
            mentions: mentions
                .iter()
                .filter_map(|mention| parse_mention(mention))
                .collect(),
            won: row.try_get("won")?,
        })
    };
    rows.iter()
        .map(revision)
        .collect::<Result<_, _>>()
        .doing("reading revisions")
}
