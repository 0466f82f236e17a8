//! Questions to history: gathered, batched, and their answers put where they are needed.
//!
//! An answer is taken only while nothing is in flight, so that no fold of an event that may yet be
//! taken back lies between it and the log.

use super::Sequencer;
use super::desk::Ticket;
use crate::partition::Base;
use protocol::query::{CidKey, UserFacts};
use protocol::request::Accepted;
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq, StreamSeq, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// Questions of one partition that may be open at once.
const ASKED_MAX: usize = 16;
/// Things asked for by one question.
const BATCH_MAX: usize = 100;

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(u64);

/// A question to history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Its name.
    pub id: AskId,
    /// History must have applied this before it answers; of a user's facts, the log's present end.
    pub min_seq: StreamSeq,
    /// What is asked.
    pub lookup: Lookup,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A room's state.
    Room(RoomId),
    /// States of messages of one room.
    Messages(RoomId, Vec<Seq>),
    /// What became of commands.
    Cids(Vec<CidKey>),
    /// Facts about a user.
    User(UserId),
}

/// What history answered, each as of the record named with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// To [`Lookup::Room`].
    Room(Option<Box<RoomState>>),
    /// To [`Lookup::Messages`], in the order asked.
    Messages(Vec<Option<MessageState>>),
    /// To [`Lookup::Cids`], in the order asked.
    Cids(Vec<Option<Accepted>>),
    /// To [`Lookup::User`].
    User(UserFacts),
}

/// One thing to find out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Room(RoomId),
    Message(RoomId, Seq),
    Cid(CidKey),
    User(UserId),
}

/// All open questions of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookups {
    waiters: BTreeMap<Wanted, BTreeSet<Ticket>>,
    /// Those of `waiters` that no open question asks.
    unasked: BTreeSet<Wanted>,
    asked: BTreeMap<AskId, Lookup>,
    answers: Vec<(Lookup, Option<(StreamSeq, Answered)>)>,
    asks: u64,
}

impl Lookups {
    /// Wants something for a request.
    pub(super) fn want(&mut self, wanted: Wanted, ticket: Ticket) {
        let waiters = self.waiters.entry(wanted.clone()).or_default();
        if waiters.is_empty() {
            self.unasked.insert(wanted);
        }
        waiters.insert(ticket);
    }

    fn want_again(&mut self, wanted: Wanted) {
        if self.waiters.contains_key(&wanted) {
            self.unasked.insert(wanted);
        }
    }

    fn take_waiters(&mut self, wanted: &Wanted) -> BTreeSet<Ticket> {
        self.waiters.remove(wanted).unwrap_or_default()
    }

    /// The next question; `window` is W, `floor` is V.
    pub(super) fn poll(&mut self, window: StreamSeq, floor: StreamSeq) -> Option<Ask> {
        if self.asked.len() >= ASKED_MAX {
            return None;
        }
        let (lookup, min_seq) = match self.unasked.pop_first()? {
            Wanted::Room(room) => (Lookup::Room(room), floor),
            Wanted::User(user) => (Lookup::User(user), StreamSeq(0)),
            Wanted::Message(room, seq) => {
                let mut seqs = vec![seq];
                while seqs.len() < BATCH_MAX {
                    match self.unasked.first() {
                        Some(Wanted::Message(other, seq)) if *other == room => seqs.push(*seq),
                        Some(_) | None => break,
                    }
                    self.unasked.pop_first();
                }
                (Lookup::Messages(room, seqs), floor)
            }
            Wanted::Cid(key) => {
                let mut keys = vec![key];
                while keys.len() < BATCH_MAX {
                    match self.unasked.first() {
                        Some(Wanted::Cid(key)) => keys.push(key.clone()),
                        Some(_) | None => break,
                    }
                    self.unasked.pop_first();
                }
                (Lookup::Cids(keys), window)
            }
        };
        self.asks += 1;
        let id = AskId(self.asks);
        self.asked.insert(id, lookup.clone());
        Some(Ask {
            id,
            min_seq,
            lookup,
        })
    }
}

impl Lookup {
    fn wanted(&self) -> Vec<Wanted> {
        match self {
            Self::Room(room) => vec![Wanted::Room(room.clone())],
            Self::User(user) => vec![Wanted::User(user.clone())],
            Self::Messages(room, seqs) => seqs
                .iter()
                .map(|seq| Wanted::Message(room.clone(), *seq))
                .collect(),
            Self::Cids(keys) => keys.iter().cloned().map(Wanted::Cid).collect(),
        }
    }
}

impl Sequencer {
    /// History answered a question as of the record named, or did not answer (`None`).
    pub fn handle_answer(&mut self, id: AskId, answer: Option<(StreamSeq, Answered)>) {
        if let Some(lookup) = self.lookups.asked.remove(&id) {
            self.lookups.answers.push((lookup, answer));
        }
    }

    /// Takes all answers that have come; nothing is in flight.
    pub(super) fn install_answers(&mut self) {
        for (lookup, answer) in std::mem::take(&mut self.lookups.answers) {
            match (lookup, answer) {
                (lookup, None) => self.give_up(&lookup),
                (Lookup::Room(room), Some((applied, Answered::Room(state)))) => {
                    self.take_room(&room, applied, state.map(|state| *state));
                }
                (Lookup::Messages(room, seqs), Some((applied, Answered::Messages(states))))
                    if states.len() == seqs.len() =>
                {
                    for entry in seqs.into_iter().zip(states) {
                        self.take_message(&room, applied, entry);
                    }
                }
                (Lookup::Cids(keys), Some((applied, Answered::Cids(found))))
                    if found.len() == keys.len() =>
                {
                    for entry in keys.into_iter().zip(found) {
                        self.take_cid(applied, entry);
                    }
                }
                (Lookup::User(user), Some((_, Answered::User(facts)))) => {
                    self.take_user(&user, Some(facts));
                }
                // An answer to another question: as good as none.
                (lookup, Some(_)) => self.give_up(&lookup),
            }
        }
    }

    fn take_room(&mut self, room: &RoomId, applied: StreamSeq, state: Option<RoomState>) {
        let wanted = Wanted::Room(room.clone());
        let base = self.partition.install_room(room, applied, state);
        if base == Base::TooOld {
            self.lookups.want_again(wanted);
            return;
        }
        for ticket in self.lookups.take_waiters(&wanted) {
            if let Some(answers) = self.desk.answers_mut(ticket) {
                answers.absent = (base == Base::Absent).then_some(applied);
            }
            self.desk.wake(ticket);
        }
    }

    fn take_message(
        &mut self,
        room: &RoomId,
        applied: StreamSeq,
        entry: (Seq, Option<MessageState>),
    ) {
        let wanted = Wanted::Message(room.clone(), entry.0);
        if !self.partition.install_message(room, applied, entry) {
            self.lookups.want_again(wanted);
            return;
        }
        for ticket in self.lookups.take_waiters(&wanted) {
            self.desk.wake(ticket);
        }
    }

    fn take_cid(&mut self, applied: StreamSeq, (key, found): (CidKey, Option<Accepted>)) {
        let cid = key.cid;
        let wanted = Wanted::Cid(key);
        if found.is_none() && applied < self.partition.dedup.position() {
            self.lookups.want_again(wanted);
            return;
        }
        for ticket in self.lookups.take_waiters(&wanted) {
            if let Some(answers) = self.desk.answers_mut(ticket) {
                answers.cids.insert(cid, (applied, found.clone()));
            }
            self.desk.wake(ticket);
        }
    }

    fn take_user(&mut self, user: &UserId, facts: Option<UserFacts>) {
        for ticket in self.lookups.take_waiters(&Wanted::User(user.clone())) {
            if let Some(answers) = self.desk.answers_mut(ticket) {
                answers.users.insert(user.clone(), facts);
            }
            self.desk.wake(ticket);
        }
    }

    /// History did not answer: whoever must have the answer gets `unavailable`.
    fn give_up(&mut self, lookup: &Lookup) {
        if let Lookup::User(user) = lookup {
            self.take_user(user, None);
            return;
        }
        for wanted in lookup.wanted() {
            for ticket in self.lookups.take_waiters(&wanted) {
                if let Some(answers) = self.desk.answers_mut(ticket) {
                    answers.failed = true;
                }
                self.desk.wake(ticket);
            }
        }
    }
}
