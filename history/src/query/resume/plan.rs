//! Decides, room by room, how a user is told what was missed: pure.

use crate::store::catch_up::Interval;
use crate::store::page::Span;
use protocol::limits::{RESUME_EVENTS_MAX, RESUME_ROOM_EVENTS_MAX};
use protocol::{RoomId, Seq, StreamSeq};
use std::collections::{BTreeMap, BTreeSet};

/// A membership that lasted at the cursor and has ended since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The first event that was missed.
    pub first: Seq,
    /// The event that ended it, and its record.
    pub to: (Seq, StreamSeq),
}

/// How a user is told about a room they are in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// Event by event, from the first that was missed to the head.
    Events(Seq, Seq),
    /// By a `skip` that begins with this seq.
    Skip(Seq),
    /// By a `state`: the membership began in this record.
    State(StreamSeq),
}

/// One room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// A membership that has ended.
    pub left: Option<Left>,
    /// The membership that lasts.
    pub present: Option<Present>,
}

/// All rooms in which something was missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By id.
    pub rooms: BTreeMap<RoomId, Stay>,
}

impl Plan {
    /// Plans from the memberships that lasted beyond the cursor, the own room with its head, and the
    /// first event after the cursor in each of these rooms; the client may `have` more of some rooms.
    #[must_use]
    pub fn new(
        intervals: &[Interval],
        own: Option<&(RoomId, Seq)>,
        first: &BTreeMap<RoomId, Seq>,
        (after, have): (StreamSeq, &BTreeMap<RoomId, Seq>),
    ) -> Self {
        let mut plan = Self::default();
        for interval in intervals {
            let stay = plan.rooms.entry(interval.room.clone()).or_default();
            let was_in = interval.from_stream <= after;
            match (was_in, interval.to, first.get(&interval.room)) {
                (true, Some(to), Some(&first)) => stay.left = Some(Left { first, to }),
                (true, None, Some(&first)) => {
                    stay.present = Some(Present::Events(first, interval.head));
                }
                (false, None, _) => stay.present = Some(Present::State(interval.from_stream)),
                // Came and went meanwhile: nothing is left to tell, but to a client that was told of it
                // when it came. What it holds may be of an earlier membership, whose end it hears then.
                (false, Some(to), _) => {
                    let have = have.get(&interval.room).filter(|have| **have < to.0);
                    let ended = |have: &&Seq| stay.left.is_none_or(|left| left.to.0 <= **have);
                    if let Some(have) = have.filter(ended) {
                        let first = interval.from.max(*have).next();
                        stay.left = Some(Left { first, to });
                    }
                }
                // Nothing was missed.
                (true, Some(_) | None, None) => {}
            }
        }
        if let Some((room, head)) = own
            && let Some(&first) = first.get(room)
        {
            let entered = first == Seq(1);
            let present = if entered {
                Present::State(after)
            } else {
                Present::Events(first, *head)
            };
            plan.rooms.insert(
                room.clone(),
                Stay {
                    left: None,
                    present: Some(present),
                },
            );
        }
        plan.bound();
        plan
    }

    /// Turns rooms into skips: those with too much, then the largest until all fits one resume.
    fn bound(&mut self) {
        let mut counts: Vec<(u64, RoomId)> = Vec::new();
        for (room, stay) in &self.rooms {
            if let Some(Present::Events(first, head)) = stay.present {
                counts.push((
                    head.0.saturating_sub(first.0).saturating_add(1),
                    room.clone(),
                ));
            }
        }
        counts.sort_unstable();
        let room_max = u64::try_from(RESUME_ROOM_EVENTS_MAX).unwrap_or(u64::MAX);
        let all_max = u64::try_from(RESUME_EVENTS_MAX).unwrap_or(u64::MAX);
        let mut sum = 0_u64;
        for (count, room) in counts {
            sum = sum.saturating_add(count);
            if count > room_max || sum > all_max {
                self.skip(&room);
            }
        }
    }

    /// Tells a room by a skip instead of its events.
    pub fn skip(&mut self, room: &RoomId) {
        if let Some(stay) = self.rooms.get_mut(room)
            && let Some(Present::Events(first, _)) = stay.present
        {
            stay.present = Some(Present::Skip(first));
        }
    }

    /// Tells these rooms by their states, whatever was missed in them.
    pub fn retell(&mut self, rooms: &BTreeSet<RoomId>, after: StreamSeq) {
        for room in rooms {
            let stay = self.rooms.entry(room.clone()).or_default();
            match stay.present {
                Some(Present::Events(first, _)) => stay.present = Some(Present::Skip(first)),
                Some(Present::Skip(_) | Present::State(_)) => {}
                None if stay.left.is_none() => stay.present = Some(Present::State(after)),
                // It has ended, be it behind what the answer covers.
                None => {}
            }
        }
    }

    /// Leaves out what begins only behind `covered`.
    pub fn cut(&mut self, covered: StreamSeq) {
        for stay in self.rooms.values_mut() {
            if let Some(Present::State(from)) = stay.present
                && from > covered
            {
                stay.present = None;
            }
        }
    }

    /// What to send of rooms that the user was taken out of.
    #[must_use]
    pub fn leaving(&self) -> Vec<Span> {
        let left = self
            .rooms
            .iter()
            .filter_map(|(room, stay)| Some((room, stay.left?)));
        left.map(|(room, left)| Span {
            room: room.clone(),
            from: left.first,
            to: left.to.0,
        })
        .collect()
    }

    /// What to send event by event.
    #[must_use]
    pub fn one_by_one(&self) -> Vec<Span> {
        let spans = self
            .rooms
            .iter()
            .filter_map(|(room, stay)| match stay.present? {
                Present::Events(from, to) => Some(Span {
                    room: room.clone(),
                    from,
                    to,
                }),
                Present::Skip(_) | Present::State(_) => None,
            });
        spans.collect()
    }

    /// The rooms that are skipped, each from this seq.
    #[must_use]
    pub fn skipped(&self) -> BTreeMap<RoomId, Seq> {
        let skipped = self
            .rooms
            .iter()
            .filter_map(|(room, stay)| match stay.present? {
                Present::Skip(from) => Some((room.clone(), from)),
                Present::Events(..) | Present::State(_) => None,
            });
        skipped.collect()
    }

    /// The rooms that were entered.
    #[must_use]
    pub fn entered(&self) -> Vec<RoomId> {
        let entered = self
            .rooms
            .iter()
            .filter_map(|(room, stay)| match stay.present? {
                Present::State(_) => Some(room.clone()),
                Present::Events(..) | Present::Skip(_) => None,
            });
        entered.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomId {
        RoomId::parse(name).unwrap()
    }

    fn interval(name: &str, from: u64, to: Option<u64>, head: u64) -> Interval {
        Interval {
            room: room(name),
            from: Seq(from),
            from_stream: StreamSeq(from * 10),
            to: to.map(|to| (Seq(to), StreamSeq(to * 10))),
            head: Seq(head),
            head_stream: StreamSeq(head * 10),
        }
    }

    /// One room whose events lie at stream position seq * 10, and a cursor at 100: seq 11 is missed first.
    fn plan(intervals: &[Interval]) -> Stay {
        let first = BTreeMap::from([(room("r"), Seq(11))]);
        let plan = Plan::new(intervals, None, &first, (StreamSeq(100), &BTreeMap::new()));
        plan.rooms.get(&room("r")).copied().unwrap_or_default()
    }

    #[test]
    fn a_room_that_came_and_went_is_told_to_its_end_to_whoever_was_told_that_it_came() {
        let first = BTreeMap::from([(room("r"), Seq(11))]);
        let left = |have: u64, intervals: &[Interval]| {
            let have = BTreeMap::from([(room("r"), Seq(have))]);
            let plan = Plan::new(intervals, None, &first, (StreamSeq(100), &have));
            let left = plan.rooms[&room("r")].left;
            left.map(|left| (left.first.0, left.to.0.0))
        };
        let once = [interval("r", 12, Some(15), 20)];
        let told = [11, 12, 14, 15, 20].map(|have| left(have, &once));
        let expected = [Some((13, 15)), Some((13, 15)), Some((15, 15)), None, None];
        assert_eq!(told, expected);
        let twice = [
            interval("r", 12, Some(15), 20),
            interval("r", 17, Some(18), 20),
        ];
        let told = [12, 14, 15, 17, 18].map(|have| left(have, &twice));
        let expected = [
            Some((13, 15)),
            Some((15, 15)),
            Some((18, 18)),
            Some((18, 18)),
            None,
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn membership_is_judged_at_each_position() {
        let left = |to: u64| {
            Some(Left {
                first: Seq(11),
                to: (Seq(to), StreamSeq(to * 10)),
            })
        };
        let events = Some(Present::Events(Seq(11), Seq(20)));
        let state = |from: u64| Some(Present::State(StreamSeq(from * 10)));
        let table = [
            ("stayed", vec![interval("r", 2, None, 20)], None, events),
            (
                "was taken out",
                vec![interval("r", 2, Some(15), 20)],
                left(15),
                None,
            ),
            (
                "came meanwhile",
                vec![interval("r", 12, None, 20)],
                None,
                state(12),
            ),
            (
                "came and went meanwhile",
                vec![interval("r", 12, Some(15), 20)],
                None,
                None,
            ),
            (
                "went and came back",
                vec![interval("r", 2, Some(12), 20), interval("r", 15, None, 20)],
                left(12),
                state(15),
            ),
            (
                "went, came back and went",
                vec![
                    interval("r", 2, Some(12), 20),
                    interval("r", 15, Some(17), 20),
                ],
                left(12),
                None,
            ),
        ];
        for (story, intervals, left, present) in table {
            assert_eq!(plan(&intervals), Stay { left, present }, "{story}");
        }
    }

    #[test]
    fn a_room_with_too_much_is_skipped_and_others_are_not() {
        let intervals = [
            interval("big", 2, None, 511),
            interval("small", 2, None, 510),
        ];
        let first = BTreeMap::from([(room("big"), Seq(11)), (room("small"), Seq(11))]);
        let plan = Plan::new(&intervals, None, &first, (StreamSeq(100), &BTreeMap::new()));
        assert_eq!(plan.skipped(), BTreeMap::from([(room("big"), Seq(11))]));
        assert_eq!(plan.one_by_one().len(), 1);
    }

    #[test]
    fn the_largest_are_skipped_until_one_resume_fits() {
        // 300 + 400 + 450 + 460 + 470 = 2,080: without the largest it is 1,610.
        let missed = [450, 300, 470, 400, 460];
        let names = ["a", "b", "c", "d", "e"];
        let intervals: Vec<_> = names
            .iter()
            .zip(missed)
            .map(|(name, count)| interval(name, 2, None, 10 + count))
            .collect();
        let first = names.iter().map(|name| (room(name), Seq(11))).collect();
        let plan = Plan::new(&intervals, None, &first, (StreamSeq(100), &BTreeMap::new()));
        assert_eq!(plan.skipped().into_keys().collect::<Vec<_>>(), [room("c")]);
    }

    #[test]
    fn rooms_that_are_told_again_come_with_their_states() {
        let names = ["events", "quiet"];
        let intervals = [interval("events", 2, None, 20)];
        let first = BTreeMap::from([(room("events"), Seq(11))]);
        let mut plan = Plan::new(&intervals, None, &first, (StreamSeq(100), &BTreeMap::new()));
        plan.retell(&names.into_iter().map(room).collect(), StreamSeq(100));
        assert_eq!(plan.skipped(), BTreeMap::from([(room("events"), Seq(11))]));
        assert_eq!(plan.entered(), [room("quiet")]);
        assert!(plan.one_by_one().is_empty());
        let intervals = [interval("left", 2, Some(15), 20)];
        let first = BTreeMap::from([(room("left"), Seq(11))]);
        let mut plan = Plan::new(&intervals, None, &first, (StreamSeq(100), &BTreeMap::new()));
        plan.retell(&[room("left")].into(), StreamSeq(100));
        assert!(plan.entered().is_empty(), "a room that ends has no state");
    }

    #[test]
    fn the_own_room_is_told_like_others() {
        let own = (room("s_x"), Seq(9));
        let stay = |first: u64| {
            let first = BTreeMap::from([(room("s_x"), Seq(first))]);
            Plan::new(&[], Some(&own), &first, (StreamSeq(7), &BTreeMap::new())).rooms[&room("s_x")]
                .present
        };
        assert_eq!(stay(4), Some(Present::Events(Seq(4), Seq(9))));
        assert_eq!(stay(1), Some(Present::State(StreamSeq(7))));
    }
}
