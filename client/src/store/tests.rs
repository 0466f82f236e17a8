use super::*;
use crate::change::SavedRoom;
use crate::outbox::Entry;
use crate::timeline::{ENTRIES_MAX, Shown};
use protocol::command::{Send, Write};
use protocol::frame::{RoomSnapshot, TimelineEntry};
use protocol::{Cid, DeviceId, RoomId, Seq, UserId};

struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str) -> Self {
        let name = format!("natter-client-{name}-{}.db", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let path = format!("{}{suffix}", self.0.display());
            drop(std::fs::remove_file(path));
        }
    }
}

fn room() -> RoomId {
    RoomId::parse("r1").unwrap()
}

fn entry(position: u64) -> Entry {
    let write = Write::Send(Send {
        text: format!("m{position}"),
        ..Send::default()
    });
    let cid = Cid::from_parts(position, [3; 10]);
    Entry {
        position,
        cid,
        room: Some(room()),
        write,
        failed: None,
    }
}

fn shown(seq: u64) -> Shown {
    let cid = Cid::from_parts(seq, [0; 10]);
    let json = format!(
        r#"{{"ev":"msg","room":"r1","seq":{seq},"ts":1,"by":"alice","cid":"{cid}","text":"x"}}"#
    );
    let entry: TimelineEntry = serde_json::from_str(&json).unwrap();
    Shown {
        entry,
        as_of: Seq(seq),
    }
}

fn snapshot() -> RoomSnapshot {
    let hash = protocol::chain::Hash::ZERO;
    let json = format!(
        r#"{{"room":"r1","kind":"public","members":1,"head":3,"head_hash":"{hash}","at":3}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// Every kind of change, and changes of changes.
fn story() -> Vec<Change> {
    let saved_room = SavedRoom {
        snapshot: snapshot(),
        last: Seq(3),
    };
    let mut changes = vec![
        Change::Device(DeviceId::parse("dev1").unwrap()),
        Change::User(UserId::parse("alice").unwrap()),
        Change::OutboxPut(Box::new(entry(1))),
        Change::OutboxPut(Box::new(entry(2))),
        Change::OutboxRemove(1),
        Change::Room(Box::new(saved_room)),
    ];
    let many = u64::try_from(ENTRIES_MAX).unwrap() + 20;
    changes.extend((1..=many).map(|seq| Change::Entry(room(), Box::new(shown(seq)))));
    changes.push(Change::Forget(room(), Seq(100), Seq(200)));
    changes.push(Change::Last(room(), Seq(many)));
    changes.push(Change::Cursor("k7.42".to_owned()));
    changes
}

#[test]
fn both_stores_remember_the_same() {
    let file = TempFile::new("same");
    let (mut memory, mut sqlite) = (Store::memory(), Store::open(&file.0).unwrap());
    for changes in story().chunks(7) {
        memory.apply(changes).unwrap();
        sqlite.apply(changes).unwrap();
    }
    let saved = memory.load().unwrap();
    assert_eq!(sqlite.load().unwrap(), saved);
    assert_eq!(saved.outbox, [entry(2)]);
    assert_eq!(saved.rooms[0].last, Seq(520));
    let gone = [Change::RoomGone(room())];
    memory.apply(&gone).unwrap();
    sqlite.apply(&gone).unwrap();
    assert_eq!(sqlite.load().unwrap(), memory.load().unwrap());
}

#[test]
fn a_file_survives_and_belongs_to_one_client_at_a_time() {
    let file = TempFile::new("survives");
    let mut store = Store::open(&file.0).unwrap();
    store.apply(&story()).unwrap();
    assert!(matches!(Store::open(&file.0), Err(StoreError::Open { .. })));
    let saved = store.load().unwrap();
    drop(store);
    assert_eq!(Store::open(&file.0).unwrap().load().unwrap(), saved);
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let file = TempFile::new("later");
    drop(Store::open(&file.0).unwrap());
    let db = rusqlite::Connection::open(&file.0).unwrap();
    db.pragma_update(None, "user_version", 9).unwrap();
    drop(db);
    assert!(matches!(
        Store::open(&file.0),
        Err(StoreError::Version { found: 9, .. })
    ));
}
