//! The model checker: every order of events around the real cores, within small budgets of faults.

mod check;
mod history;
mod log;
mod model;
mod owner;
mod script;
mod setup;
mod setups;
mod truth;
mod world;

use check::holds;
use setups::{BAN, UNBAN};

#[test]
fn ban() {
    holds(BAN);
}
#[test]
fn unban() {
    holds(UNBAN);
}
