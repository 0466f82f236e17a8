//! Clients: an outbox per room, one batch of it in flight, sent again until it is answered.

use crate::people::{PEOPLE, room_cid};
use crate::rng::Rng;
use protocol::command::{Create, DeleteTarget, Read, Send, Write, WriteCommand};
use protocol::event::{RoomChanges, RoomKind, SeqRange};
use protocol::request::{Accepted, CommandReply, CommandResult};
use protocol::{Cid, ErrorCode, RoomId, Seq, UserId};
use std::collections::{BTreeMap, VecDeque};

/// A batch that was sent and is not answered.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number, unlike any other's.
    pub id: u64,
    /// When it is sent again.
    pub give_up_ms: i64,
}

/// What waits for one room.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    /// Commands that have neither ok nor a final error, in order.
    pub queue: VecDeque<WriteCommand>,
    /// The batch under way.
    pub attempt: Option<Attempt>,
    /// Not before this moment.
    pub wait_until_ms: i64,
    /// The last temporary error, for whoever looks for a seed's cause.
    pub last_error: String,
}

/// How a command ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored.
    Stored(Accepted),
    /// Nothing had to change.
    Noop,
    /// Never to be stored.
    Refused(ErrorCode),
}

/// One user's client.
#[derive(Clone, Debug)]
pub struct Client {
    /// The user.
    pub user: UserId,
    /// Its clock, compared with true time.
    pub clock_offset_ms: i64,
    /// What waits.
    pub outboxes: BTreeMap<RoomId, Outbox>,
    /// In which order commands were made, per room.
    pub made: BTreeMap<RoomId, Vec<WriteCommand>>,
    /// How they ended.
    pub outcomes: BTreeMap<(RoomId, Cid), Outcome>,
    /// Messages of its own.
    sent: Vec<(RoomId, Seq)>,
    /// Finished commands, to be sent again much later.
    finished: Vec<(RoomId, WriteCommand)>,
}

impl Client {
    /// A client with nothing to say yet.
    pub fn new(user: UserId, clock_offset_ms: i64) -> Self {
        Self {
            user,
            clock_offset_ms,
            outboxes: BTreeMap::new(),
            made: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            sent: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn enqueue(&mut self, room: RoomId, command: WriteCommand) {
        let made = self.made.entry(room.clone()).or_default();
        made.push(command.clone());
        self.outboxes
            .entry(room)
            .or_default()
            .queue
            .push_back(command);
    }

    /// Sends a finished command once more: its answer must be the first one's.
    pub fn repeat(&mut self, rng: &mut Rng) {
        if self.finished.is_empty() {
            return;
        }
        let (room, command) = rng.pick(&self.finished).clone();
        let outbox = self.outboxes.entry(room).or_default();
        if outbox.attempt.is_none() && outbox.queue.is_empty() {
            outbox.queue.push_back(command);
        }
    }

    /// Makes a new command; `rooms` are those that anybody has made, with their heads.
    pub fn make(&mut self, rng: &mut Rng, now_ms: i64, rooms: &[(RoomId, Seq)]) {
        let time_ms = u64::try_from(now_ms + self.clock_offset_ms).unwrap_or(0);
        let is_first = self.user == PEOPLE[0];
        let makes_room = rooms.is_empty() || rng.chance(4);
        if makes_room && is_first {
            let (cid, room) = room_cid(&self.user, time_ms, rng);
            let kind = *rng.pick(&[RoomKind::Public, RoomKind::Public, RoomKind::Private]);
            let members = if rng.chance(80) {
                PEOPLE[1..3].to_vec()
            } else {
                Vec::new()
            };
            let create = create(kind, members);
            self.enqueue(room, WriteCommand { cid, write: create });
            return;
        }
        let cid = Cid::from_parts(time_ms, rng.ten_bytes());
        if rng.chance(12) {
            self.make_for_self(rng, cid, rooms);
            return;
        }
        if rooms.is_empty() {
            return;
        }
        let (room, head) = rng.pick(rooms).clone();
        let write = if is_first {
            self.moderate(rng, head)
        } else {
            self.speak(rng, &room, head)
        };
        self.enqueue(room, WriteCommand { cid, write });
    }

    /// Something for the own room, or for the room of two.
    fn make_for_self(&mut self, rng: &mut Rng, cid: Cid, rooms: &[(RoomId, Seq)]) {
        let own = RoomId::own(&self.user);
        let pair = RoomId::direct(&PEOPLE[..2]);
        let (room, write) = match rng.below(4) {
            0 => (own, create(RoomKind::Own, Vec::new())),
            1 if PEOPLE[..2].contains(&self.user) => {
                let other = PEOPLE[..2].iter().filter(|user| **user != self.user);
                (pair, create(RoomKind::Direct, other.cloned().collect()))
            }
            2 if PEOPLE[..2].contains(&self.user) => (pair, say(rng, None, None)),
            _ => {
                let target = rooms.first().map_or(own.clone(), |room| room.0.clone());
                let read = Read {
                    target,
                    seq: Seq(rng.below(20)),
                    back: rng.chance(10),
                    read_n: None,
                };
                (own, Write::Read(read))
            }
        };
        self.enqueue(room, WriteCommand { cid, write });
    }

    fn moderate(&mut self, rng: &mut Rng, head: Seq) -> Write {
        let user = rng.pick(&PEOPLE[1..]).clone();
        let seen = rng.chance(50).then_some(head);
        match rng.below(20) {
            0 => Write::Ban {
                user,
                why: None,
                until: None,
            },
            1 => Write::Unban { user, seen },
            4 => Write::Kick {
                user,
                why: None,
                seen,
            },
            5 => Write::Invite { user },
            6 => Write::Del {
                on: Some(DeleteTarget::Ranges(vec![SeqRange(
                    Seq(1 + rng.below(3)),
                    Seq(3 + rng.below(10)),
                )])),
                user: None,
                to: None,
                why: None,
            },
            7 => Write::Update {
                changes: RoomChanges {
                    frozen: Some(rng.chance(30)),
                    ..RoomChanges::default()
                },
                base: None,
            },
            8 => Write::Del {
                on: None,
                user: Some(user),
                to: Some(head),
                why: None,
            },
            _ => say(rng, None, None),
        }
    }

    fn speak(&mut self, rng: &mut Rng, room: &RoomId, head: Seq) -> Write {
        let own: Vec<Seq> = self
            .sent
            .iter()
            .filter(|(of, _)| of == room)
            .map(|(_, seq)| *seq)
            .collect();
        match rng.below(16) {
            0 | 1 => Write::Join {},
            2 => Write::Leave {},
            3 | 4 if !own.is_empty() => Write::Edit {
                on: *rng.pick(&own),
                base: 1 + u32::try_from(rng.below(2)).unwrap_or(0),
                text: "changed".to_owned(),
                mentions: Vec::new(),
            },
            5 if !own.is_empty() => Write::Del {
                on: Some(DeleteTarget::One(*rng.pick(&own))),
                user: None,
                to: None,
                why: None,
            },
            6 => {
                let seq = Seq(1 + rng.below(head.0 + 1));
                say(rng, Some(seq), None)
            }
            7 if !own.is_empty() => {
                let root = *rng.pick(&own);
                say(rng, None, Some(root))
            }
            _ => say(rng, None, None),
        }
    }

    /// Takes an answer to the batch under way; the rest of the queue goes out later.
    ///
    /// # Errors
    /// The answer contradicts an earlier one.
    pub fn take(&mut self, room: &RoomId, now_ms: i64, reply: &CommandReply) -> Result<(), String> {
        let Some(outbox) = self.outboxes.get_mut(room) else {
            return Ok(());
        };
        outbox.attempt = None;
        for result in &reply.results {
            let outcome = match result {
                CommandResult::Ok(accepted) if accepted.noop => Outcome::Noop,
                CommandResult::Ok(accepted) => Outcome::Stored(accepted.clone()),
                CommandResult::Err(refusal) if refusal.temp => {
                    // The rest of the batch has the same error.
                    let wait_ms = refusal.retry_after_ms.unwrap_or(0);
                    outbox.last_error.clone_from(&refusal.msg);
                    outbox.wait_until_ms = now_ms + i64::try_from(wait_ms).unwrap_or(0);
                    break;
                }
                CommandResult::Err(refusal) => Outcome::Refused(refusal.code),
            };
            let Some(command) = outbox.queue.pop_front() else {
                return Err("more results than commands".to_owned());
            };
            if let Outcome::Stored(accepted) = &outcome {
                if matches!(command.write, Write::Send(_)) {
                    self.sent.push((room.clone(), accepted.seq));
                }
                self.finished.push((room.clone(), command.clone()));
            }
            let key = (room.clone(), command.cid);
            if let Some(before) = self.outcomes.get(&key) {
                agree(before, &outcome).map_err(|what| format!("{} {what}", command.cid))?;
            } else {
                self.outcomes.insert(key, outcome);
            }
        }
        Ok(())
    }
}

/// A command that was stored is answered alike for ever.
fn agree(before: &Outcome, after: &Outcome) -> Result<(), String> {
    match (before, after) {
        (Outcome::Stored(a), Outcome::Stored(b)) if a.seq == b.seq && a.won == b.won => Ok(()),
        _ => Err(format!("was answered {before:?} and then {after:?}")),
    }
}

fn create(kind: RoomKind, members: Vec<UserId>) -> Write {
    Write::Create(Create {
        kind,
        name: None,
        topic: None,
        members,
        history: None,
    })
}

fn say(rng: &mut Rng, reply_to: Option<Seq>, thread: Option<Seq>) -> Write {
    Write::Send(Send {
        text: format!("words {}", rng.below(1_000)),
        reply_to,
        thread,
        ..Send::default()
    })
}
