//! messages: the service that orders. Takes commands, judges them, appends them to the log.
//!
//! | module | is |
//! |---|---|
//! | [`policy`] | whether a command may happen, and which events it becomes (pure) |
//! | [`dedup`] | which commands the log holds (pure) |
//! | [`rate`] | how many stored commands a user may have in a room (pure) |
//! | [`partition`] | what an owner knows of its partition (pure) |
//! | [`sequencer`] | the state machine of one owner of one partition (pure) |
//! | `lease` | who works on which partition, and the keeper of this process's share |
//! | `takeover` | reads the tails of partitions that were taken |
//! | `writer` | the task of one owned partition, around its sequencer |
//! | `history` | asks history, follows how far it and the log are |
//! | `beacon` | tells gateways how far the log is |
//! | [`config`], [`metrics`] | what can be set, what is measured |
//!
//! Absent on purpose: sockets, tokens, SQL. Nothing here is kept that the log and history cannot rebuild.

mod beacon;
mod clocks;
pub mod config;
pub mod dedup;
mod history;
mod lease;
pub mod metrics;
pub mod partition;
pub mod policy;
pub mod rate;
pub mod sequencer;
mod service;
mod shared;
mod takeover;
mod writer;

pub use config::Config;
pub use service::run;
