//! What each action does.

use super::shell::end;
use super::{World, count, listeners, living};
use crate::owner::{Copy, Input, NOBODY, Takeover, Told};
use crate::script::{deadline, stored_at};
use crate::setup::{Shortcut, Sight};
use crate::truth::Broken;
use crate::world::{Action, State, To, Writer};
use protocol::Timestamp;

impl World {
    /// The state after an action; `None` if nothing has changed.
    pub fn after(&self, state: &State, action: &Action) -> Option<State> {
        let mut next = state.clone();
        match *action {
            Action::Send { client, to } => self.send(&mut next, client, to),
            Action::Arrive { late, at } => {
                let copy = next.late.remove(late.into());
                if next.clients[usize::from(copy.client)].out != Some(copy.number) {
                    self.see(Sight::LateArrival);
                }
                self.deliver(&mut next, copy, at);
            }
            Action::ReplyArrives => {
                let (copy, told) = next.replies.remove(0);
                self.hear(&mut next, copy, &told);
            }
            Action::ReplyLost => {
                next.left.lost_replies -= 1;
                next.replies.remove(0);
            }
            Action::Takeover { writer, lag } => {
                next.left.takeovers -= 1;
                next.left.lags -= lag;
                self.take_over(&mut next, writer, lag);
            }
            Action::Crash(writer) => {
                next.left.crashes -= 1;
                end(&mut next, writer);
            }
            Action::Stop(writer) => {
                next.left.stops -= 1;
                self.feed(&mut next, writer, Input::Stop);
            }
            Action::Tick(writer) => {
                let (cursor, last) = (next.cursor, count(next.log.len()));
                self.feed(&mut next, writer, Input::Tick { cursor, last });
                if next == *state {
                    return None;
                }
                next.left.ticks -= 1;
            }
            Action::Store { writer, echo, held } => {
                next.left.echoes -= u8::from(echo);
                self.store(&mut next, writer, echo);
                if !holds_back(&mut next, held) {
                    self.published(&mut next, writer);
                }
            }
            Action::FloatStores(nth) => {
                let float = next.floats.remove(nth.into());
                self.see(Sight::FloatStored);
                self.append(&mut next, float.record);
            }
            Action::Published(writer) => self.published(&mut next, writer),
            Action::Timeout(writer) => {
                next.left.timeouts -= 1;
                self.times_out(&mut next, writer);
            }
            Action::Read { writer, lag, held } => {
                let seen = count(next.log.len()) - lag;
                let read = living(&mut next, writer).read.as_mut();
                read.expect("a read").seen = Some(seen);
                if !holds_back(&mut next, held) {
                    self.tail(&mut next, writer);
                }
            }
            Action::Tail(writer) => self.tail(&mut next, writer),
            Action::ReadFails(writer) => {
                next.left.failed_reads -= 1;
                living(&mut next, writer).read = None;
                self.feed(&mut next, writer, Input::Tail(None));
            }
            Action::Ask { writer, ask, held } => {
                self.ask(&mut next, writer, ask);
                if !holds_back(&mut next, held) {
                    self.answer(&mut next, writer, ask);
                }
            }
            Action::Answer { writer, ask } => self.answer(&mut next, writer, ask),
            Action::AskFails { writer, ask } => {
                next.left.failed_asks -= 1;
                living(&mut next, writer).asks.remove(ask.into());
                self.feed(&mut next, writer, Input::Answer(ask, None));
            }
            Action::Apply => next.cursor = count(next.log.len()),
            Action::Clock => next.moment += 1,
        }
        Some(next)
    }

    pub(super) fn send(&self, state: &mut State, client: u8, to: To) {
        let moment = state.moment;
        let it = &mut state.clients[usize::from(client)];
        if it.tried {
            state.left.resends -= 1;
        }
        it.copies += 1;
        (it.tried, it.out) = (true, Some(it.copies));
        let copy = Copy {
            client,
            from: it.next,
            to: self.script.get(it.next).batch_end,
            number: it.copies,
            at: moment,
        };
        let parts: Vec<Copy> = if self.cuts(Shortcut::SplitBatch) {
            let part = |from| Copy {
                from,
                to: from + 1,
                ..copy
            };
            (copy.from..copy.to).map(part).collect()
        } else {
            vec![copy]
        };
        let all: Vec<u8> = listeners(state).collect();
        for part in parts {
            match to {
                To::Nobody => {
                    state.late.push(part);
                    state.late.sort_unstable();
                }
                To::One(to) => self.deliver(state, part, to),
                To::All => all.iter().for_each(|to| self.deliver(state, part, *to)),
            }
        }
        state.left.late_requests -= u8::from(to == To::Nobody);
    }

    pub(super) fn deliver(&self, state: &mut State, copy: Copy, to: u8) {
        if self.now(state.moment) > deadline(self.now(copy.at)) {
            self.see(Sight::BehindDeadline);
        }
        if self.cuts(Shortcut::AnswerCopyInFlight)
            && let Some(append) = &living(state, to).append
        {
            let record = append.record;
            let book = self.book.lock().expect("no step panics");
            let seqs = (copy.from..copy.to).map(|id| book.records.seq_in(record, id));
            if let Some(seqs) = seqs.collect::<Option<Vec<_>>>() {
                let told = seqs.iter().map(|seq| Told::Stored {
                    seq: u8::try_from(seq.0).unwrap(),
                    dup: true,
                });
                state.replies.push((copy, told.collect()));
                return;
            }
        }
        self.feed(state, to, Input::Request(copy));
    }

    /// A client hears what became of a copy that it still waits for.
    pub(super) fn hear(&self, state: &mut State, copy: Copy, told: &[Told]) {
        let it = &mut state.clients[usize::from(copy.client)];
        if it.out != Some(copy.number) {
            return;
        }
        let split = self.cuts(Shortcut::SplitBatch);
        for (id, told) in (copy.from..copy.to).zip(told) {
            match told {
                Told::Stored { seq, dup } => {
                    if *dup {
                        self.see(Sight::Repeat);
                    }
                    if state
                        .acked
                        .iter()
                        .any(|(acked, at)| *acked == id && at != seq)
                    {
                        state.truth.breaks(Broken::TwoSeqs);
                    }
                    if !state.acked.contains(&(id, *seq)) {
                        state.acked.push((id, *seq));
                        state.acked.sort_unstable();
                    }
                }
                Told::Never => state.denied |= 1 << id,
                Told::Later => {
                    self.see(Sight::Later);
                    it.out = None;
                    return;
                }
            }
            if !split {
                it.next = id + 1;
            }
        }
        let end = self.script.get(copy.from).batch_end;
        let acked = &state.acked;
        while split && it.next < end && acked.iter().any(|(id, _)| *id == it.next) {
            it.next += 1;
        }
        if it.next == end {
            it.tried = false;
        }
        if it.next == end || !split {
            it.out = None;
        }
    }

    pub(super) fn take_over(&self, state: &mut State, writer: u8, lag: u8) {
        if state.writers.iter().any(Option::is_some) {
            self.see(Sight::TwoOwners);
        }
        let len = count(state.log.len());
        let seen = len - lag;
        let forgets = self.cuts(Shortcut::ForgetOnTakeover);
        let above = match (self.setup.cold, forgets) {
            (_, true) => seen,
            (true, false) => state.cursor.min(seen),
            (false, false) => 0,
        };
        let last = above.checked_sub(1).map(|nth| state.log[usize::from(nth)]);
        let above_time = last.map(|entry| stored_at(entry, self.setup.clock));
        let takeover = Takeover {
            writer,
            epoch: self.setup.budget.takeovers - state.left.takeovers,
            above,
            above_time: above_time.map(|time| if forgets { Timestamp(0) } else { time }),
            cursor: self.setup.cold.then_some(state.cursor),
            log: state.log[..usize::from(seen)].to_vec(),
            last: len,
        };
        state.writers[usize::from(writer)] = Some(Writer {
            owner: NOBODY,
            append: None,
            read: None,
            asks: Vec::new(),
            listens: self.cuts(Shortcut::ListenBeforeFence),
            unsure: false,
        });
        self.feed(state, writer, Input::TakeOver(takeover));
    }
}

/// Whether an answer is held back.
pub(super) fn holds_back(state: &mut State, held: bool) -> bool {
    state.left.late_answers -= u8::from(held);
    held
}
