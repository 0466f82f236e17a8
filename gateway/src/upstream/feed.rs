//! Puts the live feed in order and decides how its gaps are filled; no I/O, no clock.
//!
//! A republished record carries its stream sequence, and that is dense: a missing number is a gap.
//! It is sought at any replica, then at the leader, then in the archive; where it is nowhere it is
//! counted as lost and the feed goes on, because clients see the gap in their room and fetch it.

use crate::ring::record::Record;
use protocol::StreamSeq;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Records that may wait behind a gap; younger ones are dropped and become a gap themselves.
const AHEAD_MAX: usize = 16_384;
/// From the first sign of a lost tail to the search for it: most often it is just under way.
const TAIL_GRACE_MS: u64 = 100;
/// Between two attempts at a source that fails: doubles from the first to the last.
const RETRY_MS_MIN: u64 = 100;
const RETRY_MS_MAX: u64 = 3_000;
/// How long the archive may be away before a number that the log does not have is given up.
const ARCHIVE_PATIENCE_MS: u64 = 30_000;

/// Where a missing record is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Any replica of the stream, in batches.
    Replica,
    /// The stream's leader, the first missing record only.
    Leader,
    /// History's archive.
    Archive,
}

/// A search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// First missing position.
    pub from: StreamSeq,
    /// Last missing position.
    pub to: StreamSeq,
    /// Where to look.
    pub source: Source,
}

/// What a search has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Records at or after the first missing position.
    pub records: Vec<Record>,
    /// From the leader: the positions of its first and last record.
    pub leader: Option<(StreamSeq, StreamSeq)>,
    /// From the archive: what it has applied.
    pub applied: Option<StreamSeq>,
}

/// What the shell has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look for missing records; answer with [`Feed::handle_found`] or [`Feed::handle_failed`].
    Search(Fill),
    /// The gap seems too large to be filled: ask the leader for its last position, and answer with
    /// [`Feed::handle_last`].
    AskLast,
    /// The gap is too large to be filled here: go on behind this position. Sockets catch up from history.
    Jump(StreamSeq),
    /// These positions are nowhere: alarm. The feed goes on.
    Lost(StreamSeq, StreamSeq),
}

/// The feed.
#[derive(Debug)]
pub struct Feed {
    next: StreamSeq,
    known_last: StreamSeq,
    ahead: BTreeMap<StreamSeq, Record>,
    gap_max: u64,
    searching: bool,
    source: Source,
    attempts: u32,
    not_before: u64,
    tail_since: Option<u64>,
    archive_since: Option<u64>,
    lost: Option<(StreamSeq, StreamSeq)>,
    jump: Option<StreamSeq>,
}

impl Feed {
    /// A feed that begins behind `last`; gaps of more than `gap_max` records are jumped over.
    #[must_use]
    pub fn new(last: StreamSeq, gap_max: u64) -> Self {
        Self {
            next: last.next(),
            known_last: last,
            ahead: BTreeMap::new(),
            gap_max,
            searching: false,
            source: Source::Replica,
            attempts: 0,
            not_before: 0,
            tail_since: None,
            archive_since: None,
            lost: None,
            jump: None,
        }
    }

    /// A record came from the live feed.
    pub fn handle_live(&mut self, record: Record) {
        self.known_last = self.known_last.max(record.position);
        self.take(record);
    }

    /// Somebody who must know says that the log goes up to here.
    pub fn handle_known_last(&mut self, now: u64, last: StreamSeq) {
        if last > self.known_last {
            self.known_last = last;
        }
        if self.next <= self.known_last && self.tail_since.is_none() {
            self.tail_since = Some(now);
        }
    }

    /// A search came back with something, or with proof that there is nothing.
    pub fn handle_found(&mut self, now: u64, fill: Fill, found: Found) {
        self.searching = false;
        let highest = found.records.iter().map(|record| record.position).max();
        for record in found.records {
            self.take(record);
        }
        if fill.from != self.next || self.ahead.contains_key(&self.next) {
            self.restart_search();
            return;
        }
        match fill.source {
            Source::Replica => self.source = Source::Leader,
            Source::Leader => self.leader_has_not(now, found.leader),
            Source::Archive => {
                // A page may have been cut; below what it holds it is complete.
                let complete = highest.or(found.applied).unwrap_or_default();
                if complete >= self.next {
                    self.give_up(complete.min(fill.to));
                } else {
                    self.try_later(now);
                    self.give_up_in_time(now, fill.to);
                }
            }
        }
    }

    /// A search failed; it says nothing about the records.
    pub fn handle_failed(&mut self, now: u64, fill: Fill) {
        self.searching = false;
        self.try_later(now);
        if fill.source == Source::Archive {
            self.give_up_in_time(now, fill.to);
        }
    }

    /// The leader's last position, or that it does not tell. Only the leader can make the feed jump:
    /// a claim of somebody else may be wrong.
    pub fn handle_last(&mut self, now: u64, last: Option<StreamSeq>) {
        self.searching = false;
        let Some(last) = last else {
            return self.try_later(now);
        };
        if last.0.saturating_sub(self.next.0) < self.gap_max {
            let live = self.ahead.keys().next_back().copied().unwrap_or_default();
            self.known_last = last.max(live);
            return;
        }
        let later = self.ahead.split_off(&last.next());
        let known_last = later.keys().next_back().copied().unwrap_or(last);
        *self = Self {
            ahead: later,
            known_last,
            jump: Some(last),
            ..Self::new(last, self.gap_max)
        };
    }

    /// The next record in order, if it is here.
    pub fn poll_record(&mut self) -> Option<Arc<Record>> {
        if self.jump.is_some() {
            return None;
        }
        let record = self.ahead.remove(&self.next)?;
        self.next = self.next.next();
        if self.next > self.known_last {
            self.tail_since = None;
        }
        Some(Arc::new(record))
    }

    /// What has to be done now; ask again after every `handle_*` and at [`Feed::deadline`].
    pub fn poll_step(&mut self, now: u64) -> Option<Step> {
        if let Some((from, to)) = self.lost.take() {
            return Some(Step::Lost(from, to));
        }
        if let Some(last) = self.jump.take() {
            return Some(Step::Jump(last));
        }
        let to = self.gap_end()?;
        if self.searching || now < self.due() {
            return None;
        }
        self.searching = true;
        if to.0 - self.next.0 >= self.gap_max {
            return Some(Step::AskLast);
        }
        Some(Step::Search(Fill {
            from: self.next,
            to,
            source: self.source,
        }))
    }

    /// When to ask [`Feed::poll_step`] again if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.gap_end()
            .filter(|_| !self.searching)
            .map(|_| self.due())
    }

    /// The position behind the last record given out.
    #[must_use]
    pub fn next(&self) -> StreamSeq {
        self.next
    }

    fn take(&mut self, record: Record) {
        let position = record.position;
        let room = self.ahead.len() < AHEAD_MAX || position == self.next;
        if position >= self.next && room {
            self.ahead.entry(position).or_insert(record);
        }
    }

    /// The last position of the gap at `next`, if there is one.
    fn gap_end(&self) -> Option<StreamSeq> {
        if self.next > self.known_last {
            return None;
        }
        match self.ahead.keys().next() {
            Some(first) if *first == self.next => None,
            Some(first) => Some(first.before()),
            None => Some(self.known_last),
        }
    }

    fn due(&self) -> u64 {
        let tail = if self.ahead.is_empty() {
            self.tail_since
        } else {
            None
        };
        self.not_before
            .max(tail.map_or(0, |since| since + TAIL_GRACE_MS))
    }

    fn leader_has_not(&mut self, now: u64, leader: Option<(StreamSeq, StreamSeq)>) {
        match leader {
            Some((_, last)) if self.next > last && self.ahead.is_empty() => {
                // Nobody knows better than the leader: the claim that there is more was wrong.
                self.known_last = self.next.before();
                self.tail_since = None;
                self.restart_search();
            }
            Some((_, last)) if self.next <= last => self.source = Source::Archive,
            // It calls itself leader and has not what was republished: a new one will know.
            Some(_) | None => {
                self.source = Source::Replica;
                self.try_later(now);
            }
        }
    }

    fn try_later(&mut self, now: u64) {
        let wait = RETRY_MS_MIN << self.attempts.min(8);
        self.attempts += 1;
        self.not_before = now + wait.min(RETRY_MS_MAX);
    }

    fn give_up_in_time(&mut self, now: u64, to: StreamSeq) {
        let since = *self.archive_since.get_or_insert(now);
        if now.saturating_sub(since) >= ARCHIVE_PATIENCE_MS {
            self.give_up(to);
        }
    }

    fn give_up(&mut self, to: StreamSeq) {
        let from = self.next;
        let mut position = from;
        while position <= to && !self.ahead.contains_key(&position) {
            self.ahead.insert(position, Record::empty(position));
            position = position.next();
        }
        self.lost = Some((from, position.before()));
        self.restart_search();
    }

    fn restart_search(&mut self) {
        self.source = Source::Replica;
        self.attempts = 0;
        self.not_before = 0;
        self.archive_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Record {
        Record::empty(StreamSeq(position))
    }

    fn feed() -> Feed {
        Feed::new(StreamSeq(10), 1_000)
    }

    fn out(feed: &mut Feed) -> Vec<u64> {
        std::iter::from_fn(|| feed.poll_record())
            .map(|record| record.position.0)
            .collect()
    }

    fn fill(from: u64, to: u64, source: Source) -> Fill {
        Fill {
            from: StreamSeq(from),
            to: StreamSeq(to),
            source,
        }
    }

    fn found(positions: &[u64]) -> Found {
        Found {
            records: positions.iter().map(|p| at(*p)).collect(),
            ..Found::default()
        }
    }

    #[test]
    fn records_come_out_in_order_and_once() {
        let mut feed = feed();
        for position in [11, 12, 12, 5, 13] {
            feed.handle_live(at(position));
        }
        assert_eq!(out(&mut feed), [11, 12, 13]);
        assert_eq!(feed.poll_step(0), None);
    }

    #[test]
    fn a_gap_between_two_records_is_filled_at_once() {
        let mut feed = feed();
        feed.handle_live(at(14));
        assert!(out(&mut feed).is_empty());
        let search = fill(11, 13, Source::Replica);
        assert_eq!(feed.poll_step(0), Some(Step::Search(search)));
        assert_eq!(feed.poll_step(0), None, "one search at a time");
        feed.handle_found(1, search, found(&[11, 12, 13, 14, 15]));
        assert_eq!(out(&mut feed), [11, 12, 13, 14, 15]);
    }

    #[test]
    fn a_lost_tail_is_revealed_by_the_beacon_after_a_grace() {
        let mut feed = feed();
        feed.handle_known_last(1_000, StreamSeq(12));
        assert_eq!(
            (feed.poll_step(1_000), feed.deadline()),
            (None, Some(1_100))
        );
        feed.handle_live(at(11));
        assert_eq!(out(&mut feed), [11]);
        let search = fill(12, 12, Source::Replica);
        assert_eq!(feed.poll_step(1_100), Some(Step::Search(search)));
        feed.handle_failed(1_100, search);
        assert_eq!(
            (feed.poll_step(1_100), feed.deadline()),
            (None, Some(1_200))
        );
        assert_eq!(feed.poll_step(1_200), Some(Step::Search(search)));
        feed.handle_found(1_200, search, found(&[12]));
        assert_eq!((out(&mut feed), feed.deadline()), (vec![12], None));
    }

    #[test]
    fn what_a_replica_lacks_the_leader_is_asked_and_then_the_archive() {
        let mut feed = feed();
        feed.handle_live(at(13));
        let replica = fill(11, 12, Source::Replica);
        assert_eq!(feed.poll_step(0), Some(Step::Search(replica)));
        feed.handle_found(0, replica, found(&[13]));
        let leader = fill(11, 12, Source::Leader);
        assert_eq!(feed.poll_step(0), Some(Step::Search(leader)));
        let aged = Found {
            leader: Some((StreamSeq(13), StreamSeq(13))),
            ..Found::default()
        };
        feed.handle_found(0, leader, aged);
        let archive = fill(11, 12, Source::Archive);
        assert_eq!(feed.poll_step(0), Some(Step::Search(archive)));
        let answer = Found {
            applied: Some(StreamSeq(13)),
            ..found(&[11, 12])
        };
        feed.handle_found(0, archive, answer);
        assert_eq!(
            (out(&mut feed), feed.poll_step(0)),
            (vec![11, 12, 13], None)
        );
    }

    #[test]
    fn what_is_nowhere_is_named_and_the_feed_goes_on() {
        let mut feed = feed();
        feed.handle_live(at(14));
        feed.source = Source::Archive;
        let archive = fill(11, 13, Source::Archive);
        assert_eq!(feed.poll_step(0), Some(Step::Search(archive)));
        feed.handle_found(
            0,
            archive,
            Found {
                applied: Some(StreamSeq(20)),
                ..found(&[13])
            },
        );
        assert_eq!(
            feed.poll_step(0),
            Some(Step::Lost(StreamSeq(11), StreamSeq(12)))
        );
        assert_eq!(
            (out(&mut feed), feed.poll_step(0)),
            (vec![11, 12, 13, 14], None)
        );
    }

    #[test]
    fn an_archive_that_stays_away_does_not_stop_the_feed_for_ever() {
        let mut feed = feed();
        feed.handle_live(at(12));
        feed.source = Source::Archive;
        let mut now = 0;
        loop {
            match feed.poll_step(now) {
                Some(Step::Search(search)) => feed.handle_failed(now, search),
                Some(Step::Lost(from, to)) => {
                    assert_eq!((from, to), (StreamSeq(11), StreamSeq(11)));
                    break;
                }
                Some(Step::AskLast | Step::Jump(_)) => panic!("the gap is small"),
                None => now = feed.deadline().expect("it tries again"),
            }
        }
        assert!((30_000..40_000).contains(&now), "{now}");
        assert_eq!(out(&mut feed), [11, 12]);
    }

    #[test]
    fn a_claim_above_the_leader_is_dropped() {
        let mut feed = feed();
        feed.handle_known_last(0, StreamSeq(99));
        let replica = fill(11, 99, Source::Replica);
        assert_eq!(feed.poll_step(100), Some(Step::Search(replica)));
        feed.handle_found(100, replica, found(&[]));
        let leader = fill(11, 99, Source::Leader);
        assert_eq!(feed.poll_step(100), Some(Step::Search(leader)));
        let nothing = Found {
            leader: Some((StreamSeq(1), StreamSeq(10))),
            ..Found::default()
        };
        feed.handle_found(100, leader, nothing);
        assert_eq!((feed.poll_step(9_999), feed.deadline()), (None, None));
    }

    #[test]
    fn a_gap_too_large_to_fill_is_jumped_over() {
        let mut feed = feed();
        feed.handle_live(at(5_000));
        feed.handle_live(at(5_001));
        assert_eq!(feed.poll_step(0), Some(Step::AskLast));
        assert_eq!(feed.poll_step(0), None, "one question at a time");
        feed.handle_last(0, Some(StreamSeq(5_000)));
        assert!(
            out(&mut feed).is_empty(),
            "nothing before the jump is announced"
        );
        assert_eq!(feed.poll_step(0), Some(Step::Jump(StreamSeq(5_000))));
        feed.handle_live(at(5_002));
        assert_eq!(out(&mut feed), [5_001, 5_002]);
    }

    #[test]
    fn a_wrong_claim_does_not_make_the_feed_jump() {
        let mut feed = feed();
        feed.handle_known_last(0, StreamSeq(u64::MAX));
        assert_eq!(feed.poll_step(100), Some(Step::AskLast));
        feed.handle_last(100, None);
        assert_eq!((feed.poll_step(100), feed.deadline()), (None, Some(200)));
        assert_eq!(feed.poll_step(200), Some(Step::AskLast));
        feed.handle_last(200, Some(StreamSeq(10)));
        assert_eq!((feed.poll_step(9_999), feed.deadline()), (None, None));
        feed.handle_live(at(11));
        assert_eq!(out(&mut feed), [11]);
    }

    #[test]
    fn what_waits_behind_a_gap_is_bounded_and_comes_later_as_a_gap() {
        let mut feed = Feed::new(StreamSeq(10), u64::MAX);
        let end = 12 + u64::try_from(AHEAD_MAX).unwrap() + 5;
        for position in 12..end {
            feed.handle_live(at(position));
        }
        assert_eq!(feed.ahead.len(), AHEAD_MAX);
        feed.handle_live(at(11));
        assert_eq!(out(&mut feed).len(), AHEAD_MAX + 1);
        assert!(matches!(feed.poll_step(0), Some(Step::Search(_))));
    }
}
