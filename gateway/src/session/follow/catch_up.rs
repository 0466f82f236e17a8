//! What memory does not reach: history tells what was missed, room by room.

use super::{Place, RETRY_MS};
use crate::moment::Moment;
use crate::session::hello::{parse, state};
use crate::session::outside::{Action, Outcome, Outside, Span};
use crate::session::{Purpose, Session, frame};
use bytestring::ByteString;
use protocol::error::CloseCode;
use protocol::frame::{Gone, ServerEvent};
use protocol::query::{CatchUp, Missed, Query};
use protocol::{RoomId, Seq, StreamSeq};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

impl Session {
    pub(super) fn ask_catch_up(&mut self, outside: &dyn Outside) {
        let Some(viewer) = self.viewer() else { return };
        let after = self.follow.next.position.before();
        let head = outside
            .head()
            .map(|(_, position)| position)
            .unwrap_or_default();
        let window_timeline = self.follow.window_timeline;
        let ticket = self.ticket(Purpose::CatchUp);
        let mut have = self.follow.have.clone();
        let behind = self.follow.entered.iter();
        let behind = behind.filter(|(_, since)| **since > after);
        have.extend(
            behind.filter_map(|(room, _)| Some((room.clone(), *self.follow.rooms.get(room)?))),
        );
        self.follow.asked_after = after;
        self.follow.named = have.keys().cloned().collect();
        let query = Box::new(Query::CatchUp {
            viewer,
            after,
            have,
            window_timeline,
        });
        self.actions.push_back(Action::Ask {
            ticket,
            query,
            min_seq: head.max(after),
        });
        self.follow.asked = true;
    }

    pub(in crate::session) fn catch_up_outcome(
        &mut self,
        now: Moment,
        outcome: Outcome,
        outside: &dyn Outside,
    ) {
        self.follow.asked = false;
        let after = self.follow.next.position.before();
        let answer = match outcome {
            Outcome::Answer(Ok(answered)) => {
                parse::<CatchUp>(&answered).map(|answer| (answered.applied, answer))
            }
            Outcome::Answer(Err(_)) | Outcome::Sent(_) | Outcome::Introduced(_) => None,
        };
        match answer {
            Some((_, answer)) if answer.known && self.forgets(&answer) => {
                self.ask_catch_up(outside);
            }
            Some((applied, answer)) if answer.known => self.take_catch_up(applied, answer, outside),
            // Memory still has it all: then it comes one by one, however much it is.
            Some(_) | None if self.is_in_memory(after, outside) => {}
            Some(_) => self.close(CloseCode::LagUnrecoverable),
            None => self.follow.retry_at = Some(now.ticks + RETRY_MS),
        }
    }

    /// Whether the answer says nothing of the end of a room that was told while it was under way.
    fn forgets(&self, answer: &CatchUp) -> bool {
        let ends = |room: &RoomId| {
            let ended = |missed: &Missed| matches!(missed, Missed::Events { room: of, gone: true, .. } if of == room);
            answer.missed.iter().any(ended)
        };
        let mut entered = self.follow.entered.iter();
        entered.any(|(room, since)| {
            *since > self.follow.asked_after
                && !self.follow.named.contains(room)
                && !answer.rooms.contains(room)
                && !ends(room)
        })
    }

    fn is_in_memory(&self, after: StreamSeq, outside: &dyn Outside) -> bool {
        let span = Span {
            after,
            to: after,
            max: 1,
        };
        self.user().is_some_and(|user| {
            outside
                .wanted(user, &mut std::iter::empty(), span)
                .is_some()
        })
    }

    /// Takes over what history says was missed: its lines, its memberships, its place.
    pub(in crate::session) fn take_catch_up(
        &mut self,
        applied: StreamSeq,
        answer: CatchUp,
        outside: &dyn Outside,
    ) {
        let old = std::mem::take(&mut self.follow.rooms);
        let mut at: BTreeMap<RoomId, Seq> = BTreeMap::new();
        for missed in answer.missed {
            if self.is_untold(&missed) {
                continue;
            }
            let (room, seq) = match missed {
                Missed::Events { room, events, gone } => {
                    let seq = self.queue_missed(old.get(&room).copied(), &events);
                    if gone {
                        self.follow.have.remove(&room);
                        let gone = ServerEvent::Gone(Gone { room: room.clone() });
                        self.follow.backlog.push_back(frame(&gone));
                    }
                    (room, seq)
                }
                Missed::Skip(skip) => {
                    let (room, seq) = (skip.state.room.clone(), skip.state.at);
                    self.follow
                        .backlog
                        .push_back(frame(&ServerEvent::Skip(skip)));
                    (room, seq)
                }
                Missed::State(snapshot) => {
                    let room = snapshot.room.clone();
                    let (seq, event) = state(*snapshot);
                    self.follow.backlog.push_back(frame(&event));
                    self.follow.entered.insert(room.clone(), applied);
                    (room, seq)
                }
            };
            self.follow.entering.remove(&room);
            at.insert(room, seq);
        }
        self.keep_entering(applied, &answer.rooms);
        let mut rooms: BTreeMap<RoomId, Seq> = BTreeMap::new();
        for room in answer.rooms {
            if self.follow.entering.contains_key(&room) {
                continue;
            }
            let seq = at
                .get(&room)
                .or_else(|| old.get(&room))
                .copied()
                .unwrap_or_default();
            rooms.insert(room, seq);
        }
        if let Some(who) = &self.who {
            let own = who.own.clone();
            let seq = at
                .get(&own)
                .or_else(|| old.get(&own))
                .copied()
                .unwrap_or_default();
            rooms.entry(own).or_insert(seq);
            // Of a room that is being entered nothing was told yet, but the user is in it.
            let entering = self.follow.entering.keys();
            let inside = rooms.keys().chain(entering).cloned().collect();
            outside.remember(&who.identity.user, applied, &inside);
        }
        self.follow
            .entered
            .retain(|room, _| rooms.contains_key(room));
        self.follow.rooms = rooms;
        self.follow.next = Place::behind(applied);
        self.follow.own_told = self.follow.own_told.max(applied);
        self.follow.measured = true;
    }

    /// Whether it is of a room that the client has not been told yet: that room's `state` tells it all.
    fn is_untold(&self, missed: &Missed) -> bool {
        match missed {
            Missed::Events { room, .. } => self.follow.entering.contains_key(room),
            Missed::Skip(skip) => self.follow.entering.contains_key(&skip.state.room),
            Missed::State(_) => false,
        }
    }

    /// Queues events that came raw, without those sent already; returns the last seq.
    fn queue_missed(&mut self, sent: Option<Seq>, events: &[Box<RawValue>]) -> Seq {
        #[derive(serde::Deserialize)]
        struct Numbered {
            seq: Seq,
        }
        let mut last = sent.unwrap_or_default();
        for event in events {
            let Ok(Numbered { seq }) = serde_json::from_str(event.get()) else {
                continue;
            };
            if seq > last {
                last = seq;
                self.follow.backlog.push_back(one_line(event.get()));
            }
        }
        last
    }
}

/// A frame is one line; JSON that came with line breaks between its words loses them.
fn one_line(json: &str) -> ByteString {
    if json.contains('\n') {
        json.replace('\n', " ").into()
    } else {
        json.into()
    }
}
