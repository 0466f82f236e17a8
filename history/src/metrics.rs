//! What history measures.

use crate::record::Poison;
use chassis::metrics::{COUNT, LATENCY_SECONDS};

chassis::label! {
    /// A kind of question.
    pub enum Verb: "verb" {
        /// A page of a timeline, or dense events.
        History = "history",
        /// A page of a thread.
        Thread = "thread",
        /// A user's rooms.
        Rooms = "rooms",
        /// Public rooms.
        Discover = "discover",
        /// A room's members.
        Members = "members",
        /// A room's bans.
        Bans = "bans",
        /// A message's texts.
        Revisions = "revisions",
        /// Counts of every room.
        Unread = "unread",
        /// The cursor.
        Position = "position",
        /// Rooms for a hello.
        Snapshots = "snapshots",
        /// What was missed since a cursor.
        CatchUp = "catch_up",
        /// What was missed without a cursor.
        Have = "have",
        /// A room's state for its owner.
        RoomState = "room_state",
        /// Messages' states for their owner.
        MessageStates = "message_states",
        /// Old commands.
        Cids = "cids",
        /// Facts about a user.
        UserFacts = "user_facts",
        /// Counts of one room.
        ReadCounts = "read_counts",
        /// Archived records.
        Records = "records",
    }
}

chassis::label! {
    /// How a question ended.
    pub enum Outcome: "outcome" {
        /// Answered.
        Ok = "ok",
        /// Refused for good: absent, forbidden, malformed.
        Refused = "refused",
        /// Refused for now: behind, overloaded, or without Postgres.
        Unavailable = "unavailable",
        /// The asker had given up before it was read.
        Late = "late",
    }
}

chassis::label! {
    /// Why something in the log was not applied.
    pub enum PoisonKind: "kind" {
        /// The record cannot be read.
        Record = "record",
        /// The line is no event.
        Line = "line",
        /// The line is of another room or partition.
        Misplaced = "misplaced",
        /// A gap or a repetition of a seq.
        Seq = "seq",
        /// The chain is broken.
        Prev = "prev",
        /// A room without a beginning.
        NotCreated = "not_created",
        /// The command was stored before.
        Repeated = "repeated",
    }
}

impl From<&Poison> for PoisonKind {
    fn from(poison: &Poison) -> Self {
        match poison {
            Poison::Line(_) => Self::Line,
            Poison::Room | Poison::Partition => Self::Misplaced,
            Poison::Seq { .. } => Self::Seq,
            Poison::Prev => Self::Prev,
            Poison::NotCreated => Self::NotCreated,
            Poison::Repeated => Self::Repeated,
        }
    }
}

chassis::metrics! {
    /// Metrics of history.
    pub struct Metrics: "natter_history" {
        /// Whether this process is the one that applies the log.
        ingesting: Gauge,
        /// Stream sequence of the last applied record.
        applied_position: Gauge,
        /// Records in the log that are not applied yet.
        lag_records: Gauge,
        /// Age of the oldest record that is not applied yet, 0 if there is none.
        lag_seconds: Gauge,
        /// Whether the log cannot be applied without help: another log, or records lost.
        stopped: Gauge,
        /// Events applied by this process.
        events_total: Counter,
        /// Events and records that were archived but not applied, by why.
        poison_total: Counter[PoisonKind],
        /// Batches that failed and were tried again.
        failures_total: Counter,
        /// Events in one transaction.
        batch_events: Histogram(COUNT),
        /// Time from having a batch to its commit.
        commit_seconds: Histogram(LATENCY_SECONDS),
        /// Questions by outcome.
        queries_total: Counter[Outcome],
        /// Time from receiving a question to its answer, waiting for min_seq included.
        query_seconds: Histogram[Verb](LATENCY_SECONDS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rules() {
        let faults: Vec<String> = Metrics::DEFINITIONS
            .iter()
            .flat_map(chassis::metrics::faults)
            .collect();
        assert_eq!(faults, Vec::<String>::new());
    }
}
