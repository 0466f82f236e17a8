//! The Rust client of natter: a bounded, durable outbox, rooms without gaps, a connection that comes back.
//!
//! | module | says |
//! |---|---|
//! | [`Client`] | what an application uses; the shell around the rest |
//! | [`core`] | everything a client decides: pure, in and out |
//! | [`connection`] | when a socket is opened, given up or moved |
//! | [`outbox`], [`reads`] | commands and questions on their way |
//! | [`rooms`], [`timeline`] | the rule per room, and what a room shows |
//! | [`cid`], [`pace`] | names for commands, and how fast they may go |
//! | [`store`], [`change`] | what survives a restart |
//! | [`update`] | what an application is told |
//!
//! It speaks the protocol of the crate `protocol` and knows nothing of the servers. `ws://` only:
//! TLS ends at a proxy.

pub mod change;
pub mod cid;
mod client;
pub mod connection;
pub mod core;
mod link;
pub mod outbox;
pub mod pace;
pub mod reads;
pub mod rooms;
mod run;
pub mod store;
pub mod timeline;
pub mod update;

pub use client::{
    Client, ClientError, Config, OpenError, StaticToken, Status, Submitted, TokenError,
    TokenSource, Updates,
};
pub use connection::{ConnectionState, StopReason};
pub use core::RoomView;
pub use outbox::Delivery;
pub use store::{Store, StoreError};
pub use timeline::Line;
pub use update::{Follow, Update};
