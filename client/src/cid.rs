//! Names for commands: UUIDs of version 7 that rise within one client and follow the server's clock.
//!
//! Pure: time and randomness are arguments. What the server thinks of a name is not known here.

use protocol::limits::CID_AHEAD_MS_MAX;
use protocol::{Cid, Timestamp};

/// Largest value of the twelve bits that RFC 9562 leaves beside the millisecond.
const COUNTER_MAX: u16 = 0x0fff;

/// Makes cids; each is greater than the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidClock {
    offset_ms: i64,
    last_ms: i64,
    counter: u16,
}

impl CidClock {
    /// Continues after `last`, so that a restart within a millisecond does not go back.
    pub fn follow(&mut self, last: Cid) {
        self.last_ms = self.last_ms.max(last.time().0 + 1);
    }

    /// Learns the server's clock, from `hello` or from `clock_skew`.
    pub fn set_server_time(&mut self, server: Timestamp, now: Timestamp) {
        self.offset_ms = server.since_ms(now);
        // After a clock that ran ahead, rising would mean being refused until time catches up.
        if self.last_ms > server.0.saturating_add(CID_AHEAD_MS_MAX / 2) {
            self.last_ms = 0;
            self.counter = 0;
        }
    }

    /// What the server's clock shows at `now`, as far as is known.
    #[must_use]
    pub const fn server_time(&self, now: Timestamp) -> Timestamp {
        now.plus_ms(self.offset_ms)
    }

    /// A new name, stamped with the server's time.
    pub fn next(&mut self, now: Timestamp, random: [u8; 8]) -> Cid {
        let ms = self.server_time(now).0.max(0);
        if ms > self.last_ms {
            self.last_ms = ms;
            self.counter = 0;
        } else if self.counter == COUNTER_MAX {
            self.last_ms += 1;
            self.counter = 0;
        } else {
            self.counter += 1;
        }
        let [high, low] = self.counter.to_be_bytes();
        let [a, b, c, d, e, f, g, h] = random;
        let unix_ms = u64::try_from(self.last_ms).expect("never below 0");
        Cid::from_parts(unix_ms, [high, low, a, b, c, d, e, f, g, h])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cids_rise_even_within_a_millisecond_and_when_the_clock_goes_back() {
        let mut clock = CidClock::default();
        let mut last = clock.next(Timestamp(1_000), [9; 8]);
        for step in 0..10_000 {
            let cid = clock.next(Timestamp(1_000 - step % 3), [0; 8]);
            assert!(cid > last, "{cid} after {last}");
            last = cid;
        }
    }

    #[test]
    fn cids_follow_the_servers_clock() {
        let mut clock = CidClock::default();
        clock.set_server_time(Timestamp(50_000), Timestamp(1_000));
        assert_eq!(
            clock.next(Timestamp(1_005), [0; 8]).time(),
            Timestamp(50_005)
        );
    }

    #[test]
    fn a_clock_that_ran_ahead_comes_back() {
        let mut clock = CidClock::default();
        clock.next(Timestamp(9_000_000), [0; 8]);
        clock.set_server_time(Timestamp(5_000), Timestamp(9_000_000));
        assert_eq!(
            clock.next(Timestamp(9_000_000), [0; 8]).time(),
            Timestamp(5_000)
        );
    }

    #[test]
    fn a_restart_goes_on_after_the_last_name() {
        let mut clock = CidClock::default();
        let last = clock.next(Timestamp(7_000), [255; 8]);
        let mut restarted = CidClock::default();
        restarted.follow(last);
        assert!(restarted.next(Timestamp(7_000), [0; 8]) > last);
    }
}
