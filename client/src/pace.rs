//! How fast this client sends: the server's own rate, so that it rarely has to refuse.
//!
//! Pure. Ten times the rate would close the socket (protocol, "Limits"), and a client that comes
//! back with a full outbox would reach that at once.

use protocol::Timestamp;
use protocol::limits::{ClientLimits, USER_RATE_BURST, USER_RATE_PER_SECOND};

const MS_PER_SECOND: i64 = 1_000;

/// A token bucket in thousandths of a command.
#[derive(Clone, Debug)]
pub struct Pace {
    per_second: i64,
    burst: i64,
    level_milli: i64,
    at: Timestamp,
}

impl Pace {
    /// A full bucket of the protocol's rate.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let (per_second, burst) = (i64::from(USER_RATE_PER_SECOND), i64::from(USER_RATE_BURST));
        Self {
            per_second,
            burst,
            level_milli: burst * MS_PER_SECOND,
            at: now,
        }
    }

    /// Learns the server's rate from `hello`.
    pub fn set_limits(&mut self, limits: &ClientLimits) {
        self.per_second = i64::from(limits.user_rate.max(1));
        self.burst = i64::from(limits.user_burst.max(1));
        self.level_milli = self.level_milli.min(self.burst * MS_PER_SECOND);
    }

    /// How many commands may be sent at `now`.
    pub fn available(&mut self, now: Timestamp) -> usize {
        let earned = now.since_ms(self.at).max(0).saturating_mul(self.per_second);
        self.level_milli = self
            .level_milli
            .saturating_add(earned)
            .min(self.burst * MS_PER_SECOND);
        self.at = now;
        usize::try_from(self.level_milli / MS_PER_SECOND).unwrap_or(0)
    }

    /// Counts commands as sent.
    pub fn spend(&mut self, commands: usize) {
        let commands = i64::try_from(commands).unwrap_or(i64::MAX / MS_PER_SECOND);
        self.level_milli -= commands.saturating_mul(MS_PER_SECOND);
    }

    /// When the next command may be sent, if not now.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        let missing = MS_PER_SECOND - self.level_milli;
        (missing > 0).then(|| {
            self.at
                .plus_ms((missing + self.per_second - 1) / self.per_second)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut now = Timestamp(0);
        let mut pace = Pace::new(now);
        assert_eq!(pace.available(now), 60);
        pace.spend(60);
        assert_eq!(pace.available(now), 0);
        now = pace.next_at().unwrap();
        assert_eq!(now, Timestamp(50));
        assert_eq!(pace.available(now), 1);
        assert_eq!(pace.available(Timestamp(1_000_000)), 60);
        assert_eq!(pace.next_at(), None);
    }
}
