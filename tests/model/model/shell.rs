//! The shell around a core: gives it its inputs, does what it wants, and tells clients what it says.

use super::broker::float;
use super::{World, living};
use crate::log::position;
use crate::owner::{Answer, Copy, Input, Step, Told};
use crate::setup::{Shortcut, Sight};
use crate::truth::Broken;
use crate::world::{Append, Reading, State};
use std::sync::Arc;

impl World {
    /// Gives an input to a writer's core, and does what the core wants then.
    pub(super) fn feed(&self, state: &mut State, writer: u8, input: Input) {
        let number = living(state, writer).owner;
        let by_read = matches!(input, Input::Tail(Some(_)));
        let by_record = matches!(input, Input::Published(Answer::Stored(_)));
        let step = {
            let mut book = self.book.lock().expect("no step panics");
            book.step(&self.rules(), (number, state.moment), input)
        };
        if step.alarmed {
            state.truth.breaks(Broken::Alarm);
        }
        self.obey(state, writer, &step);
        for (copy, told) in &step.replies {
            let denies = told.contains(&Told::Never);
            if denies && by_read {
                self.see(Sight::DeniedByRead);
            }
            if denies && by_record {
                self.see(Sight::DeniedByRecord);
            }
            self.reply(state, *copy, told);
        }
        if step.ended {
            self.see(Sight::Overtaken);
            end(state, writer);
            return;
        }
        let unproven = step.read.filter(|_| !living(state, writer).unsure);
        if let Some(after) = unproven
            && self.cuts(Shortcut::RefuseFromMemory)
        {
            living(state, writer).read = None;
            self.feed(state, writer, Input::Tail(Some((after, Vec::new()))));
        }
    }

    /// Begins the operations that a core has handed out.
    pub(super) fn obey(&self, state: &mut State, writer: u8, step: &Arc<Step>) {
        let it = living(state, writer);
        it.owner = step.owner;
        it.listens |= step.opened;
        if step.read.is_some() {
            it.read = step.read.map(|after| Reading { after, seen: None });
        }
        it.asks.resize(step.asks.into(), None);
        let Some((record, expected)) = step.publish else {
            return;
        };
        let unwritten = step.is_epoch
            && !step.behind_unwritten
            && match self.setup.shortcut {
                Some(Shortcut::NoEpochRecord) => !step.opened,
                Some(Shortcut::ReadProvesWhileFloating) => step.opened,
                Some(_) | None => false,
            };
        // A position between two records of the subject: nothing is stored there, and whatever is
        // expected behind it is what is expected behind the record before.
        let pretended = Answer::Stored(position(expected.into()).next());
        it.append = Some(Append {
            record,
            expected,
            answer: unwritten.then_some(pretended),
        });
        if self.cuts(Shortcut::AckBeforeStored) {
            self.acknowledge(state, (writer, record));
        }
    }

    pub(super) fn reply(&self, state: &mut State, copy: Copy, told: &[Told]) {
        for (id, told) in (copy.from..copy.to).zip(told) {
            if let Told::Stored { seq, .. } = told
                && state.truth.seq_of(id) != Some(*seq)
            {
                state.truth.breaks(Broken::FalseAck);
            }
        }
        // Whoever has sent another copy, or has no connection any more, does not hear this.
        if state.clients[usize::from(copy.client)].out == Some(copy.number) {
            state.replies.push((copy, told.to_vec()));
        }
    }

    /// A shortcut: tells all whose commands are in a record that these are stored.
    pub(super) fn acknowledge(&self, state: &mut State, (writer, record): (u8, u32)) {
        let owner = living(state, writer).owner;
        let book = self.book.lock().expect("no step panics");
        for copy in book.owner(owner).copies() {
            let seqs = (copy.from..copy.to).map(|id| book.records.seq_in(record, id));
            if let Some(seqs) = seqs.collect::<Option<Vec<_>>>() {
                let told = seqs.iter().map(|seq| Told::Stored {
                    seq: u8::try_from(seq.0).unwrap(),
                    dup: false,
                });
                state.replies.push((*copy, told.collect()));
            }
        }
    }

    /// A shortcut: tells all whose commands are in a record that these will never be stored.
    pub(super) fn refuse(&self, state: &mut State, writer: u8, record: u32) {
        let owner = living(state, writer).owner;
        let book = self.book.lock().expect("no step panics");
        for copy in book.owner(owner).copies() {
            let ids = copy.from..copy.to;
            if ids
                .clone()
                .all(|id| book.records.seq_in(record, id).is_some())
            {
                let told = ids.map(|_| Told::Never).collect();
                state.replies.push((*copy, told));
            }
        }
    }
}

/// A writer is gone; what it has sent is still on its way.
pub(super) fn end(state: &mut State, writer: u8) {
    let gone = state.writers[usize::from(writer)].take();
    if let Some(append) = gone.and_then(|gone| gone.append)
        && append.answer.is_none()
    {
        float(state, &append);
    }
}
