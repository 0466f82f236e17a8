//! What a user missed: event by event where that is bounded, else as a `skip`, judged by membership
//! at each position (design section 5).
//!
//! Someone taken out of a room gets everything up to and including the event that did it, without a
//! bound; if that does not fit one answer, the answer covers less of the log and says `more`.

pub mod plan;

use super::access::Access;
use super::snapshots::{self, Window, visible};
use super::timeline::written;
use super::wire::{WireEvent, ranges};
use super::{Failure, Terms};
use crate::store::catch_up::{self, Bounds, Dirty};
use crate::store::{Snapshot, rooms};
use plan::Plan;
use protocol::event::SeqRange;
use protocol::frame::{RoomSnapshot, Skip};
use protocol::limits::{DIRTY_RANGES_MAX, ENVELOPE_BYTES_MAX, RESUME_EVENTS_MAX};
use protocol::query::{CatchUp, Missed, Viewer, merge_ranges};
use protocol::{RoomId, Seq, StreamSeq};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// Events of rooms that a user was taken out of, read for one answer.
const LEAVING_EVENTS_MAX: usize = 5_000;

/// Bytes of one range of `dirty` in JSON, generously.
const RANGE_BYTES: usize = 24;

/// What `viewer` missed after a position, and up to where that covers the log; their client may `have`
/// more of some rooms.
pub(super) async fn catch_up(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    (after, have): (StreamSeq, &BTreeMap<RoomId, Seq>),
    window: Window,
    terms: Terms,
) -> Result<(CatchUp, StreamSeq), Failure> {
    let applied = snapshot.applied;
    if after > applied {
        let rooms = present(snapshot, viewer, applied, terms).await?;
        return Ok((
            CatchUp {
                known: false,
                missed: Vec::new(),
                rooms,
                more: false,
            },
            applied,
        ));
    }
    let mut plan = plan(snapshot, viewer, (after, have), terms).await?;
    let leaving = leaving(snapshot, &plan, terms.bytes_max / 4).await?;
    let covered = leaving.covered.unwrap_or(applied);
    plan.cut(covered);
    let events = one_by_one(snapshot, &mut plan, covered, terms.bytes_max / 4).await?;
    let rooms = present(snapshot, viewer, covered, terms).await?;
    let events = retell(snapshot, viewer, (&mut plan, after), (&rooms, events)).await?;
    let mut skips = skips(snapshot, viewer, &plan.skipped(), window, terms).await?;
    let mut states = states(snapshot, viewer, &plan.entered(), window, terms).await?;
    let mut events = by_room(snapshot, events).await?;
    let mut leaving = by_room(snapshot, leaving.events).await?;
    let mut missed = Vec::new();
    for (room, stay) in plan.rooms {
        if let Some(to) = stay.left.as_ref().map(|left| left.to) {
            let events = leaving.remove(&room).unwrap_or_default();
            let gone = to.1 <= covered;
            if gone || !events.is_empty() {
                missed.push(Missed::Events {
                    room: room.clone(),
                    events,
                    gone,
                });
            }
        }
        if let Some(events) = events.remove(&room) {
            missed.push(Missed::Events {
                room: room.clone(),
                events,
                gone: false,
            });
        }
        missed.extend(skips.remove(&room).map(|skip| Missed::Skip(Box::new(skip))));
        missed.extend(
            states
                .remove(&room)
                .map(|state| Missed::State(Box::new(state))),
        );
    }
    // The own room comes first: what it says holds for the others.
    missed.sort_by_key(|missed| !room_of(missed).is_own());
    Ok((
        CatchUp {
            known: true,
            missed,
            rooms,
            more: covered < applied,
        },
        covered,
    ))
}

fn room_of(missed: &Missed) -> &RoomId {
    match missed {
        Missed::Events { room, .. } => room,
        Missed::Skip(skip) => &skip.state.room,
        Missed::State(state) => &state.room,
    }
}

/// The rooms that the viewer is in at a position, the own one included.
async fn present(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    position: StreamSeq,
    terms: Terms,
) -> Result<Vec<RoomId>, Failure> {
    let own = visible(snapshot, viewer, &[RoomId::own(&viewer.user)], terms).await?;
    let mut all: Vec<RoomId> = own.into_iter().map(|access| access.view.row.room).collect();
    all.extend(rooms::present_at(snapshot, &viewer.user, position).await?);
    Ok(all)
}

async fn plan(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    (after, have): (StreamSeq, &BTreeMap<RoomId, Seq>),
    terms: Terms,
) -> Result<Plan, Failure> {
    let intervals = catch_up::intervals(snapshot, &viewer.user, after).await?;
    let own = visible(snapshot, viewer, &[RoomId::own(&viewer.user)], terms).await?;
    let own = own
        .into_iter()
        .find(|access| access.view.row.head_stream > after);
    let mut concerned: BTreeSet<RoomId> = intervals
        .iter()
        .map(|interval| interval.room.clone())
        .collect();
    concerned.extend(own.iter().map(|access| access.view.row.room.clone()));
    let concerned: Vec<RoomId> = concerned.into_iter().collect();
    let first = catch_up::first_after(snapshot, &concerned, after).await?;
    let own = own.map(|access| (access.view.row.room.clone(), access.head()));
    Ok(Plan::new(&intervals, own.as_ref(), &first, (after, have)))
}

/// Events of rooms that the viewer was taken out of.
struct Leaving {
    events: Vec<WireEvent>,
    /// The last record of which all are there, if not everything is.
    covered: Option<StreamSeq>,
}

async fn leaving(
    snapshot: &mut Snapshot,
    plan: &Plan,
    bytes_max: usize,
) -> Result<Leaving, Failure> {
    let spans = plan.leaving();
    let bounds = Bounds {
        events: LEAVING_EVENTS_MAX + 1,
        // Always the whole first record, and so much more than fits that it shows: as stored, a line
        // can be a third longer.
        bytes: 2 * bytes_max.max(ENVELOPE_BYTES_MAX),
    };
    let mut found = catch_up::ranges(snapshot, &spans, bounds).await?;
    let mut bytes = 0;
    let fitting = found.iter().take(LEAVING_EVENTS_MAX).take_while(|event| {
        bytes += event.line.len() + 1;
        bytes <= bytes_max
    });
    let fitting = fitting.count();
    let mut covered = None;
    if let Some(next) = found.get(fitting) {
        // Whole records only; the first is given in any case, or the asker would stand still.
        let first = found.first().map_or(next.position, |event| event.position);
        let last = if next.position > first {
            next.position.before()
        } else {
            first
        };
        found.retain(|event| event.position <= last);
        covered = Some(last);
    }
    Ok(Leaving {
        events: found.into_iter().map(WireEvent::new).collect(),
        covered,
    })
}

/// The events of the rooms that the plan lets through one by one; the largest become skips until the
/// rest fits.
async fn one_by_one(
    snapshot: &mut Snapshot,
    plan: &mut Plan,
    covered: StreamSeq,
    bytes_max: usize,
) -> Result<Vec<WireEvent>, Failure> {
    let mut sizes = catch_up::sizes(snapshot, &plan.one_by_one()).await?;
    while sizes.values().sum::<usize>() > bytes_max {
        let largest = sizes
            .iter()
            .max_by_key(|(_, bytes)| **bytes)
            .map(|(room, _)| room.clone());
        let Some(largest) = largest else { break };
        sizes.remove(&largest);
        plan.skip(&largest);
    }
    let bounds = Bounds {
        events: RESUME_EVENTS_MAX,
        bytes: bytes_max,
    };
    let mut found = catch_up::ranges(snapshot, &plan.one_by_one(), bounds).await?;
    found.retain(|event| event.position <= covered);
    Ok(found.into_iter().map(WireEvent::new).collect())
}

/// Marks stand in each room's state: where the own room is skipped over, the rooms whose marks moved in
/// what is skipped are told by their states too.
async fn retell(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    (plan, after): (&mut Plan, StreamSeq),
    (rooms, mut events): (&[RoomId], Vec<WireEvent>),
) -> Result<Vec<WireEvent>, Failure> {
    let own = RoomId::own(&viewer.user);
    let Some(from) = plan.skipped().get(&own).copied() else {
        return Ok(events);
    };
    let marked = catch_up::marked(snapshot, &own, from).await?;
    let all = || rooms.iter().cloned().collect();
    let mut marked: BTreeSet<RoomId> = marked.unwrap_or_else(all);
    marked.retain(|room| rooms.contains(room) && !room.is_own());
    plan.retell(&marked, after);
    events.retain(|event| !marked.contains(&event.room));
    Ok(events)
}

/// Events written for the client, by room, in order.
async fn by_room(
    snapshot: &mut Snapshot,
    events: Vec<WireEvent>,
) -> Result<BTreeMap<RoomId, Vec<Box<RawValue>>>, Failure> {
    let rooms: Vec<RoomId> = events.iter().map(|event| event.room.clone()).collect();
    let mut by_room: BTreeMap<RoomId, Vec<Box<RawValue>>> = BTreeMap::new();
    for (room, event) in rooms.into_iter().zip(written(snapshot, events).await?) {
        by_room.entry(room).or_default().push(event);
    }
    Ok(by_room)
}

/// A `skip` for each of these rooms, from this seq on; rooms that are not visible are left out.
async fn skips(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    from: &BTreeMap<RoomId, Seq>,
    window: Window,
    terms: Terms,
) -> Result<BTreeMap<RoomId, Skip>, Failure> {
    let rooms: Vec<RoomId> = from.keys().cloned().collect();
    if rooms.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut accesses = visible(snapshot, viewer, &rooms, terms).await?;
    let ranges_max = terms.bytes_max / 4 / RANGE_BYTES / accesses.len().max(1);
    let mut ranges = Vec::with_capacity(accesses.len());
    for access in &mut accesses {
        let start = from
            .get(&access.view.row.room)
            .copied()
            .unwrap_or(access.floor);
        ranges.push((start, dirty(snapshot, access, start, ranges_max).await?));
        // The timeline holds what is inside the range, and what may be read.
        access.floor = access.floor.max(start);
    }
    let states = snapshots::build(
        snapshot,
        viewer,
        accesses,
        window.of_every_room(),
        terms.bytes_max / 8,
    );
    let skips = states
        .await?
        .into_iter()
        .zip(ranges)
        .map(|(state, (from, dirty))| {
            (
                state.room.clone(),
                Skip {
                    from,
                    to: state.head,
                    dirty,
                    state,
                },
            )
        });
    Ok(skips.collect())
}

/// What changed below `from`, of what the viewer may read.
async fn dirty(
    snapshot: &mut Snapshot,
    access: &Access,
    from: Seq,
    ranges_max: usize,
) -> Result<Vec<SeqRange>, Failure> {
    if from <= access.floor {
        return Ok(Vec::new());
    }
    let dirty = match catch_up::dirty(snapshot, &access.view.row.room, from).await? {
        Dirty::All => vec![SeqRange(access.floor, from.before())],
        Dirty::Messages(mut seqs) => {
            seqs.retain(|seq| *seq >= access.floor);
            ranges(&seqs)
        }
    };
    Ok(merge_ranges(dirty, DIRTY_RANGES_MAX.min(ranges_max)))
}

async fn states(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    rooms: &[RoomId],
    window: Window,
    terms: Terms,
) -> Result<BTreeMap<RoomId, RoomSnapshot>, Failure> {
    let accesses = visible(snapshot, viewer, rooms, terms).await?;
    let window = window.of_every_room();
    let states = snapshots::build(snapshot, viewer, accesses, window, terms.bytes_max / 8).await?;
    Ok(states
        .into_iter()
        .map(|state| (state.room.clone(), state))
        .collect())
}

/// A `skip` for every room that the client holds something of and the viewer is in.
pub(super) async fn have(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    have: &BTreeMap<RoomId, Seq>,
    window: Window,
    terms: Terms,
) -> Result<CatchUp, Failure> {
    let applied = snapshot.applied;
    let rooms = present(snapshot, viewer, applied, terms).await?;
    let from: BTreeMap<RoomId, Seq> = rooms
        .iter()
        .filter_map(|room| Some((room.clone(), Seq(have.get(room)?.0.saturating_add(1)))))
        .collect();
    let skips = skips(snapshot, viewer, &from, window, terms).await?;
    let mut missed: Vec<Missed> = skips
        .into_values()
        .map(|skip| Missed::Skip(Box::new(skip)))
        .collect();
    missed.sort_by_key(|missed| !room_of(missed).is_own());
    Ok(CatchUp {
        known: true,
        missed,
        rooms,
        more: false,
    })
}
