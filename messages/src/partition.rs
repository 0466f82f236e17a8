//! What an owner knows of its partition: rooms, messages, commands, and how far in the log.
//!
//! Records are folded as they lie in the log, never judged again (design section 3). Two depths of
//! memory: commands above W ([`Dedup`]), whole state changes above V (here called the floor).
//! A room whose first event is below the floor is cold until history's base arrives, which counts
//! only if it was read at or above the floor at the moment of use.
//! Does not ask anybody and does not admit anything: see [`crate::sequencer`].

mod base;
mod fold;
mod room;

use crate::dedup::Dedup;
use protocol::chain::{Hash, Salt, Sealed, seal};
use protocol::event::{EventBody, LogEvent};
use protocol::room::RoomState;
use protocol::{Cid, Event, InstanceId, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, VecDeque};

pub(crate) use base::Base;
pub(crate) use fold::original;
pub(crate) use room::{Change, Room, UNSTORED};

/// A record of the partition, as the broker stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the stream.
    pub position: StreamSeq,
    /// When the broker stored it.
    pub time: Timestamp,
    /// The envelope.
    pub payload: bytes::Bytes,
}

/// What a partition holds in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Names of commands.
    pub commands: usize,
    /// Events, messages and rooms.
    pub events: usize,
    /// Members, bans, mutes and marks.
    pub people: usize,
}

impl Load {
    /// Everything, in pieces of which a process may hold a bounded number.
    #[must_use]
    pub const fn pieces(self) -> usize {
        self.commands + self.events + self.people
    }

    /// Everything, in bytes; measured with the allocator's overhead and rounded up.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.commands * 88 + self.events * 176 + self.people * 104
    }
}

/// Something that a person or another part should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A record of another owner was found behind ours: this one has been overtaken.
    Overtaken(InstanceId),
    /// An event does not follow its room's chain: the room is unavailable, others go on.
    Poisoned {
        /// The room.
        room: RoomId,
        /// The record with the event, or the position of the base that does not fit.
        position: StreamSeq,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A record is no envelope that is known here.
    Unreadable(StreamSeq),
    /// Records between history's cursor and the stream's first are lost.
    Lost {
        /// First lost stream sequence.
        from: StreamSeq,
        /// Last lost stream sequence.
        to: StreamSeq,
    },
    /// The partition has stopped, see [`crate::sequencer::Stop`].
    Stopped(crate::sequencer::Stop),
}

/// What is in memory of one room.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// Its whole state.
    Warm(Box<Room>),
    /// Only its events above the floor; what was before must be asked.
    Cold(Vec<Tail>),
    /// Nothing that can be trusted.
    Poisoned,
}

/// One event of a cold room, without content.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    position: StreamSeq,
    prev: Hash,
    hash: Hash,
    event: Event,
}

/// An event about to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) event: Event,
    pub(crate) sealed: Sealed,
}

/// Who and what a command's events come from.
pub(crate) struct Origin<'a> {
    pub(crate) room: &'a RoomId,
    pub(crate) by: &'a UserId,
    pub(crate) cid: Cid,
}

/// One partition's memory.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    rooms: BTreeMap<RoomId, Slot>,
    pub(crate) dedup: Dedup,
    /// Position of the last record of the subject that is folded.
    pub(crate) end: StreamSeq,
    /// V: every state change above it is held.
    floor: StreamSeq,
    /// No event of the partition is younger.
    last_ts: Timestamp,
    /// When it lately changed who may do what in a room.
    changed: BTreeMap<RoomId, Timestamp>,
    pub(crate) notices: VecDeque<Notice>,
}

impl Partition {
    /// Empty memory, to be filled with every record above `above`.
    pub(crate) fn above(above: StreamSeq, time: Option<Timestamp>) -> Self {
        Self {
            rooms: BTreeMap::new(),
            dedup: Dedup::above(above, time),
            end: StreamSeq(0),
            floor: above,
            last_ts: Timestamp(0),
            changed: BTreeMap::new(),
            notices: VecDeque::new(),
        }
    }

    /// V.
    pub(crate) const fn floor(&self) -> StreamSeq {
        self.floor
    }

    /// Whether nothing was ever forgotten: then what is not here is nowhere.
    pub(crate) fn is_whole(&self) -> bool {
        self.floor == StreamSeq(0)
    }

    /// When it last changed who may do what in a room, if that was lately.
    pub(crate) fn rights_changed(&self, room: &RoomId) -> Option<Timestamp> {
        self.changed.get(room).copied()
    }

    /// Forgets when rights changed before `since`.
    pub(crate) fn forget_changes(&mut self, since: Timestamp) {
        self.changed.retain(|_, changed| *changed >= since);
    }

    fn note_change(&mut self, event: &Event) {
        if changes_rights(&event.body) {
            self.changed.insert(event.room.clone(), event.ts);
        }
    }

    pub(crate) fn slot(&self, room: &RoomId) -> Option<&Slot> {
        self.rooms.get(room)
    }

    pub(crate) fn warm(&self, room: &RoomId) -> Option<&Room> {
        match self.rooms.get(room) {
            Some(Slot::Warm(room)) => Some(room),
            Some(Slot::Cold(_) | Slot::Poisoned) | None => None,
        }
    }

    pub(crate) fn warm_mut(&mut self, room: &RoomId) -> Option<&mut Room> {
        match self.rooms.get_mut(room) {
            Some(Slot::Warm(room)) => Some(room),
            Some(Slot::Cold(_) | Slot::Poisoned) | None => None,
        }
    }

    /// The time of the next event: the clock, but never falling.
    pub(crate) fn next_ts(&self, now: Timestamp) -> Timestamp {
        now.max(self.last_ts)
    }

    /// Numbers, chains and seals the events of one command, without folding them.
    pub(crate) fn draft(
        &self,
        origin: &Origin<'_>,
        bodies: Vec<EventBody>,
        ts: Timestamp,
        mut salt: impl FnMut() -> Salt,
    ) -> Vec<Draft> {
        let (mut seq, mut prev) = self.warm(origin.room).map_or((Seq(0), Hash::ZERO), |room| {
            (room.state.head, room.state.head_hash)
        });
        let mut drafts = Vec::with_capacity(bodies.len());
        for body in bodies {
            seq = seq.next();
            let event = Event {
                room: origin.room.clone(),
                seq,
                ts,
                by: origin.by.clone(),
                cid: origin.cid,
                body,
            };
            let logged = LogEvent {
                prev,
                salt: salt(),
                event,
            };
            let sealed = seal(&logged);
            prev = sealed.hash;
            drafts.push(Draft {
                event: logged.event,
                sealed,
            });
        }
        drafts
    }

    /// Folds an event that is not stored yet; to be followed by [`Self::stored`] or [`Self::undo`].
    pub(crate) fn speculate(&mut self, draft: &Draft) -> Change {
        let Draft { event, sealed } = draft;
        self.last_ts = self.last_ts.max(event.ts);
        self.note_change(event);
        if let Some(room) = self.warm_mut(&event.room) {
            return room
                .apply(UNSTORED, event, sealed.hash)
                .expect("a draft follows the head it was made from");
        }
        let (room, change) = Room::create(UNSTORED, event, sealed.hash)
            .expect("only a create is drafted for a room that is not there");
        self.rooms
            .insert(event.room.clone(), Slot::Warm(Box::new(room)));
        change
    }

    /// The speculated events are stored, in the record at `position`.
    pub(crate) fn stored(&mut self, changes: &[Change], position: StreamSeq) {
        for change in changes {
            if let Some(room) = self.warm_mut(&change.room) {
                room.stored(change, position);
            }
        }
        self.end = position;
    }

    /// The speculated events are not stored: takes them back, the last one first.
    pub(crate) fn undo(&mut self, changes: Vec<Change>) {
        for change in changes.into_iter().rev() {
            let id = change.room.clone();
            let stays = self.warm_mut(&id).is_some_and(|room| room.undo(change));
            if !stays {
                self.rooms.remove(&id);
            }
        }
    }

    /// Raises the floor and forgets what history can tell as of it; rooms not used since `idle` go whole.
    pub(crate) fn forget(&mut self, floor: StreamSeq, idle: Timestamp, now: Timestamp) {
        self.floor = self.floor.max(floor);
        let floor = self.floor;
        self.rooms.retain(|_, slot| match slot {
            Slot::Warm(room) => {
                room.prune(floor, now);
                !(room.used < idle && room.is_forgettable(floor))
            }
            Slot::Cold(tail) => {
                tail.retain(|entry| entry.position > floor);
                !tail.is_empty()
            }
            Slot::Poisoned => true,
        });
    }

    /// What is held, in events and roughly in bytes.
    pub(crate) fn held(&self) -> Load {
        let mut held = Load {
            commands: self.dedup.len(),
            ..Load::default()
        };
        for slot in self.rooms.values() {
            match slot {
                Slot::Warm(room) => {
                    held.events += room.held() + 1;
                    held.people += people(&room.state);
                }
                Slot::Cold(tail) => held.events += tail.len(),
                Slot::Poisoned => held.events += 1,
            }
        }
        held
    }
}

/// Whether an event may allow what was refused before it, of whomever.
fn changes_rights(body: &EventBody) -> bool {
    match body {
        EventBody::Room { .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => true,
        EventBody::Msg(_)
        | EventBody::Edit { .. }
        | EventBody::Del { .. }
        | EventBody::Read { .. } => false,
    }
}

fn people(state: &RoomState) -> usize {
    state.members.len() + state.bans.len() + state.mutes.len() + state.marks.len()
}
