//! Requests between their arrival and their answer.
//!
//! Each result is first tentative, then settled. A request's settled results are a prefix; the rest is
//! taken back and judged again whenever the state it came from turns out not to be the present one.

use super::refusals::is_never;
use crate::dedup::Key;
use protocol::query::UserFacts;
use protocol::request::{Accepted, CommandReply, CommandRequest, CommandResult};
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, Refusal, RoomId, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A batch of commands of one actor for one room.
#[derive(Clone, Debug)]
pub struct Request {
    /// The door it came through.
    pub door: Door,
    /// Who asks.
    pub actor: UserId,
    /// The room of all its commands.
    pub room: RoomId,
    /// The commands.
    pub body: CommandRequest,
}

/// Names a request; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What was looked up for one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// The room was absent as of this record.
    pub(super) absent: Option<StreamSeq>,
    /// What history knew of a cid, as of this record.
    pub(super) cids: BTreeMap<Cid, (StreamSeq, Option<Accepted>)>,
    /// Facts; `None` if history did not answer.
    pub(super) users: BTreeMap<UserId, Option<UserFacts>>,
    /// History did not answer something that it must.
    pub(super) failed: bool,
}

/// A request that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) request: Request,
    /// Of the commands judged so far, in order.
    pub(super) results: Vec<CommandResult>,
    // Invariant: `settled <= results.len()`; results below it never change.
    settled: usize,
    pub(super) answers: Answers,
}

impl Active {
    pub(super) fn is_judged(&self) -> bool {
        self.results.len() >= self.request.body.commands.len()
    }

    fn is_answered(&self) -> bool {
        self.settled >= self.request.body.commands.len()
    }

    /// Adds a result that nothing can change any more.
    pub(super) fn push_final(&mut self, result: CommandResult) {
        self.results.push(result);
        if self.settled + 1 == self.results.len() {
            self.settled += 1;
        }
    }

    /// Adds a result that waits for a proof.
    pub(super) fn push_tentative(&mut self, result: CommandResult) {
        self.results.push(result);
    }

    /// Gives all remaining commands the same temporary error: they are not stored.
    pub(super) fn fail_rest(&mut self, refusal: &Refusal) {
        while !self.is_judged() {
            self.push_final(CommandResult::Err(refusal.clone()));
        }
    }

    /// The first `count` results stand; gives back the final refusals among the new ones.
    fn settle(&mut self, count: usize) -> Vec<(Key, CommandResult)> {
        let before = self.settled;
        self.settled = before.max(count.min(self.results.len()));
        let request = &self.request;
        let new = self.results.iter().zip(&request.body.commands);
        new.take(self.settled)
            .skip(before)
            .filter(|(result, _)| is_never(result))
            .map(|(result, command)| {
                let key = Key::new(&request.room, &request.actor, command.cid);
                (key, result.clone())
            })
            .collect()
    }

    /// Forgets every result that is not settled.
    fn take_back(&mut self) {
        self.results.truncate(self.settled);
    }

    fn has_tentative(&self) -> bool {
        self.settled < self.results.len()
    }
}

/// All requests of a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk {
    requests: BTreeMap<Ticket, Active>,
    /// Those that can be judged further, in order of arrival.
    queue: BTreeSet<Ticket>,
    /// Those with tentative results.
    unsettled: BTreeSet<Ticket>,
    replies: VecDeque<(Ticket, CommandReply)>,
    /// Final refusals that stand since lately.
    refused: VecDeque<(Key, CommandResult)>,
    tickets: u64,
    pending: usize,
}

impl Desk {
    pub(super) fn take_in(&mut self, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.pending += request.body.commands.len();
        let active = Active {
            results: Vec::with_capacity(request.body.commands.len()),
            request,
            settled: 0,
            answers: Answers::default(),
        };
        self.queue.insert(ticket);
        self.put_back(ticket, active);
        ticket
    }

    /// Commands that wait.
    pub(super) const fn pending(&self) -> usize {
        self.pending
    }

    /// Takes the next request to judge; to be given back by [`Self::put_back`].
    pub(super) fn next(&mut self) -> Option<(Ticket, Active)> {
        loop {
            let ticket = self.queue.pop_first()?;
            if let Some(active) = self.requests.remove(&ticket) {
                return Some((ticket, active));
            }
        }
    }

    /// Keeps a request, or answers it if all is settled.
    pub(super) fn put_back(&mut self, ticket: Ticket, active: Active) {
        if active.is_answered() {
            self.pending -= active.request.body.commands.len();
            self.queue.remove(&ticket);
            self.unsettled.remove(&ticket);
            let results = active.results;
            let position = StreamSeq::default();
            self.replies
                .push_back((ticket, CommandReply { results, position }));
            return;
        }
        if active.has_tentative() {
            self.unsettled.insert(ticket);
        } else {
            self.unsettled.remove(&ticket);
        }
        self.requests.insert(ticket, active);
    }

    /// Lets a request be judged again.
    pub(super) fn wake(&mut self, ticket: Ticket) {
        if self.requests.contains_key(&ticket) {
            self.queue.insert(ticket);
        }
    }

    /// What was looked up for a request, if it still waits.
    pub(super) fn answers_mut(&mut self, ticket: Ticket) -> Option<&mut Answers> {
        self.requests
            .get_mut(&ticket)
            .map(|active| &mut active.answers)
    }

    pub(super) fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// The requests with tentative results, and how many results each has.
    pub(super) fn unsettled(&self) -> Vec<(Ticket, usize)> {
        let count = |ticket| self.requests.get(ticket).map_or(0, |a| a.results.len());
        self.unsettled
            .iter()
            .map(|ticket| (*ticket, count(ticket)))
            .collect()
    }

    /// The first results of these requests stand.
    pub(super) fn settle(&mut self, covered: Vec<(Ticket, usize)>) {
        for (ticket, count) in covered {
            if let Some(mut active) = self.requests.remove(&ticket) {
                self.refused.extend(active.settle(count));
                self.put_back(ticket, active);
            }
        }
    }

    /// Every tentative result stands.
    pub(super) fn settle_all(&mut self) {
        let all = self.unsettled();
        self.settle(all);
    }

    /// No tentative result stands: all are judged again.
    pub(super) fn take_back_all(&mut self) {
        for ticket in std::mem::take(&mut self.unsettled) {
            if let Some(active) = self.requests.get_mut(&ticket) {
                active.take_back();
                self.queue.insert(ticket);
            }
        }
    }

    /// Fails what is left of one request.
    pub(super) fn fail(&mut self, ticket: Ticket, refusal: &Refusal, now: Timestamp) {
        if let Some(mut active) = self.requests.remove(&ticket) {
            let refusal = if now > active.request.body.deadline {
                &Refusal::plain(ErrorCode::Timeout)
            } else {
                refusal
            };
            active.fail_rest(refusal);
            self.put_back(ticket, active);
        }
    }

    /// Fails what is left of every request that nothing has been decided about.
    pub(super) fn fail_queued(&mut self, refusal: &Refusal, now: Timestamp) {
        let queued: Vec<Ticket> = self.queue.difference(&self.unsettled).copied().collect();
        for ticket in queued {
            self.fail(ticket, refusal, now);
        }
    }

    /// Answers everything: tentative results become `timeout`, the rest this refusal.
    pub(super) fn fail_all(&mut self, refusal: &Refusal) {
        for (ticket, mut active) in std::mem::take(&mut self.requests) {
            let timeout = CommandResult::Err(Refusal::plain(ErrorCode::Timeout));
            for result in active.results.iter_mut().skip(active.settled) {
                *result = timeout.clone();
            }
            active.fail_rest(refusal);
            // Nobody is answered by this owner any more.
            let count = active.results.len();
            drop(active.settle(count));
            self.put_back(ticket, active);
        }
    }

    /// Gives up what its asker has given up.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let late: Vec<Ticket> = self
            .requests
            .iter()
            .filter(|(_, active)| now > active.request.body.deadline && !active.is_judged())
            .map(|(ticket, _)| *ticket)
            .collect();
        let refusal = Refusal::plain(ErrorCode::Timeout);
        for ticket in late {
            self.fail(ticket, &refusal, now);
        }
    }

    /// The next final refusal that stands.
    pub(super) fn poll_refused(&mut self) -> Option<(Key, CommandResult)> {
        self.refused.pop_front()
    }

    pub(super) fn poll_reply(&mut self) -> Option<(Ticket, CommandReply)> {
        self.replies.pop_front()
    }
}
