//! Commands on their way: kept in order until the server has said ok or a final no.
//!
//! The rule (protocol section 1): one batch per room in flight; after a temporary error everything
//! from the first command without a result is sent again, with the same cids. So what one client
//! wrote in a room is stored in the order in which it was written, once, whatever fails in between.
//!
//! Pure. Order of calls: [`Outbox::push`] queues, [`Outbox::poll_batch`] says what to transmit,
//! [`Outbox::handle_reply`] and [`Outbox::handle_link_lost`] tell what became of it.
//! It does not know rooms or timelines, and it does not decide which socket is used.

use crate::cid::CidClock;
use crate::connection::LinkId;
use protocol::command::{Write, WriteCommand};
use protocol::frame::{ClientFrame, ClientOp};
use protocol::limits::{FRAME_BYTES_MAX, READ_MARK_INTERVAL_MS};
use protocol::request::Accepted;
use protocol::{Cid, ErrorCode, Refusal, RoomId, Timestamp};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Commands one store holds; the next is refused to the application, so a dead server cannot fill a disk.
pub const ENTRIES_MAX: usize = 10_000;
/// Commands in one batch: half of what the server takes in one message.
const BATCH_COMMANDS_MAX: usize = 32;
/// Bytes of one batch: a quarter below the server's limit, which counts the same bytes.
const BATCH_BYTES_MAX: usize = FRAME_BYTES_MAX / 4 * 3;
/// A batch without an answer for so long means that the socket is dead, whatever TCP says, in ms.
const ANSWER_MS_MAX: i64 = 20_000;
/// Longest wait after repeated temporary errors, in ms.
const RETRY_MS_MAX: i64 = 10_000;

/// A command in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order of writing; also its key in the store.
    pub position: u64,
    /// Its name, kept across retries.
    pub cid: Cid,
    /// The room it names, if its operation takes one.
    pub room: Option<RoomId>,
    /// What is asked.
    pub write: Write,
    /// Why it will never be stored; kept so that its text can be copied, until it is discarded.
    #[serde(default)]
    pub failed: Option<Refusal>,
}

/// What became of a command so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is durable on this side and waits for its turn.
    Queued,
    /// It was transmitted; whether it arrived is not known.
    Sent,
    /// It is in the log.
    Stored(Accepted),
    /// It will never be in the log.
    Failed(Refusal),
    /// It goes on under a new cid: the server found the old one's time in the future, or a later read
    /// mark has taken its place.
    Renamed(Cid),
}

/// A change of a command's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The command as it is now; with [`Delivery::Renamed`] it has the new cid.
    pub entry: Entry,
    /// The name under which the application knows it.
    pub cid: Cid,
    /// What became of it.
    pub delivery: Delivery,
}

/// Commands that must be stored in their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LaneKey {
    Room(RoomId),
    Own,
    /// A `create` makes its own room; the number is its position.
    Create(u64),
}

#[derive(Debug)]
struct Lane {
    /// Positions without a result, in order.
    queue: VecDeque<u64>,
    in_flight: Option<InFlight>,
    not_before: Option<Timestamp>,
    /// How many commands the next batch may have.
    window: usize,
    failures: u32,
}

#[derive(Debug)]
struct InFlight {
    link: LinkId,
    since: Timestamp,
    unanswered: usize,
    refused: bool,
}

#[derive(Debug)]
struct Awaited {
    link: LinkId,
    lane: LaneKey,
    position: u64,
}

/// A text message to transmit, and the commands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Lines joined by `\n`.
    pub text: String,
    /// The commands in it.
    pub entries: Vec<Entry>,
}

/// The queue of commands.
#[derive(Debug, Default)]
pub struct Outbox {
    entries: BTreeMap<u64, Entry>,
    lanes: BTreeMap<LaneKey, Lane>,
    awaited: BTreeMap<u64, Awaited>,
    next_position: u64,
    /// When a read mark of a room may go out again.
    read_marks: BTreeMap<RoomId, Timestamp>,
}

impl Outbox {
    /// Goes on with what a store held.
    #[must_use]
    pub fn restore(entries: Vec<Entry>) -> Self {
        let mut outbox = Self::default();
        for entry in entries {
            outbox.next_position = outbox.next_position.max(entry.position + 1);
            outbox.insert(entry);
        }
        outbox
    }

    /// Queues a command; `None` if the outbox is full.
    ///
    /// A read mark replaces a queued one of the same room (protocol: one per room and 5 s), under its
    /// own cid: the other may have arrived once, and then the server knows that cid as another mark.
    pub fn push(&mut self, room: Option<RoomId>, write: Write, cid: Cid) -> Option<Entry> {
        if let Some(entry) = self.replace_mark(&write, cid) {
            return Some(entry);
        }
        if self.entries.len() >= ENTRIES_MAX {
            return None;
        }
        let position = self.next_position;
        self.next_position += 1;
        let entry = Entry {
            position,
            cid,
            room,
            write,
            failed: None,
        };
        self.insert(entry.clone());
        Some(entry)
    }

    /// The command whose place [`Self::push`] would give to this one.
    #[must_use]
    pub fn replaces(&self, write: &Write) -> Option<Cid> {
        let position = self.queued_mark(write)?;
        Some(self.entries.get(&position)?.cid)
    }

    /// Commands in order, the failed ones included.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether every command has a result.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.values().all(|lane| lane.queue.is_empty())
    }

    /// Whether this socket still owes an answer.
    #[must_use]
    pub fn owes(&self, link: LinkId) -> bool {
        self.awaited.values().any(|awaited| awaited.link == link)
    }

    /// Forgets a failed command; its position, if there was one.
    pub fn discard(&mut self, cid: Cid) -> Option<u64> {
        let position = self
            .entries
            .values()
            .find(|e| e.cid == cid && e.failed.is_some())?
            .position;
        self.entries.remove(&position);
        Some(position)
    }

    /// The next batch to transmit on `link`, of `commands_max` at most, if any lane may send.
    pub fn poll_batch(
        &mut self,
        link: LinkId,
        (now, commands_max): (Timestamp, usize),
        next_id: &mut u64,
    ) -> Option<Batch> {
        let key = self
            .lanes
            .iter()
            .find(|(_, lane)| lane.may_send(now) && self.first_due(lane, now).is_some())
            .map(|(key, _)| key.clone())?;
        let positions = self.due_positions(&key, now);
        let positions = positions.into_iter().take(commands_max);
        let mut batch = Batch {
            text: String::new(),
            entries: Vec::new(),
        };
        for position in positions {
            let Some(entry) = self.entries.get(&position) else {
                continue;
            };
            let command = WriteCommand {
                cid: entry.cid,
                write: entry.write.clone(),
            };
            let op = ClientOp::Write {
                room: entry.room.clone(),
                command: Box::new(command),
            };
            let line = ClientFrame {
                id: Some(*next_id),
                op,
            }
            .to_line();
            if !batch.text.is_empty() {
                if batch.text.len() + line.len() + 1 > BATCH_BYTES_MAX {
                    break;
                }
                batch.text.push('\n');
            }
            batch.text.push_str(&line);
            batch.entries.push(entry.clone());
            self.awaited.insert(
                *next_id,
                Awaited {
                    link,
                    lane: key.clone(),
                    position,
                },
            );
            if let Write::Read(read) = &entry.write {
                let next = now.plus_ms(READ_MARK_INTERVAL_MS);
                self.read_marks.insert(read.target.clone(), next);
            }
            *next_id += 1;
        }
        let unanswered = batch.entries.len();
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.in_flight = Some(InFlight {
                link,
                since: now,
                unanswered,
                refused: false,
            });
        }
        Some(batch)
    }

    /// Takes the answer to the command `id`; `None` if it is nobody's.
    ///
    /// With `clock_skew` the server's clock is learned into `cids` and the command gets a new name.
    pub fn handle_reply(
        &mut self,
        id: u64,
        result: Result<Accepted, Refusal>,
        now: Timestamp,
        (cids, rng): (&mut CidClock, &mut StdRng),
    ) -> Option<Outcome> {
        let Awaited {
            lane: key,
            position,
            ..
        } = self.awaited.remove(&id)?;
        let outcome = match result {
            Ok(accepted) => self.finish(position, Delivery::Stored(accepted)),
            Err(refusal) if refusal.code == ErrorCode::ClockSkew => {
                if let Some(server) = refusal.now {
                    cids.set_server_time(server, now);
                }
                self.rename(position, cids.next(now, rng.random()))
            }
            Err(refusal) if refusal.temp => {
                self.put_off(&key, &refusal, now, rng);
                self.queued_again(position)
            }
            Err(refusal) => self.finish(position, Delivery::Failed(refusal)),
        };
        self.settle(&key, position, &outcome);
        outcome
    }

    /// The socket is gone: whatever it owed is sent again on the next one.
    pub fn handle_link_lost(&mut self, link: LinkId) {
        self.awaited.retain(|_, awaited| awaited.link != link);
        for lane in self.lanes.values_mut() {
            lane.in_flight.take_if(|flight| flight.link == link);
        }
    }

    /// A socket that has owed an answer for too long.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Option<LinkId> {
        let flights = self
            .lanes
            .values()
            .filter_map(|lane| lane.in_flight.as_ref());
        flights
            .filter(|f| f.since.plus_ms(ANSWER_MS_MAX) <= now)
            .map(|f| f.link)
            .next()
    }

    /// When something becomes due by time alone.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let lanes = self.lanes.values().filter(|lane| !lane.queue.is_empty());
        lanes
            .filter_map(|lane| match &lane.in_flight {
                Some(flight) => Some(flight.since.plus_ms(ANSWER_MS_MAX)),
                None => {
                    let holds = lane.queue.iter().filter_map(|p| self.held_until(*p, now));
                    lane.not_before.filter(|at| *at > now).or(holds.min())
                }
            })
            .min()
    }

    fn insert(&mut self, entry: Entry) {
        if entry.failed.is_none() {
            let lane = self.lanes.entry(lane_key(&entry)).or_insert_with(Lane::new);
            lane.queue.push_back(entry.position);
        }
        self.entries.insert(entry.position, entry);
    }

    fn replace_mark(&mut self, write: &Write, cid: Cid) -> Option<Entry> {
        let position = self.queued_mark(write)?;
        let entry = self.entries.get_mut(&position)?;
        entry.write = write.clone();
        entry.cid = cid;
        Some(entry.clone())
    }

    /// The read mark that this one makes superfluous.
    fn queued_mark(&self, write: &Write) -> Option<u64> {
        let Write::Read(new) = write else { return None };
        let lane = self.lanes.get(&LaneKey::Own)?;
        let sent: Vec<u64> = self
            .awaited
            .values()
            .map(|awaited| awaited.position)
            .collect();
        let mut queued = lane.queue.iter().copied().filter(|p| !sent.contains(p));
        queued.find(|position| {
            self.entries.get(position).is_some_and(
                |e| matches!(&e.write, Write::Read(old) if old.target == new.target && !old.back),
            )
        })
    }

    fn held_until(&self, position: u64, now: Timestamp) -> Option<Timestamp> {
        let Write::Read(read) = &self.entries.get(&position)?.write else {
            return None;
        };
        self.read_marks
            .get(&read.target)
            .copied()
            .filter(|until| *until > now)
    }

    fn first_due(&self, lane: &Lane, now: Timestamp) -> Option<u64> {
        lane.queue
            .iter()
            .copied()
            .find(|position| self.held_until(*position, now).is_none())
    }

    fn due_positions(&self, key: &LaneKey, now: Timestamp) -> Vec<u64> {
        let Some(lane) = self.lanes.get(key) else {
            return Vec::new();
        };
        let due = lane
            .queue
            .iter()
            .copied()
            .filter(|p| self.held_until(*p, now).is_none());
        due.take(lane.window).collect()
    }

    fn finish(&mut self, position: u64, delivery: Delivery) -> Option<Outcome> {
        let entry = match &delivery {
            Delivery::Failed(refusal) => {
                let entry = self.entries.get_mut(&position)?;
                entry.failed = Some(refusal.clone());
                entry.clone()
            }
            Delivery::Stored(_) | Delivery::Queued | Delivery::Sent | Delivery::Renamed(_) => {
                self.entries.remove(&position)?
            }
        };
        Some(Outcome {
            cid: entry.cid,
            entry,
            delivery,
        })
    }

    fn rename(&mut self, position: u64, cid: Cid) -> Option<Outcome> {
        let entry = self.entries.get_mut(&position)?;
        let old = std::mem::replace(&mut entry.cid, cid);
        Some(Outcome {
            entry: entry.clone(),
            cid: old,
            delivery: Delivery::Renamed(cid),
        })
    }

    fn queued_again(&self, position: u64) -> Option<Outcome> {
        let entry = self.entries.get(&position)?.clone();
        Some(Outcome {
            cid: entry.cid,
            entry,
            delivery: Delivery::Queued,
        })
    }

    fn put_off(&mut self, key: &LaneKey, refusal: &Refusal, now: Timestamp, rng: &mut StdRng) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let first = lane.in_flight.as_mut().is_some_and(|flight| {
            let first = !flight.refused;
            flight.refused = true;
            first
        });
        if !first {
            return;
        }
        let told = i64::try_from(refusal.retry_after_ms.unwrap_or(1_000)).unwrap_or(RETRY_MS_MAX);
        let computed_for_this_sender =
            matches!(refusal.code, ErrorCode::RateLimited | ErrorCode::SlowMode);
        let wait = if computed_for_this_sender {
            lane.window = 1;
            told
        } else {
            // Many clients are told the same: spread, and ask less often when it lasts.
            lane.failures = lane.failures.saturating_add(1);
            let doubled = told.saturating_mul(1 << lane.failures.min(5));
            rng.random_range(told..=doubled.clamp(told, RETRY_MS_MAX.max(told)))
        };
        lane.not_before = Some(now.plus_ms(wait));
    }

    fn settle(&mut self, key: &LaneKey, position: u64, outcome: &Option<Outcome>) {
        let Some(lane) = self.lanes.get_mut(key) else {
            return;
        };
        let done = matches!(
            outcome,
            None | Some(Outcome {
                delivery: Delivery::Stored(_) | Delivery::Failed(_),
                ..
            })
        );
        if done {
            lane.queue.retain(|queued| *queued != position);
        }
        if let Some(flight) = &mut lane.in_flight {
            flight.unanswered = flight.unanswered.saturating_sub(1);
            if flight.unanswered == 0 {
                if !flight.refused {
                    lane.window = (lane.window * 2).min(BATCH_COMMANDS_MAX);
                    lane.failures = 0;
                }
                lane.in_flight = None;
            }
        }
        if lane.queue.is_empty() && lane.in_flight.is_none() {
            // A lane remembers a rate limit only while something waits for it.
            self.lanes.remove(key);
        }
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: None,
            not_before: None,
            window: BATCH_COMMANDS_MAX,
            failures: 0,
        }
    }

    fn may_send(&self, now: Timestamp) -> bool {
        self.in_flight.is_none()
            && !self.queue.is_empty()
            && self.not_before.is_none_or(|at| at <= now)
    }
}

fn lane_key(entry: &Entry) -> LaneKey {
    if matches!(entry.write, Write::Read(_)) {
        return LaneKey::Own;
    }
    match &entry.room {
        Some(room) => LaneKey::Room(room.clone()),
        None => LaneKey::Create(entry.position),
    }
}

#[cfg(test)]
mod tests;
