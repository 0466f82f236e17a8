//! A device that hides nothing: what the server said of each room, step by step, for the judge.
//!
//! Pure. Unlike the client of the crate `client` it drops no repeat and fills no hole that the server
//! did not announce: a fault of the server stays one. It fetches what the server said it left out.

use std::collections::{BTreeMap, VecDeque};

use protocol::event::RoomKind;
use protocol::frame::server::{ServerEvent, ServerFrame};
use protocol::frame::{Hello, Window};
use protocol::limits::PAGE_MAX;
use protocol::query::ReadCommand;
use protocol::{DeviceId, Refusal, RoomId, Seq};
use serde::Deserialize;
use serde_json::Value;

use super::prints::{Known, Line, Prints};
use crate::audit::Step;

/// What it was given, per room and in order.
pub(crate) type Tape = BTreeMap<RoomId, Vec<Step>>;

/// Where it is in a room.
#[derive(Clone, Debug)]
struct Place {
    last: Seq,
    /// Whether the user is a member, as far as it was told.
    inside: bool,
    /// What the last cursor covers: the last position, if the user was a member then.
    covered: Option<Seq>,
}

/// A range that was left out: (first, last).
type Hole = (RoomId, Seq, Seq);

/// What the shell has to do about a line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    /// The answer to the line with this id.
    Reply(u64, Result<Value, Refusal>),
    /// Everything missed is here.
    Live,
    /// Answer with a pong.
    Ping,
    /// Move within this many ms.
    Goaway(u64),
    /// It was too slow.
    Lagged,
    /// The token ends soon.
    Token,
}

/// How much came; shown while a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) skips: u64,
    pub(crate) lags: u64,
}

/// The device.
pub(crate) struct Track {
    device: DeviceId,
    /// Whether it fetches what the server leaves out.
    fetches: bool,
    cursor: Option<String>,
    places: BTreeMap<RoomId, Place>,
    holes: VecDeque<Hole>,
    pub(crate) tally: Tally,
}

/// A page of dense events: the shape of the protocol's, without the events parsed.
#[derive(Deserialize)]
struct Page {
    events: Vec<Value>,
    at: Seq,
}

impl Track {
    pub(crate) fn new(device: DeviceId, fetches: bool) -> Self {
        Self {
            device,
            fetches,
            cursor: None,
            places: BTreeMap::new(),
            holes: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// What to say on a new socket; from now on only what the cursor covers counts as given.
    pub(crate) fn hello(&mut self, token: String, app: &str, tape: &mut Tape) -> Hello {
        for (room, place) in &mut self.places {
            let steps = tape.entry(room.clone()).or_default();
            match place.covered {
                Some(after) => {
                    (place.last, place.inside) = (after, true);
                    steps.push(Step::Resumed { after });
                }
                // What was entered since comes as a state once more.
                None if place.inside => {
                    place.inside = false;
                    steps.push(Step::Forgotten);
                }
                None => {}
            }
        }
        let covered = self.places.iter();
        Hello {
            token,
            app: Some(app.to_owned()),
            dev: Some(self.device.clone()),
            win: Some(Window { rooms: 0, tl: 0 }),
            cur: self.cursor.clone(),
            have: covered
                .filter_map(|(room, place)| Some((room.clone(), place.covered?)))
                .collect(),
        }
    }

    /// Takes a line of the server.
    pub(crate) fn take(&mut self, line: &str, prints: &Prints, tape: &mut Tape) -> Option<Word> {
        match prints.read(line) {
            Line::Durable(known) => {
                self.take_event(known, tape);
                None
            }
            Line::Frame(ServerFrame::Reply {
                id: Some(id),
                result,
            }) => Some(Word::Reply(id, result)),
            Line::Frame(ServerFrame::Event(event)) => self.take_frame(event, tape),
            Line::Frame(
                ServerFrame::Reply { id: None, .. }
                | ServerFrame::Durable(_)
                | ServerFrame::Unknown,
            )
            | Line::Nonsense => None,
        }
    }

    /// The next range to ask history for.
    pub(crate) fn hole(&self) -> Option<(RoomId, ReadCommand)> {
        let (room, from, _) = self.holes.front()?;
        let read = ReadCommand::History {
            room: room.clone(),
            before: None,
            after: Some(from.before()),
            around: None,
            limit: Some(PAGE_MAX),
            all: true,
        };
        Some((room.clone(), read))
    }

    /// Takes the page for the range that [`Self::hole`] named. Whether anything of it came.
    pub(crate) fn fill(&mut self, answer: &Value, prints: &Prints, tape: &mut Tape) -> bool {
        let Some((room, from, to)) = self.holes.pop_front() else {
            return false;
        };
        let Ok(page) = Page::deserialize(answer) else {
            return false;
        };
        let steps = tape.entry(room.clone()).or_default();
        let mut next = from;
        for line in &page.events {
            let Line::Durable(known) = prints.read(&line.to_string()) else {
                continue;
            };
            if known.seen.seq() >= next && known.seen.seq() <= to {
                next = known.seen.seq().next();
                self.tally.events += 1;
                steps.push(Step::Read(known.seen));
            }
        }
        let came = next > from;
        // History that is not there yet is asked again; what it never has is missing.
        if next <= to && (came || page.at < to) {
            self.holes.push_front((room, next, to));
        }
        came
    }

    /// History will not tell: right only if the room is not this user's any more.
    pub(crate) fn give_up_hole(&mut self, tape: &mut Tape) {
        let Some((room, from, to)) = self.holes.pop_front() else {
            return;
        };
        if !self.places.get(&room).is_some_and(|place| place.inside) {
            let steps = tape.entry(room).or_default();
            steps.push(Step::Waived { from, to });
        }
    }

    /// The last position of the room that came, one way or the other.
    pub(crate) fn last(&self, room: &RoomId) -> Option<Seq> {
        let place = self.places.get(room).filter(|place| place.inside)?;
        let waits = self.holes.iter().any(|(hole, _, _)| hole == room);
        Some(if waits { Seq(0) } else { place.last })
    }

    fn take_event(&mut self, known: Known, tape: &mut Tape) {
        let Known {
            room,
            seen,
            void_from,
        } = known;
        let steps = tape.entry(room.clone()).or_default();
        if let Some(from) = void_from {
            let to = seen.seq().before();
            steps.push(Step::Skipped { from, to });
        }
        steps.push(Step::Event(seen));
        self.tally.events += 1;
        if let Some(place) = self.places.get_mut(&room) {
            place.last = place.last.max(seen.seq());
        }
    }

    fn take_frame(&mut self, event: ServerEvent, tape: &mut Tape) -> Option<Word> {
        match event {
            ServerEvent::State(state) => {
                if state.kind != RoomKind::Own {
                    self.enter(&state.room, state.at, tape);
                }
            }
            ServerEvent::Skip(skip) => {
                if skip.state.kind != RoomKind::Own {
                    self.skip(skip.state.room, skip.from, skip.to, tape);
                }
            }
            ServerEvent::Gone(gone) => {
                if let Some(place) = self.places.get_mut(&gone.room) {
                    place.inside = false;
                }
                tape.entry(gone.room).or_default().push(Step::Gone);
            }
            ServerEvent::Live { cur } => {
                self.cover(cur);
                return Some(Word::Live);
            }
            ServerEvent::Ping { cur, .. } => {
                if let Some(cur) = cur {
                    self.cover(cur);
                }
                return Some(Word::Ping);
            }
            ServerEvent::Goaway { within_ms, .. } => return Some(Word::Goaway(within_ms[1])),
            ServerEvent::Lagged {} => {
                self.tally.lags += 1;
                return Some(Word::Lagged);
            }
            ServerEvent::Token { .. } => return Some(Word::Token),
        }
        None
    }

    fn enter(&mut self, room: &RoomId, at: Seq, tape: &mut Tape) {
        let known = self.places.get(room).filter(|place| place.inside);
        match known.map(|place| place.last) {
            // The cursor was unknown: the state stands for what was missed.
            Some(last) if at > last => self.skip(room.clone(), last.next(), at, tape),
            Some(_) => {}
            None => {
                let place = self.places.entry(room.clone()).or_insert(Place {
                    last: at,
                    inside: true,
                    covered: None,
                });
                (place.last, place.inside) = (at, true);
                tape.entry(room.clone())
                    .or_default()
                    .push(Step::Entered { at });
            }
        }
    }

    fn skip(&mut self, room: RoomId, from: Seq, to: Seq, tape: &mut Tape) {
        self.tally.skips += 1;
        if let Some(place) = self.places.get_mut(&room) {
            place.last = place.last.max(to);
        }
        let steps = tape.entry(room.clone()).or_default();
        steps.push(Step::Skipped { from, to });
        if self.fetches {
            self.holes.push_back((room, from, to));
        } else {
            steps.push(Step::Waived { from, to });
        }
    }

    fn cover(&mut self, cursor: String) {
        self.cursor = Some(cursor);
        for place in self.places.values_mut() {
            place.covered = Some(place.last).filter(|_| place.inside);
        }
    }
}

#[cfg(test)]
mod tests;
