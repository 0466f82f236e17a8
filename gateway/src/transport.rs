//! The seam between a conversation and what carries it.

use bytestring::ByteString;
use std::fmt;

/// Where the messages of one socket go. Nothing here waits.
pub trait Transport: fmt::Debug {
    /// Whether another message may be handed over.
    fn has_room(&self) -> bool;
    /// Takes a message, for which there is room; it leaves with the next [`Transport::flush`].
    fn send(&self, message: ByteString);
    /// Writes what was taken, as much as possible at once.
    fn flush(&self) -> Writing;
}

/// How far writing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Nothing waits any more.
    Done,
    /// There is more, but others shall have their turn.
    More,
    /// The connection takes no more for now.
    Full,
    /// The connection is gone.
    Gone,
}
