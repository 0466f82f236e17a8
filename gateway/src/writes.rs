//! Whether writes get through at all, judged by how commands end.
//!
//! A broker with a full disk is connected and answers reads, and yet nothing can be stored; then this
//! gateway is not ready. After a while without any command it is given the benefit of the doubt.

use std::sync::{Mutex, PoisonError};

/// Failures in a row that count as an outage.
const FAILURES_MIN: u32 = 3;
/// They must span this long: a takeover is no outage.
const SPAN_MS: u64 = 4_000;
/// An outage is believed for this long after the last failure.
const MEMORY_MS: u64 = 20_000;

#[derive(Debug, Default)]
struct Streak {
    failures: u32,
    first: u64,
    last: u64,
}

/// Outcomes of the last commands.
#[derive(Debug, Default)]
pub struct Writes {
    streak: Mutex<Streak>,
}

impl Writes {
    /// A command was stored, or refused by an owner that works.
    pub fn handle_success(&self) {
        *self.streak.lock().unwrap_or_else(PoisonError::into_inner) = Streak::default();
    }

    /// A command was refused because something does not work.
    pub fn handle_failure(&self, now: u64) {
        let mut streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
        if streak.failures == 0 || now.saturating_sub(streak.last) > MEMORY_MS {
            *streak = Streak {
                failures: 0,
                first: now,
                last: now,
            };
        }
        streak.failures += 1;
        streak.last = now;
    }

    /// Whether writes fail.
    #[must_use]
    pub fn are_down(&self, now: u64) -> bool {
        let streak = self.streak.lock().unwrap_or_else(PoisonError::into_inner);
        streak.failures >= FAILURES_MIN
            && streak.last - streak.first >= SPAN_MS
            && now.saturating_sub(streak.last) <= MEMORY_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_and_over_time_are_an_outage() {
        let writes = Writes::default();
        for now in [0, 100, 200, 300] {
            writes.handle_failure(now);
        }
        assert!(!writes.are_down(300), "a takeover is no outage");
        writes.handle_failure(4_100);
        assert!(writes.are_down(4_100));
        writes.handle_success();
        assert!(!writes.are_down(4_200));
    }

    #[test]
    fn an_old_outage_is_forgotten() {
        let writes = Writes::default();
        for now in [0, 2_000, 5_000] {
            writes.handle_failure(now);
        }
        assert!(writes.are_down(24_000));
        assert!(!writes.are_down(25_001));
        writes.handle_failure(90_000);
        assert!(
            !writes.are_down(90_000),
            "the old failures do not count any more"
        );
    }
}
