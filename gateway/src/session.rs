//! The protocol of one socket as a state machine: no transport, no clock, no waiting.
//!
//! The shell brings what was received ([`Session::handle_text`]), what asked questions led to
//! ([`Session::handle_outcome`]), records of the log ([`Session::handle_entry`]) and time
//! ([`Session::handle_tick`]); it takes messages ([`Session::poll_message`]), questions
//! ([`Session::poll_action`]) and a close code ([`Session::closing`]).
//! Reading from memory goes through [`Outside`].
//!
//! Parts: `hello` begins, `commands` takes lines, `follow` keeps up with the log, `heartbeat` has
//! the clocks, `outbox` the queue.
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod commands;
mod follow;
mod heartbeat;
mod hello;
mod outbox;
pub mod outside;
#[cfg(test)]
mod tests;

use self::follow::Follow;
use self::heartbeat::{Due, Heartbeat};
use self::hello::Greeting;
use self::outbox::Outbox;
use self::outside::{Action, Outcome, Outside, Ticket, Watch};
use crate::auth::Identity;
use crate::moment::Moment;
use crate::ring::record::Entry;
use bytestring::ByteString;
use protocol::error::CloseCode;
use protocol::frame::ServerEvent;
use protocol::frame::server::reply_err;
use protocol::query::{ReadCommand, Viewer};
use protocol::{ConnId, LogId, Refusal, RoomId, StreamSeq, UserId};
use std::collections::{BTreeMap, VecDeque};

/// How far the conversation is.
#[derive(Debug)]
enum Phase {
    /// No hello yet.
    Fresh,
    /// The token was good; history is being asked.
    Greeting(Box<Greeting>),
    /// History could not answer; the client says hello again.
    Refused,
    /// Hello was answered.
    Greeted,
}

/// What a ticket was for.
#[derive(Debug)]
enum Purpose {
    Hello,
    CatchUp,
    Enter(RoomId),
    Read(Option<u64>),
    Write(Vec<Option<u64>>),
}

/// Who the socket belongs to.
#[derive(Debug)]
struct Who {
    identity: Identity,
    own: RoomId,
}

/// One socket's conversation.
#[derive(Debug)]
pub struct Session {
    conn: ConnId,
    phase: Phase,
    who: Option<Who>,
    log: Option<LogId>,
    outbox: Outbox,
    follow: Follow,
    heartbeat: Heartbeat,
    purposes: BTreeMap<Ticket, Purpose>,
    next_ticket: Ticket,
    actions: VecDeque<Action>,
    watches: VecDeque<Watch>,
    reads: VecDeque<(Option<u64>, ReadCommand)>,
    commands_in_flight: usize,
    closing: Option<CloseCode>,
}

impl Session {
    /// A socket was opened.
    #[must_use]
    pub fn new(conn: ConnId, now: Moment) -> Self {
        Self {
            conn,
            phase: Phase::Fresh,
            who: None,
            log: None,
            outbox: Outbox::default(),
            follow: Follow::default(),
            heartbeat: Heartbeat::new(now),
            purposes: BTreeMap::new(),
            next_ticket: 1,
            actions: VecDeque::new(),
            watches: VecDeque::new(),
            reads: VecDeque::new(),
            commands_in_flight: 0,
            closing: None,
        }
    }

    /// Anything was received, be it a control frame.
    pub fn handle_heard(&mut self, now: Moment) {
        self.heartbeat.handle_heard(now);
    }

    /// A text message was received.
    pub fn handle_text(&mut self, now: Moment, text: &str, outside: &dyn Outside) {
        self.heartbeat.handle_heard(now);
        self.take_lines(now, text, outside);
        self.pump(now, outside);
    }

    /// An action has come to its end.
    pub fn handle_outcome(
        &mut self,
        now: Moment,
        ticket: Ticket,
        outcome: Outcome,
        outside: &dyn Outside,
    ) {
        match self.purposes.remove(&ticket) {
            Some(Purpose::Hello) => self.greeting_outcome(now, outcome, outside),
            Some(Purpose::CatchUp) => self.catch_up_outcome(now, outcome, outside),
            Some(Purpose::Enter(room)) => self.enter_outcome(now, &room, outcome, outside),
            Some(Purpose::Read(id)) => self.read_outcome(id, outcome),
            Some(Purpose::Write(ids)) => self.write_outcome(&ids, outcome),
            None => {}
        }
        self.pump(now, outside);
    }

    /// The next event of a watched room, or one that makes the user a member of a room.
    ///
    /// Returns whether something was queued.
    pub fn handle_entry(&mut self, now: Moment, position: StreamSeq, entry: &Entry) -> bool {
        self.follow_entry(now, position, entry)
    }

    /// Time has passed; ask at [`Session::deadline`] at the latest.
    pub fn handle_tick(&mut self, now: Moment, outside: &dyn Outside) {
        while let Some(due) = self.heartbeat.poll(now) {
            match due {
                Due::Close(code) => {
                    self.close(code);
                    break;
                }
                Due::Ping => {
                    let cur = self.cursor(outside).map(|cursor| cursor.to_string());
                    self.push(&ServerEvent::Ping { cur, now: now.wall });
                }
                Due::TokenNotice(exp_in_s) => self.push(&ServerEvent::Token { exp_in_s }),
            }
        }
        self.pump(now, outside);
    }

    /// This gateway stops: the client shall move within so many ms.
    pub fn handle_goaway(&mut self, within_ms: u64) {
        if matches!(self.phase, Phase::Greeted) && self.closing.is_none() {
            self.push(&ServerEvent::Goaway {
                within_ms: [0, within_ms],
                why: "upgrade".to_owned(),
            });
        }
    }

    /// The shell wants the socket closed.
    pub fn handle_close(&mut self, code: CloseCode) {
        self.close(code);
    }

    /// Makes room for what has been waiting for it: call after messages were taken, and when this
    /// worker's position has moved.
    pub fn pump(&mut self, now: Moment, outside: &dyn Outside) {
        if self.closing.is_none() {
            self.pump_follow(now, outside);
            self.start_reads(outside);
        }
    }

    /// The next message to write, and how many frames are in it.
    pub fn poll_message(&mut self) -> Option<(ByteString, usize)> {
        self.outbox.pop_message()
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether [`Session::poll_action`] has something.
    #[must_use]
    pub fn has_action(&self) -> bool {
        !self.actions.is_empty()
    }

    /// Whether [`Session::pump`] could go on now that messages were taken.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        !self.reads.is_empty() || self.follow.waits_for_room()
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether [`Session::poll_watch`] has something.
    #[must_use]
    pub fn has_watch(&self) -> bool {
        !self.watches.is_empty()
    }

    /// The next change in what shall be delivered.
    pub fn poll_watch(&mut self) -> Option<Watch> {
        self.watches.pop_front()
    }

    /// Set once the socket has to be closed; what is queued is written before.
    #[must_use]
    pub fn closing(&self) -> Option<CloseCode> {
        self.closing
    }

    /// The user, once a token was good.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.who.as_ref().map(|who| &who.identity.user)
    }

    /// Whether the token's role is `guest`.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.identity.guest)
    }

    /// When to call [`Session::handle_tick`] at the latest, in ticks.
    #[must_use]
    pub fn deadline(&self, now: Moment) -> u64 {
        let heartbeat = self.heartbeat.deadline(now);
        self.follow
            .deadline()
            .map_or(heartbeat, |retry| heartbeat.min(retry))
    }

    fn close(&mut self, code: CloseCode) {
        if self.closing.is_none() {
            self.closing = Some(code);
            self.watches.push_back(Watch::Nothing);
            self.actions.clear();
        }
    }

    fn push(&mut self, event: &ServerEvent) {
        self.outbox.push(frame(event));
    }

    fn refuse(&mut self, id: Option<u64>, refusal: &Refusal) {
        if id.is_some() {
            self.outbox.push(reply_err(id, refusal).into());
        }
    }

    fn ticket(&mut self, purpose: Purpose) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.purposes.insert(ticket, purpose);
        ticket
    }

    fn viewer(&self) -> Option<Viewer> {
        let identity = &self.who.as_ref()?.identity;
        Some(Viewer {
            user: identity.user.clone(),
            guest: identity.guest,
        })
    }
}

/// A line of the server.
fn frame(event: &ServerEvent) -> ByteString {
    serde_json::to_string(event)
        .expect("events of the server are JSON")
        .into()
}
