//! How many commands a user may send through this gateway. Answered, not punished: only ten times
//! the rate ends a socket.

use crate::config::Config;
use crate::session::outside::Verdict;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use protocol::UserId;
use protocol::limits::{ClientLimits, RATE_ABUSE_FACTOR};
use std::num::NonZeroU32;

/// The limiters of all users.
#[derive(Debug)]
pub struct Rates {
    polite: DefaultKeyedRateLimiter<UserId>,
    abuse: DefaultKeyedRateLimiter<UserId>,
    clock: DefaultClock,
    user_rate: u32,
    user_burst: u32,
}

impl Rates {
    /// Limiters with the configured rate and burst.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let (rate, burst) = (config.gateway_user_rate, config.gateway_user_burst);
        let quota = |factor: u32| {
            let times =
                |n: u32| NonZeroU32::new(n.saturating_mul(factor)).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(times(rate)).allow_burst(times(burst))
        };
        Self {
            polite: RateLimiter::keyed(quota(1)),
            abuse: RateLimiter::keyed(quota(RATE_ABUSE_FACTOR)),
            clock: DefaultClock::default(),
            user_rate: rate,
            user_burst: burst,
        }
    }

    /// What clients are told, so that they can keep to it.
    #[must_use]
    pub fn limits(&self) -> ClientLimits {
        ClientLimits {
            user_rate: self.user_rate,
            user_burst: self.user_burst,
            ..ClientLimits::default()
        }
    }

    /// Counts one command of this user.
    pub fn check(&self, user: &UserId) -> Verdict {
        let polite = self.polite.check_key(user);
        if self.abuse.check_key(user).is_err() {
            return Verdict::Abuse;
        }
        match polite {
            Ok(()) => Verdict::Go,
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.clock.now()).as_millis();
                Verdict::Wait(u64::try_from(wait).unwrap_or(u64::MAX).max(1))
            }
        }
    }

    /// Forgets users who have been quiet; call it now and then.
    pub fn forget_quiet(&self) {
        self.polite.retain_recent();
        self.abuse.retain_recent();
        self.polite.shrink_to_fit();
        self.abuse.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn beyond_the_burst_one_waits_and_ten_times_beyond_is_abuse() {
        let config = Cli::parse_from(["x"]).config;
        let rates = Rates::new(&config);
        let alice = UserId::parse("alice").unwrap();
        let verdicts: Vec<_> = (0..700).map(|_| rates.check(&alice)).collect();
        assert!(verdicts[..60].iter().all(|verdict| *verdict == Verdict::Go));
        let waits = |verdict: &&Verdict| matches!(verdict, Verdict::Wait(ms) if *ms <= 1_000);
        assert!(verdicts[..600].iter().filter(waits).count() > 400);
        assert!(verdicts[600..].contains(&Verdict::Abuse));
        let bob = UserId::parse("bob").unwrap();
        assert_eq!(
            rates.check(&bob),
            Verdict::Go,
            "one user costs another nothing"
        );
    }
}
