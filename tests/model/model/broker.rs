//! The broker, its leader and history: what they store and answer.

use super::{World, count, living};
use crate::log::{Entry, position};
use crate::owner::{Answer, Input};
use crate::setup::{Shortcut, Sight};
use crate::world::{Append, Float, State};
use messages::sequencer::Lookup;

impl World {
    pub(super) fn store(&self, state: &mut State, writer: u8, echo: bool) {
        let len = count(state.log.len());
        let append = living(state, writer).append.as_mut().expect("an append");
        let (record, fits) = (append.record, append.expected == len);
        let stored = fits || self.cuts(Shortcut::NoCompare);
        append.answer = Some(if !stored {
            self.see(Sight::Conflict);
            Answer::Conflict
        } else if echo {
            self.see(Sight::StoredButConflict);
            Answer::Conflict
        } else {
            Answer::Stored(position(usize::from(len) + 1))
        });
        if stored {
            self.append(state, record);
        }
    }

    /// The log grows by one record.
    pub(super) fn append(&self, state: &mut State, record: u32) {
        state.log.push(Entry {
            record,
            at: state.moment,
        });
        let book = self.book.lock().expect("no step panics");
        for line in &book.records.get(record).lines {
            state.truth.append(&self.script, line);
        }
        if !self.cuts(Shortcut::NoCompare) {
            // What expects another end will never be stored.
            let len = state.log.len();
            state
                .floats
                .retain(|float| usize::from(float.expected) == len);
        }
    }

    pub(super) fn published(&self, state: &mut State, writer: u8) {
        let len = count(state.log.len());
        let it = living(state, writer);
        let append = it.append.take().expect("an append");
        let answer = append.answer.expect("an answer");
        if answer == Answer::Conflict {
            if self.cuts(Shortcut::RepublishAfterConflict) {
                it.append = Some(Append {
                    record: append.record,
                    expected: len,
                    answer: None,
                });
                return;
            }
            if self.cuts(Shortcut::RefuseAfterConflict) {
                self.refuse(state, writer, append.record);
            }
            living(state, writer).unsure = true;
        }
        self.feed(state, writer, Input::Published(answer));
    }

    pub(super) fn times_out(&self, state: &mut State, writer: u8) {
        let len = count(state.log.len());
        let it = living(state, writer);
        let append = it.append.take().expect("an append");
        match append.answer {
            None => float(state, &append),
            Some(Answer::Stored(_)) => self.see(Sight::StoredButTimedOut),
            Some(Answer::Conflict | Answer::Unknown) => {}
        }
        if self.cuts(Shortcut::RepublishAfterTimeout) {
            living(state, writer).append = Some(Append {
                record: append.record,
                expected: len,
                answer: None,
            });
            return;
        }
        if self.cuts(Shortcut::RefuseAfterTimeout) {
            self.refuse(state, writer, append.record);
        }
        living(state, writer).unsure = true;
        self.feed(state, writer, Input::Published(Answer::Unknown));
    }

    pub(super) fn tail(&self, state: &mut State, writer: u8) {
        let it = living(state, writer);
        let read = it.read.take().expect("a read");
        it.unsure = false;
        let seen = usize::from(read.seen.expect("a read that was answered"));
        let found = state.log.get(usize::from(read.after)..seen);
        let found = found.unwrap_or_default().to_vec();
        self.feed(state, writer, Input::Tail(Some((read.after, found))));
    }

    pub(super) fn ask(&self, state: &mut State, writer: u8, nth: u8) {
        let cursor = state.cursor;
        let old = self.first.cursor;
        let owner = living(state, writer).owner;
        let book = self.book.lock().expect("no step panics");
        let lookup = &book.owner(owner).asks[usize::from(nth)].lookup;
        if matches!(lookup, Lookup::Room(_)) {
            self.see(Sight::ColdRoom);
        }
        // Facts about users do not come from this log.
        let needs_log = !matches!(lookup, Lookup::User(_));
        let seen = if self.cuts(Shortcut::OldBase) {
            old
        } else {
            cursor
        };
        drop(book);
        let asks = &mut living(state, writer).asks;
        asks[usize::from(nth)] = Some(if needs_log { seen } else { 0 });
    }

    pub(super) fn answer(&self, state: &mut State, writer: u8, ask: u8) {
        let it = living(state, writer);
        let before = it.asks.len();
        let seen = it
            .asks
            .remove(ask.into())
            .expect("a question that was answered");
        let claimed = if self.cuts(Shortcut::OldBase) {
            count(state.log.len())
        } else {
            seen
        };
        let as_of = state.log[..usize::from(seen)].to_vec();
        let answer = Some((position(claimed.into()), as_of));
        self.feed(state, writer, Input::Answer(ask, answer));
        if let Some(it) = &state.writers[usize::from(writer)]
            && it.asks.len() >= before
        {
            self.see(Sight::AskedAgain);
        }
    }
}

pub(super) fn float(state: &mut State, append: &Append) {
    if usize::from(append.expected) == state.log.len() {
        state.floats.push(Float {
            record: append.record,
            expected: append.expected,
        });
        state.floats.sort_unstable();
    }
}
