//! The store in an SQLite file. All SQL of the client is here.
//!
//! `synchronous = full`: a queued message survives a power cut, which is what the outbox promises.
//! The file is locked for as long as it is open: two clients on one store would be one device with
//! two minds.

use super::StoreError;
use crate::change::{Change, Saved, SavedRoom};
use crate::timeline::{ENTRIES_MAX, Shown};
use protocol::{DeviceId, RoomId, UserId};
use rusqlite::{Connection, Transaction, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

const VERSION: u32 = 1;

const SCHEMA: &str = "
create table meta (key text primary key, value text not null) without rowid;
create table outbox (position integer primary key, entry text not null);
create table rooms (room text primary key, last integer not null, snapshot text not null) without rowid;
create table timeline (
    room text not null, seq integer not null, shown text not null, primary key (room, seq)
) without rowid;
";

const PUT_META: &str = "insert into meta (key, value) values (?1, ?2)
    on conflict (key) do update set value = excluded.value";
const PUT_OUTBOX: &str = "insert into outbox (position, entry) values (?1, ?2)
    on conflict (position) do update set entry = excluded.entry";
const REMOVE_OUTBOX: &str = "delete from outbox where position = ?1";
const PUT_ROOM: &str = "insert into rooms (room, last, snapshot) values (?1, ?2, ?3)
    on conflict (room) do update set last = excluded.last, snapshot = excluded.snapshot";
const SET_LAST: &str = "update rooms set last = ?2 where room = ?1";
const REMOVE_ROOM: &str = "delete from rooms where room = ?1";
const REMOVE_TIMELINE: &str = "delete from timeline where room = ?1";
const PUT_SHOWN: &str = "insert into timeline (room, seq, shown) values (?1, ?2, ?3)
    on conflict (room, seq) do update set shown = excluded.shown";
const FORGET: &str = "delete from timeline where room = ?1 and seq between ?2 and ?3";
/// Keeps the newest entries only, as the timeline itself does.
const TRIM: &str = "delete from timeline where room = ?1 and seq <
    (select seq from timeline where room = ?1 order by seq desc limit 1 offset ?2)";

#[derive(Debug)]
pub(crate) struct Sqlite(Connection);

impl Sqlite {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = |source| StoreError::Open {
            path: path.to_owned(),
            source,
        };
        let db = Connection::open(path).map_err(opened)?;
        db.busy_timeout(std::time::Duration::from_millis(500))
            .map_err(opened)?;
        db.pragma_update(None, "locking_mode", "exclusive")
            .map_err(opened)?;
        db.pragma_update(None, "journal_mode", "wal")
            .map_err(opened)?;
        db.pragma_update(None, "synchronous", "full")
            .map_err(opened)?;
        // The lock is taken by the first write.
        db.execute_batch("begin immediate; commit")
            .map_err(opened)?;
        let found: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match found {
            0 => {
                let make = format!("begin; {SCHEMA} pragma user_version = {VERSION}; commit");
                db.execute_batch(&make)?;
            }
            VERSION => {}
            found => {
                return Err(StoreError::Version {
                    found,
                    known: VERSION,
                });
            }
        }
        Ok(Self(db))
    }

    pub(crate) fn load(&mut self) -> Result<Saved, StoreError> {
        let db = &self.0;
        let mut saved = Saved::default();
        for (key, value) in rows::<String>(db, "select key, value from meta")? {
            match key.as_str() {
                "device" => saved.device = Some(DeviceId::parse(&value).map_err(content("an id"))?),
                "user" => saved.user = Some(UserId::parse(&value).map_err(content("an id"))?),
                "cursor" => saved.cursor = Some(value),
                _ => {}
            }
        }
        for (_, entry) in rows::<i64>(db, "select position, entry from outbox order by position")? {
            saved.outbox.push(decode("a command", &entry)?);
        }
        for (last, snapshot) in rows::<i64>(db, "select last, snapshot from rooms")? {
            let last = protocol::Seq(u64::try_from(last).map_err(content("a seq"))?);
            saved.rooms.push(SavedRoom {
                snapshot: decode("a room", &snapshot)?,
                last,
            });
        }
        for (room, shown) in
            rows::<String>(db, "select room, shown from timeline order by room, seq")?
        {
            let room = RoomId::parse(&room).map_err(content("an id"))?;
            let shown: Shown = decode("an entry", &shown)?;
            saved.timelines.entry(room).or_default().push(shown);
        }
        Ok(saved)
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let tx = self.0.transaction()?;
        for change in changes {
            apply_one(&tx, change)?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn apply_one(tx: &Transaction<'_>, change: &Change) -> Result<(), StoreError> {
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        tx.prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map(drop)
    };
    match change {
        Change::Device(device) => run(PUT_META, params!["device", device.as_str()])?,
        Change::User(user) => run(PUT_META, params!["user", user.as_str()])?,
        Change::Cursor(cursor) => run(PUT_META, params!["cursor", cursor])?,
        Change::OutboxPut(entry) => {
            run(
                PUT_OUTBOX,
                params![number(entry.position)?, encode(&**entry)],
            )?;
        }
        Change::OutboxRemove(position) => run(REMOVE_OUTBOX, params![number(*position)?])?,
        Change::Room(room) => run(
            PUT_ROOM,
            params![
                room.snapshot.room.as_str(),
                number(room.last.0)?,
                encode(&room.snapshot)
            ],
        )?,
        Change::Last(room, last) => run(SET_LAST, params![room.as_str(), number(last.0)?])?,
        Change::RoomGone(room) => {
            run(REMOVE_ROOM, params![room.as_str()])?;
            run(REMOVE_TIMELINE, params![room.as_str()])?;
        }
        Change::Entry(room, shown) => {
            let seq = number(shown.entry.event.seq.0)?;
            run(PUT_SHOWN, params![room.as_str(), seq, encode(&**shown)])?;
            let newest = i64::try_from(ENTRIES_MAX - 1).expect("a small number");
            run(TRIM, params![room.as_str(), newest])?;
        }
        Change::Forget(room, from, to) => {
            // The end of a range may be "everything".
            let to = i64::try_from(to.0).unwrap_or(i64::MAX);
            run(FORGET, params![room.as_str(), number(from.0)?, to])?;
        }
    }
    Ok(())
}

fn rows<K: rusqlite::types::FromSql>(
    db: &Connection,
    sql: &str,
) -> Result<Vec<(K, String)>, rusqlite::Error> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(content("a number"))
}

fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("what is stored has string keys")
}

fn decode<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(content(what))
}

fn content<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Content {
        what,
        source: Box::new(source),
    }
}
