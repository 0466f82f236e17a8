//! A store that forgets with its process: for tests, and for clients that only send.

use crate::change::{Change, Saved, SavedRoom};
use crate::outbox::Entry;
use crate::timeline::Shown;
use protocol::{DeviceId, RoomId, Seq, UserId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Memory {
    device: Option<DeviceId>,
    user: Option<UserId>,
    cursor: Option<String>,
    outbox: BTreeMap<u64, Entry>,
    rooms: BTreeMap<RoomId, SavedRoom>,
    timelines: BTreeMap<RoomId, BTreeMap<Seq, Shown>>,
}

impl Memory {
    pub(crate) fn load(&self) -> Saved {
        let timelines = self.timelines.iter();
        Saved {
            device: self.device.clone(),
            user: self.user.clone(),
            cursor: self.cursor.clone(),
            outbox: self.outbox.values().cloned().collect(),
            rooms: self.rooms.values().cloned().collect(),
            timelines: timelines
                .filter(|(_, entries)| !entries.is_empty())
                .map(|(room, entries)| (room.clone(), entries.values().cloned().collect()))
                .collect(),
        }
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::Device(device) => self.device = Some(device.clone()),
            Change::User(user) => self.user = Some(user.clone()),
            Change::Cursor(cursor) => self.cursor = Some(cursor.clone()),
            Change::OutboxPut(entry) => {
                self.outbox.insert(entry.position, (**entry).clone());
            }
            Change::OutboxRemove(position) => {
                self.outbox.remove(position);
            }
            Change::Room(room) => {
                self.rooms
                    .insert(room.snapshot.room.clone(), (**room).clone());
            }
            Change::Last(room, last) => {
                if let Some(saved) = self.rooms.get_mut(room) {
                    saved.last = *last;
                }
            }
            Change::RoomGone(room) => {
                self.rooms.remove(room);
                self.timelines.remove(room);
            }
            Change::Entry(room, shown) => {
                let timeline = self.timelines.entry(room.clone()).or_default();
                timeline.insert(shown.entry.event.seq, (**shown).clone());
                while timeline.len() > crate::timeline::ENTRIES_MAX {
                    timeline.pop_first();
                }
            }
            Change::Forget(room, from, to) => {
                if let Some(timeline) = self.timelines.get_mut(room) {
                    timeline.retain(|seq, _| seq < from || seq > to);
                }
            }
        }
    }
}
