//! Bytes that nobody would send: the committed corpora are replayed, and mutated.
//!
//! In `./dev test` each target is called with its corpus and a few seconds of mutations, in
//! `./dev soak fuzz` with ten minutes of them. `fuzz/` has the same targets for libFuzzer, which also
//! follows coverage; the soak runs it for as long, where cargo-fuzz and a nightly toolchain are installed.
//! A mutation that breaks something is printed, to be put into the corpus.

mod corpus;
mod mutate;
mod targets;
mod websocket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use targets::{TARGETS, Target};
use tests::{Rounds, either, figure, not_run, tool};
use tokio::time::Instant;

/// Mutations between two looks at the clock.
const BATCH: u64 = 1_000;
/// Of a target's time in a soak, so that one that is stopped goes on where it was.
const SLICES: u64 = 20;

/// Every target, also the one that libFuzzer does not have.
fn all() -> impl Iterator<Item = Target> {
    let websocket: Target = ("websocket", websocket::websocket);
    TARGETS.iter().copied().chain([websocket])
}

/// Calls the target, and says with which bytes it panics.
fn holds((name, target): Target, bytes: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    assert!(
        outcome.is_ok(),
        "{name} does not hold for {}; add it to tests/data/fuzz/{name}",
        bytes.escape_ascii()
    );
}

#[test]
fn every_corpus_holds() {
    for target in all() {
        let corpus = corpus::of(target.0);
        assert!(
            corpus.len() >= 8,
            "{} has no corpus worth the name",
            target.0
        );
        for bytes in &corpus {
            holds(target, bytes);
        }
    }
}

/// Calls a target with mutations of its corpus for a while; a slice is always the same mutations, if
/// not always as many.
fn mutated(name: &str) {
    let target = all().find(|(known, _)| *known == name);
    let target = target.expect("there is such a target");
    let corpus = corpus::of(name);
    let slice = either(Duration::from_secs(1), Duration::from_secs(600 / SLICES));
    let mut calls = 0;
    for round in Rounds::of(&format!("fuzz.{name}"), 2, SLICES) {
        let mut mutator = mutate::Mutator::new(round, &corpus);
        let began = Instant::now();
        while began.elapsed() < slice {
            for _ in 0..BATCH {
                holds(target, &mutator.next());
            }
            calls += BATCH;
        }
    }
    figure(&format!("fuzz.{name}.calls"), calls);
}

#[test]
fn mutated_frames_hold() {
    mutated("frame");
}

#[test]
fn mutated_commands_hold() {
    mutated("command");
}

#[test]
fn mutated_envelopes_hold() {
    mutated("envelope");
}

#[test]
fn mutated_subjects_hold() {
    mutated("subject");
}

#[test]
fn mutated_cursors_hold() {
    mutated("cursor");
}

#[test]
fn mutated_sockets_hold() {
    mutated("websocket");
}

/// A target for ten minutes, beginning with the committed corpus; only in a soak.
#[test]
fn what_libfuzzer_mutated_holds() {
    for round in Rounds::of("fuzz.libfuzzer", 0, 5) {
        if tool("cargo-fuzz").is_none() || tool("rustup").is_none() {
            return not_run("libFuzzer", "cargo-fuzz or rustup is not installed");
        }
        let (name, _) = TARGETS[usize::try_from(round).expect("few rounds")];
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = root.join("fuzz/corpus").join(name);
        std::fs::create_dir_all(&found).expect("the sources can be written");
        let status = Command::new("rustup")
            .args(["run", "nightly", "cargo", "fuzz", "run", name])
            .arg(&found)
            .arg(root.join("tests/data/fuzz").join(name))
            .args(["--", "-max_total_time=600", "-max_len=4096", "-timeout=5"])
            .current_dir(&root)
            .status();
        let status = status.expect("rustup can be started");
        assert!(status.success(), "libFuzzer on {name}: {status}");
    }
}

/// A parser with a fault that only odd bytes find.
fn faulty(bytes: &[u8]) {
    assert!(!bytes.windows(2).any(|it| it == b"7\xff"), "found");
}

#[test]
#[should_panic(expected = "faulty does not hold for")]
fn a_planted_fault_is_found_by_mutation() {
    let corpus = [b"{\"a\":17}".to_vec(), b"plain".to_vec()];
    let mut mutator = mutate::Mutator::new(1, &corpus);
    for _ in 0..1_000_000 {
        holds(("faulty", faulty), &mutator.next());
    }
}
