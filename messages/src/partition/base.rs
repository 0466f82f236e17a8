//! Taking history's answers: a base of a cold room, the state of an old message.

use super::{Partition, Room, Slot, Tail};
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq, StreamSeq};

/// What came of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The room is warm, or poisoned.
    Settled,
    /// There is no such room as of the answer.
    Absent,
    /// It was read below the floor: ask again.
    TooOld,
}

impl Partition {
    /// Takes a room's state as history had it after applying everything up to `applied`.
    pub(crate) fn install_room(
        &mut self,
        id: &RoomId,
        applied: StreamSeq,
        base: Option<RoomState>,
    ) -> Base {
        if applied < self.floor {
            return Base::TooOld;
        }
        let tail = match self.rooms.get_mut(id) {
            Some(Slot::Warm(_) | Slot::Poisoned) => return Base::Settled,
            Some(Slot::Cold(tail)) => std::mem::take(tail),
            None => Vec::new(),
        };
        match (base, tail.last()) {
            (None, None) => Base::Absent,
            (None, Some(last)) => {
                let position = last.position;
                self.poison(id, position, "its room was never made");
                Base::Settled
            }
            (Some(state), _) => {
                match continued(Room::from_base(applied, state), applied, &tail) {
                    Ok(room) => {
                        self.rooms.insert(id.clone(), Slot::Warm(Box::new(room)));
                    }
                    Err(position) => {
                        self.poison(id, position, "it does not follow history's base");
                    }
                }
                Base::Settled
            }
        }
    }

    /// Takes a message's state as history had it after applying everything up to `applied`.
    ///
    /// Returns whether it could be used; it was read below the floor if not.
    pub(crate) fn install_message(
        &mut self,
        id: &RoomId,
        applied: StreamSeq,
        (seq, state): (Seq, Option<MessageState>),
    ) -> bool {
        if applied < self.floor {
            return false;
        }
        if let Some(room) = self.warm_mut(id) {
            room.install_message(seq, applied, state);
        }
        true
    }
}

/// Folds a cold room's tail onto its base; the position of the first event that does not follow is the error.
fn continued(mut room: Room, applied: StreamSeq, tail: &[Tail]) -> Result<Room, StreamSeq> {
    for entry in tail {
        if entry.position <= applied {
            // The state has it; a message that is asked from an older answer may not.
            room.apply_to_messages(entry.position, &entry.event);
            continue;
        }
        let follows = room.state.head_hash == entry.prev
            && room.apply(entry.position, &entry.event, entry.hash).is_ok();
        if !follows {
            return Err(entry.position);
        }
    }
    Ok(room)
}
