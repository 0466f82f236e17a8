//! How a conversation begins: the token, then from where the client goes on.
//!
//! With a cursor that memory covers, nothing is asked; else history tells what was missed; else it
//! tells every room anew. A cursor is never an error.

use super::outside::{Action, Answered, Outcome, Outside};
use super::{Phase, Purpose, Session, Who, frame};
use crate::moment::Moment;
use protocol::cursor::Cursor;
use protocol::error::CloseCode;
use protocol::frame::server::reply_ok;
use protocol::frame::{Hello, HelloOk, RoomSnapshot, ServerEvent, Window};
use protocol::limits::{PING_INTERVAL_MS, WINDOW_ROOMS_MAX, WINDOW_TIMELINE_MAX};
use protocol::query::{CatchUp, Missed, Query, Snapshots};
use protocol::{ErrorCode, Refusal, RoomId, Seq, StreamSeq};
use std::collections::{BTreeMap, BTreeSet};

/// Records by which another gateway may be ahead of this one.
const AHEAD_MAX: u64 = 1_000;

/// A hello that waits for history.
#[derive(Debug)]
pub(super) struct Greeting {
    id: Option<u64>,
    have: BTreeMap<RoomId, Seq>,
    window: Window,
    /// Whether the user's own room was made by this hello.
    introduced: bool,
    step: Step,
}

/// What was asked last.
#[derive(Debug)]
enum Step {
    /// What was missed since the cursor.
    CatchUp { after: StreamSeq },
    /// Every room.
    Snapshots,
    /// To make the user's own room.
    Introduce,
    /// What the client needs beside these rooms.
    Have {
        applied: StreamSeq,
        snapshots: Box<Snapshots>,
    },
}

/// What a conversation without a usable cursor begins with.
struct Anew {
    applied: StreamSeq,
    snapshots: Snapshots,
    skips: Vec<Missed>,
}

impl Greeting {
    /// Whether it waits for what is ahead of this process.
    fn is_ahead_of(&self, outside: &dyn Outside) -> bool {
        let head = outside
            .head()
            .map(|(_, position)| position)
            .unwrap_or_default();
        match &self.step {
            Step::CatchUp { after } => *after > head,
            Step::Snapshots | Step::Introduce | Step::Have { .. } => false,
        }
    }

    /// Whether history could not tell in one answer what was missed.
    fn missed_too_much(&self, refusal: &Refusal) -> bool {
        matches!(self.step, Step::CatchUp { .. }) && refusal.code == ErrorCode::TooLarge
    }
}

fn clamp(window: Option<Window>) -> Window {
    let window = window.unwrap_or(Window { rooms: 0, tl: 0 });
    Window {
        rooms: window.rooms.min(WINDOW_ROOMS_MAX),
        tl: window.tl.min(WINDOW_TIMELINE_MAX),
    }
}

impl Session {
    pub(super) fn say_hello(
        &mut self,
        now: Moment,
        id: Option<u64>,
        hello: &Hello,
        outside: &dyn Outside,
    ) {
        let identity = match outside.verify(&hello.token) {
            Ok(identity) => identity,
            Err(refusal) => {
                self.refuse(id, &refusal);
                self.close(if refusal.code == ErrorCode::TokenExpired {
                    CloseCode::TokenExpired
                } else {
                    CloseCode::AuthFailed
                });
                return;
            }
        };
        if let Some(who) = &self.who {
            if who.identity.user != identity.user {
                self.refuse(id, &Refusal::plain(ErrorCode::Unauthorized));
                self.close(CloseCode::AuthFailed);
                return;
            }
        } else if let Err(code) = outside.admit(&identity.user, hello.dev.as_ref()) {
            self.close(code);
            return;
        }
        self.heartbeat.handle_token(identity.expires);
        self.who = Some(Who {
            own: RoomId::own(&identity.user),
            identity,
        });
        self.follow.window_timeline = clamp(hello.win).tl;
        self.choose_start(now, id, hello, outside);
    }

    fn choose_start(&mut self, now: Moment, id: Option<u64>, hello: &Hello, outside: &dyn Outside) {
        let Some((log, head)) = outside.head() else {
            let msg = "the gateway has no connection to the log yet";
            return self.put_off(id, &Refusal::new(ErrorCode::Unavailable, msg));
        };
        self.log = Some(log.clone());
        let cursor = hello
            .cur
            .as_deref()
            .and_then(|text| Cursor::parse(text).ok());
        // Another gateway may be a little ahead of this one; what is far ahead is no cursor of this log.
        let possible = |cursor: &Cursor| {
            cursor.log == log && cursor.position.0.saturating_sub(head.0) <= AHEAD_MAX
        };
        let after = cursor.filter(possible).map(|cursor| cursor.position);
        let greeting = |step| Greeting {
            id,
            have: hello.have.clone(),
            window: clamp(hello.win),
            introduced: false,
            step,
        };
        let Some(after) = after else {
            self.phase = Phase::Greeting(Box::new(greeting(Step::Snapshots)));
            return self.ask_snapshots(head);
        };
        let user = self.user().cloned();
        if let Some(rooms) = user.and_then(|user| outside.rooms_at(&user, after)) {
            self.answer_hello(now, id, (true, listed(&mut rooms.iter())), outside);
            let rooms = rooms.into_iter().map(|room| (room, Seq(0))).collect();
            self.follow.have.clone_from(&hello.have);
            return self.start_following(now, rooms, after);
        }
        self.follow.have.clone_from(&hello.have);
        let have = self.follow.have.clone();
        self.phase = Phase::Greeting(Box::new(greeting(Step::CatchUp { after })));
        let window_timeline = clamp(hello.win).tl;
        let query = |viewer| Query::CatchUp {
            viewer,
            after,
            have,
            window_timeline,
        };
        self.ask_for_hello(query, head.max(after));
    }

    fn ask_for_hello(
        &mut self,
        query: impl FnOnce(protocol::query::Viewer) -> Query,
        min_seq: StreamSeq,
    ) {
        let Some(viewer) = self.viewer() else { return };
        let ticket = self.ticket(Purpose::Hello);
        let query = Box::new(query(viewer));
        self.actions.push_back(Action::Ask {
            ticket,
            query,
            min_seq,
        });
    }

    fn ask_snapshots(&mut self, min_seq: StreamSeq) {
        let Phase::Greeting(greeting) = &self.phase else {
            return;
        };
        let window = greeting.window;
        self.ask_for_hello(
            |viewer| Query::Snapshots {
                viewer,
                rooms: None,
                window_rooms: window.rooms,
                window_timeline: window.tl,
            },
            min_seq,
        );
    }

    pub(super) fn greeting_outcome(
        &mut self,
        now: Moment,
        outcome: Outcome,
        outside: &dyn Outside,
    ) {
        let Phase::Greeting(mut greeting) = std::mem::replace(&mut self.phase, Phase::Refused)
        else {
            return;
        };
        let id = greeting.id;
        let answered = match outcome {
            Outcome::Answer(Ok(answered)) => answered,
            Outcome::Introduced(Ok(stored)) => {
                greeting.step = Step::Snapshots;
                greeting.introduced = true;
                self.phase = Phase::Greeting(greeting);
                return self.ask_snapshots(stored);
            }
            // The log may never come to where a made-up cursor points, and what was missed may be too much
            // for one answer; a cursor is never an error.
            Outcome::Answer(Err(refusal))
                if greeting.is_ahead_of(outside) || greeting.missed_too_much(&refusal) =>
            {
                greeting.step = Step::Snapshots;
                self.phase = Phase::Greeting(greeting);
                let head = outside
                    .head()
                    .map(|(_, position)| position)
                    .unwrap_or_default();
                return self.ask_snapshots(head);
            }
            Outcome::Answer(Err(refusal))
            | Outcome::Introduced(Err(refusal))
            | Outcome::Sent(Err(refusal)) => return self.put_off(id, &refusal),
            Outcome::Sent(Ok(_)) => return self.put_off(id, &Refusal::plain(ErrorCode::Internal)),
        };
        match std::mem::replace(&mut greeting.step, Step::Introduce) {
            Step::CatchUp { .. } => self.caught_up(now, greeting, &answered, outside),
            Step::Snapshots => self.got_snapshots(now, greeting, &answered, outside),
            Step::Have { applied, snapshots } => {
                let skips = parse::<CatchUp>(&answered).map(|answer| answer.missed);
                let skips = skips.unwrap_or_default();
                let anew = Anew {
                    applied,
                    snapshots: *snapshots,
                    skips,
                };
                self.begin_anew(now, id, anew, outside);
            }
            Step::Introduce => self.put_off(id, &Refusal::plain(ErrorCode::Internal)),
        }
    }

    fn caught_up(
        &mut self,
        now: Moment,
        mut greeting: Box<Greeting>,
        answered: &Answered,
        outside: &dyn Outside,
    ) {
        let Some(answer) = parse::<CatchUp>(answered) else {
            return self.put_off(greeting.id, &Refusal::plain(ErrorCode::Internal));
        };
        if !answer.known {
            greeting.step = Step::Snapshots;
            self.phase = Phase::Greeting(greeting);
            return self.ask_snapshots(answered.applied);
        }
        let count = listed(&mut answer.rooms.iter());
        self.answer_hello(now, greeting.id, (true, count), outside);
        self.start_following(now, BTreeMap::new(), answered.applied);
        self.take_catch_up(answered.applied, answer, outside);
    }

    fn got_snapshots(
        &mut self,
        now: Moment,
        mut greeting: Box<Greeting>,
        answered: &Answered,
        outside: &dyn Outside,
    ) {
        let Some(snapshots) = parse::<Snapshots>(answered) else {
            return self.put_off(greeting.id, &Refusal::plain(ErrorCode::Internal));
        };
        if !snapshots.known {
            if greeting.introduced {
                let msg = "your own room is not in the archive yet";
                return self.put_off(greeting.id, &Refusal::new(ErrorCode::Unavailable, msg));
            }
            greeting.step = Step::Introduce;
            self.phase = Phase::Greeting(greeting);
            let ticket = self.ticket(Purpose::Hello);
            return self.actions.push_back(Action::Introduce { ticket });
        }
        let applied = answered.applied;
        if greeting.have.is_empty() {
            let anew = Anew {
                applied,
                snapshots,
                skips: Vec::new(),
            };
            return self.begin_anew(now, greeting.id, anew, outside);
        }
        let have = std::mem::take(&mut greeting.have);
        let window_timeline = greeting.window.tl;
        greeting.step = Step::Have {
            applied,
            snapshots: Box::new(snapshots),
        };
        self.phase = Phase::Greeting(greeting);
        self.ask_for_hello(
            |viewer| Query::Have {
                viewer,
                have,
                window_timeline,
            },
            applied,
        );
    }

    /// Every room as it is; a `skip` in place of the `state` where the client holds something.
    fn begin_anew(&mut self, now: Moment, id: Option<u64>, anew: Anew, outside: &dyn Outside) {
        let Anew {
            applied,
            snapshots,
            skips,
        } = anew;
        let mut skips: BTreeMap<RoomId, _> = skips
            .into_iter()
            .filter_map(|missed| match missed {
                Missed::Skip(skip) => Some((skip.state.room.clone(), skip)),
                Missed::Events { .. } | Missed::State(_) => None,
            })
            .collect();
        let mut names = snapshots.rooms.iter().map(|snapshot| &snapshot.room);
        self.answer_hello(now, id, (false, listed(&mut names)), outside);
        let mut rooms = BTreeMap::new();
        let mut frames = Vec::with_capacity(snapshots.rooms.len());
        for snapshot in snapshots.rooms {
            let room = snapshot.room.clone();
            let (at, event) = match skips.remove(&room) {
                Some(skip) => (skip.state.at, ServerEvent::Skip(skip)),
                None => state(snapshot),
            };
            frames.push(frame(&event));
            rooms.insert(room, at);
        }
        let names: BTreeSet<RoomId> = rooms.keys().cloned().collect();
        if let Some(user) = self.user() {
            outside.remember(user, applied, &names);
        }
        self.start_following(now, rooms, applied);
        self.follow.backlog.extend(frames);
    }

    fn answer_hello(
        &mut self,
        now: Moment,
        id: Option<u64>,
        (resumed, rooms): (bool, usize),
        outside: &dyn Outside,
    ) {
        self.phase = Phase::Greeted;
        self.heartbeat.handle_greeted();
        let (Some(id), Some(who)) = (id, &self.who) else {
            return;
        };
        let ok = HelloOk {
            user: who.identity.user.clone(),
            own: who.own.clone(),
            conn: self.conn.clone(),
            now: now.wall,
            ping_ms: PING_INTERVAL_MS,
            limits: outside.limits(),
            resumed,
            rooms: Some(rooms),
            token_exp: who.identity.expires,
        };
        self.outbox.push(reply_ok(id, &ok).into());
    }

    /// The hello cannot be answered now; the socket stays, and the client says it again.
    fn put_off(&mut self, id: Option<u64>, refusal: &Refusal) {
        self.phase = Phase::Refused;
        self.refuse(id, refusal);
    }
}

/// How many rooms that is for the client: its own room is not one of them.
fn listed(rooms: &mut dyn Iterator<Item = &RoomId>) -> usize {
    rooms.filter(|room| !room.is_own()).count()
}

/// The event of a room as it is, and the seq that it is of.
pub(super) fn state(snapshot: RoomSnapshot) -> (Seq, ServerEvent) {
    (snapshot.at, ServerEvent::State(Box::new(snapshot)))
}

/// Reads an answer; one that is not as the protocol says is logged and counts as none.
pub(super) fn parse<T: serde::de::DeserializeOwned>(answered: &Answered) -> Option<T> {
    match serde_json::from_str(answered.ok.get()) {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::error!(%error, "an answer of history cannot be read");
            None
        }
    }
}
