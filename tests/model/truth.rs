//! What the log really says, record by record, and whether that breaks a promise.
//!
//! An own small fold, not the one of `protocol`: it must not share that one's mistakes.

use crate::log::Line;
use crate::script::{Id, OWNER, Script};
use protocol::chain::Hash;
use protocol::event::{EventBody, MemberChange, RoomKind};
use protocol::{Seq, UserId};

/// A promise, as far as the log or a single answer can break it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Broken {
    StoredTwice = 1,
    SeqTwice = 2,
    SeqGap = 4,
    ChainForked = 8,
    OrderTurned = 16,
    BehindTheBan = 32,
    FalseAck = 64,
    TwoSeqs = 128,
    Alarm = 256,
    BehindTheFreeze = 512,
}

/// What the log holds, and what was broken on the way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Truth {
    /// Commands of the script with the seq they have, in the order of the log.
    pub stored: Vec<(Id, u8)>,
    rooms: Vec<Room>,
    broken: u16,
}

/// One room, as far as the log has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Room {
    head: u8,
    head_hash: Hash,
    /// Who may write, by their place in the script.
    members: u16,
    banned: u16,
    frozen: bool,
}

impl Truth {
    pub fn new(rooms: usize) -> Self {
        let room = Room {
            head: 0,
            head_hash: Hash::ZERO,
            members: 0,
            banned: 0,
            frozen: false,
        };
        Self {
            stored: Vec::new(),
            rooms: vec![room; rooms],
            broken: 0,
        }
    }

    pub fn is_broken(&self, promise: Broken) -> bool {
        self.broken & promise as u16 != 0
    }

    pub fn breaks(&mut self, promise: Broken) {
        self.broken |= promise as u16;
    }

    /// The seq that a command has in the log.
    pub fn seq_of(&self, id: Id) -> Option<u8> {
        let stored = self.stored.iter().find(|stored| stored.0 == id);
        stored.map(|stored| stored.1)
    }

    /// The log grows by one event.
    pub fn append(&mut self, script: &Script, line: &Line) {
        let event = &line.event;
        let seq = u8::try_from(event.seq.0).unwrap();
        let place = script.place_of(&event.room);
        let room = &mut self.rooms[place];
        let head = u64::from(room.head);
        let forked = line.prev != room.head_hash;
        room.head = room.head.max(seq);
        room.head_hash = line.hash;
        if event.seq.0 <= head {
            self.breaks(Broken::SeqTwice);
        }
        if event.seq.0 > head + 1 {
            self.breaks(Broken::SeqGap);
        }
        if forked {
            self.breaks(Broken::ChainForked);
        }
        let broken = self.rooms[place].judge_right(script, line);
        broken.into_iter().for_each(|promise| self.breaks(promise));
        if let Some(id) = line.id {
            self.append_command(script, (id, seq));
        }
    }

    fn append_command(&mut self, script: &Script, (id, seq): (Id, u8)) {
        let client = script.get(id).client;
        for (other, _) in &self.stored {
            if *other == id {
                self.broken |= Broken::StoredTwice as u16;
            } else if *other > id && script.get(*other).client == client {
                self.broken |= Broken::OrderTurned as u16;
            }
        }
        self.stored.push((id, seq));
    }
}

impl Room {
    /// Whether the author may do that, by everything that lies before it in the log.
    fn judge_right(&mut self, script: &Script, line: &Line) -> Option<Broken> {
        let bit = |user: &UserId| {
            let place = script.users.iter().position(|known| known == user);
            place.map_or(0, |place| 1_u16 << place)
        };
        let by = bit(&line.event.by);
        let mut broken = None;
        match &line.event.body {
            EventBody::Room { kind, changes } => {
                assert!(kind.is_none_or(|kind| kind == RoomKind::Public));
                self.frozen = changes.frozen.unwrap_or(self.frozen);
            }
            EventBody::Member { user, change, .. } => match change {
                MemberChange::Joined | MemberChange::Added => {
                    if self.banned & bit(user) != 0 {
                        broken = Some(Broken::BehindTheBan);
                    }
                    self.members |= bit(user);
                }
                MemberChange::Left | MemberChange::Kicked => self.members &= !bit(user),
                MemberChange::Banned => {
                    self.members &= !bit(user);
                    self.banned |= bit(user);
                }
                MemberChange::Unbanned => self.banned &= !bit(user),
                MemberChange::Muted | MemberChange::Unmuted => {}
            },
            EventBody::Msg(_) => {
                if self.members & by != by {
                    broken = Some(Broken::BehindTheBan);
                }
                if self.frozen && line.event.by.as_str() != OWNER {
                    broken = Some(Broken::BehindTheFreeze);
                }
            }
            EventBody::Role { .. }
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
        assert_ne!(line.event.seq, Seq(0));
        broken
    }
}
