//! One gateway: the real feed, ring, views and sessions, and one worker that delivers.
//!
//! What the shells around them do (`gateway::upstream`, `gateway::hub`) is done here in their order.

use super::faults::Fault;
use super::stream::Stream;
use gateway::auth::Identity;
use gateway::moment::Moment;
use gateway::ring::record::{Entry, Record, Turn};
use gateway::ring::{Bounds, Read, Ring};
use gateway::session::Session;
use gateway::session::outside::{Outside, Span, Verdict, Watch};
use gateway::upstream::feed::{Feed, Fill, Found, Source, Step};
use gateway::views::Views;
use protocol::error::CloseCode;
use protocol::{ConnId, DeviceId, LogId, Refusal, RoomId, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names a socket, unlike any other's.
pub type SocketId = u64;

/// One socket, as its worker sees it.
#[derive(Debug)]
pub struct Socket {
    /// Its conversation.
    pub session: Session,
    /// The rooms whose records it is handed.
    watching: BTreeSet<RoomId>,
}

/// What a gateway does not do alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// To look for records.
    Search(Fill),
    /// To know the log's end.
    AskLast,
}

/// What happened, for judging whether a run was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Searches for lost records that found some.
    pub filled: u64,
    /// Gaps too large to be filled.
    pub jumps: u64,
    /// Records nowhere to be found, for as long as was waited.
    pub lost: u64,
    /// Times that a worker lost the feed.
    pub evicted: u64,
}

/// One life of one gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Unlike any other's.
    pub life: u64,
    /// Its sockets.
    pub sockets: BTreeMap<SocketId, Socket>,
    /// Positions that the live feed brings, in the order in which they come.
    pub live: Vec<StreamSeq>,
    /// The highest position that an owner's answer has told.
    pub told: StreamSeq,
    /// What happened.
    pub counts: Counts,
    ring: Ring,
    views: Views,
    feed: Feed,
    /// Up to here the worker has delivered.
    position: StreamSeq,
    clock_offset_ms: i64,
    started_ms: i64,
    fault: Option<Fault>,
}

/// The part of a gateway that a session looks at.
struct View<'a> {
    ring: &'a Ring,
    views: &'a Views,
    position: StreamSeq,
    now: Moment,
    fault: Option<Fault>,
}

impl Outside for View<'_> {
    fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        Ok(Identity {
            user: UserId::parse(token).expect("the simulator's tokens are users"),
            guest: false,
            expires: Timestamp(i64::MAX),
        })
    }

    fn admit(&self, _: &UserId, _: Option<&DeviceId>) -> Result<(), CloseCode> {
        Ok(())
    }

    fn rate(&self, _: &UserId) -> Verdict {
        // Now and then, by the clock alone.
        if self.now.ticks.is_multiple_of(97) {
            return Verdict::Wait(50);
        }
        Verdict::Go
    }

    fn head(&self) -> Option<(LogId, StreamSeq)> {
        self.ring.head()
    }

    fn position(&self) -> StreamSeq {
        let head = self.ring.head().map(|(_, position)| position);
        if self.fault == Some(Fault::CursorOfProcess) {
            return head.unwrap_or_default();
        }
        self.position
    }

    fn rooms_at(&self, user: &UserId, position: StreamSeq) -> Option<BTreeSet<RoomId>> {
        if !self.ring.holds_after(position) {
            return None;
        }
        let mut judged_at = position;
        if self.fault == Some(Fault::MembershipAtHead) {
            judged_at = self.ring.head()?.1;
        }
        self.views.rooms_at(user, judged_at, self.now.ticks)
    }

    fn wanted(
        &self,
        user: &UserId,
        rooms: &mut dyn Iterator<Item = &RoomId>,
        span: Span,
    ) -> Option<Vec<Arc<Record>>> {
        self.ring
            .wanted(user, rooms, (span.after, span.to), span.max)
    }

    fn remember(&self, user: &UserId, applied: StreamSeq, rooms: &BTreeSet<RoomId>) {
        let ring = (self.ring, self.now.ticks);
        self.views.remember(user, applied, rooms, ring);
    }
}

/// How a gateway begins.
pub struct Start {
    /// Unlike any other's.
    pub life: u64,
    /// Records that its ring holds.
    pub ring_records: usize,
    /// Its clock, compared with true time.
    pub clock_offset_ms: i64,
    /// What it does wrong.
    pub fault: Option<Fault>,
}

impl Gateway {
    /// Begins at the log's end.
    pub fn start(start: &Start, now_ms: i64, stream: &Stream) -> Self {
        let ring = Ring::new(Bounds {
            records: start.ring_records,
            bytes: 1 << 20,
        });
        let views = Views::default();
        let last = stream.end();
        views.start(last);
        ring.start(Stream::log(), last);
        let gap_max = (start.ring_records as u64 / 2).max(2);
        Self {
            life: start.life,
            sockets: BTreeMap::new(),
            live: Vec::new(),
            told: StreamSeq(0),
            counts: Counts::default(),
            ring,
            views,
            feed: Feed::new(last, gap_max),
            position: last,
            clock_offset_ms: start.clock_offset_ms,
            started_ms: now_ms,
            fault: start.fault,
        }
    }

    /// Its clocks.
    pub fn now(&self, now_ms: i64) -> Moment {
        Moment {
            wall: Timestamp(now_ms + self.clock_offset_ms),
            ticks: (now_ms - self.started_ms).unsigned_abs(),
        }
    }

    /// The newest position that it has in order.
    pub fn head(&self) -> StreamSeq {
        self.ring.head().map_or(StreamSeq(0), |(_, head)| head)
    }

    /// Whether it has everything, and has delivered it.
    pub fn is_even(&self, end: StreamSeq) -> bool {
        self.head() == end && self.position == end
    }

    /// A record comes by the live feed.
    pub fn hear_live(&mut self, index: usize, stream: &Stream) {
        let position = self.live.remove(index);
        self.feed.handle_live(decode(stream, position));
    }

    /// Somebody who must know says that the log goes up to here.
    pub fn hear_known_last(&mut self, now_ms: i64, last: StreamSeq) {
        let now = self.now(now_ms).ticks;
        self.feed.handle_known_last(now, last);
    }

    /// A search came back, or failed.
    pub fn hear_found(&mut self, now_ms: i64, fill: Fill, found: Option<Found>) {
        let now = self.now(now_ms).ticks;
        match found {
            Some(found) => {
                self.counts.filled += u64::from(!found.records.is_empty());
                self.feed.handle_found(now, fill, found);
            }
            None => self.feed.handle_failed(now, fill),
        }
    }

    /// The leader says where the log ends, or does not answer.
    pub fn hear_last(&mut self, now_ms: i64, last: Option<StreamSeq>) {
        let now = self.now(now_ms).ticks;
        self.feed.handle_last(now, last);
        if let Some(last) = last {
            self.feed.handle_known_last(now, last);
        }
    }

    /// Puts in order what has come, and says what is missing.
    pub fn go_on(&mut self, now_ms: i64) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let now = self.now(now_ms).ticks;
        loop {
            while let Some(record) = self.feed.poll_record() {
                self.ring.push(Arc::clone(&record));
                self.views.apply(&record);
            }
            match self.feed.poll_step(now) {
                None => return wishes,
                Some(Step::Search(fill)) if self.fault == Some(Fault::NoGapCheck) => {
                    let all = fill.from.0..=fill.to.0;
                    let records = all.map(|position| Record::empty(StreamSeq(position)));
                    let found = Found {
                        records: records.collect(),
                        ..Found::default()
                    };
                    self.feed.handle_found(now, fill, found);
                }
                Some(Step::Search(fill)) => wishes.push(Wish::Search(fill)),
                Some(Step::AskLast) => wishes.push(Wish::AskLast),
                Some(Step::Jump(last)) => {
                    self.counts.jumps += 1;
                    if self.fault != Some(Fault::ViewsKept) {
                        self.views.start(last);
                    }
                    self.ring.start(Stream::log(), last);
                }
                Some(Step::Lost(from, to)) => self.counts.lost += to.0 - from.0 + 1,
            }
        }
    }

    /// The worker delivers up to so many records.
    pub fn deliver(&mut self, now_ms: i64, count: usize) {
        let head = self.head();
        if self.position == head {
            return;
        }
        match self.ring.after(self.position, count) {
            Read::Records(records) => {
                for record in records {
                    for entry in record.entries() {
                        self.hand(now_ms, record.position, entry);
                    }
                    self.position = record.position;
                }
            }
            Read::Evicted => {
                self.counts.evicted += 1;
                let delivered = std::mem::replace(&mut self.position, head);
                if self.fault != Some(Fault::EvictedPassedOver) {
                    self.each(now_ms, |session, now, _| {
                        session.handle_lost_feed(now, delivered);
                    });
                }
            }
        }
        self.each(now_ms, |session, now, outside| {
            if session.is_behind() {
                session.pump(now, outside);
            }
        });
    }

    fn hand(&mut self, now_ms: i64, position: StreamSeq, entry: &Entry) {
        let now = self.now(now_ms);
        let begins = entry
            .change
            .as_ref()
            .filter(|change| change.turn == Turn::Begins);
        for socket in self.sockets.values_mut() {
            let comes = begins.is_some_and(|change| socket.session.user() == Some(&change.user));
            if socket.watching.contains(&entry.room) || comes {
                socket.session.handle_entry(now, position, entry);
                socket.settle();
            }
        }
    }

    fn each(&mut self, now_ms: i64, step: impl Fn(&mut Session, Moment, &dyn Outside)) {
        let ids: Vec<SocketId> = self.sockets.keys().copied().collect();
        for id in ids {
            self.step(now_ms, id, &step);
        }
    }

    /// A socket was opened.
    pub fn open(&mut self, now_ms: i64, id: SocketId) {
        let name = ConnId::parse(&format!("c{id}")).expect("in the grammar");
        let socket = Socket {
            session: Session::new(name, self.now(now_ms)),
            watching: BTreeSet::new(),
        };
        self.sockets.insert(id, socket);
    }

    /// One step of a socket's conversation, and what follows from it on this worker.
    pub fn step<T>(
        &mut self,
        now_ms: i64,
        id: SocketId,
        step: impl FnOnce(&mut Session, Moment, &dyn Outside) -> T,
    ) -> Option<T> {
        let now = self.now(now_ms);
        let socket = self.sockets.get_mut(&id)?;
        let view = View {
            ring: &self.ring,
            views: &self.views,
            position: self.position,
            now,
            fault: self.fault,
        };
        let result = step(&mut socket.session, now, &view);
        socket.settle();
        Some(result)
    }

    /// The sockets for which time is due.
    pub fn due(&self, now_ms: i64) -> Vec<SocketId> {
        let now = self.now(now_ms);
        let due = self.sockets.iter();
        let due = due.filter(|(_, socket)| socket.session.deadline(now) <= now.ticks);
        due.map(|(id, _)| *id).collect()
    }

    /// What a search finds at any replica or at the leader; what the archive has is not known here.
    pub fn found_in_log(fill: Fill, stream: &Stream, behind: u64) -> Found {
        let end = stream.end();
        match fill.source {
            Source::Replica => {
                let last = fill.to.0.min(end.0.saturating_sub(behind));
                let positions = (fill.from.0..=last).map(StreamSeq);
                Found {
                    records: positions.map(|at| decode(stream, at)).collect(),
                    ..Found::default()
                }
            }
            Source::Leader if fill.from <= end => Found {
                records: vec![decode(stream, fill.from)],
                ..Found::default()
            },
            Source::Leader | Source::Archive => Found {
                leader: Some((StreamSeq(1), end)),
                ..Found::default()
            },
        }
    }
}

impl Socket {
    /// As `gateway::hub` keeps its registry.
    fn settle(&mut self) {
        while let Some(watch) = self.session.poll_watch() {
            match watch {
                Watch::All => self.watching.extend(self.session.rooms().cloned()),
                Watch::Nothing => {
                    let rooms: BTreeSet<&RoomId> = self.session.rooms().collect();
                    self.watching.retain(|room| !rooms.contains(room));
                }
                Watch::Add(room) => {
                    self.watching.insert(room);
                }
                Watch::Remove(room) => {
                    self.watching.remove(&room);
                }
            }
        }
    }
}

fn decode(stream: &Stream, position: StreamSeq) -> Record {
    let payload = stream.at(position).map(|stored| &stored.record.payload);
    payload
        .and_then(|payload| Record::from_envelope(position, payload).ok())
        .expect("the log holds envelopes")
}
