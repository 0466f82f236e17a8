//! What the words of natter mean: everything two processes must agree on.
//!
//! | module | says |
//! |---|---|
//! | [`id`], [`seq`], [`time`] | names, positions and moments, made only by parsing |
//! | [`limits`] | every bound, with its reason and what happens beyond it |
//! | [`subject`] | the whole NATS subject grammar, and stream and bucket names |
//! | [`command`], [`request`] | what a client asks, and how it travels to the owner of a partition |
//! | [`event`], [`chain`] | what has happened, and the hash that binds it to what was before |
//! | [`envelope`] | how events lie in the log |
//! | [`room`] | the state of a room as a fold over its events |
//! | [`frame`] | what crosses a socket |
//! | [`query`] | what history is asked and answers |
//! | [`error`] | every code a client can see |
//! | [`cursor`] | where a reader is in the log |
//!
//! This crate is pure: no clock, no random source, no socket, no environment, no hash map.
#![warn(clippy::indexing_slicing)]

pub mod chain;
pub mod command;
pub mod cursor;
pub mod envelope;
pub mod error;
pub mod event;
pub mod frame;
pub mod id;
pub mod limits;
mod omit;
pub mod query;
pub mod request;
pub mod room;
pub mod seq;
pub mod subject;
pub mod time;

pub use error::{ErrorCode, Refusal};
pub use event::{Event, EventBody};
pub use id::{Cid, ConnId, DeviceId, InstanceId, LogId, RoomId, UserId};
pub use seq::{Seq, StreamSeq};
pub use subject::{Partition, Subject};
pub use time::Timestamp;
