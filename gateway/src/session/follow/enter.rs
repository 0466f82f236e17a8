//! Entering a room: its state is asked for, and what came meanwhile is pulled from memory.

use super::{Place, RETRY_MS, State};
use crate::moment::Moment;
use crate::session::hello::{parse, state};
use crate::session::outside::{Action, Outcome, Outside, Watch};
use crate::session::{Purpose, Session};
use protocol::query::{Query, Snapshots};
use protocol::{RoomId, StreamSeq};

/// States of entered rooms that are asked for at once.
const ENTERING_AT_ONCE: usize = 4;

/// A room whose `state` is under way.
#[derive(Debug)]
pub(super) struct Entering {
    /// The record that made the user a member.
    since: StreamSeq,
    /// The state must be no older than this: in a catch-up the client may hold more of the room than
    /// its cursor says, and a state takes it back to where the state is.
    at_least: StreamSeq,
    pub(super) asked: bool,
    pub(super) retry_at: u64,
}

impl Session {
    pub(super) fn enter(&mut self, position: StreamSeq, at_least: StreamSeq, room: &RoomId) {
        let entering = self
            .follow
            .entering
            .entry(room.clone())
            .or_insert(Entering {
                since: position,
                at_least,
                asked: false,
                retry_at: 0,
            });
        entering.since = entering.since.max(position);
        entering.at_least = entering.at_least.max(at_least);
        self.start_entering(0);
    }

    /// History has told everything up to `applied`, but for rooms that were being entered: their states
    /// are still to come, as long as the user is in them.
    pub(super) fn keep_entering(&mut self, applied: StreamSeq, rooms: &[RoomId]) {
        self.follow.entering.retain(|room, _| rooms.contains(room));
        for entering in self.follow.entering.values_mut() {
            entering.at_least = entering.at_least.max(applied);
        }
    }

    pub(super) fn start_entering(&mut self, ticks: u64) {
        let mut running = self
            .follow
            .entering
            .values()
            .filter(|entering| entering.asked)
            .count();
        while running < ENTERING_AT_ONCE && !self.outbox.is_paced() {
            let waiting = self
                .follow
                .entering
                .iter_mut()
                .find(|(_, entering)| !entering.asked && entering.retry_at <= ticks);
            let Some((room, entering)) = waiting else {
                return;
            };
            entering.asked = true;
            let (room, min_seq) = (room.clone(), entering.at_least);
            let Some(viewer) = self.viewer() else { return };
            let query = Query::Snapshots {
                viewer,
                rooms: Some(vec![room.clone()]),
                window_rooms: 1,
                window_timeline: self.follow.window_timeline,
            };
            let ticket = self.ticket(Purpose::Enter(room));
            self.actions.push_back(Action::Ask {
                ticket,
                query: Box::new(query),
                min_seq,
            });
            running += 1;
        }
    }

    pub(in crate::session) fn enter_outcome(
        &mut self,
        now: Moment,
        room: &RoomId,
        outcome: Outcome,
        outside: &dyn Outside,
    ) {
        let Some(entering) = self.follow.entering.get_mut(room) else {
            return;
        };
        entering.asked = false;
        let answer = match outcome {
            Outcome::Answer(Ok(answered)) => {
                parse::<Snapshots>(&answered).map(|answer| (answered.applied, answer))
            }
            Outcome::Answer(Err(_)) | Outcome::Sent(_) | Outcome::Introduced(_) => None,
        };
        let Some((applied, answer)) = answer else {
            entering.retry_at = now.ticks + RETRY_MS;
            return;
        };
        if applied < self.follow.own_told {
            entering.at_least = self.follow.own_told;
            return self.start_entering(now.ticks);
        }
        let since = entering.since;
        // Without a role it is a public room that the user has left again.
        let found = answer.rooms.into_iter().find(|state| state.room == *room);
        match found.filter(|state| state.role.is_some() || state.room.is_own()) {
            None if applied < since => {}
            None => {
                self.follow.entering.remove(room);
            }
            Some(snapshot) => {
                self.follow.entering.remove(room);
                let (at, event) = state(snapshot);
                self.push(&event);
                self.follow.rooms.insert(room.clone(), at);
                self.follow.entered.insert(room.clone(), since);
                // Behind, nothing is delivered; then all rooms are watched at once when it attaches.
                if self.follow.state == State::Attached {
                    self.watches.push_back(Watch::Add(room.clone()));
                }
                // A fresh cursor follows, or a resume would find the room entered again.
                self.follow.announced = false;
                self.rewind(now, applied, outside);
            }
        }
    }

    /// What came in a room while its state was under way has passed by: it is pulled from memory.
    fn rewind(&mut self, now: Moment, applied: StreamSeq, outside: &dyn Outside) {
        match self.follow.state {
            State::Attached if applied < outside.position() => {
                self.follow.next = Place::behind(applied);
                self.fall_behind(now);
                self.watches.push_back(Watch::Nothing);
            }
            State::Behind => {
                self.follow.next = self.follow.next.min(Place::behind(applied));
            }
            State::Attached | State::Idle => {}
        }
    }
}
