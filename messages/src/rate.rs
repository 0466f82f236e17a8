//! A token bucket that counts in whole milliseconds and takes the time as an argument.
//!
//! Bounds stored commands of one user in one room; the gateway bounds a user's commands as a whole.

use protocol::Timestamp;

/// How fast and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second; at least 1.
    pub per_second: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

impl Rate {
    /// The time that one token takes to come back.
    fn token_ms(self) -> i64 {
        1_000 / i64::from(self.per_second.clamp(1, 1_000))
    }
}

/// One user's bucket, by the moment at which it will be full again (generic cell rate algorithm).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    full_at: Timestamp,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full() -> Self {
        Self {
            full_at: Timestamp::MIN,
        }
    }

    /// Whether a token is left at `now`, without taking it.
    ///
    /// # Errors
    /// Milliseconds until there is one.
    pub fn check(&self, rate: Rate, now: Timestamp) -> Result<(), u64> {
        let debt_ms = self.full_at.max(now).since_ms(now) + rate.token_ms();
        let most_ms = i64::from(rate.burst.max(1)) * rate.token_ms();
        match u64::try_from(debt_ms - most_ms) {
            Ok(wait_ms) if wait_ms > 0 => Err(wait_ms),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Takes a token.
    pub fn take(&mut self, rate: Rate, now: Timestamp) {
        self.full_at = self.full_at.max(now).plus_ms(rate.token_ms());
    }

    /// Gives a token back that was taken for something that did not happen.
    pub fn give_back(&mut self, rate: Rate) {
        self.full_at = self.full_at.plus_ms(-rate.token_ms());
    }

    /// Whether nothing is missing at `now`: then it need not be kept.
    #[must_use]
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 5,
        burst: 20,
    };

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = Bucket::full();
        let now = Timestamp(1_000_000);
        for _ in 0..20 {
            assert_eq!(bucket.check(RATE, now), Ok(()));
            bucket.take(RATE, now);
        }
        assert_eq!(bucket.check(RATE, now), Err(200));
        assert_eq!(bucket.check(RATE, now.plus_ms(199)), Err(1));
        assert_eq!(bucket.check(RATE, now.plus_ms(200)), Ok(()));
        assert!(!bucket.is_full(now.plus_ms(3_999)) && bucket.is_full(now.plus_ms(4_000)));
    }

    #[test]
    fn a_token_given_back_can_be_taken_again() {
        let mut bucket = Bucket::full();
        for _ in 0..20 {
            bucket.take(RATE, Timestamp(0));
        }
        bucket.give_back(RATE);
        assert_eq!(bucket.check(RATE, Timestamp(0)), Ok(()));
    }
}
