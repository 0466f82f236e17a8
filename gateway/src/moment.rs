//! Time as the cores get it: never read there, always an argument.

use protocol::Timestamp;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The clock on the wall: for what is written down, and for the end of tokens.
    pub wall: Timestamp,
    /// Milliseconds of a clock that never jumps: for intervals and deadlines.
    pub ticks: u64,
}
