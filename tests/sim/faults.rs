//! Planted faults, as plain data: what the shell around the real cores does wrong.

/// One lie of the shell. Each is a shortcut that somebody might find plausible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The broker stores whatever comes.
    NoCompare,
    /// A timeout: the same payload again, behind whatever is last now.
    PublishAgain,
    /// A timeout: whoever waits is told a final no.
    RefuseOnUnknown,
    /// A timeout: taken for stored.
    AckOnUnknown,
    /// The read that proves refusals is not made.
    UnprovenRefusals,
    /// A new owner takes every command for new.
    ForgetCommands,
    /// A copy of a command in flight is answered before that is stored.
    AnswerInFlight,
    /// History's base is said to be as young as was wished.
    OldBase,
    /// History's "never seen" is said to be as young as was wished.
    OldCids,
}

/// How bad the weather of a seed is, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Requests and replies that are lost.
    pub lost: u64,
    /// Appends that never arrive.
    pub appends_lost: u64,
    /// Answers of the broker that never arrive.
    pub answers_lost: u64,
    /// Questions that history does not answer.
    pub unanswered: u64,
}
