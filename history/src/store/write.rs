//! Reading what a batch needs, and writing what it does, in bulk.
//!
//! Each statement takes whole columns as arrays (`unnest`), so a batch is a dozen round trips however
//! large it is. The caller holds the transaction; the cursor moves in it too.

mod changes;
mod inserts;

use super::cursor::{self, Cursor};
use super::{Columns as _, Doing as _, StoreError, int};
use crate::projector::rows::{MembershipRow, RoomRow, Rows};
use crate::projector::{Base, Needs};
use crate::record::Record;
use protocol::query::CidKey;
use protocol::{Cid, RoomId, Seq, Timestamp, UserId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use std::collections::{BTreeMap, BTreeSet};

/// The unique index that says that a command is stored once.
pub const COMMAND_KEY: &str = "events_command_key";

const ROOMS: &str = "select room, kind, creator, name, topic, slow_s, frozen, history, members, n,
        room_seq, head, head_hash, head_ts, head_stream, poison, poison_seq
    from rooms where room = any($1::text[])";

const MEMBERS: &str = "select m.room, m.user_id, m.from_seq, m.from_stream, m.role, m.join_n
    from unnest($1::text[], $2::text[]) as k (room, user_id)
    join memberships m on m.room = k.room and m.user_id = k.user_id and m.to_seq is null";

/// Reads what a batch of records needs.
///
/// # Errors
/// If a statement fails.
pub async fn base(db: &mut PgConnection, at: &Cursor, needs: &Needs) -> Result<Base, StoreError> {
    let mut base = Base {
        applied: at.applied,
        ..Base::default()
    };
    if !needs.rooms.is_empty() {
        let rooms: Vec<&str> = needs.rooms.iter().map(RoomId::as_str).collect();
        let rows = sqlx::query(ROOMS).bind(rooms).fetch_all(&mut *db).await;
        for row in rows.doing("loading rooms")? {
            let room = room_row(&row).doing("loading rooms")?;
            base.rooms.insert(room.room.clone(), room);
        }
    }
    if !needs.members.is_empty() {
        let (rooms, users): (Vec<&str>, Vec<&str>) = needs
            .members
            .iter()
            .map(|(room, user)| (room.as_str(), user.as_str()))
            .unzip();
        let rows = sqlx::query(MEMBERS)
            .bind(rooms)
            .bind(users)
            .fetch_all(&mut *db)
            .await;
        for row in rows.doing("loading memberships")? {
            let (room, user, membership) = membership_row(&row).doing("loading memberships")?;
            base.members
                .entry(room)
                .or_default()
                .insert(user, membership);
        }
    }
    Ok(base)
}

/// A row of `rooms`.
pub(super) fn room_row(row: &PgRow) -> Result<RoomRow, sqlx::Error> {
    let kind: Option<&str> = row.try_get("kind")?;
    let creator: Option<&str> = row.try_get("creator")?;
    let poison: Option<String> = row.try_get("poison")?;
    let poison_seq = row.number_or_null("poison_seq")?;
    Ok(RoomRow {
        room: row.room("room")?,
        kind: kind.map(|_| row.word("kind")).transpose()?,
        creator: creator.map(|_| row.user("creator")).transpose()?,
        name: row.words("name")?,
        topic: row.words("topic")?,
        slow_s: u32::try_from(row.number("slow_s")?).unwrap_or(u32::MAX),
        frozen: row.try_get("frozen")?,
        history: row.word("history")?,
        members: row.number("members")?,
        n: row.number("n")?,
        room_seq: row.seq("room_seq")?,
        head: row.seq("head")?,
        head_hash: row.hash("head_hash")?,
        head_ts: Timestamp(row.try_get("head_ts")?),
        head_stream: row.position("head_stream")?,
        poison: poison_seq.map(Seq).zip(poison),
    })
}

fn membership_row(row: &PgRow) -> Result<(RoomId, UserId, MembershipRow), sqlx::Error> {
    let membership = MembershipRow {
        from_seq: row.seq("from_seq")?,
        from_stream: row.position("from_stream")?,
        to: None,
        role: row.word("role")?,
        join_n: row.number("join_n")?,
    };
    Ok((row.room("room")?, row.user("user_id")?, membership))
}

const COMMANDS: &str = "select e.room, e.author, e.cid
    from unnest($1::text[], $2::text[], $3::uuid[]) as k (room, author, cid)
    join events e on e.cid = k.cid and e.room = k.room and e.author = k.author and e.first";

/// Which commands of these records the archive holds already.
///
/// # Errors
/// If the statement fails.
pub async fn repeated(
    db: &mut PgConnection,
    records: &[Record],
) -> Result<BTreeSet<CidKey>, StoreError> {
    const DOING: &str = "looking for repeated commands";
    let (mut rooms, mut authors, mut cids) = (Vec::new(), Vec::new(), Vec::new());
    for line in records.iter().flat_map(Record::lines) {
        if let Ok(event) = &line.event {
            rooms.push(line.room.as_str());
            authors.push(event.event.by.as_str());
            cids.push(event.event.cid.uuid());
        }
    }
    let query = sqlx::query(COMMANDS).bind(rooms).bind(authors).bind(cids);
    let rows = query.fetch_all(db).await.doing(DOING)?;
    let key = |row: &PgRow| {
        let cid: uuid::Uuid = row.try_get("cid")?;
        Ok(CidKey {
            room: row.room("room")?,
            author: row.user("author")?,
            cid: Cid::from_uuid(cid).map_err(super::odd("cid"))?,
        })
    };
    rows.iter().map(key).collect::<Result<_, _>>().doing(DOING)
}

/// Writes a batch and moves the cursor from `at`; false, and nothing is to be committed, if the
/// cursor is not there any more.
///
/// # Errors
/// If a statement fails; with [`COMMAND_KEY`] as its constraint, a command was stored before.
pub async fn rows(db: &mut PgConnection, at: &Cursor, rows: &Rows<'_>) -> Result<bool, StoreError> {
    if !cursor::advance(&mut *db, at, rows.applied, rows.time).await? {
        return Ok(false);
    }
    inserts::records(&mut *db, &rows.records).await?;
    inserts::rooms(&mut *db, &rows.rooms).await?;
    inserts::events(&mut *db, &rows.events).await?;
    inserts::messages(&mut *db, &rows.messages).await?;
    inserts::memberships(&mut *db, &rows.memberships).await?;
    inserts::users(&mut *db, &rows.users).await?;
    changes::bans(&mut *db, &rows.bans).await?;
    changes::mutes(&mut *db, &rows.mutes).await?;
    changes::marks(&mut *db, &rows.marks).await?;
    changes::threads(&mut *db, &rows.threads).await?;
    changes::edits(&mut *db, &rows.revisions).await?;
    changes::mentions(&mut *db, rows).await?;
    changes::deletions(&mut *db, &rows.deletions).await?;
    Ok(true)
}

/// A column of `rows`.
fn column<'r, T, V>(rows: &'r [T], value: impl Fn(&'r T) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}

/// A nullable position as a column holds it.
fn int_or_null(value: Option<u64>) -> Option<i64> {
    value.map(int)
}

/// Mentions as one text for `string_to_array`; ids hold no comma.
fn joined(mentions: &[protocol::event::Mention]) -> Option<String> {
    if mentions.is_empty() {
        return None;
    }
    let mut text = String::new();
    for (index, mention) in mentions.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(super::text::mention(mention));
    }
    Some(text)
}

/// The entries of a map as pairs, for [`column`].
fn entries<K, V>(map: &BTreeMap<K, V>) -> Vec<(&K, &V)> {
    map.iter().collect()
}
