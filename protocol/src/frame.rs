//! What crosses a socket: commands of clients, replies and events of the server.
//!
//! One text message holds 1..n JSON objects joined by `\n`. Both directions are here, so that the
//! gateway, the Rust client and the tests agree; the bytes are pinned by `tests/vectors`.

pub mod client;
pub mod listing;
pub mod server;

pub use client::{ClientFrame, ClientOp, Hello, Window, parse_line};
pub use server::{
    Gone, HelloOk, Page, RoomSnapshot, ServerEvent, ServerFrame, Skip, ThreadSummary, TimelineEntry,
};
