//! What messages measures.

use chassis::metrics::{COUNT, LATENCY_SECONDS};

chassis::label! {
    /// What became of a command.
    pub enum Result: "outcome" {
        /// Stored.
        Stored = "stored",
        /// A repeat, answered with the original result.
        Repeat = "repeat",
        /// Nothing had to change.
        Noop = "noop",
        /// Refused for good.
        Refused = "refused",
        /// Refused for now.
        Temporary = "temporary",
    }
}

chassis::label! {
    /// How an append ended.
    pub enum Append: "outcome" {
        /// Stored.
        Stored = "stored",
        /// The compare failed.
        Conflict = "conflict",
        /// Not known.
        Unknown = "unknown",
    }
}

chassis::label! {
    /// What had to be looked up in history.
    pub enum Lookup: "kind" {
        /// A room's state.
        Room = "room",
        /// Messages' states.
        Messages = "messages",
        /// Old commands.
        Cids = "cids",
        /// Facts about a user.
        User = "user",
    }
}

chassis::label! {
    /// A sync conflict: a command whose outcome differs from what its client showed.
    pub enum Conflict: "kind" {
        /// An edit lost against a later one.
        EditLost = "edit_lost",
        /// A removal had not seen what it would remove.
        Superseded = "superseded",
        /// The message was deleted meanwhile.
        TargetGone = "target_gone",
        /// The author is no member any more.
        NotMember = "not_member",
    }
}

chassis::metrics! {
    /// Metrics of messages.
    pub struct Metrics: "natter_messages" {
        /// Partitions that this process owns.
        partitions: Gauge,
        /// Commands by what became of them.
        commands_total: Counter[Result],
        /// Appends to the log by how they ended.
        appends_total: Counter[Append],
        /// Time from an append to its answer.
        append_seconds: Histogram(LATENCY_SECONDS),
        /// Events of one append.
        append_events: Histogram(COUNT),
        /// Time from a command's arrival to its answer.
        command_seconds: Histogram(LATENCY_SECONDS),
        /// Questions to history by kind.
        lookups_total: Counter[Lookup],
        /// Questions that history did not answer.
        lookups_failed_total: Counter,
        /// Reads of the leader that confirm refusals or settle an unknown outcome.
        leader_reads_total: Counter,
        /// Partitions taken over.
        takeovers_total: Counter,
        /// Time from a lease to the first admitted command.
        takeover_seconds: Histogram(LATENCY_SECONDS),
        /// Rooms whose events do not follow each other.
        poisoned_rooms_total: Counter,
        /// Ranges of the log that were found lost.
        lost_ranges_total: Counter,
        /// Pieces of state in memory: names of commands, events, messages, rooms and their people.
        memory_pieces: Gauge,
        /// Estimated bytes of that state.
        memory_bytes: Gauge,
    }
}

chassis::metrics! {
    /// Metrics of sync conflicts (design section 8).
    pub struct SyncMetrics: "natter_sync" {
        /// Commands whose outcome differs from what their client showed.
        conflicts_total: Counter[Conflict],
        /// Time from a command's making to the decision of its conflict.
        conflict_resolution_seconds: Histogram(&[0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_follow_the_rules() {
        let definitions = Metrics::DEFINITIONS.iter().chain(SyncMetrics::DEFINITIONS);
        let faults: Vec<String> = definitions.flat_map(chassis::metrics::faults).collect();
        assert_eq!(faults, Vec::<String>::new());
    }
}
