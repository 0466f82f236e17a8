//! What a sequencer is given and what it hands out, apart from requests and questions.

use super::Ticket;
use crate::rate::Rate;
use protocol::envelope::EnvelopeId;
use protocol::{InstanceId, StreamSeq, Timestamp, limits};

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Stored commands of one user in one room; `None` switches the bound off.
    pub rate: Option<Rate>,
    /// Age, by the broker's clock, up to which commands are kept for sure.
    pub dedup_age_ms: i64,
    /// Commands that are kept at most, as far as history has them.
    pub dedup_commands_max: usize,
    /// Events and messages above which those that history has are forgotten.
    pub events_soft_max: usize,
    /// A room that no command needed for this long may be forgotten.
    pub room_idle_ms: i64,
    /// Commands that may wait.
    pub pending_max: usize,
    /// From the making of a request to its deadline, at most.
    pub request_within_ms: i64,
    /// A final refusal is remembered for this long: no copy of its command that was made before it is
    /// begun later, whatever clocks are off.
    pub refusals_ms: i64,
    /// Final refusals that are remembered; beyond, commands that would be refused are told `unavailable`.
    pub refusals_max: usize,
    /// An idle partition's last record is renewed after this long; far below the log's `max_age`.
    pub renew_after_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate: Some(Rate {
                per_second: limits::ROOM_RATE_PER_SECOND,
                burst: limits::ROOM_RATE_BURST,
            }),
            dedup_age_ms: limits::DEDUP_WINDOW_MS,
            dedup_commands_max: limits::DEDUP_PARTITION_EVENTS_MAX,
            events_soft_max: 50_000,
            room_idle_ms: 10 * 60 * 1_000,
            pending_max: limits::PARTITION_PENDING_MAX,
            request_within_ms: limits::REQUEST_WITHIN_MS,
            refusals_ms: limits::REFUSAL_MEMORY_MS,
            refusals_max: limits::PARTITION_REFUSALS_MAX,
            renew_after_ms: 24 * 60 * 60 * 1_000,
        }
    }
}

/// Where and as whom a partition is taken over.
#[derive(Clone, Debug)]
pub struct Start {
    /// Which partition.
    pub partition: protocol::Partition,
    /// The process.
    pub instance: InstanceId,
    /// Which of the process's takeovers; never used twice.
    pub epoch: u64,
    /// Secret random bytes that the salts come from.
    pub seed: [u8; 32],
    /// Every record of the subject above this will be given to [`Sequencer::handle_record`].
    pub above: StreamSeq,
    /// The broker's time of `above`, if the record is still there.
    pub above_time: Option<Timestamp>,
    /// The stream's first and last sequence.
    pub log: LogBounds,
    /// Up to where history has applied the log, if it answers.
    pub cursor: Option<StreamSeq>,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest record; of an empty stream, one above the last.
    pub first: StreamSeq,
    /// The newest record ever stored.
    pub last: StreamSeq,
}

/// Why a partition takes no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It goes to another owner, as planned or found.
    Released,
    /// The log ends before what history has: the broker's store was lost or replaced.
    LogLost {
        /// The stream's last sequence.
        end: StreamSeq,
        /// History's cursor.
        cursor: StreamSeq,
    },
    /// History follows another log: the broker's store was replaced, or one of the two is misconfigured.
    ForeignLog,
    /// This process's clock is too far off the broker's.
    ClockSkew,
}

/// How full the process's memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Below 80% of the bound.
    #[default]
    Low,
    /// Cold rooms get `unavailable`.
    High,
    /// Every write gets `unavailable`.
    Full,
}

/// A record to append to the partition's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Its name.
    pub id: EnvelopeId,
    /// It may be stored only behind this record of the subject; 0 means the subject is empty.
    pub expected: StreamSeq,
    /// The envelope.
    pub payload: String,
    /// Events inside; 0 for an epoch record.
    pub events: usize,
    /// The first request with something inside, whose trace the record bears.
    pub first: Option<Ticket>,
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, at this position.
    Stored(StreamSeq),
    /// The compare failed. The record may be stored all the same, by a copy that came late.
    Conflict,
    /// No answer, or one that proves nothing.
    Unknown,
}

/// Names one read of the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadId(pub(super) u64);

/// A read of all records of the subject behind `after`, from the leader, begun after it was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its name.
    pub id: ReadId,
    /// The last record that is known.
    pub after: StreamSeq,
}
