//! The simulator: the real cores under crashes, rival writers, lost and late answers.
//!
//! Two worlds: here, many rival owners of one partition, at close range; in [`system`], all cores of
//! the whole system together.
//!
//! A seed decides everything: which of several rival owners of one partition gets which command, what
//! the broker and history answer and when, who crashes, whose clock is wrong, what clients send again.
//! At the end the log is judged from the outside by [`check`]. Then the weather clears, and everything
//! that clients still wait for must be answered.
//!
//! `SIM_SEED=n cargo nextest run -p tests --test sim replay --no-capture` runs one seed in both and says
//! what happened; `SIM_TRACE=1` prints every packet. Seeds that found something are kept ([`corpus`]).
//! Planted faults are lies of the shell around the cores ([`faults`]): each must be caught.
//!
//! What is assumed, as the design does: clocks of owners within ten seconds of the broker's; a client
//! that sends a command again waits until the owner would not begin the old copy any more.

mod archive;
mod broker;
mod check;
mod client;
mod corpus;
mod faults;
mod people;
mod rng;
mod shell;
mod system;
mod world;

use faults::Fault;
use world::World;

/// Seeds of the whole run.
const SEEDS: u64 = 2_000;
/// Steps of one seed before the weather clears.
const STEPS: u32 = 400;
/// Seeds within which a planted fault must show.
const FAULT_SEEDS: u64 = 2_000;

fn run(seed: u64, fault: Option<Fault>) -> Result<world::Summary, String> {
    let mut world = World::new(seed, fault);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.calm_down()?;
    check::log(&world)?;
    Ok(world.summary())
}

fn seeds(slice: u64) {
    if std::env::var("SIM_SEED").is_ok() {
        return;
    }
    let mut total = world::Summary::default();
    for seed in (slice..SEEDS).step_by(4) {
        match run(seed, None) {
            Ok(summary) => total.add(&summary),
            Err(what) => panic!("SIM_SEED={seed}: {what}"),
        }
    }
    println!("{total:?}");
    // A simulation in which nothing happens proves nothing.
    let least = SEEDS / 4;
    assert!(total.stored > 15 * least, "{total:?}");
    assert!(total.conflicts > least, "{total:?}");
    assert!(total.unknown > least, "{total:?}");
    assert!(total.takeovers > 2 * least, "{total:?}");
    assert!(total.repeats > least, "{total:?}");
    assert!(total.refused > least, "{total:?}");
    assert!(total.lookups > least, "{total:?}");
}

#[test]
fn every_seed_keeps_the_promises_1() {
    seeds(0);
}

#[test]
fn every_seed_keeps_the_promises_2() {
    seeds(1);
}

#[test]
fn every_seed_keeps_the_promises_3() {
    seeds(2);
}

#[test]
fn every_seed_keeps_the_promises_4() {
    seeds(3);
}

#[test]
fn replay() {
    let Ok(seed) = std::env::var("SIM_SEED") else {
        return;
    };
    let seed = seed.parse().expect("SIM_SEED is a number");
    match run(seed, None) {
        Ok(summary) => println!("{summary:?}"),
        Err(what) => panic!("SIM_SEED={seed}: {what}"),
    }
}

/// Some seed must show the fault.
fn is_caught(fault: Fault) {
    for seed in 0..FAULT_SEEDS {
        // The cores' own assertions count: they stop an owner before it does harm.
        let what = match std::panic::catch_unwind(|| run(seed, Some(fault))) {
            Ok(Ok(_)) => continue,
            // Standing still breaks no promise.
            Ok(Err(what)) if what.starts_with(world::STUCK) => continue,
            Ok(Err(what)) => what,
            Err(_) => "an assertion stopped an owner".to_owned(),
        };
        println!("seed {seed} shows {fault:?}: {what}");
        return;
    }
    panic!("no seed shows {fault:?}");
}

#[test]
fn appending_without_the_compare_is_caught() {
    is_caught(Fault::NoCompare);
}

#[test]
fn publishing_again_blindly_after_a_timeout_is_caught() {
    is_caught(Fault::PublishAgain);
}

#[test]
fn refusing_clients_on_an_unknown_outcome_is_caught() {
    is_caught(Fault::RefuseOnUnknown);
}

#[test]
fn taking_a_timeout_for_a_success_is_caught() {
    is_caught(Fault::AckOnUnknown);
}

#[test]
fn refusing_from_memory_without_a_proof_is_caught() {
    is_caught(Fault::UnprovenRefusals);
}

#[test]
fn forgetting_commands_at_a_takeover_is_caught() {
    is_caught(Fault::ForgetCommands);
}

#[test]
fn answering_a_copy_of_what_is_in_flight_at_once_is_caught() {
    is_caught(Fault::AnswerInFlight);
}

#[test]
fn folding_a_tail_onto_a_base_that_is_too_old_is_caught() {
    is_caught(Fault::OldBase);
}

#[test]
fn believing_an_old_answer_about_a_command_is_caught() {
    is_caught(Fault::OldCids);
}
