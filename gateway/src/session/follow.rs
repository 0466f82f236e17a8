//! How a socket keeps up with the log: behind, catching up, attached to the live feed.
//!
//! Behind, it pulls records from memory (or asks history where memory does not reach), as fast as the
//! socket takes them. Attached, its worker hands it every record. A queue that runs over sends it
//! back behind: what is queued is still sent, its place in the log is remembered, and nothing is
//! sent twice. Who is a member is judged event by event, so every place has its own memberships.

mod catch_up;
mod enter;

use self::enter::Entering;
use super::outside::{Outside, Span, Watch};
use super::{Session, frame};
use crate::moment::Moment;
use crate::ring::record::{Entry, Record, Turn};
use bytestring::ByteString;
use protocol::cursor::Cursor;
use protocol::error::CloseCode;
use protocol::frame::{Gone, ServerEvent};
use protocol::limits::{RESUME_EVENTS_MAX, RESUME_ROOM_EVENTS_MAX};
use protocol::{RoomId, Seq, StreamSeq};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// From a failed question to the next.
const RETRY_MS: u64 = 1_000;
/// A socket that cannot catch up for this long is told to try another gateway.
const BEHIND_MAX_MS: u64 = 120_000;
/// Records looked at in one go: as many events as come one by one, and one more to know.
const PULL_RECORDS_MAX: usize = RESUME_EVENTS_MAX + 1;

/// A place in the log: the first event that was not handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: StreamSeq,
    index: u32,
}

impl Place {
    fn behind(position: StreamSeq) -> Self {
        Self {
            position: position.next(),
            index: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Hello has not been answered.
    #[default]
    Idle,
    /// It pulls.
    Behind,
    /// The worker delivers.
    Attached,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Queued,
    Ignored,
    /// It is one room more whose records are wanted.
    Wanted,
    Full,
}

/// Where a socket is in the log, and in which rooms.
#[derive(Debug, Default)]
pub(super) struct Follow {
    state: State,
    /// The seq of the last event sent, by room.
    rooms: BTreeMap<RoomId, Seq>,
    entering: BTreeMap<RoomId, Entering>,
    /// Rooms that were told to this socket by a `state`, each with a position at or behind its entering.
    /// A place that is rewound may lie before that; then the end of the membership must be told too.
    entered: BTreeMap<RoomId, StreamSeq>,
    /// From where history was asked what was missed, and which of them it was told of.
    asked_after: StreamSeq,
    named: BTreeSet<RoomId>,
    next: Place,
    /// The last record of which something of the own room was sent. Marks stand in each room's state, so
    /// an older state would take them back.
    own_told: StreamSeq,
    /// Whether `live` was sent since the last catch-up began, or the last room was entered.
    announced: bool,
    /// Whether the limits of the running catch-up were looked at.
    measured: bool,
    asked: bool,
    retry_at: Option<u64>,
    behind_since: u64,
    /// What a client that resumes holds of rooms, which may be more than its cursor covers: it may have
    /// entered one behind its cursor.
    pub(super) have: BTreeMap<RoomId, Seq>,
    /// Lines of history's answers that wait for room in the queue; they come before what is pulled.
    pub(super) backlog: VecDeque<ByteString>,
    /// Entries of the timeline in a `state` or `skip`.
    pub(super) window_timeline: u32,
}

impl Follow {
    /// Whether something is held back until the queue has room.
    pub(super) fn waits_for_room(&self) -> bool {
        self.state == State::Behind || !self.backlog.is_empty() || !self.entering.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        let waits = |entering: &Entering| {
            (!entering.asked && entering.retry_at > 0).then_some(entering.retry_at)
        };
        let entering = self.entering.values().filter_map(waits);
        entering.chain(self.retry_at).min()
    }
}

impl Session {
    /// The rooms whose records are wanted.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomId> {
        self.follow.rooms.keys()
    }

    /// Whether the worker has to pump this session when its position moves.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.follow.state == State::Behind
    }

    /// Begins behind `applied` as a member of `rooms`.
    pub(super) fn start_following(
        &mut self,
        now: Moment,
        rooms: BTreeMap<RoomId, Seq>,
        applied: StreamSeq,
    ) {
        self.follow.rooms = rooms;
        if let Some(who) = &self.who {
            // A user is always in their own room.
            self.follow.rooms.entry(who.own.clone()).or_default();
        }
        self.follow.next = Place::behind(applied);
        self.fall_behind(now);
    }

    fn fall_behind(&mut self, now: Moment) {
        self.follow.state = State::Behind;
        self.follow.measured = false;
        self.follow.behind_since = now.ticks;
    }

    /// The cursor that covers everything sent so far; none while something is still missing.
    pub(super) fn cursor(&self, outside: &dyn Outside) -> Option<Cursor> {
        let whole = self.follow.state == State::Attached
            && self.follow.entering.is_empty()
            && self.follow.backlog.is_empty();
        let log = self.log.clone().filter(|_| whole)?;
        Some(Cursor {
            log,
            position: outside.position(),
        })
    }

    /// Records are gone that this socket has not seen: it goes on from where it is by asking history.
    pub fn handle_lost_feed(&mut self, now: Moment, delivered: StreamSeq) {
        if self.follow.state == State::Attached {
            self.lag(now, Place::behind(delivered));
        }
    }

    pub(super) fn follow_entry(&mut self, now: Moment, position: StreamSeq, entry: &Entry) -> bool {
        if self.follow.state != State::Attached || self.closing.is_some() {
            return false;
        }
        match self.deliver(position, entry, None) {
            Delivery::Queued => true,
            Delivery::Ignored | Delivery::Wanted => !self.actions.is_empty(),
            Delivery::Full => {
                self.lag(
                    now,
                    Place {
                        position,
                        index: entry.index,
                    },
                );
                true
            }
        }
    }

    fn lag(&mut self, now: Moment, place: Place) {
        self.follow.next = place;
        self.follow.announced = false;
        self.fall_behind(now);
        self.watches.push_back(Watch::Nothing);
        self.push(&ServerEvent::Lagged {});
    }

    /// Hands one event to the socket, if the user is a member and has not got it yet. In a catch-up,
    /// `newest` is what this process knows of the log.
    fn deliver(
        &mut self,
        position: StreamSeq,
        entry: &Entry,
        newest: Option<StreamSeq>,
    ) -> Delivery {
        let own = entry
            .change
            .as_ref()
            .filter(|change| Some(&change.user) == self.user());
        let turn = own.map(|change| change.turn);
        let Some(at) = self.follow.rooms.get_mut(&entry.room) else {
            if turn == Some(Turn::Begins) {
                if let Some(have) = self.follow.have.remove(&entry.room) {
                    // It was told before: what comes behind that is all it needs.
                    let at = have.max(entry.seq);
                    self.follow.rooms.insert(entry.room.clone(), at);
                    return Delivery::Wanted;
                }
                self.enter(position, newest.unwrap_or(position), &entry.room);
            }
            return Delivery::Ignored;
        };
        if entry.seq <= *at {
            return Delivery::Ignored;
        }
        if !self.outbox.takes(entry.frame.len()) || (newest.is_some() && self.outbox.is_paced()) {
            return Delivery::Full;
        }
        *at = entry.seq;
        if entry.room.is_own() {
            self.follow.own_told = self.follow.own_told.max(position);
        }
        if turn == Some(Turn::Ends) {
            self.leave(entry);
        } else {
            self.outbox.push(entry.frame.clone());
        }
        Delivery::Queued
    }

    /// The event that takes the user out is the last of its room; `gone` follows in the same frame.
    fn leave(&mut self, entry: &Entry) {
        let gone = frame(&ServerEvent::Gone(Gone {
            room: entry.room.clone(),
        }));
        self.outbox.push(format!("{}\n{gone}", entry.frame).into());
        self.follow.rooms.remove(&entry.room);
        self.follow.entered.remove(&entry.room);
        self.follow.have.remove(&entry.room);
        self.watches.push_back(Watch::Remove(entry.room.clone()));
    }

    pub(super) fn pump_follow(&mut self, now: Moment, outside: &dyn Outside) {
        if self.follow.retry_at.is_some_and(|at| at <= now.ticks) {
            self.follow.retry_at = None;
        }
        self.start_entering(now.ticks);
        loop {
            while !self.outbox.is_paced() {
                let Some(line) = self.follow.backlog.pop_front() else {
                    break;
                };
                self.outbox.push(line);
            }
            let waits = self.follow.asked || self.follow.retry_at.is_some();
            if self.follow.state != State::Behind
                || waits
                || !self.follow.backlog.is_empty()
                || self.outbox.is_paced()
            {
                break;
            }
            let position = outside.position();
            if self.follow.next > Place::behind(position) {
                // History was ahead of this worker.
                break;
            }
            if self.follow.next == Place::behind(position) {
                self.follow.state = State::Attached;
                self.follow.have.clear();
                self.watches.push_back(Watch::All);
                break;
            }
            if !self.pull(now, position, outside) {
                break;
            }
        }
        self.announce(outside);
        if self.follow.state == State::Behind
            && now.ticks >= self.follow.behind_since + BEHIND_MAX_MS
            && self.follow.retry_at.is_some()
        {
            self.close(CloseCode::LagUnrecoverable);
        }
    }

    fn announce(&mut self, outside: &dyn Outside) {
        if self.follow.announced {
            return;
        }
        if let Some(cursor) = self.cursor(outside) {
            self.follow.announced = true;
            self.push(&ServerEvent::Live {
                cur: cursor.to_string(),
            });
        }
    }

    /// Pulls records up to `position` from memory; false if it has to wait for something.
    fn pull(&mut self, now: Moment, position: StreamSeq, outside: &dyn Outside) -> bool {
        let Some(user) = self.user() else {
            return false;
        };
        let span = Span {
            after: self.follow.next.position.before(),
            to: position,
            max: PULL_RECORDS_MAX,
        };
        let Some(records) = outside.wanted(user, &mut self.follow.rooms.keys(), span) else {
            self.ask_catch_up(outside);
            return false;
        };
        if !self.follow.measured {
            self.follow.measured = true;
            if self.is_too_much(&records) {
                self.ask_catch_up(outside);
                return false;
            }
        }
        let newest = outside.head().map_or(position, |(_, newest)| newest);
        for record in &records {
            for entry in record.entries() {
                let place = Place {
                    position: record.position,
                    index: entry.index,
                };
                if place < self.follow.next {
                    continue;
                }
                match self.deliver(record.position, entry, Some(newest)) {
                    Delivery::Queued | Delivery::Ignored => {}
                    Delivery::Wanted => {
                        // What was pulled has only the records that were wanted before.
                        self.follow.next = Place {
                            index: entry.index + 1,
                            ..place
                        };
                        return true;
                    }
                    Delivery::Full => {
                        self.follow.next = place;
                        return false;
                    }
                }
            }
            self.follow.next = Place::behind(record.position);
        }
        if records.len() < PULL_RECORDS_MAX {
            self.follow.next = Place::behind(position);
            self.follow.behind_since = now.ticks;
        }
        true
    }

    /// Whether so much was missed that the largest rooms get a `skip` instead.
    fn is_too_much(&self, records: &[Arc<Record>]) -> bool {
        let mut counts: BTreeMap<&RoomId, usize> = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for record in records {
            for entry in record.entries() {
                if self
                    .follow
                    .rooms
                    .get(&entry.room)
                    .is_some_and(|at| entry.seq > *at)
                {
                    *counts.entry(&entry.room).or_default() += 1;
                }
            }
            let own = record
                .changes
                .iter()
                .filter(|change| Some(&change.user) == self.user());
            ended.extend(
                own.filter(|own| own.turn == Turn::Ends)
                    .map(|own| &own.room),
            );
        }
        // What leads up to the end of a membership comes one by one, however much it is.
        counts.retain(|room, _| !ended.contains(room));
        counts.values().any(|count| *count > RESUME_ROOM_EVENTS_MAX)
            || counts.values().sum::<usize>() > RESUME_EVENTS_MAX
    }
}
