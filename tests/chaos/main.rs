//! What attacks the promises: real processes that are killed, frozen, cut off and starved.
//!
//! Each test has the machine to itself. Faults are plain data, made from a seed that a failed test
//! prints. Short in `./dev test`, long in `./dev soak PART`.

mod cluster;
mod faults;
mod fence;
mod owners;
mod postgres;
mod power;
mod rolling;
mod schedule;
mod stopped;
mod store_faults;
mod store_lost;
mod store_talk;
mod takeover;
mod talk;
