//! The recent past of the log in memory, shared by every worker of the process.
//!
//! Workers pull from it by position, so there is no queue per worker that could overflow: one that
//! falls behind the oldest record is told so and its sockets catch up from history.
//! It holds every position from the oldest to the newest, also those without events.

pub mod record;

use crate::ring::record::{Change, Record};
use protocol::{LogId, RoomId, StreamSeq, UserId};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

/// How much of the past is kept; whichever is reached first evicts the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records.
    pub records: usize,
    /// Bytes, as [`Record::bytes`] counts them.
    pub bytes: usize,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Read {
    /// The next records, none if there are none yet.
    Records(Vec<Arc<Record>>),
    /// The oldest record is younger than what was asked for.
    Evicted,
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    bounds: Bounds,
    inner: RwLock<Inner>,
    latest: watch::Sender<StreamSeq>,
}

#[derive(Debug, Default)]
struct Inner {
    log: Option<LogId>,
    /// The newest position; the oldest is this minus the number of records, plus one.
    last: StreamSeq,
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    by_room: HashMap<RoomId, VecDeque<StreamSeq>>,
    by_user: HashMap<UserId, VecDeque<StreamSeq>>,
}

impl Ring {
    /// An empty ring, of no log yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            inner: RwLock::default(),
            latest: watch::Sender::new(StreamSeq(0)),
        }
    }

    /// Begins behind `last` of this log and forgets everything held; also after a gap that is too
    /// large to be filled, and when another log has taken the place of this one.
    pub fn start(&self, log: LogId, last: StreamSeq) {
        *self.write() = Inner {
            log: Some(log),
            last,
            ..Inner::default()
        };
        self.latest.send_replace(last);
    }

    /// Adds the next record.
    ///
    /// # Panics
    /// If it is not the next one: the order of the log is the one thing that everything relies on.
    pub fn push(&self, record: Arc<Record>) {
        let position = record.position;
        self.write().push(record, self.bounds);
        self.latest.send_replace(position);
    }

    /// The log and the newest position, once there is one.
    #[must_use]
    pub fn head(&self) -> Option<(LogId, StreamSeq)> {
        let inner = self.read();
        Some((inner.log.clone()?, inner.last))
    }

    /// Changes whenever a record comes; the value is the newest position.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<StreamSeq> {
        self.latest.subscribe()
    }

    /// The records after `after`, at most `max`.
    #[must_use]
    pub fn after(&self, after: StreamSeq, max: usize) -> Read {
        let inner = self.read();
        let Some(skip) = inner.index_after(after) else {
            return Read::Evicted;
        };
        Read::Records(inner.records.iter().skip(skip).take(max).cloned().collect())
    }

    /// Whether every record after `after` is here.
    #[must_use]
    pub fn holds_after(&self, after: StreamSeq) -> bool {
        self.read().index_after(after).is_some()
    }

    /// The records in `(after, to]` that touch one of `rooms` or a membership of `user`, in order,
    /// at most `max`; `None` if the oldest of them may be gone.
    #[must_use]
    pub fn wanted(
        &self,
        user: &UserId,
        rooms: &mut dyn Iterator<Item = &RoomId>,
        (after, to): (StreamSeq, StreamSeq),
        max: usize,
    ) -> Option<Vec<Arc<Record>>> {
        let inner = self.read();
        inner.index_after(after)?;
        let mut positions = BTreeSet::new();
        let in_range = |known: &VecDeque<StreamSeq>, positions: &mut BTreeSet<StreamSeq>| {
            let begin = known.partition_point(|position| *position <= after);
            let found = known.range(begin..).take_while(|position| **position <= to);
            // The first of all are among the first of each.
            let found = found.take(max);
            positions.extend(found.copied());
        };
        for known in rooms.filter_map(|room| inner.by_room.get(room)) {
            in_range(known, &mut positions);
        }
        if let Some(known) = inner.by_user.get(user) {
            in_range(known, &mut positions);
        }
        Some(
            positions
                .into_iter()
                .take(max)
                .filter_map(|position| inner.at(position))
                .collect(),
        )
    }

    /// The changes of `user`'s memberships in `(after, to]`; `None` if some may be gone.
    #[must_use]
    pub fn changes_of(
        &self,
        user: &UserId,
        after: StreamSeq,
        to: StreamSeq,
    ) -> Option<Vec<(StreamSeq, Change)>> {
        let records = self.wanted(user, &mut std::iter::empty(), (after, to), usize::MAX)?;
        let mut changes = Vec::new();
        for record in records {
            let own = record.changes.iter().filter(|change| change.user == *user);
            changes.extend(own.map(|change| (record.position, change.clone())));
        }
        Some(changes)
    }

    /// How many records are held and how many bytes they take, for the metrics.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.read();
        (inner.records.len(), inner.bytes)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, record: Arc<Record>, bounds: Bounds) {
        assert_eq!(
            record.position,
            self.last.next(),
            "records enter the ring in the log's order"
        );
        self.last = record.position;
        self.bytes += record.bytes();
        for room in &record.rooms {
            self.by_room
                .entry(room.clone())
                .or_default()
                .push_back(record.position);
        }
        for change in &record.changes {
            let known = self.by_user.entry(change.user.clone()).or_default();
            if known.back() != Some(&record.position) {
                known.push_back(record.position);
            }
        }
        self.records.push_back(record);
        while self.records.len() > bounds.records
            || (self.bytes > bounds.bytes && self.records.len() > 1)
        {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let Some(oldest) = self.records.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes();
        for room in &oldest.rooms {
            if let Some(known) = self.by_room.get_mut(room) {
                known.pop_front();
                if known.is_empty() {
                    self.by_room.remove(room);
                }
            }
        }
        for change in &oldest.changes {
            if let Some(known) = self.by_user.get_mut(&change.user)
                && known.front() == Some(&oldest.position)
            {
                known.pop_front();
                if known.is_empty() {
                    self.by_user.remove(&change.user);
                }
            }
        }
    }

    /// Where the record behind `after` stands; `None` if it is gone or no log is known.
    fn index_after(&self, after: StreamSeq) -> Option<usize> {
        self.log.as_ref()?;
        let first = (self.last.0 + 1).checked_sub(u64::try_from(self.records.len()).ok()?)?;
        let index = after.next().0.checked_sub(first)?;
        usize::try_from(index).ok()
    }

    fn at(&self, position: StreamSeq) -> Option<Arc<Record>> {
        self.records
            .get(self.index_after(position.before())?)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::record::tests::{member, msg, record};
    use super::*;
    use protocol::event::MemberChange;

    fn ring(records: usize) -> Ring {
        let ring = Ring::new(Bounds {
            records,
            bytes: 1 << 20,
        });
        ring.start(LogId::parse("l").unwrap(), StreamSeq(10));
        ring
    }

    fn room(name: &str) -> RoomId {
        RoomId::parse(name).unwrap()
    }

    fn positions(records: &[Arc<Record>]) -> Vec<u64> {
        records.iter().map(|record| record.position.0).collect()
    }

    #[test]
    fn a_reader_gets_every_position_once_and_is_told_when_it_is_too_late() {
        let ring = ring(3);
        assert!(matches!(ring.after(StreamSeq(10), 9), Read::Records(r) if r.is_empty()));
        assert!(matches!(ring.after(StreamSeq(9), 9), Read::Evicted));
        for position in 11..=15 {
            ring.push(Arc::new(Record::empty(StreamSeq(position))));
        }
        let Read::Records(all) = ring.after(StreamSeq(12), 9) else {
            panic!("held")
        };
        assert_eq!(positions(&all), [13, 14, 15]);
        assert!(matches!(ring.after(StreamSeq(11), 9), Read::Evicted));
        assert!(matches!(ring.after(StreamSeq(99), 9), Read::Records(r) if r.is_empty()));
        assert_eq!(*ring.subscribe().borrow(), StreamSeq(15));
    }

    #[test]
    fn bytes_bound_it_too() {
        let ring = Ring::new(Bounds {
            records: 1_000,
            bytes: 3_000,
        });
        ring.start(LogId::parse("l").unwrap(), StreamSeq(0));
        for position in 1..=50 {
            ring.push(Arc::new(record(
                position,
                &[("r1", position, msg("hello"))],
            )));
        }
        let (records, bytes) = ring.size();
        assert!(
            bytes <= 3_000 && records >= 1,
            "{records} records, {bytes} bytes"
        );
        assert!(ring.holds_after(StreamSeq(49)) && !ring.holds_after(StreamSeq(10)));
    }

    #[test]
    fn what_a_user_wants_is_found_without_looking_at_the_rest() {
        let ring = ring(4);
        let bob = UserId::parse("bob").unwrap();
        ring.push(Arc::new(record(11, &[("r1", 1, msg("gone"))])));
        ring.push(Arc::new(record(
            12,
            &[("r1", 2, msg("a")), ("r2", 1, msg("b"))],
        )));
        ring.push(Arc::new(record(13, &[("r2", 2, msg("c"))])));
        ring.push(Arc::new(record(
            14,
            &[("r3", 1, member("bob", MemberChange::Added))],
        )));
        ring.push(Arc::new(record(15, &[("r1", 3, msg("d"))])));
        let rooms = [room("r1")];
        let all = ring
            .wanted(&bob, &mut rooms.iter(), (StreamSeq(11), StreamSeq(15)), 99)
            .unwrap();
        assert_eq!(positions(&all), [12, 14, 15]);
        let some = ring
            .wanted(&bob, &mut rooms.iter(), (StreamSeq(12), StreamSeq(14)), 99)
            .unwrap();
        assert_eq!(positions(&some), [14]);
        assert!(
            ring.wanted(&bob, &mut rooms.iter(), (StreamSeq(10), StreamSeq(15)), 99)
                .is_none()
        );
        let changes = ring.changes_of(&bob, StreamSeq(11), StreamSeq(15)).unwrap();
        assert_eq!(
            (changes[0].0, &changes[0].1.room),
            (StreamSeq(14), &room("r3"))
        );
    }

    #[test]
    fn the_indexes_forget_what_is_evicted() {
        let ring = ring(1);
        for position in 11..=30 {
            let name = format!("r{position}");
            ring.push(Arc::new(record(
                position,
                &[(&name, 1, member("bob", MemberChange::Added))],
            )));
        }
        let inner = ring.read();
        assert_eq!((inner.by_room.len(), inner.by_user.len()), (1, 1));
        assert_eq!(inner.by_user.values().next().map(VecDeque::len), Some(1));
    }

    #[test]
    #[should_panic(expected = "in the log's order")]
    fn a_record_out_of_order_is_never_taken() {
        ring(9).push(Arc::new(Record::empty(StreamSeq(12))));
    }
}
