//! The configuration of messages.

use crate::rate::Rate;
use crate::sequencer;
use chassis::config::Problems;
use chassis::topology::TopologyConfig;
use clap::Args;
use protocol::limits;
use std::time::Duration;

/// The configuration of messages.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Messages")]
#[group(id = "messages")]
pub struct Config {
    /// The streams' shape.
    #[command(flatten)]
    pub topology: TopologyConfig,
    /// Whether stored commands of one user in one room are bounded.
    ///
    /// On by default: the bound is what keeps one member from filling a room. Off is for measuring.
    #[arg(
        long,
        env = "NATTER_MESSAGES_RATE_LIMITS",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub messages_rate_limits: bool,
    /// Stored commands of one user in one room per second.
    ///
    /// The default is faster than anyone types.
    #[arg(long, env = "NATTER_MESSAGES_RATE_PER_SECOND", default_value_t = limits::ROOM_RATE_PER_SECOND)]
    pub messages_rate_per_second: u32,
    /// Stored commands of one user in one room that may come at once.
    ///
    /// The default lets an outbox empty itself after a journey underground.
    #[arg(long, env = "NATTER_MESSAGES_RATE_BURST", default_value_t = limits::ROOM_RATE_BURST)]
    pub messages_rate_burst: u32,
    /// Milliseconds for which the names of stored commands are kept in memory.
    ///
    /// Older repeats are looked up in history. The default covers every reconnect that people notice.
    #[arg(long, env = "NATTER_MESSAGES_DEDUP_AGE_MS", default_value_t = 900_000)]
    pub messages_dedup_age_ms: u32,
    /// Names of stored commands that one partition keeps in memory, as far as history has them.
    ///
    /// The default is 90 MB of the busiest partition.
    #[arg(
        long,
        env = "NATTER_MESSAGES_DEDUP_COMMANDS",
        default_value_t = 1_000_000
    )]
    pub messages_dedup_commands: u32,
    /// Events, messages and rooms that one partition keeps in memory although history has them.
    ///
    /// The default is 9 MB a partition; more spares look-ups of old messages.
    #[arg(long, env = "NATTER_MESSAGES_EVENTS_SOFT", default_value_t = 50_000)]
    pub messages_events_soft: u32,
    /// Records up to which a takeover reads the whole log instead of its last minutes.
    ///
    /// Then nothing has to be looked up afterwards. The default is read within a second.
    #[arg(
        long,
        env = "NATTER_MESSAGES_REPLAY_WHOLE_RECORDS",
        default_value_t = 5_000
    )]
    pub messages_replay_whole_records: u32,
    /// Bytes of memory that rooms, messages and names of commands may take in this process.
    ///
    /// At 80% rooms that are not in memory are refused, at the bound every write is, for a while.
    #[arg(long, env = "NATTER_MESSAGES_MEMORY_BYTES", default_value_t = 512 * 1024 * 1024)]
    pub messages_memory_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topology: TopologyConfig::default(),
            messages_rate_limits: true,
            messages_rate_per_second: limits::ROOM_RATE_PER_SECOND,
            messages_rate_burst: limits::ROOM_RATE_BURST,
            messages_dedup_age_ms: 900_000,
            messages_dedup_commands: 1_000_000,
            messages_events_soft: 50_000,
            messages_replay_whole_records: 5_000,
            messages_memory_bytes: 512 * 1024 * 1024,
        }
    }
}

impl Config {
    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        self.topology.check(problems);
        problems.require(
            (1..=1_000).contains(&self.messages_rate_per_second),
            "NATTER_MESSAGES_RATE_PER_SECOND",
            "must be from 1 to 1000",
        );
        problems.require(
            self.messages_rate_burst > 0,
            "NATTER_MESSAGES_RATE_BURST",
            "must be at least 1",
        );
        problems.require(
            self.messages_memory_bytes >= 16 * 1024 * 1024,
            "NATTER_MESSAGES_MEMORY_BYTES",
            "must be at least 16777216",
        );
    }

    /// What the sequencer of each partition gets; the log forgets after `max_age`.
    #[must_use]
    pub fn sequencer(&self, max_age: Duration) -> sequencer::Config {
        let quarter_ms = i64::try_from(max_age.as_millis() / 4).unwrap_or(i64::MAX);
        let usual = sequencer::Config::default();
        sequencer::Config {
            rate: self.messages_rate_limits.then_some(Rate {
                per_second: self.messages_rate_per_second,
                burst: self.messages_rate_burst,
            }),
            dedup_age_ms: i64::from(self.messages_dedup_age_ms),
            dedup_commands_max: self.messages_dedup_commands as usize,
            events_soft_max: self.messages_events_soft as usize,
            // A log without a bound on age says 0 and keeps everything.
            renew_after_ms: if quarter_ms == 0 {
                usual.renew_after_ms
            } else {
                usual.renew_after_ms.min(quarter_ms)
            },
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_partition_renews_its_record_long_before_it_ages_out() {
        let config = Config::default();
        let week = config.sequencer(Duration::from_secs(7 * 24 * 3_600));
        assert_eq!(week.renew_after_ms, 24 * 3_600 * 1_000);
        let hour = config.sequencer(Duration::from_secs(3_600));
        assert_eq!(hour.renew_after_ms, 15 * 60 * 1_000);
    }

    #[test]
    fn all_mistakes_are_reported_together() {
        let config = Config {
            messages_rate_per_second: 0,
            messages_rate_burst: 0,
            messages_memory_bytes: 1,
            ..Config::default()
        };
        let mut problems = Problems::new();
        config.check(&mut problems);
        assert_eq!(problems.lines().len(), 3);
    }
}
