//! Folding records of the log, ours or another owner's.

use super::{Notice, Partition, Record, Room, Slot, Tail, room};
use crate::dedup::{Key, Original};
use protocol::chain::{Hash, hash_line};
use protocol::envelope::{Envelope, EnvelopeId};
use protocol::event::{EventBody, LogEvent};
use protocol::{RoomId, Seq, StreamSeq};

impl Partition {
    /// Folds the next record of the subject; returns its name if it can be read.
    pub(crate) fn fold(&mut self, record: &Record) -> Option<EnvelopeId> {
        if record.position <= self.end {
            return None;
        }
        self.end = record.position;
        let Ok(envelope) = Envelope::parse(&record.payload) else {
            self.notices.push_back(Notice::Unreadable(record.position));
            return None;
        };
        let mut commands = Vec::new();
        for line in envelope.lines() {
            let Ok((room, line)) = line else {
                self.notices.push_back(Notice::Unreadable(record.position));
                continue;
            };
            let room = RoomId::parse(room).expect("an envelope's rooms are checked");
            match (LogEvent::parse(line), hash_line(line)) {
                (Ok(logged), Ok(hash)) if logged.event.room == room => {
                    commands.push(command(&logged));
                    self.last_ts = self.last_ts.max(logged.event.ts);
                    self.fold_event(record.position, &logged, hash);
                }
                _ => self.poison(&room, record.position, "the line is no event of its room"),
            }
        }
        self.dedup.insert(record.position, record.time, commands);
        Some(envelope.id)
    }

    fn fold_event(&mut self, position: StreamSeq, logged: &LogEvent, hash: Hash) {
        let event = &logged.event;
        self.note_change(event);
        let why = match self.rooms.get_mut(&event.room) {
            Some(Slot::Poisoned) => return,
            Some(Slot::Cold(tail)) => {
                tail.push(Tail {
                    position,
                    prev: logged.prev,
                    hash,
                    event: room::stripped(event),
                });
                return;
            }
            Some(Slot::Warm(room)) if room.has(position) => {
                room.apply_to_messages(position, event);
                return;
            }
            Some(Slot::Warm(room)) => {
                if room.state.head_hash != logged.prev {
                    "its `prev` is not the hash of the event before"
                } else if room.apply(position, event, hash).is_err() {
                    "it does not follow its room's head"
                } else {
                    return;
                }
            }
            None => {
                let slot = match Room::create(position, event, hash) {
                    Ok((room, _)) if logged.prev == Hash::ZERO => Slot::Warm(Box::new(room)),
                    Ok(_) | Err(_) => Slot::Cold(vec![Tail {
                        position,
                        prev: logged.prev,
                        hash,
                        event: room::stripped(event),
                    }]),
                };
                self.rooms.insert(event.room.clone(), slot);
                return;
            }
        };
        self.poison(&event.room, position, why);
    }

    /// Stops trusting what is known of a room.
    pub(super) fn poison(&mut self, room: &RoomId, position: StreamSeq, why: &'static str) {
        self.rooms.insert(room.clone(), Slot::Poisoned);
        self.notices.push_back(Notice::Poisoned {
            room: room.clone(),
            position,
            why,
        });
    }
}

/// The command that an event names, and what it was answered.
fn command(logged: &LogEvent) -> (Key, Original) {
    let event = &logged.event;
    let original = original(event.seq, event.ts, &event.body);
    (Key::new(&event.room, &event.by, event.cid), original)
}

/// What a command was answered whose first event is this.
pub(crate) fn original(seq: Seq, ts: protocol::Timestamp, body: &EventBody) -> Original {
    let edit = match body {
        EventBody::Edit { rev, won, .. } => Some((*rev, *won)),
        EventBody::Room { .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Msg(_)
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => None,
    };
    Original { seq, ts, edit }
}
