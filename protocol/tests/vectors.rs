//! The golden vectors in `tests/vectors/*.json`: what crosses a process boundary, byte for byte.
//!
//! Each file is JSON that any language can read: a list of cases with a name. The samples here are built
//! from Rust values, so each case is checked both ways: the file parses to the value, and the value
//! encodes to the file. A change of a vector is a change of the protocol; only
//! `NATTER_VECTORS=write cargo nextest run -p protocol --test vectors` writes the files, nothing else does.

#![allow(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "a test: tables of samples, and a wrong one shall panic"
)]

#[path = "vectors/commands.rs"]
mod commands;
#[path = "vectors/events.rs"]
mod events;
#[path = "vectors/frames.rs"]
mod frames;
#[path = "vectors/log.rs"]
mod log;

use protocol::{Cid, RoomId, Seq, Timestamp, UserId};
use serde_json::{Map, Value, json};
use std::fmt::Debug;
use std::path::PathBuf;

/// One case of a file.
struct Sample<T> {
    name: &'static str,
    value: T,
}

fn sample<T>(name: &'static str, value: T) -> Sample<T> {
    Sample { name, value }
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/vectors")
        .join(file)
}

/// The cases of a file, or, when asked to, the file written anew from `made`.
fn cases(file: &str, about: &str, made: impl Into<Value>) -> Vec<Value> {
    if std::env::var_os("NATTER_VECTORS").is_some_and(|mode| mode == "write") {
        let document = json!({ "about": about, "cases": made.into() });
        std::fs::write(path(file), format!("{document:#}\n")).unwrap();
    }
    let text = std::fs::read_to_string(path(file)).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().clone()
}

/// Checks a file whose cases are `{"name": .., "json": ..}` both ways.
fn check<T: PartialEq + Debug>(
    (file, about): (&str, &str),
    samples: &[Sample<T>],
    encode: impl Fn(&T) -> Value,
    decode: impl Fn(&Value) -> T,
) {
    let made = samples
        .iter()
        .map(|s| json!({ "name": s.name, "json": encode(&s.value) }));
    let cases = cases(file, about, made.collect::<Vec<_>>());
    let names = |name: &Value| name.as_str().unwrap().to_owned();
    let found: Vec<String> = cases.iter().map(|case| names(&case["name"])).collect();
    let expected: Vec<&str> = samples.iter().map(|sample| sample.name).collect();
    assert_eq!(
        found, expected,
        "{file} and the samples name the same cases"
    );
    for (case, Sample { name, value }) in cases.iter().zip(samples) {
        assert_eq!(
            decode(&case["json"]),
            *value,
            "{file}: {name} parses to its value"
        );
        assert_eq!(
            encode(value),
            case["json"],
            "{file}: {name} is written as it stands"
        );
    }
}

/// The same word once each, so that a file covers a list.
fn assert_covers(file: &str, mut found: Vec<String>, wanted: &[&str]) {
    found.sort_unstable();
    found.dedup();
    let missing: Vec<_> = wanted
        .iter()
        .filter(|w| !found.contains(&(**w).to_owned()))
        .collect();
    assert!(missing.is_empty(), "{file} lacks {missing:?}");
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

fn bob() -> UserId {
    UserId::parse("bob").unwrap()
}

fn cid() -> Cid {
    Cid::parse("01a2046c-fcbb-7abc-8def-0123456789ab").unwrap()
}

fn room() -> RoomId {
    RoomId::created(&alice(), cid())
}

const TS: Timestamp = Timestamp(1_795_370_000_123);
const SEQ: Seq = Seq(48_212);
