//! The seam between a conversation and what carries it.

use bytestring::ByteString;
use std::fmt;

/// Where the messages of one socket go. Nothing here waits.
pub trait Transport: fmt::Debug {
    /// Whether a message may be sent now.
    fn has_room(&self) -> bool;
    /// Asks that the socket's task be woken when there is room again.
    fn wants_room(&self);
    /// Sends a message, for which there is room; false if the connection is gone.
    fn send(&self, message: ByteString) -> bool;
}

/// How far writing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Nothing waits any more.
    Done,
    /// The connection takes no more for now.
    Full,
    /// The connection is gone.
    Gone,
}
