//! The model checker: every order of events around the real sequencer, within small budgets of faults.
//!
//! | module | is |
//! |---|---|
//! | `setup`, `setups` | who is there and what may go wrong how often; the set-ups that are explored whole |
//! | `script` | the people, their commands, and the log before the first step |
//! | `owner` | the real core with what its shell has in hand; a step of it is computed once |
//! | `log`, `history` | the broker's subject, and what history answers |
//! | `world`, `model` | a state, what can happen in it, and what that does |
//! | `truth`, `check` | the promises, and runs of the checker |
//! | `shortcuts` | rules left out one by one: each must be missed |
//! | `traces` | orders of events that once broke a promise |
//!
//! What is taken for granted: a client that has sent a command again does not hear the reply to an
//! older copy.

mod check;
mod history;
mod log;
mod model;
mod owner;
mod script;
mod setup;
mod setups;
mod shortcuts;
mod traces;
mod truth;
mod world;

use check::holds;
use setup::Setup;

#[test]
fn every_promise_holds_while_owners_rival() {
    holds(setups::RIVALS);
}

#[test]
fn every_promise_holds_while_three_owners_rival() {
    holds(setups::THREE);
}

#[test]
fn every_promise_holds_while_copies_arrive_in_any_order() {
    holds(setups::COPIES);
}

#[test]
fn every_promise_holds_while_a_ban_is_on_its_way() {
    holds(setups::BAN);
}

#[test]
fn every_promise_holds_while_a_ban_is_lifted_and_made_again() {
    holds(setups::UNBAN);
}

#[test]
fn every_promise_holds_while_the_record_that_lifts_a_ban_is_late() {
    holds(setups::LIFTED);
}

#[test]
fn every_promise_holds_while_history_lags_behind_cold_owners() {
    holds(setups::COLD);
}

#[test]
fn every_promise_holds_while_an_owner_forgets_what_history_has() {
    holds(setups::FORGETFUL);
}

/// `./dev soak model`: three writers and two rooms, with more that goes wrong.
#[test]
fn every_promise_holds_in_two_rooms_long_in_a_soak() {
    let setups: &[Setup] = tests::either(&[setups::ROOMS], &setups::SOAK);
    let count = u64::try_from(setups.len()).unwrap();
    for round in tests::Rounds::of("model", count, count) {
        holds(setups[usize::try_from(round).unwrap()]);
    }
}

#[test]
fn every_promise_holds_while_appends_float() {
    holds(setups::FLOATS);
}
