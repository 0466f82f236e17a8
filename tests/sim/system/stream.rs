//! The broker's stream: every partition a subject, records that stay, a compare-and-set per subject.
//!
//! Folds what it stores, by the protocol's words alone: that is the truth which everybody else is
//! compared with. What must hold of the log itself is checked as it grows.

use history::record::Record as Parsed;
use messages::partition::Record;
use messages::sequencer::LogBounds;
use protocol::chain::Hash;
use protocol::event::EventBody;
use protocol::room::{Mark, RoomState};
use protocol::{Cid, Event, LogId, Partition, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// One record, as each side reads it.
#[derive(Debug)]
pub struct Stored {
    /// Its subject.
    pub partition: Partition,
    /// As owners and gateways get it.
    pub record: Record,
    /// As history takes it apart.
    pub parsed: Parsed,
}

/// From the event that began a membership to the one that ended it, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first event.
    pub from: Seq,
    /// The last one, if there is one.
    pub to: Option<Seq>,
}

/// The stream, and what it says.
#[derive(Debug, Default)]
pub struct Stream {
    /// Dense from 1.
    pub records: Vec<Stored>,
    /// Each room as its events tell it.
    pub rooms: BTreeMap<RoomId, RoomState>,
    /// Its events, by seq from 1.
    pub events: BTreeMap<RoomId, Vec<Event>>,
    /// Every membership that ever was.
    pub intervals: BTreeMap<(RoomId, UserId), Vec<Interval>>,
    last: BTreeMap<Partition, StreamSeq>,
    commands: BTreeSet<(RoomId, UserId, Cid)>,
    /// Its leader's clock, compared with true time.
    pub clock_offset_ms: i64,
    /// It takes nothing: its disk is full.
    pub full: bool,
}

impl Stream {
    /// The name of the one log there is.
    pub fn log() -> LogId {
        LogId::parse("k7").expect("in the grammar")
    }

    /// The last record's position.
    pub fn end(&self) -> StreamSeq {
        StreamSeq(self.records.len() as u64)
    }

    /// What a stream says of itself.
    pub fn bounds(&self) -> LogBounds {
        LogBounds {
            first: StreamSeq(1),
            last: self.end(),
        }
    }

    /// The last record of a subject; 0 if there is none.
    pub fn last(&self, partition: Partition) -> StreamSeq {
        self.last.get(&partition).copied().unwrap_or_default()
    }

    /// The record at a position.
    pub fn at(&self, position: StreamSeq) -> Option<&Stored> {
        let index = usize::try_from(position.0.checked_sub(1)?).ok()?;
        self.records.get(index)
    }

    /// The records of a subject behind a position.
    pub fn tail(&self, partition: Partition, after: StreamSeq) -> Vec<Record> {
        let from = usize::try_from(after.0).expect("memory holds it");
        let behind = self.records.iter().skip(from);
        let own = behind.filter(|stored| stored.partition == partition);
        own.map(|stored| stored.record.clone()).collect()
    }

    /// Appends under a compare; `None` if that fails.
    ///
    /// # Errors
    /// What was stored breaks the log.
    pub fn append(
        &mut self,
        now_ms: i64,
        (partition, expected): (Partition, StreamSeq),
        payload: &str,
    ) -> Result<Option<StreamSeq>, String> {
        if expected != self.last(partition) {
            return Ok(None);
        }
        let position = self.end().next();
        let time = Timestamp(now_ms + self.clock_offset_ms);
        let record = Record {
            position,
            time,
            payload: payload.to_owned().into(),
        };
        let parsed = Parsed::parse(position, Some(partition), time, payload.as_bytes());
        self.last.insert(partition, position);
        let folded = self.fold(&parsed);
        self.records.push(Stored {
            partition,
            record,
            parsed,
        });
        folded.map(|()| Some(position))
    }

    fn fold(&mut self, parsed: &Parsed) -> Result<(), String> {
        if let Some(broken) = parsed.broken() {
            return Err(format!("the log holds no envelope: {}", broken.reason));
        }
        for line in parsed.lines() {
            let logged = line.event.as_ref().map_err(ToString::to_string)?;
            let place = format!("{} {}", logged.event.room, logged.event.seq);
            let before = self.rooms.get(&line.room).map(|room| room.head_hash);
            if logged.prev != before.unwrap_or(Hash::ZERO) {
                return Err(format!("the chain is broken at {place}"));
            }
            let event = &logged.event;
            let name = (event.room.clone(), event.by.clone(), event.cid);
            if !self.commands.insert(name) && !line.continues {
                return Err(format!("a command is stored twice, again at {place}"));
            }
            self.fold_event(event, line.hash)
                .map_err(|what| format!("{what} at {place}"))?;
        }
        Ok(())
    }

    fn fold_event(&mut self, event: &Event, hash: Hash) -> Result<(), String> {
        let user = match &event.body {
            EventBody::Member { user, .. } => Some(user.clone()),
            EventBody::Room { .. }
            | EventBody::Role { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => None,
        };
        let is_in = |room: Option<&RoomState>| {
            let members = room.map(|room| &room.members);
            user.as_ref()
                .zip(members)
                .is_some_and(|(user, members)| members.contains_key(user))
        };
        let was_in = is_in(self.rooms.get(&event.room));
        match self.rooms.get_mut(&event.room) {
            Some(room) => room.apply(event, hash).map_err(|error| error.to_string())?,
            None => {
                let room = RoomState::create(event, hash).map_err(|error| error.to_string())?;
                self.rooms.insert(event.room.clone(), room);
            }
        }
        let now_in = is_in(self.rooms.get(&event.room));
        if let Some(user) = user {
            let intervals = self.intervals.entry((event.room.clone(), user));
            let intervals = intervals.or_default();
            match (was_in, now_in) {
                (false, true) => intervals.push(Interval {
                    from: event.seq,
                    to: None,
                }),
                (true, false) => {
                    let open = intervals.last_mut().expect("a member came once");
                    open.to = Some(event.seq);
                }
                (true, true) | (false, false) => {}
            }
        }
        let events = self.events.entry(event.room.clone()).or_default();
        events.push(event.clone());
        Ok(())
    }

    /// The event at a place.
    pub fn event(&self, room: &RoomId, seq: Seq) -> Option<&Event> {
        let index = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.events.get(room)?.get(index)
    }

    /// Whether the user's membership covers an event, the one that ends it included.
    pub fn covers(&self, room: &RoomId, user: &UserId, seq: Seq) -> bool {
        if room.is_own() {
            return *room == RoomId::own(user);
        }
        let intervals = self.intervals.get(&(room.clone(), user.clone()));
        intervals.is_some_and(|intervals| {
            let inside = |one: &Interval| one.from <= seq && one.to.is_none_or(|to| seq <= to);
            intervals.iter().any(inside)
        })
    }

    /// Whether that membership still lasts.
    pub fn lasts(&self, room: &RoomId, user: &UserId, seq: Seq) -> bool {
        let intervals = self.intervals.get(&(room.clone(), user.clone()));
        let last = intervals.and_then(|intervals| intervals.last());
        last.is_some_and(|last| last.to.is_none() && last.from <= seq)
    }

    /// The rooms a user is in now, the own one included.
    pub fn rooms_of(&self, user: &UserId) -> BTreeSet<RoomId> {
        let own = RoomId::own(user);
        let mine = |room: &&RoomState| room.members.contains_key(user) || room.room == own;
        let rooms = self.rooms.values().filter(mine);
        rooms.map(|room| room.room.clone()).collect()
    }

    /// How far a user has read a room, at most its head.
    pub fn mark(&self, user: &UserId, room: &RoomId) -> Mark {
        let own = self.rooms.get(&RoomId::own(user));
        own.and_then(|own| own.marks.get(room))
            .copied()
            .unwrap_or_default()
    }
}
