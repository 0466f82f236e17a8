//! libFuzzer on the target `cursor` of tests/fuzz/targets.rs.
#![no_main]

#[allow(dead_code, reason = "the other targets are programs of their own")]
#[path = "../../tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::cursor(data));
