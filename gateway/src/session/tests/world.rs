//! A world for sessions: the real ring and views, tokens that name their user, and no clock.

use crate::auth::Identity;
use crate::moment::Moment;
use crate::ring::record::Record;
use crate::ring::record::tests::record;
use crate::ring::{Bounds, Ring};
use crate::session::Session;
use crate::session::outside::{Action, Answered, Outcome, Outside, Span, Ticket, Verdict, Watch};
use crate::views::Views;
use protocol::error::CloseCode;
use protocol::event::EventBody;
use protocol::query::Query;
use protocol::{ConnId, DeviceId, ErrorCode, LogId, Refusal, RoomId, StreamSeq, Timestamp, UserId};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

pub(super) struct World {
    pub(super) ring: Ring,
    pub(super) views: Views,
    pub(super) position: Cell<StreamSeq>,
    pub(super) verdicts: RefCell<Vec<Verdict>>,
    pub(super) admits: Cell<Result<(), CloseCode>>,
    pub(super) ticks: Cell<u64>,
}

impl World {
    /// A log that ends at 10.
    pub(super) fn new() -> Rc<Self> {
        Self::with_ring(10_000)
    }

    pub(super) fn with_ring(records: usize) -> Rc<Self> {
        let world = Self::without_log(records);
        world.start();
        world
    }

    pub(super) fn without_log(records: usize) -> Rc<Self> {
        Rc::new(Self {
            ring: Ring::new(Bounds {
                records,
                bytes: 1 << 28,
            }),
            views: Views::default(),
            position: Cell::new(StreamSeq(10)),
            verdicts: RefCell::default(),
            admits: Cell::new(Ok(())),
            ticks: Cell::new(0),
        })
    }

    pub(super) fn start(&self) {
        self.ring
            .start(LogId::parse("log1").unwrap(), StreamSeq(10));
        self.views.start(StreamSeq(10));
    }

    /// Appends a record to the log; no worker has delivered it yet.
    pub(super) fn stores(&self, events: &[(&str, u64, EventBody)]) -> Arc<Record> {
        let (_, last) = self.ring.head().unwrap();
        let record = Arc::new(record(last.next().0, events));
        self.ring.push(Arc::clone(&record));
        self.views.apply(&record);
        record
    }

    pub(super) fn now(&self) -> Moment {
        let ticks = self.ticks.get();
        Moment {
            wall: Timestamp(1_000_000 + i64::try_from(ticks).unwrap()),
            ticks,
        }
    }
}

impl Outside for World {
    fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        match token.split_once(':') {
            Some(("good", user)) => Ok(Identity {
                user: UserId::parse(user).unwrap(),
                guest: false,
                expires: Timestamp(1_000_000 + 3_600_000),
            }),
            Some(("old", _)) => Err(Refusal::plain(ErrorCode::TokenExpired)),
            _ => Err(Refusal::plain(ErrorCode::Unauthorized)),
        }
    }

    fn admit(&self, _: &UserId, _: Option<&DeviceId>) -> Result<(), CloseCode> {
        self.admits.get()
    }

    fn rate(&self, _: &UserId) -> Verdict {
        self.verdicts.borrow_mut().pop().unwrap_or(Verdict::Go)
    }

    fn head(&self) -> Option<(LogId, StreamSeq)> {
        self.ring.head()
    }

    fn position(&self) -> StreamSeq {
        self.position.get()
    }

    fn rooms_at(&self, user: &UserId, position: StreamSeq) -> Option<BTreeSet<RoomId>> {
        self.ring
            .holds_after(position)
            .then(|| self.views.rooms_at(user, position, 0))?
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
        self.views.remember(user, applied, rooms, (&self.ring, 0));
    }
}

/// One socket and the worker that it is on.
pub(super) struct Client {
    pub(super) session: Session,
    pub(super) world: Rc<World>,
    watched: BTreeSet<RoomId>,
}

impl Client {
    pub(super) fn connects(world: &Rc<World>) -> Self {
        let conn = ConnId::parse("c1").unwrap();
        let session = Session::new(conn, world.now());
        Self {
            session,
            world: Rc::clone(world),
            watched: BTreeSet::new(),
        }
    }

    /// A client of alice in these rooms as of the end of the log, live.
    pub(super) fn is_in(world: &Rc<World>, rooms: &[&str]) -> Self {
        let mut client = Self::connects(world);
        client.says(r#"{"id":1,"op":"hello","token":"good:alice"}"#);
        let position = world.position.get();
        client.history_answers(position.0, &snapshots(rooms, 0));
        client.hears();
        client
    }

    pub(super) fn says(&mut self, text: &str) {
        self.session
            .handle_text(self.world.now(), text, &*self.world);
        self.watch();
    }

    /// Every frame that waits, as the socket would take it.
    pub(super) fn hears(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Some((message, _)) = self.session.poll_message() {
            frames.extend(
                message
                    .lines()
                    .map(|line| serde_json::from_str::<Value>(line).unwrap()),
            );
            self.session.pump(self.world.now(), &*self.world);
            self.watch();
        }
        frames
    }

    /// One message only; nothing more is taken.
    pub(super) fn hears_one_message(&mut self) -> Vec<Value> {
        let Some((message, _)) = self.session.poll_message() else {
            return Vec::new();
        };
        self.session.pump(self.world.now(), &*self.world);
        self.watch();
        message
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The frames in short: `msg r1 3`, `live`, `ok 1`, `err 1 gone`.
    pub(super) fn hears_short(&mut self) -> Vec<String> {
        self.hears().iter().map(short).collect()
    }

    pub(super) fn asks(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.session.poll_action()).collect()
    }

    /// The one question that waits for history.
    pub(super) fn question(&mut self) -> (Ticket, Query, StreamSeq) {
        let mut actions = self.asks();
        match (actions.pop(), actions.is_empty()) {
            (
                Some(Action::Ask {
                    ticket,
                    query,
                    min_seq,
                }),
                true,
            ) => (ticket, *query, min_seq),
            (other, _) => panic!("one question, not {other:?} and {actions:?}"),
        }
    }

    pub(super) fn history_answers(&mut self, applied: u64, ok: &Value) -> Query {
        let (ticket, query, _) = self.question();
        self.outcome(ticket, answer(applied, ok));
        query
    }

    pub(super) fn history_is_away(&mut self) -> Query {
        let (ticket, query, _) = self.question();
        let refusal = Refusal::plain(ErrorCode::Unavailable);
        self.outcome(ticket, Outcome::Answer(Err(refusal)));
        query
    }

    pub(super) fn outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        self.session
            .handle_outcome(self.world.now(), ticket, outcome, &*self.world);
        self.watch();
    }

    /// The worker goes on to the end of the log.
    pub(super) fn worker_delivers(&mut self) {
        let from = self.world.position.get();
        let (_, to) = self.world.ring.head().unwrap();
        self.worker_delivers_to(from, to);
    }

    fn worker_delivers_to(&mut self, from: StreamSeq, to: StreamSeq) {
        let crate::ring::Read::Records(records) = self.world.ring.after(from, usize::MAX) else {
            self.world.position.set(to);
            self.session.handle_lost_feed(self.world.now(), from);
            self.session.pump(self.world.now(), &*self.world);
            return self.watch();
        };
        for record in records {
            for entry in record.entries() {
                let own = entry
                    .change
                    .as_ref()
                    .is_some_and(|c| Some(&c.user) == self.session.user());
                if self.watched.contains(&entry.room) || own {
                    let now = self.world.now();
                    self.session.handle_entry(now, record.position, entry);
                    self.watch();
                }
            }
            self.world.position.set(record.position);
        }
        if self.session.is_behind() {
            self.session.pump(self.world.now(), &*self.world);
            self.watch();
        }
    }

    pub(super) fn waits_until(&mut self, ticks: u64) {
        loop {
            let next = self.session.deadline(self.world.now()).min(ticks);
            self.world.ticks.set(next);
            self.session.handle_tick(self.world.now(), &*self.world);
            self.watch();
            if next >= ticks || self.session.closing().is_some() {
                return;
            }
        }
    }

    fn watch(&mut self) {
        while let Some(watch) = self.session.poll_watch() {
            match watch {
                Watch::All => self.watched = self.session.rooms().cloned().collect(),
                Watch::Nothing => self.watched.clear(),
                Watch::Add(room) => drop(self.watched.insert(room)),
                Watch::Remove(room) => drop(self.watched.remove(&room)),
            }
        }
    }
}

pub(super) fn answer(applied: u64, ok: &Value) -> Outcome {
    let ok = serde_json::value::to_raw_value(ok).unwrap();
    Outcome::Answer(Ok(Answered {
        applied: StreamSeq(applied),
        ok,
    }))
}

/// A room's state, without which there is no snapshot.
pub(super) fn state_of(room: &str, at: u64) -> Value {
    let kind = if room.starts_with("s_") {
        "self"
    } else {
        "private"
    };
    json!({"room":room,"kind":kind,"role":"member","members":2,"head":at,
        "head_hash":protocol::chain::Hash::ZERO,"at":at})
}

pub(super) fn snapshots(rooms: &[&str], at: u64) -> Value {
    let rooms: Vec<_> = rooms.iter().map(|room| state_of(room, at)).collect();
    json!({"known":true,"rooms":rooms})
}

pub(super) fn short(frame: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match frame {
        frame if frame.get("ok").is_some() => format!("ok {}", frame["id"]),
        frame if frame.get("err").is_some() => {
            format!("err {} {}", frame["id"], text(&frame["err"]["code"]))
        }
        frame if frame.get("seq").is_some() => {
            format!(
                "{} {} {}",
                text(&frame["ev"]),
                text(&frame["room"]),
                frame["seq"]
            )
        }
        frame if frame.get("at").is_some() => {
            format!(
                "{} {} at {}",
                text(&frame["ev"]),
                text(&frame["room"]),
                frame["at"]
            )
        }
        frame if frame.get("room").is_some() => {
            format!("{} {}", text(&frame["ev"]), text(&frame["room"]))
        }
        frame => text(&frame["ev"]),
    }
}
