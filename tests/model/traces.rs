//! Orders of events that once broke a promise, step by step.

use crate::model::World;
use crate::setup::{Budget, Setup};
use crate::setups::FLOATS;
use crate::world::{Action, State, To};

/// Takes these steps, each of which must be possible.
fn take(setup: Setup, steps: &[Action]) -> State {
    let world = World::new(setup);
    let mut state = world.first();
    for step in steps {
        let mut possible = Vec::new();
        world.possible(&state, &mut possible);
        assert!(possible.contains(step), "{step:?} is none of {possible:?}");
        state = world.after(&state, step).expect("a step changes something");
    }
    state
}

fn sends(client: u8, to: u8) -> Action {
    Action::Send {
        client,
        to: To::One(to),
    }
}

fn stores(writer: u8) -> Action {
    Action::Store {
        writer,
        echo: false,
        held: false,
    }
}

fn reads(writer: u8) -> Action {
    Action::Read {
        writer,
        lag: 0,
        held: false,
    }
}

/// It used to hand out its commands again, to be stored behind its successor's record. One that was
/// late then stored what the successor had just refused, with a proof.
#[test]
fn an_owner_that_was_overtaken_has_nothing_on_its_way() {
    let (alice, olga) = (0, 1);
    let overtaken = [
        // The room is frozen; the thaw is in flight, and alice's messages wait behind it.
        sends(olga, 0),
        stores(0),
        Action::ReplyArrives,
        sends(olga, 0),
        sends(alice, 0),
        Action::Timeout(0),
        Action::Takeover { writer: 1, lag: 0 },
        stores(1),
        // Here the first owner finds the second one's record.
        reads(0),
        Action::ReplyArrives,
        Action::ReplyArrives,
    ];
    let setup = Setup {
        budget: Budget {
            takeovers: 1,
            ..FLOATS.budget
        },
        ..FLOATS
    };
    let state = take(setup, &overtaken);
    assert_eq!((state.writers[0].as_ref(), state.floats.len()), (None, 0));
    // What was made before the second owner began would have to come again.
    let refused = [
        Action::Clock,
        sends(alice, 1),
        reads(1),
        Action::ReplyArrives,
    ];
    let state = take(setup, &[&overtaken[..], &refused].concat());
    assert_eq!((state.denied, state.floats.len()), (0b11, 0));
}
