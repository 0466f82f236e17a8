//! What a user missed: the real plan, and its parts read from memory, as `history::query::resume` does.

use super::Tables;
use history::query::Terms;
use history::query::resume::plan::Plan;
use history::query::wire::ranges;
use history::store::catch_up::Interval;
use history::store::page::{Archived, Span};
use protocol::event::{EventBody, LogEvent, SeqRange};
use protocol::frame::{RoomSnapshot, Skip};
use protocol::limits::DIRTY_RANGES_MAX;
use protocol::query::{CatchUp, Missed, Viewer, merge_ranges};
use protocol::{RoomId, Seq, StreamSeq};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// Events of rooms by room.
type ByRoom = BTreeMap<RoomId, Vec<Box<RawValue>>>;

impl Tables {
    pub(super) fn catch_up(
        &self,
        viewer: &Viewer,
        (after, have): (StreamSeq, &BTreeMap<RoomId, Seq>),
        timeline: u32,
        terms: Terms,
    ) -> (CatchUp, StreamSeq) {
        if after > self.applied {
            let unknown = CatchUp {
                known: false,
                missed: Vec::new(),
                rooms: self.present(viewer, self.applied, terms),
                more: false,
            };
            return (unknown, self.applied);
        }
        let mut plan = self.plan(viewer, (after, have), terms);
        let (leaving, cut) = self.leaving(&plan, terms.bytes_max / 4);
        let covered = cut.unwrap_or(self.applied);
        plan.cut(covered);
        let mut events = self.one_by_one(&mut plan, covered, terms.bytes_max / 4);
        let rooms = self.present(viewer, covered, terms);
        let own = RoomId::own(&viewer.user);
        if let Some(from) = plan.skipped().get(&own) {
            let marked = self.marked(&own, *from, &rooms);
            plan.retell(&marked, after);
            events.retain(|event| !marked.contains(&event.room));
        }
        let mut skips = self.skips(viewer, &plan.skipped(), timeline, terms);
        let mut states = self.states(viewer, &plan.entered(), timeline, terms);
        let (mut events, mut leaving) = (self.by_room(events), self.by_room(leaving));
        let mut missed = Vec::new();
        for (room, stay) in plan.rooms {
            if let Some(to) = stay.left.map(|left| left.to) {
                let events = leaving.remove(&room).unwrap_or_default();
                let gone = to.1 <= covered;
                if gone || !events.is_empty() {
                    let room = room.clone();
                    missed.push(Missed::Events { room, events, gone });
                }
            }
            if let Some(events) = events.remove(&room) {
                let (room, gone) = (room.clone(), false);
                missed.push(Missed::Events { room, events, gone });
            }
            missed.extend(skips.remove(&room).map(|skip| Missed::Skip(Box::new(skip))));
            let state = states.remove(&room);
            missed.extend(state.map(|state| Missed::State(Box::new(state))));
        }
        missed.sort_by_key(|missed| !room_of(missed).is_own());
        let more = covered < self.applied;
        let known = true;
        let caught_up = CatchUp {
            known,
            missed,
            rooms,
            more,
        };
        (caught_up, covered)
    }

    pub(super) fn have(
        &self,
        viewer: &Viewer,
        have: &BTreeMap<RoomId, Seq>,
        timeline: u32,
        terms: Terms,
    ) -> CatchUp {
        let rooms = self.present(viewer, self.applied, terms);
        let held = rooms
            .iter()
            .filter_map(|room| Some((room.clone(), have.get(room)?.next())));
        let from: BTreeMap<RoomId, Seq> = held.collect();
        let skips = self.skips(viewer, &from, timeline, terms).into_values();
        let mut missed: Vec<Missed> = skips.map(|skip| Missed::Skip(Box::new(skip))).collect();
        missed.sort_by_key(|missed| !room_of(missed).is_own());
        CatchUp {
            known: true,
            missed,
            rooms,
            more: false,
        }
    }

    /// The rooms that the viewer was in at a position, the own one included.
    fn present(&self, viewer: &Viewer, position: StreamSeq, terms: Terms) -> Vec<RoomId> {
        let own = RoomId::own(&viewer.user);
        let mut all: Vec<RoomId> = Vec::new();
        all.extend(self.visible(viewer, &own, terms).map(|_| own));
        let rows = self.memberships.iter();
        let there = rows.filter(|((room, user, _), row)| {
            *user == viewer.user
                && !room.is_own()
                && row.from_stream <= position
                && row.to.is_none_or(|to| to.1 > position)
        });
        all.extend(there.map(|((room, _, _), _)| room.clone()));
        all
    }

    fn plan(
        &self,
        viewer: &Viewer,
        (after, have): (StreamSeq, &BTreeMap<RoomId, Seq>),
        terms: Terms,
    ) -> Plan {
        let rows = self.memberships.iter();
        let lasting = rows.filter(|((room, user, _), row)| {
            *user == viewer.user && !room.is_own() && row.to.is_none_or(|to| to.1 > after)
        });
        let intervals = lasting.filter_map(|((room, _, from), row)| {
            let head = self.rooms.get(room)?;
            (head.head_stream > after).then(|| Interval {
                room: room.clone(),
                from: *from,
                from_stream: row.from_stream,
                to: row.to,
                head: head.head,
                head_stream: head.head_stream,
            })
        });
        let intervals: Vec<Interval> = intervals.collect();
        let own = self.visible(viewer, &RoomId::own(&viewer.user), terms);
        let own = own.filter(|access| access.view.row.head_stream > after);
        let own = own.map(|access| (access.view.row.room.clone(), access.head()));
        let rooms = intervals.iter().map(|interval| &interval.room);
        let rooms = rooms.chain(own.as_ref().map(|(room, _)| room));
        let first = rooms.filter_map(|room| {
            let events = self.events.get(room)?.iter();
            let mut behind = events.filter(|(_, event)| event.position > after);
            Some((room.clone(), *behind.next()?.0))
        });
        Plan::new(&intervals, own.as_ref(), &first.collect(), (after, have))
    }

    /// The events of these spans, in the order of the log.
    fn ranges(&self, spans: &[Span]) -> Vec<Archived> {
        let parts = spans.iter();
        let parts = parts.flat_map(|span| self.archived(&span.room, span.from, span.to));
        let mut found: Vec<Archived> = parts.collect();
        found.sort_by_key(|event| event.position);
        found
    }

    /// Events of rooms that the viewer was taken out of, and the last record of which all are there.
    fn leaving(&self, plan: &Plan, bytes_max: usize) -> (Vec<Archived>, Option<StreamSeq>) {
        let mut found = self.ranges(&plan.leaving());
        let mut bytes = 0;
        let fitting = found.iter().take_while(|event| {
            bytes += event.line.len() + 1;
            bytes <= bytes_max
        });
        let fitting = fitting.count();
        let Some(next) = found.get(fitting) else {
            return (found, None);
        };
        let first = found.first().map_or(next.position, |event| event.position);
        let last = if next.position > first {
            next.position.before()
        } else {
            first
        };
        found.retain(|event| event.position <= last);
        (found, Some(last))
    }

    fn one_by_one(&self, plan: &mut Plan, covered: StreamSeq, bytes_max: usize) -> Vec<Archived> {
        let size = |span: &Span| {
            let events = self.archived(&span.room, span.from, span.to);
            let bytes: usize = events.iter().map(|event| event.line.len() + 1).sum();
            (span.room.clone(), bytes)
        };
        let mut sizes: BTreeMap<RoomId, usize> = plan.one_by_one().iter().map(size).collect();
        while sizes.values().sum::<usize>() > bytes_max {
            let largest = sizes.iter().max_by_key(|(_, bytes)| **bytes);
            let Some(largest) = largest.map(|(room, _)| room.clone()) else {
                break;
            };
            sizes.remove(&largest);
            plan.skip(&largest);
        }
        let mut found = self.ranges(&plan.one_by_one());
        found.retain(|event| event.position <= covered);
        found
    }

    /// The rooms whose marks moved in the own room from a seq on, of those the user is in.
    fn marked(&self, own: &RoomId, from: Seq, rooms: &[RoomId]) -> BTreeSet<RoomId> {
        let events = self.archived(own, from, Seq(u64::MAX)).into_iter();
        let targets =
            events.filter_map(
                |event| match LogEvent::parse(&event.line).ok()?.event.body {
                    EventBody::Read { target, .. } => Some(target),
                    _ => None,
                },
            );
        targets.filter(|room| rooms.contains(room)).collect()
    }

    fn by_room(&self, events: Vec<Archived>) -> ByRoom {
        let rooms: Vec<RoomId> = events.iter().map(|event| event.room.clone()).collect();
        let mut by_room = ByRoom::new();
        for (room, event) in rooms.into_iter().zip(self.written(events)) {
            by_room.entry(room).or_default().push(event);
        }
        by_room
    }

    fn skips(
        &self,
        viewer: &Viewer,
        from: &BTreeMap<RoomId, Seq>,
        timeline: u32,
        terms: Terms,
    ) -> BTreeMap<RoomId, Skip> {
        let skip = |(room, from): (&RoomId, &Seq)| {
            let mut access = self.visible(viewer, room, terms)?;
            let dirty = self.dirty(room, *from, access.floor);
            access.floor = access.floor.max(*from);
            let state = self.snapshot(viewer, &access, timeline);
            let skip = Skip {
                from: *from,
                to: state.head,
                dirty,
                state,
            };
            Some((room.clone(), skip))
        };
        from.iter().filter_map(skip).collect()
    }

    fn states(
        &self,
        viewer: &Viewer,
        rooms: &[RoomId],
        timeline: u32,
        terms: Terms,
    ) -> BTreeMap<RoomId, RoomSnapshot> {
        let state = |room: &RoomId| {
            let access = self.visible(viewer, room, terms)?;
            Some((room.clone(), self.snapshot(viewer, &access, timeline)))
        };
        rooms.iter().filter_map(state).collect()
    }

    /// Messages below `from` that show something else since.
    fn dirty(&self, room: &RoomId, from: Seq, floor: Seq) -> Vec<SeqRange> {
        if from <= floor {
            return Vec::new();
        }
        let mut dirty = BTreeSet::new();
        let events = self.archived(room, from, Seq(u64::MAX));
        for event in events {
            let Ok(logged) = LogEvent::parse(&event.line) else {
                continue;
            };
            match logged.event.body {
                EventBody::Edit { on, .. } => dirty.extend([on]),
                EventBody::Msg(message) => dirty.extend(message.thread),
                EventBody::Room { .. }
                | EventBody::Member { .. }
                | EventBody::Role { .. }
                | EventBody::Del { .. }
                | EventBody::Read { .. }
                | EventBody::Void { .. }
                | EventBody::Unknown(_) => {}
            }
        }
        for (seq, text) in self.texts.get(room).into_iter().flatten() {
            if text.deleted.is_some_and(|by| by >= from) {
                dirty.insert(*seq);
                dirty.extend(text.message.thread);
            }
        }
        dirty.retain(|seq| *seq < from && *seq >= floor);
        merge_ranges(ranges(&dirty), DIRTY_RANGES_MAX)
    }
}

fn room_of(missed: &Missed) -> &RoomId {
    match missed {
        Missed::Events { room, .. } => room,
        Missed::Skip(skip) => &skip.state.room,
        Missed::State(state) => &state.room,
    }
}
