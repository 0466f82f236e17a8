//! The model: which actions are possible in a state, and what each one does.

use crate::log::{Entry, position};
use crate::owner::{Answer, Book, Copy, Input, NOBODY, Rules, Step, Takeover, Told};
use crate::script::{BEGIN, Script, deadline, prefix, stored_at};
use crate::setup::{Setup, Shortcut, Sight};
use crate::truth::{Broken, Truth};
use crate::world::{Action, Append, ClientState, Float, Reading, State, Writer};
use messages::sequencer::{Config, Lookup};
use protocol::Timestamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A set-up, and everything learnt about it so far.
#[derive(Debug)]
pub struct World {
    pub setup: Setup,
    pub script: Script,
    pub book: Mutex<Book>,
    config: Config,
    first: State,
    sights: [AtomicU64; Sight::COUNT],
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let script = Script::new(setup.clients);
        let mut book = Book::default();
        let past = (setup.members, setup.past);
        let log = prefix(&script, &mut book.records, past);
        let mut truth = Truth::new();
        for line in book.records.lines(&log) {
            truth.append(&script, line);
        }
        let clients = script.spans.iter().map(|(first, _)| ClientState {
            next: *first,
            out: None,
            at: 0,
            copies: 0,
            tried: false,
        });
        let first = State {
            cursor: if setup.cold { count(log.len()) } else { 0 },
            log,
            truth,
            writers: vec![None; setup.writers],
            floats: Vec::new(),
            late: Vec::new(),
            replies: Vec::new(),
            clients: clients.collect(),
            acked: Vec::new(),
            denied: 0,
            moment: 0,
            left: setup.budget,
        };
        let mut world = Self {
            config: core_config(&setup),
            setup,
            script,
            book: Mutex::new(book),
            first,
            sights: Default::default(),
        };
        world.open_first();
        world
    }

    /// The first writer owns the partition when the run begins, and nothing of it is on its way.
    fn open_first(&mut self) {
        let mut state = self.first.clone();
        self.take_over(&mut state, 0, 0);
        self.store(&mut state, 0, false);
        self.published(&mut state, 0);
        self.first = state;
    }

    pub fn first(&self) -> State {
        self.first.clone()
    }

    pub fn sights(&self, sight: Sight) -> u64 {
        self.sights[sight as usize].load(Ordering::Relaxed)
    }

    fn see(&self, sight: Sight) {
        self.sights[sight as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn cuts(&self, shortcut: Shortcut) -> bool {
        self.setup.shortcut == Some(shortcut)
    }

    fn now(&self, moment: u8) -> Timestamp {
        BEGIN.plus_ms(self.setup.clock[usize::from(moment)])
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            script: &self.script,
            config: self.config,
            clock: self.setup.clock,
            history_forgets: self.cuts(Shortcut::TinyWindow),
            without_deadlines: self.cuts(Shortcut::NoDeadline),
        }
    }

    /// Everything that can happen; its order must depend on nothing but the state.
    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        if !state.replies.is_empty() {
            actions.push(Action::ReplyArrives);
            if state.left.lost_replies > 0 {
                actions.push(Action::ReplyLost);
            }
            return;
        }
        let living = |writer: &u8| state.writers[usize::from(*writer)].is_some();
        let owners: Vec<u8> = (0..count(state.writers.len())).filter(living).collect();
        for client in 0..count(state.clients.len()) {
            if self.may_send(state, client) {
                actions.extend(owners.iter().map(|to| Action::Send {
                    client,
                    to: Some(*to),
                }));
                if state.left.late_requests > 0 {
                    actions.push(Action::Send { client, to: None });
                }
            }
        }
        for late in 0..count(state.late.len()) {
            actions.extend(owners.iter().map(|at| Action::Arrive { late, at: *at }));
        }
        for writer in 0..count(state.writers.len()) {
            match &state.writers[usize::from(writer)] {
                None if state.left.takeovers > 0 => {
                    actions.push(Action::Takeover { writer, lag: 0 });
                    if state.left.lags > 0 {
                        actions.push(Action::Takeover { writer, lag: 1 });
                    }
                }
                None => {}
                Some(it) => self.possible_for(state, (writer, it), actions),
            }
        }
        actions.extend((0..count(state.floats.len())).map(Action::FloatStores));
        if self.setup.cold && usize::from(state.cursor) < state.log.len() {
            actions.push(Action::Apply);
        }
        if usize::from(state.moment) + 1 < self.setup.clock.len() {
            actions.push(Action::Clock);
        }
    }

    fn possible_for(&self, state: &State, (writer, it): (u8, &Writer), actions: &mut Vec<Action>) {
        let left = &state.left;
        let fates: &[bool] = if left.late_answers > 0 {
            &[false, true]
        } else {
            &[false]
        };
        match &it.append {
            None => {}
            Some(append) => {
                if append.answer.is_some() {
                    actions.push(Action::Published(writer));
                } else {
                    let fits = usize::from(append.expected) == state.log.len();
                    for echo in [false, true] {
                        if !echo || (left.echoes > 0 && fits) {
                            let store = |held| Action::Store { writer, echo, held };
                            actions.extend(fates.iter().copied().map(store));
                        }
                    }
                }
                if left.timeouts > 0 {
                    actions.push(Action::Timeout(writer));
                }
            }
        }
        if let Some(read) = &it.read {
            if read.seen.is_some() {
                actions.push(Action::Tail(writer));
            } else {
                let lag = u8::from(self.cuts(Shortcut::LaggingReads));
                for lag in 0..=lag {
                    let read = |held| Action::Read { writer, lag, held };
                    actions.extend(fates.iter().copied().map(read));
                }
            }
            if left.failed_reads > 0 {
                actions.push(Action::ReadFails(writer));
            }
        }
        for (ask, answered) in (0..).zip(&it.asks) {
            if answered.is_some() {
                actions.push(Action::Answer { writer, ask });
            } else if self.history_has(state, (it, ask)) {
                let put = |held| Action::Ask { writer, ask, held };
                actions.extend(fates.iter().copied().map(put));
            }
            if left.failed_asks > 0 {
                actions.push(Action::AskFails { writer, ask });
            }
        }
        if left.ticks > 0 {
            actions.push(Action::Tick(writer));
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(writer));
        }
        if left.stops > 0 {
            actions.push(Action::Stop(writer));
        }
    }

    fn may_send(&self, state: &State, client: u8) -> bool {
        let it = &state.clients[usize::from(client)];
        let (_, end) = self.script.spans[usize::from(client)];
        if it.next >= end || (it.tried && state.left.resends == 0) {
            return false;
        }
        let gave_up = self.now(state.moment) > deadline(self.now(it.at));
        it.out.is_none() || gave_up || !self.setup.patient
    }

    /// Whether history has applied what a question demands.
    fn history_has(&self, state: &State, (it, ask): (&Writer, u8)) -> bool {
        let book = self.book.lock().expect("no step panics");
        let ask = &book.owner(it.owner).asks[usize::from(ask)];
        position(state.cursor.into()) >= ask.min_seq || self.cuts(Shortcut::OldBase)
    }

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
            Action::Apply => next.cursor += 1,
            Action::Clock => next.moment += 1,
        }
        Some(next)
    }

    fn send(&self, state: &mut State, client: u8, to: Option<u8>) {
        let moment = state.moment;
        let it = &mut state.clients[usize::from(client)];
        if it.tried {
            state.left.resends -= 1;
        }
        it.copies += 1;
        (it.tried, it.out, it.at) = (true, Some(it.copies), moment);
        let copy = Copy {
            client,
            from: it.next,
            to: self.script.get(it.next).batch_end,
            number: it.copies,
            at: moment,
        };
        let Some(to) = to else {
            state.left.late_requests -= 1;
            state.late.push(copy);
            state.late.sort_unstable();
            return;
        };
        if self.cuts(Shortcut::SplitBatch) {
            for from in copy.from..copy.to {
                let part = Copy {
                    from,
                    to: from + 1,
                    ..copy
                };
                self.deliver(state, part, to);
            }
        } else {
            self.deliver(state, copy, to);
        }
    }

    fn deliver(&self, state: &mut State, copy: Copy, to: u8) {
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
    fn hear(&self, state: &mut State, copy: Copy, told: &[Told]) {
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

    fn take_over(&self, state: &mut State, writer: u8, lag: u8) {
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
            unsure: false,
        });
        self.feed(state, writer, Input::TakeOver(takeover));
    }

    fn store(&self, state: &mut State, writer: u8, echo: bool) {
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
    fn append(&self, state: &mut State, record: u32) {
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

    fn published(&self, state: &mut State, writer: u8) {
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

    fn times_out(&self, state: &mut State, writer: u8) {
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

    /// A shortcut: tells all whose commands are in a record that these will never be stored.
    fn refuse(&self, state: &mut State, writer: u8, record: u32) {
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

    fn tail(&self, state: &mut State, writer: u8) {
        let it = living(state, writer);
        let read = it.read.take().expect("a read");
        it.unsure = false;
        let seen = usize::from(read.seen.expect("a read that was answered"));
        let found = state.log.get(usize::from(read.after)..seen);
        let found = found.unwrap_or_default().to_vec();
        self.feed(state, writer, Input::Tail(Some((read.after, found))));
    }

    fn ask(&self, state: &mut State, writer: u8, nth: u8) {
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

    fn answer(&self, state: &mut State, writer: u8, ask: u8) {
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

    /// Gives an input to a writer's core, and does what the core wants then.
    fn feed(&self, state: &mut State, writer: u8, input: Input) {
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
    fn obey(&self, state: &mut State, writer: u8, step: &Arc<Step>) {
        let it = living(state, writer);
        it.owner = step.owner;
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
                Some(Shortcut::NoEpochRecord) => !step.open,
                Some(Shortcut::ReadProvesWhileFloating) => step.open,
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

    /// A shortcut: tells all whose commands are in a record that these are stored.
    fn acknowledge(&self, state: &mut State, (writer, record): (u8, u32)) {
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

    fn reply(&self, state: &mut State, copy: Copy, told: &[Told]) {
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
}

fn core_config(setup: &Setup) -> Config {
    let mut config = Config::default();
    if setup.forgets {
        config.events_soft_max = 0;
        config.room_idle_ms = 0;
    }
    if setup.shortcut == Some(Shortcut::TinyWindow) {
        config.dedup_commands_max = 1;
    }
    config
}

fn count(len: usize) -> u8 {
    u8::try_from(len).expect("a run is short")
}

fn living(state: &mut State, writer: u8) -> &mut Writer {
    let writer = state.writers[usize::from(writer)].as_mut();
    writer.expect("only living writers act")
}

/// A writer is gone; what it has sent is still on its way.
fn end(state: &mut State, writer: u8) {
    let gone = state.writers[usize::from(writer)].take();
    if let Some(append) = gone.and_then(|gone| gone.append)
        && append.answer.is_none()
    {
        float(state, &append);
    }
}

/// Whether an answer is held back.
fn holds_back(state: &mut State, held: bool) -> bool {
    state.left.late_answers -= u8::from(held);
    held
}

fn float(state: &mut State, append: &Append) {
    if usize::from(append.expected) == state.log.len() {
        state.floats.push(Float {
            record: append.record,
            expected: append.expected,
        });
        state.floats.sort_unstable();
    }
}
