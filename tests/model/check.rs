//! The promises as properties, and runs of the checker.

use crate::model::World;
use crate::setup::{Setup, Shortcut, Sight};
use crate::truth::Broken;
use crate::world::{Action, State};
use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use std::collections::HashMap;
use tokio::time::Instant;

/// A run with more is no part of the tests, nor of a soak.
fn states_max() -> usize {
    tests::either(5_000_000, 400_000_000)
}
/// What must be reachable, or the model proves nothing.
const ALL_SETTLED: &str = "every client is told what became of everything";

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.after(state, &action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is acknowledged is stored", |_, state: &State| {
                let stored = |(id, seq): &(u8, u8)| state.truth.seq_of(*id) == Some(*seq);
                state.acked.iter().all(stored) && keeps(state, Broken::FalseAck)
            }),
            Property::always("a command is stored once", |_, state: &State| {
                keeps(state, Broken::StoredTwice)
            }),
            Property::always("a client is told one seq for a cid", |_, state: &State| {
                keeps(state, Broken::TwoSeqs)
            }),
            Property::always("a seq is never given twice", |_, state: &State| {
                keeps(state, Broken::SeqTwice)
            }),
            Property::always("the log is dense", |_, state: &State| {
                keeps(state, Broken::SeqGap)
            }),
            Property::always("what is refused is never stored", |_, state: &State| {
                let denied = |id: u8| state.denied & (1 << id) != 0;
                !state.truth.stored.iter().any(|(id, _)| denied(*id))
            }),
            Property::always("a sender's order is kept", |_, state: &State| {
                keeps(state, Broken::OrderTurned)
            }),
            Property::always("nothing of the banned lies behind the ban", |_, state| {
                keeps(state, Broken::BehindTheBan)
            }),
            Property::always("nothing lies behind the freeze", |_, state: &State| {
                keeps(state, Broken::BehindTheFreeze)
            }),
            Property::always("the hash chain is whole", |_, state: &State| {
                keeps(state, Broken::ChainForked)
            }),
            Property::always("no owner finds the log damaged", |_, state: &State| {
                keeps(state, Broken::Alarm)
            }),
            Property::sometimes(ALL_SETTLED, |world: &World, state: &State| {
                let spans = world.script.spans.iter();
                let mut both = state.clients.iter().zip(spans);
                both.all(|(client, (_, end))| client.next == *end)
            }),
        ]
    }
}

fn keeps(state: &State, promise: Broken) -> bool {
    !state.truth.is_broken(promise)
}

/// Explores every state of a set-up, and says how many they were.
pub fn holds(setup: Setup) {
    let began = Instant::now();
    let states = explore(setup);
    let seconds = began.elapsed().as_secs_f64();
    tests::figure(&format!("model.{}.states", setup.name), states);
    tests::figure(
        &format!("model.{}.seconds", setup.name),
        format!("{seconds:.1}"),
    );
}

/// Explores every state of a set-up: no promise may break, and everything that it is about must be met.
pub fn explore(setup: Setup) -> usize {
    let explored = run(setup);
    for (name, path) in &explored.found {
        if *name != ALL_SETTLED {
            panic!("{}: broken: {name}\n{}", setup.name, tell(path.clone()));
        }
    }
    let states = explored.states;
    assert!(states < states_max(), "{}: not complete", setup.name);
    let settled = explored.found.contains_key(ALL_SETTLED);
    assert!(settled, "{ALL_SETTLED}: never");
    let unseen = explored.unseen;
    assert!(unseen.is_empty(), "{}: never met: {unseen:?}", setup.name);
    states
}

/// Finds a promise that a shortcut breaks in a set-up where none breaks without it.
pub fn breaks_only_with(shortcut: Shortcut, setup: Setup, promises: &[&str]) {
    explore(setup);
    breaks(setup.with(shortcut), promises);
}

/// Finds a promise that a shortcut breaks.
pub fn breaks(setup: Setup, promises: &[&str]) {
    let mut found = run(setup).found;
    found.remove(ALL_SETTLED);
    let names: Vec<&str> = found.keys().copied().collect();
    let Some(path) = promises.iter().find_map(|promise| found.remove(promise)) else {
        panic!(
            "{:?} breaks none of {promises:?}, but {names:?}",
            setup.shortcut
        );
    };
    println!("   broken: {names:?}\n{}", tell(path));
}

/// What came of a run.
struct Explored {
    states: usize,
    found: HashMap<&'static str, Path<State, Action>>,
    unseen: Vec<Sight>,
}

fn run(setup: Setup) -> Explored {
    let began = Instant::now();
    let checker = World::new(setup)
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(states_max());
    if tests::is_soak() {
        // The shortest path to what breaks is worth less than the memory of all that is to be done.
        explored(setup, &checker.spawn_dfs().join(), began)
    } else {
        explored(setup, &checker.spawn_bfs().join(), began)
    }
}

fn explored(setup: Setup, checker: &impl Checker<World>, began: Instant) -> Explored {
    let took = began.elapsed();
    let world = checker.model();
    let book = world.book.lock().expect("no step panics");
    println!(
        "== {}{}: {} states, {} unique, depth {}, {} owners, {} steps of theirs, {took:.1?}",
        setup.name,
        setup
            .shortcut
            .map_or(String::new(), |cut| format!(", {cut:?}")),
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        book.owners(),
        book.steps(),
    );
    drop(book);
    let sights = setup.sights.iter().copied();
    Explored {
        states: checker.state_count(),
        found: checker.discoveries(),
        unseen: sights.filter(|sight| world.sights(*sight) == 0).collect(),
    }
}

fn tell(path: Path<State, Action>) -> String {
    let (last, actions) = (path.last_state().clone(), path.into_actions());
    let steps: Vec<String> = actions
        .iter()
        .map(|action| format!("      {action:?}"))
        .collect();
    format!(
        "{}\n      {:?} {:?}",
        steps.join("\n"),
        last.truth.stored,
        last.acked
    )
}
