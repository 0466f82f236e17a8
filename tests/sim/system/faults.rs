//! Planted faults, as plain data, and how bad the weather of a seed is.

use crate::rng::Rng;

/// One shortcut around the real cores that somebody might find plausible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Gateways hear no beacons.
    NoBeacon,
    /// A gateway takes a gap in its feed for records without events.
    NoGapCheck,
    /// A cursor says what the process has, not what the worker has delivered.
    CursorOfProcess,
    /// A resume is judged by the memberships of now, not by those at its cursor.
    MembershipAtHead,
    /// A worker that finds its records evicted goes on as if it had delivered them.
    EvictedPassedOver,
    /// A gateway that has jumped over a gap keeps what it knew of memberships.
    ViewsKept,
    /// History answers at once, however much it is asked to have applied.
    NoMinSeq,
    /// What history says was missed is taken to cover the whole log.
    CatchUpOfNow,
    /// History applies a record that it has applied.
    AppliedTwice,
    /// History applies what comes, though a record is missing before it.
    RecordSkipped,
    /// An owner takes a base for as young as it wished.
    OldBase,
    /// A new owner takes every command for new.
    ForgetCommands,
    /// A client that starts again gives what waits new names.
    NewCids,
    /// A client's cursor survives a crash that the events it covers do not.
    CursorFirst,
    /// A client forgets a command when it is sent.
    SentIsStored,
}

/// How bad the weather of a seed is, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Requests, replies and questions that are lost.
    pub lost: u64,
    /// Appends that never arrive, and answers to them.
    pub appends: u64,
    /// Records that the live feed loses.
    pub live: u64,
    /// Beacons that are lost.
    pub beacons: u64,
    /// Questions that history leaves without an answer.
    pub unanswered: u64,
    /// Steps in which a part of some kind dies.
    pub crashes: u64,
    /// Steps in which a socket is cut.
    pub cuts: u64,
    /// Whether texts are long, so that queues fill.
    pub bulky: bool,
    /// Whether history stands still for long.
    pub slow_history: bool,
}

impl Weather {
    /// The weather of a seed.
    pub fn of(rng: &mut Rng) -> Self {
        Self {
            lost: rng.below(8),
            appends: rng.below(12),
            live: *rng.pick(&[0, 5, 30]),
            beacons: rng.below(50),
            unanswered: rng.below(15),
            crashes: rng.below(4),
            cuts: rng.below(8),
            bulky: rng.chance(3),
            slow_history: rng.chance(25),
        }
    }
}
