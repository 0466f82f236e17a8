//! How a process lives: configuration, logs, metrics, the broker connection, tasks, health, stop.
//!
//! What every natter process needs to run stands here; what two processes must agree on is in
//! `protocol`, and what one process does is in that service.
//! The order of a life: [`config`] is parsed, [`telemetry`] starts, a [`Process`] is made, each
//! service gets its [`Context`], [`process::run`] starts and stops them in order.
//!
//! Nothing here knows a room, a user or a message.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod health;
pub mod metrics;
pub mod nats;
pub mod ops;
pub mod process;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod topology;

pub use process::{Context, Process, RunError, Service};

/// What the macros of this crate expand to; not for use by hand.
#[doc(hidden)]
pub mod private {
    pub use prometheus;
}
