//! How long to wait before trying again: exponential with full jitter.
//!
//! Full jitter (uniform between nothing and the current bound) spreads a herd best; see "Exponential
//! Backoff And Jitter", AWS Architecture Blog. The exponential sequence is backon's; backon adds its
//! own jitter on top of the bound, so ours is drawn here.
//! A user's request is never retried by this without its idempotency key.

use std::fmt::Display;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use rand::RngExt;
use tokio_util::sync::CancellationToken;

/// The bounds between which waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The longest that the first wait can be.
    pub first: Duration,
    /// The longest that any wait can be.
    pub max: Duration,
}

/// Waits for infrastructure (broker, database) to come back: up to 100 ms at first, 2 s at most.
///
/// What needs it must be back within 5 s of its return (`tests/chaos` postgres), and that may take two
/// attempts. A thousand clients of a broken one make a thousand attempts a second.
pub const INFRASTRUCTURE: Bounds = Bounds {
    first: Duration::from_millis(100),
    max: Duration::from_secs(2),
};

/// An endless sequence of waits.
#[derive(Debug)]
pub struct Backoff {
    bounds: Bounds,
    sequence: ExponentialBackoff,
}

impl Backoff {
    /// Starts at the first wait of `bounds`.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            sequence: sequence(bounds),
        }
    }

    /// Starts again at the first wait, after a success.
    pub fn reset(&mut self) {
        self.sequence = sequence(self.bounds);
    }

    /// The next wait: uniform in `0..=bound`, where the bound doubles up to the maximum.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self
            .sequence
            .next()
            .unwrap_or(self.bounds.max)
            .min(self.bounds.max);
        rand::rng().random_range(Duration::ZERO..=bound)
    }
}

fn sequence(bounds: Bounds) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(bounds.first)
        .with_max_delay(bounds.max)
        .with_factor(2.0)
        .without_max_times()
        .build()
}

/// Runs `attempt` until it succeeds, for ever, unless `stop` is cancelled: then `None`.
///
/// For infrastructure only. Each failure is logged as a warning with `what`.
///
/// Cancel safety: dropping the future drops the attempt that is under way.
pub async fn forever<T, E, F, Fut>(
    what: &str,
    bounds: Bounds,
    stop: &CancellationToken,
    mut attempt: F,
) -> Option<T>
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(bounds);
    loop {
        match stop.run_until_cancelled(attempt()).await? {
            Ok(value) => return Some(value),
            Err(error) => {
                let wait = backoff.next_wait();
                tracing::warn!(%error, retry_in_ms = wait.as_millis(), "{what} failed, trying again");
                stop.run_until_cancelled(tokio::time::sleep(wait)).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn waits_grow_up_to_the_bound_and_no_further() {
        let mut backoff = Backoff::new(INFRASTRUCTURE);
        for n in 0..64_u32 {
            let bound = INFRASTRUCTURE
                .max
                .min(INFRASTRUCTURE.first * 2_u32.pow(n.min(8)));
            let wait = backoff.next_wait();
            assert!(wait <= bound, "wait {n} is {wait:?}, bound {bound:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= INFRASTRUCTURE.first);
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let bounds = Bounds {
            first: Duration::from_secs(1),
            max: Duration::from_secs(1),
        };
        let mut backoff = Backoff::new(bounds);
        let waits: Vec<_> = (0..200).map(|_| backoff.next_wait()).collect();
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(300)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_millis(700)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_repeated_until_it_succeeds() {
        let attempts = Cell::new(0);
        let stop = CancellationToken::new();
        let value = forever("counting", INFRASTRUCTURE, &stop, || {
            attempts.set(attempts.get() + 1);
            std::future::ready(if attempts.get() < 20 {
                Err("not yet")
            } else {
                Ok("there")
            })
        })
        .await;
        assert_eq!((value, attempts.get()), (Some("there"), 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_attempts() {
        let stop = CancellationToken::new();
        stop.cancel();
        let value: Option<()> = forever("failing", INFRASTRUCTURE, &stop, || {
            std::future::ready(Err("never"))
        })
        .await;
        assert_eq!(value, None);
    }
}
