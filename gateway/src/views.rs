//! Who was in which room at which position of the log, for the users of this process.
//!
//! Filled from history once, then kept by the changes of membership in the live feed, and kept some
//! time after the last socket has gone, so that a resume from the ring never touches Postgres.
//! A cursor is judged by the memberships at its own position, never by those of now.

use crate::ring::Ring;
use crate::ring::record::{Change, Record, Turn};
use protocol::{RoomId, StreamSeq, UserId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ended memberships that are remembered for one user; beyond, the view is dropped and asked anew.
const ENDED_MAX: usize = 4_096;

/// A membership: from the position of the record that began it, until that of the one that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval {
    from: StreamSeq,
    to: Option<StreamSeq>,
}

impl Interval {
    /// A reader that has covered everything up to `position` is inside: it has seen the beginning
    /// and not the end.
    fn covers(&self, position: StreamSeq) -> bool {
        self.from <= position && self.to.is_none_or(|to| position < to)
    }
}

#[derive(Debug)]
struct View {
    /// Before this position nothing is known.
    base: StreamSeq,
    rooms: BTreeMap<RoomId, Vec<Interval>>,
    ended: usize,
    /// When it was last used, in ms of the process's steady clock.
    used: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// Every record up to here has been taken into account.
    applied: StreamSeq,
    users: HashMap<UserId, View>,
}

/// The views of all users of this process.
#[derive(Debug, Default)]
pub struct Views {
    inner: Mutex<Inner>,
}

impl Views {
    /// Forgets everything; the feed goes on behind `last`.
    pub fn start(&self, last: StreamSeq) {
        *self.lock() = Inner {
            applied: last,
            users: HashMap::new(),
        };
    }

    /// Takes the next record into account; call it in the order of the log.
    pub fn apply(&self, record: &Record) {
        let mut inner = self.lock();
        inner.applied = record.position;
        for change in &record.changes {
            if let Some(view) = inner.users.get_mut(&change.user) {
                view.apply(record.position, change);
                if view.ended > ENDED_MAX {
                    inner.users.remove(&change.user);
                }
            }
        }
    }

    /// Remembers that `user` was in exactly `rooms` after the record `applied`, unless more is known.
    ///
    /// What has changed since is taken from the ring; if that is gone, nothing is remembered.
    pub fn remember(
        &self,
        user: &UserId,
        applied: StreamSeq,
        rooms: &BTreeSet<RoomId>,
        (ring, now): (&Ring, u64),
    ) {
        let mut inner = self.lock();
        let until = inner.applied;
        if let Some(view) = inner.users.get_mut(user) {
            view.used = now;
            if view.base <= applied {
                return;
            }
        }
        let interval = Interval {
            from: StreamSeq(0),
            to: None,
        };
        let mut view = View {
            base: applied,
            rooms: rooms
                .iter()
                .map(|room| (room.clone(), vec![interval]))
                .collect(),
            ended: 0,
            used: now,
        };
        if applied < until {
            let Some(changes) = ring.changes_of(user, applied, until) else {
                return;
            };
            for (position, change) in changes {
                view.apply(position, &change);
            }
        }
        inner.users.insert(user.clone(), view);
    }

    /// The rooms that `user` was in after the record `position`; `None` if that is not known.
    #[must_use]
    pub fn rooms_at(
        &self,
        user: &UserId,
        position: StreamSeq,
        now: u64,
    ) -> Option<BTreeSet<RoomId>> {
        let mut inner = self.lock();
        // A cursor of a gateway that is ahead of this one: what happened up to there is not known yet.
        let known = position <= inner.applied;
        let view = inner.users.get_mut(user)?;
        if position < view.base || !known {
            return None;
        }
        view.used = now;
        let inside = view
            .rooms
            .iter()
            .filter(|(_, intervals)| intervals.iter().any(|interval| interval.covers(position)));
        Some(inside.map(|(room, _)| room.clone()).collect())
    }

    /// Forgets users that were last used before `oldest` and are not `pinned`.
    pub fn purge(&self, oldest: u64, pinned: impl Fn(&UserId) -> bool) {
        self.lock()
            .users
            .retain(|user, view| view.used >= oldest || pinned(user));
    }

    /// How many users are remembered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().users.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn apply(&mut self, position: StreamSeq, change: &Change) {
        // A change that history had applied already is not applied twice.
        if position <= self.base {
            return;
        }
        let intervals = self.rooms.entry(change.room.clone()).or_default();
        let open = intervals
            .last_mut()
            .filter(|interval| interval.to.is_none());
        match (change.turn, open) {
            (Turn::Begins, None) => intervals.push(Interval {
                from: position,
                to: None,
            }),
            (Turn::Ends, Some(open)) => {
                open.to = Some(position);
                self.ended += 1;
            }
            // A ban of somebody who is not in; a join of somebody who is.
            (Turn::Ends, None) | (Turn::Begins, Some(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Bounds;
    use crate::ring::record::tests::{member, record};
    use protocol::LogId;
    use protocol::event::MemberChange::{Added, Banned, Joined, Kicked, Left};
    use std::sync::Arc;

    struct Feed {
        ring: Ring,
        views: Views,
    }

    impl Feed {
        fn new(records: usize) -> Self {
            let ring = Ring::new(Bounds {
                records,
                bytes: 1 << 20,
            });
            ring.start(LogId::parse("l").unwrap(), StreamSeq(10));
            let views = Views::default();
            views.start(StreamSeq(10));
            Self { ring, views }
        }

        fn push(&self, position: u64, room: &str, change: protocol::event::MemberChange) {
            let record = Arc::new(record(position, &[(room, 1, member("bob", change))]));
            self.ring.push(Arc::clone(&record));
            self.views.apply(&record);
        }

        fn remember(&self, applied: u64, rooms: &[&str]) {
            let rooms = rooms
                .iter()
                .map(|room| RoomId::parse(room).unwrap())
                .collect();
            self.views
                .remember(&bob(), StreamSeq(applied), &rooms, (&self.ring, 1));
        }

        fn at(&self, position: u64) -> Option<Vec<String>> {
            let rooms = self.views.rooms_at(&bob(), StreamSeq(position), 1)?;
            Some(rooms.iter().map(ToString::to_string).collect())
        }
    }

    fn bob() -> UserId {
        UserId::parse("bob").unwrap()
    }

    #[test]
    fn membership_is_judged_at_the_cursor_and_not_at_the_head() {
        let feed = Feed::new(99);
        feed.remember(10, &["r1"]);
        feed.push(11, "r2", Joined);
        feed.push(12, "r1", Kicked);
        feed.push(13, "r1", Added);
        let at = |position| feed.at(position).unwrap().join(" ");
        assert_eq!(
            [at(10), at(11), at(12), at(13)],
            ["r1", "r1 r2", "r2", "r1 r2"]
        );
        assert_eq!(feed.at(9), None, "nothing is known before the base");
        assert_eq!(feed.at(14), None, "nothing is known ahead of the feed");
    }

    #[test]
    fn what_history_did_not_know_yet_is_taken_from_the_ring() {
        let feed = Feed::new(99);
        feed.push(11, "r1", Left);
        feed.push(12, "r2", Joined);
        feed.remember(10, &["r1"]);
        assert_eq!(feed.at(12).unwrap(), ["r2"]);
        let short = Feed::new(1);
        short.push(11, "r1", Left);
        short.push(12, "r2", Joined);
        short.remember(10, &["r1"]);
        assert_eq!(
            short.at(12),
            None,
            "with a hole in the ring nothing is claimed"
        );
    }

    #[test]
    fn a_change_that_history_had_applied_is_not_applied_again() {
        let feed = Feed::new(99);
        feed.remember(12, &["r1"]);
        feed.push(11, "r1", Left);
        feed.push(12, "r1", Joined);
        feed.push(13, "r9", Banned);
        assert_eq!(feed.at(13).unwrap(), ["r1"]);
    }

    #[test]
    fn a_view_is_kept_for_a_while_after_the_last_socket() {
        let feed = Feed::new(9);
        feed.remember(10, &[]);
        feed.views.purge(5, |_| true);
        assert_eq!(feed.views.count(), 1);
        feed.views.purge(1, |_| false);
        assert_eq!(feed.views.count(), 1);
        feed.views.purge(2, |_| false);
        assert_eq!(feed.views.count(), 0);
    }
}
