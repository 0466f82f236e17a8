//! Which commands a partition's log holds above a stream sequence W, and which are surely new.
//!
//! Keeps the name of every command in every record above W, whatever any clock says (design section 4).
//! What lies at or below W only history knows; [`Dedup::is_fresh`] tells which cids cannot be there.
//! Does not ask history and does not decide how far W may advance.

use protocol::limits::CID_FRESH_MARGIN_MS;
use protocol::request::Accepted;
use protocol::{Cid, RoomId, Seq, StreamSeq, Timestamp, UserId};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, VecDeque};

/// The name of a command for ever, as sixteen bytes.
///
/// The first six are the cid's time, so that neighbours in time are neighbours in the tree (the walk
/// stays in the processor's cache); the other ten hash room, author and cid together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 16]);

impl Key {
    /// The name of `author`'s command `cid` in `room`.
    #[must_use]
    pub fn new(room: &RoomId, author: &UserId, cid: Cid) -> Self {
        let mut hash = Sha256::new();
        hash.update(room.as_str());
        hash.update(b"\n");
        hash.update(author.as_str());
        hash.update(b"\n");
        hash.update(cid.as_bytes());
        let mut key = [0; 16];
        for (to, from) in key
            .iter_mut()
            .zip(cid.as_bytes().iter().take(6).chain(hash.finalize().iter()))
        {
            *to = *from;
        }
        Self(key)
    }
}

/// What a stored command was answered, without what the command itself says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// Position of its first event.
    pub seq: Seq,
    /// When it was ordered.
    pub ts: Timestamp,
    /// Of an edit: the revision, and whether it is shown.
    pub edit: Option<(u32, bool)>,
}

impl Original {
    /// The answer to a repeat.
    #[must_use]
    pub fn repeat(&self) -> Accepted {
        Accepted {
            dup: true,
            rev: self.edit.map(|(rev, _)| rev),
            won: self.edit.map(|(_, won)| won),
            ..Accepted::stored(self.seq, self.ts)
        }
    }
}

/// One record that added keys, oldest first.
#[derive(Clone, Copy, Debug)]
struct Batch {
    position: StreamSeq,
    time: Timestamp,
    keys: usize,
}

/// The window of one partition.
#[derive(Clone, Debug)]
pub struct Dedup {
    /// W: at or below it, only history knows.
    position: StreamSeq,
    /// T(W): no record at or below W is younger by the broker's clock. `None` until it is known.
    time: Option<Timestamp>,
    originals: BTreeMap<Key, Original>,
    // Invariant: `order` holds the keys of `originals` in the order of the log, and the counts of
    // `batches` add up to its length.
    order: VecDeque<Key>,
    batches: VecDeque<Batch>,
}

impl Dedup {
    /// An empty window above `position`, whose broker time is `time` if that is known.
    #[must_use]
    pub fn above(position: StreamSeq, time: Option<Timestamp>) -> Self {
        Self {
            position,
            time,
            originals: BTreeMap::new(),
            order: VecDeque::new(),
            batches: VecDeque::new(),
        }
    }

    /// W.
    #[must_use]
    pub const fn position(&self) -> StreamSeq {
        self.position
    }

    /// Names a moment that no record at or below W is younger than, if none is known yet.
    pub fn time_is_at_most(&mut self, time: Timestamp) {
        self.time.get_or_insert(time);
    }

    /// How many commands are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// What the command was answered, if it is in a record above W.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Original> {
        self.originals.get(key)
    }

    /// Whether a command that is not in the window is surely in no record at all.
    ///
    /// Its cid was at most 30 s ahead of an owner's clock, which was at most 10 s ahead of a broker's,
    /// and brokers agree within 5 s: what is more than 45 s younger than W cannot lie below it.
    #[must_use]
    pub fn is_fresh(&self, cid: Cid) -> bool {
        self.position == StreamSeq(0)
            || self
                .time
                .is_some_and(|time| cid.time() > time.plus_ms(CID_FRESH_MARGIN_MS))
    }

    /// Adds the commands of the record at `position`, which the broker stored at `time`.
    pub fn insert(
        &mut self,
        position: StreamSeq,
        time: Timestamp,
        commands: impl IntoIterator<Item = (Key, Original)>,
    ) {
        let before = self.order.len();
        for (key, original) in commands {
            // A command's further events bear the same name: the first one counts.
            if let std::collections::btree_map::Entry::Vacant(entry) = self.originals.entry(key) {
                entry.insert(original);
                self.order.push_back(key);
            }
        }
        let keys = self.order.len() - before;
        // A record without commands need not be kept: W only ever stops at one that is, and that one
        // was stored later.
        if keys > 0 {
            self.batches.push_back(Batch {
                position,
                time,
                keys,
            });
        }
    }

    /// Moves W up: drops records stored before `age` or beyond `keys_max` keys, none above `cursor`.
    pub fn advance(&mut self, cursor: StreamSeq, age: Timestamp, keys_max: usize) {
        while let Some(batch) = self.batches.front().copied() {
            let wanted = batch.time < age || self.order.len() > keys_max;
            if !wanted || batch.position > cursor {
                break;
            }
            self.batches.pop_front();
            for key in self.order.drain(..batch.keys) {
                self.originals.remove(&key);
            }
            self.position = batch.position;
            self.time = Some(self.time.map_or(batch.time, |time| time.max(batch.time)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> (Key, Cid) {
        let (room, user) = (RoomId::parse("r").unwrap(), UserId::parse("u").unwrap());
        let cid = Cid::from_parts(n, [1; 10]);
        (Key::new(&room, &user, cid), cid)
    }

    fn original(n: u64) -> Original {
        Original {
            seq: Seq(n),
            ts: Timestamp(5),
            edit: None,
        }
    }

    fn filled() -> Dedup {
        let mut dedup = Dedup::above(StreamSeq(0), None);
        for n in 1..=10 {
            let time = Timestamp(i64::try_from(n).unwrap() * 1_000);
            dedup.insert(StreamSeq(n), time, [(key(n).0, original(n))]);
        }
        dedup
    }

    #[test]
    fn the_first_event_of_a_command_names_it() {
        let mut dedup = Dedup::above(StreamSeq(0), None);
        let (name, _) = key(1);
        dedup.insert(
            StreamSeq(4),
            Timestamp(9),
            [(name, original(7)), (name, original(8))],
        );
        assert_eq!(dedup.get(&name), Some(&original(7)));
        assert_eq!(dedup.len(), 1);
    }

    #[test]
    fn room_author_and_cid_all_count() {
        let (a, b) = (RoomId::parse("a").unwrap(), RoomId::parse("b").unwrap());
        let (x, y) = (UserId::parse("x").unwrap(), UserId::parse("y").unwrap());
        let cid = Cid::from_parts(5, [0; 10]);
        let base = Key::new(&a, &x, cid);
        assert_ne!(base, Key::new(&b, &x, cid));
        assert_ne!(base, Key::new(&a, &y, cid));
        assert_ne!(base, Key::new(&a, &x, Cid::from_parts(5, [1; 10])));
    }

    #[test]
    fn the_window_never_passes_the_cursor_and_advances_by_age_or_count() {
        let mut dedup = filled();
        dedup.advance(StreamSeq(3), Timestamp(8_000), 100);
        assert_eq!(dedup.position(), StreamSeq(3));
        dedup.advance(StreamSeq(10), Timestamp(8_000), 100);
        assert_eq!(dedup.position(), StreamSeq(7));
        dedup.advance(StreamSeq(10), Timestamp(0), 1);
        assert_eq!(dedup.position(), StreamSeq(9));
        assert_eq!(dedup.len(), 1);
        assert!(dedup.get(&key(10).0).is_some() && dedup.get(&key(9).0).is_none());
    }

    #[test]
    fn a_cid_is_fresh_only_well_above_the_time_of_w() {
        let mut dedup = filled();
        assert!(
            dedup.is_fresh(key(1).1),
            "everything since the log began is in the window"
        );
        dedup.advance(StreamSeq(10), Timestamp(4_500), 100);
        // T(W) is 4,000.
        assert!(!dedup.is_fresh(key(49_000).1));
        assert!(dedup.is_fresh(key(49_001).1));
        let unknown = Dedup::above(StreamSeq(9), None);
        assert!(!unknown.is_fresh(key(u64::from(u32::MAX)).1));
    }
}
