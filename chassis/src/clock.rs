//! Wall-clock time as milliseconds since 1970.
//!
//! Deadlines and intervals use `tokio::time`, never this; this is for what is written down or sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time; clones share one offset.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    offset_ms: Arc<AtomicI64>,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Fixed(i64),
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self {
            source: Source::System,
            offset_ms: Arc::default(),
        }
    }

    /// The machine's clock shifted by `offset_ms`, for tests of clock skew.
    #[must_use]
    pub fn with_offset(offset_ms: i64) -> Self {
        Self {
            source: Source::System,
            offset_ms: Arc::new(AtomicI64::new(offset_ms)),
        }
    }

    /// A clock that stands at `now_ms` until it is moved, for tests.
    #[must_use]
    pub fn fixed(now_ms: i64) -> Self {
        Self {
            source: Source::Fixed(now_ms),
            offset_ms: Arc::default(),
        }
    }

    /// Now, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let base = match self.source {
            Source::System => system_ms(),
            Source::Fixed(ms) => ms,
        };
        base.saturating_add(self.offset_ms.load(Ordering::Relaxed))
    }

    /// Moves this clock and its clones by `by_ms`, forwards or (negative) backwards.
    pub fn advance(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

/// A clock before 1970 or after the year 292 million counts as the nearest time we can tell.
fn system_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_clock_move_together() {
        let clock = Clock::fixed(1_000);
        let clone = clock.clone();
        clock.advance(-250);
        assert_eq!((clock.now_ms(), clone.now_ms()), (750, 750));
    }

    #[test]
    fn an_offset_shifts_the_machines_clock() {
        let ahead = Clock::with_offset(3_600_000).now_ms() - Clock::system().now_ms();
        assert!((3_599_000..=3_600_000).contains(&ahead), "{ahead}");
    }
}
