//! The model: a set-up, its first state, and which actions are possible in a state.
//!
//! What they do is in `acts`, for those of clients and processes, `broker` and `shell`.

mod acts;
mod broker;
mod shell;

use crate::log::{Line, position};
use crate::owner::{Book, Rules};
use crate::script::{BEGIN, Does, Script, prefix};
use crate::setup::{Setup, Shortcut, Sight};
use crate::truth::Truth;
use crate::world::{Action, ClientState, State, To, Writer};
use messages::sequencer::Config;
use protocol::{Seq, Timestamp};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
        for scripted in &script.commands {
            if let Does::Answers(seq) = scripted.does {
                let mut lines = book.records.lines(&log);
                let is_it =
                    |line: &Line| line.event.seq == Seq(seq) && line.event.body.kind() == "msg";
                assert!(lines.any(is_it), "no message at {seq}");
            }
        }
        let mut truth = Truth::new(script.rooms.len());
        for line in book.records.lines(&log) {
            truth.append(&script, line);
        }
        let clients = script.spans.iter().map(|(first, _)| ClientState {
            next: *first,
            out: None,
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
        state.moment = 1;
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
        let owners: Vec<u8> = listeners(state).collect();
        for client in 0..count(state.clients.len()) {
            if self.may_send(state, client) {
                let mut send = |to| actions.push(Action::Send { client, to });
                owners.iter().for_each(|to| send(To::One(*to)));
                if owners.len() > 1 {
                    send(To::All);
                }
                if state.left.late_requests > 0 {
                    send(To::Nobody);
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
        // At any moment, as one does whose socket broke, though an earlier copy may be on its way.
        it.next < end && !(it.tried && state.left.resends == 0)
    }

    /// Whether history has applied what a question demands.
    fn history_has(&self, state: &State, (it, ask): (&Writer, u8)) -> bool {
        let book = self.book.lock().expect("no step panics");
        let ask = &book.owner(it.owner).asks[usize::from(ask)];
        position(state.cursor.into()) >= ask.min_seq || self.cuts(Shortcut::OldBase)
    }
}

fn core_config(setup: &Setup) -> Config {
    let mut config = Config::default();
    if setup.forgets {
        config.events_soft_max = 0;
        config.room_idle_ms = 0;
        config.dedup_commands_max = 1;
    }
    if setup.shortcut == Some(Shortcut::ForgetRefusals) {
        config.refusals_ms = 0;
    }
    if let Some(Shortcut::TrustAfterTakeover | Shortcut::ListenBeforeFence) = setup.shortcut {
        config.request_within_ms = 0;
    }
    config
}

fn count(len: usize) -> u8 {
    u8::try_from(len).expect("a run is short")
}

/// The writers that requests reach.
fn listeners(state: &State) -> impl Iterator<Item = u8> {
    let writers = (0..).zip(&state.writers);
    writers.filter_map(|(nth, writer)| writer.as_ref().filter(|it| it.listens).map(|_| nth))
}

fn living(state: &mut State, writer: u8) -> &mut Writer {
    let writer = state.writers[usize::from(writer)].as_mut();
    writer.expect("only living writers act")
}
