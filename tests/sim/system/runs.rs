//! Many seeds of the whole system, and one fault at a time.

use super::faults::Fault;
use super::{STEPS, STEPS_KEPT, Summary, run};
use crate::corpus;

/// Seeds of the whole run in a test, and in a soak.
const SEEDS: (u64, u64) = (20_000, 1_000_000);
/// Parts that run beside each other, each a test.
const SLICES: u64 = 8;
/// Seeds between two notes of how far a soak is.
const CHUNK: u64 = 250;
/// Seeds within which a planted fault must show.
const FAULT_SEEDS: u64 = 3_000;

fn run_or_panic(seed: u64, steps: u32, total: &mut Summary) {
    match run(seed, None, steps) {
        Ok(summary) => total.add(&summary),
        Err(what) => panic!("SIM_SEED={seed} SIM_STEPS={steps} (system): {what}"),
    }
}

fn seeds(slice: u64) {
    if std::env::var("SIM_SEED").is_ok() {
        return;
    }
    let mut total = Summary::default();
    let mut count = 0;
    let chunks = |seeds: u64| seeds / SLICES / CHUNK;
    let part = format!("sim.{slice}");
    for round in tests::Rounds::of(&part, chunks(SEEDS.0), chunks(SEEDS.1)) {
        for seed in round * CHUNK..(round + 1) * CHUNK {
            run_or_panic(seed * SLICES + slice, STEPS, &mut total);
            count += 1;
        }
    }
    println!("{count} seeds: {total:?}");
    if count > 0 {
        enough(&total, count);
    }
}

/// A simulation in which nothing happens proves nothing.
fn enough(total: &Summary, seeds: u64) {
    let Summary {
        world,
        gateways,
        devices,
    } = total;
    // Per hundred seeds, about half of what is usual.
    let floors = [
        ("events stored", world.stored, 1_300),
        ("appends that lost the compare", world.conflicts, 40),
        ("appends of unknown outcome", world.unknown, 50),
        ("takeovers", world.takeovers, 350),
        ("cold look-ups", world.lookups, 600),
        ("gateways that died", world.gateways_died, 7),
        ("sockets that were cut", world.cuts, 37),
        ("records that the live feed lost", world.live_lost, 200),
        ("gaps that history refused", world.gaps_refused, 12),
        ("batches that history had in part", world.overlaps, 48),
        ("gaps that were filled", gateways.filled, 150),
        ("gaps too large to be filled", gateways.jumps, 1),
        ("workers that lost the feed", gateways.evicted, 2),
        ("events shown", devices.shown, 1_000),
        ("commands acknowledged", devices.acked, 450),
        ("of them as repeats", devices.repeats, 33),
        ("commands refused for good", devices.refused, 90),
        ("resumes", devices.resumes, 60),
        ("rooms that were skipped over", devices.skips, 2),
        ("devices that started again", devices.restarts, 15),
        ("rooms that ended for their user", devices.gone, 12),
        ("sockets that lagged", devices.lagged, 2),
        ("reads of what was told", devices.reads, 15),
    ];
    for (what, count, floor) in floors {
        let least = floor * seeds / 100;
        assert!(
            count >= least,
            "{what}: {count} in {seeds} seeds, {least} expected"
        );
    }
}

#[test]
fn seeds_that_found_something_once_find_nothing_now() {
    let mut total = Summary::default();
    for seed in corpus::seeds("system") {
        run_or_panic(seed, STEPS_KEPT, &mut total);
        run_or_panic(seed, STEPS, &mut total);
    }
}

macro_rules! slices {
    ($($name:ident: $slice:expr),+ $(,)?) => { $(
        #[test]
        fn $name() {
            seeds($slice);
        }
    )+ };
}

slices! {
    every_seed_of_the_system_keeps_the_promises_1: 0,
    every_seed_of_the_system_keeps_the_promises_2: 1,
    every_seed_of_the_system_keeps_the_promises_3: 2,
    every_seed_of_the_system_keeps_the_promises_4: 3,
    every_seed_of_the_system_keeps_the_promises_5: 4,
    every_seed_of_the_system_keeps_the_promises_6: 5,
    every_seed_of_the_system_keeps_the_promises_7: 6,
    every_seed_of_the_system_keeps_the_promises_8: 7,
}

/// Runs what `SIM_SEED` names: one seed, or a range `from..to`, in which all that fail are told; with the
/// planted fault that `SIM_FAULT` names, for `SIM_STEPS`.
#[test]
fn replay() {
    let Ok(text) = std::env::var("SIM_SEED") else {
        return;
    };
    let fault = std::env::var("SIM_FAULT").ok().map(|name| {
        let named = ALL.iter().find(|fault| format!("{fault:?}") == name);
        *named.expect("SIM_FAULT is a fault")
    });
    let steps = std::env::var("SIM_STEPS").map_or(STEPS, |steps| steps.parse().unwrap());
    let (from, to) = match text.split_once("..") {
        Some((from, to)) => (from.parse().unwrap(), to.parse().unwrap()),
        None => {
            let seed: u64 = text.parse().expect("SIM_SEED is a number");
            (seed, seed + 1)
        }
    };
    let (mut total, mut failed) = (Summary::default(), 0);
    for seed in from..to {
        match std::panic::catch_unwind(|| run(seed, fault, steps)) {
            Ok(Ok(summary)) => total.add(&summary),
            Ok(Err(what)) => {
                failed += 1;
                println!("SIM_SEED={seed} (system): {what}");
            }
            Err(_) => {
                failed += 1;
                println!("SIM_SEED={seed} (system): a core panicked");
            }
        }
    }
    println!("{total:#?}");
    assert_eq!(failed, 0, "seeds that break a promise");
}

/// Some seed must show the fault.
fn is_caught(fault: Fault) {
    for seed in 0..FAULT_SEEDS {
        // The cores' own assertions count: they stop a part before it does harm.
        let what = match std::panic::catch_unwind(|| run(seed, Some(fault), STEPS_KEPT)) {
            Ok(Ok(_)) => continue,
            Ok(Err(what)) => what,
            Err(_) => "an assertion stopped a part".to_owned(),
        };
        println!("seed {seed} shows {fault:?}: {what}");
        return;
    }
    panic!("no seed shows {fault:?}");
}

macro_rules! faults {
    ($($name:ident: $fault:ident),+ $(,)?) => {
        /// Every fault.
        const ALL: &[Fault] = &[$(Fault::$fault),+];
        $(
        #[test]
        fn $name() {
            is_caught(Fault::$fault);
        }
        )+
    };
}

faults! {
    a_gateway_that_hears_no_beacon_is_caught: NoBeacon,
    a_feed_whose_gaps_are_not_filled_is_caught: NoGapCheck,
    a_cursor_ahead_of_what_was_delivered_is_caught: CursorOfProcess,
    a_resume_judged_by_the_memberships_of_now_is_caught: MembershipAtHead,
    a_worker_that_passes_over_what_was_evicted_is_caught: EvictedPassedOver,
    memberships_kept_over_a_jump_are_caught: ViewsKept,
    a_history_that_does_not_wait_is_caught: NoMinSeq,
    a_catch_up_taken_for_younger_than_it_is_is_caught: CatchUpOfNow,
    a_record_applied_twice_is_caught: AppliedTwice,
    a_record_passed_over_is_caught: RecordSkipped,
    a_base_that_is_too_old_is_caught: OldBase,
    an_owner_that_forgets_commands_is_caught: ForgetCommands,
    a_client_that_gives_new_names_is_caught: NewCids,
    a_cursor_stored_before_its_events_is_caught: CursorFirst,
    a_client_that_takes_sent_for_stored_is_caught: SentIsStored,
}
