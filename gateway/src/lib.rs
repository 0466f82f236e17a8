//! The gateway: terminates sockets.
//!
//! | module | does |
//! |---|---|
//! | [`session`] | the protocol of one socket, pure |
//! | [`transport`], [`socket`], [`hub`] | the seam, the WebSocket behind it, and what a worker delivers to whom |
//! | [`upstream`], [`ring`], [`views`] | the live feed in order, the recent past, who was where |
//! | [`questions`], [`batches`], [`takeovers`] | asking history, sending commands to owners, when these change |
//! | [`http`] | the HTTP reads, the message POST, the upgrade |
//! | [`discretion`] | that `not_found` takes the same time whatever the reason |
//! | [`auth`], [`connections`], [`rate`], [`writes`] | tokens, caps, rates, whether writes get through |
//! | [`config`], [`metrics`], [`moment`], [`shared`] | settings, measurements, time, what all share |
//! | [`run`](mod@run) | start, drain, stop |

pub mod auth;
pub mod batches;
pub mod config;
pub mod connections;
pub mod discretion;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod moment;
pub mod questions;
pub mod rate;
pub mod ring;
pub mod run;
pub mod session;
pub mod shared;
pub mod socket;
pub mod takeovers;
pub mod transport;
pub mod upstream;
pub mod views;
pub mod writes;

pub use config::Config;
pub use run::run;
