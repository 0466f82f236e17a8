//! Rooms as one user sees them, for `hello`, for a room entered live, and inside a `skip`.

use super::access::{Access, Verdict, judge};
use super::timeline::entry_bytes;
use super::{Failure, Terms};
use crate::store::page::{self, End, Span};
use crate::store::unread::{self, Start};
use crate::store::{Snapshot, look_up, room};
use protocol::event::RoomKind;
use protocol::frame::{RoomSnapshot, TimelineEntry};
use protocol::query::{ReadCounts, Snapshots, Viewer};
use protocol::{RoomId, Seq, limits};

/// Rooms whose timelines are read at once: full of long texts, those of a whole window would take
/// hundreds of megabytes, of which an answer has room for a few.
const ROOMS_AT_ONCE: usize = 10;

/// How much of the rooms' timelines comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Rooms that get one.
    rooms: u32,
    /// Entries of each.
    timeline: u32,
}

impl Window {
    /// No timelines.
    pub(super) const NONE: Self = Self {
        rooms: 0,
        timeline: 0,
    };

    /// As wished, within the limits.
    pub(super) fn new(rooms: u32, timeline: u32) -> Self {
        Self {
            rooms: rooms.min(limits::WINDOW_ROOMS_MAX),
            timeline: timeline.min(limits::WINDOW_TIMELINE_MAX),
        }
    }

    /// The same, for any number of rooms.
    pub(super) const fn of_every_room(self) -> Self {
        Self {
            rooms: u32::MAX,
            timeline: self.timeline,
        }
    }
}

/// Rooms of a question, or all of a user.
pub(super) async fn answer(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    rooms: Option<&[RoomId]>,
    window: Window,
    terms: Terms,
) -> Result<Snapshots, Failure> {
    let known = look_up::user_facts(snapshot, &viewer.user).await?.known;
    let accesses = match rooms {
        Some(rooms) => visible(snapshot, viewer, rooms, terms).await?,
        None => {
            let own = RoomId::own(&viewer.user);
            let mut accesses = visible(snapshot, viewer, &[own], terms).await?;
            let limit = limits::USER_ROOMS_MAX * 2;
            for view in room::views_of_user(snapshot, &viewer.user, None, limit).await? {
                accesses.extend(permitted(judge(view, viewer, terms.now)));
            }
            accesses
        }
    };
    let rooms = build(snapshot, viewer, accesses, window, terms.bytes_max / 2).await?;
    Ok(Snapshots { known, rooms })
}

fn permitted(verdict: Verdict) -> Option<Access> {
    match verdict {
        Verdict::Visible(access) => Some(*access),
        Verdict::Hidden | Verdict::Poisoned => None,
    }
}

/// Those of these rooms that the viewer may read, in this order.
pub(super) async fn visible(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    rooms: &[RoomId],
    terms: Terms,
) -> Result<Vec<Access>, Failure> {
    let mut views = room::views(snapshot, &viewer.user, rooms).await?;
    views.sort_by_key(|view| rooms.iter().position(|room| *room == view.row.room));
    let verdicts = views.into_iter().map(|view| judge(view, viewer, terms.now));
    Ok(verdicts.filter_map(permitted).collect())
}

/// From where unread is counted.
#[must_use]
pub fn count_from(access: &Access) -> Start {
    let row = &access.view.row;
    Start {
        room: row.room.clone(),
        // A mark above its room's head counts as that head.
        mark: access.view.mark.seq.min(row.head),
        // Nothing is unread to whoever has not joined.
        since: access
            .view
            .membership
            .map_or(row.head, |membership| membership.since),
    }
}

/// The rooms with counts, the first ones with timelines, which take at most `bytes_max` together.
pub(super) async fn build(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    accesses: Vec<Access>,
    window: Window,
    bytes_max: usize,
) -> Result<Vec<RoomSnapshot>, Failure> {
    let from: Vec<Start> = accesses.iter().map(count_from).collect();
    let counts = unread::counts(snapshot, &viewer.user, &from).await?;
    let timelines = timelines(snapshot, &accesses, window, bytes_max).await?;
    let parts = accesses.iter().zip(from).zip(counts).zip(timelines);
    Ok(parts
        .map(|(((access, from), counts), timeline)| RoomSnapshot {
            tl: timeline,
            ..without_timeline(access, from.mark, counts)
        })
        .collect())
}

async fn timelines(
    snapshot: &mut Snapshot,
    accesses: &[Access],
    window: Window,
    bytes_max: usize,
) -> Result<Vec<Option<Vec<TimelineEntry>>>, Failure> {
    let mut timelines: Vec<Option<Vec<TimelineEntry>>> = accesses.iter().map(|_| None).collect();
    if window.timeline == 0 {
        return Ok(timelines);
    }
    // A self room has no timeline, so it takes none of the window.
    let with = accesses.iter().enumerate();
    let with = with.filter(|(_, access)| access.view.row.kind != Some(RoomKind::Own));
    let with = with.take(usize::try_from(window.rooms).unwrap_or(usize::MAX));
    let (places, spans): (Vec<usize>, Vec<Span>) = with
        .map(|(place, access)| {
            let room = access.view.row.room.clone();
            (
                place,
                Span {
                    room,
                    from: access.floor,
                    to: access.head(),
                },
            )
        })
        .unzip();
    let mut bytes = 0;
    let rooms = places.chunks(ROOMS_AT_ONCE);
    for (places, spans) in rooms.zip(spans.chunks(ROOMS_AT_ONCE)) {
        let found = page::timelines(snapshot, spans, End::Newest, window.timeline).await?;
        for (place, timeline) in places.iter().zip(found) {
            bytes += timeline.iter().map(entry_bytes).sum::<usize>();
            if bytes > bytes_max {
                return Ok(timelines);
            }
            if let Some(slot) = timelines.get_mut(*place) {
                *slot = Some(timeline);
            }
        }
    }
    Ok(timelines)
}

/// The room as its viewer sees it, with these counts.
#[must_use]
pub fn without_timeline(access: &Access, read: Seq, counts: ReadCounts) -> RoomSnapshot {
    let row = &access.view.row;
    let membership = access.view.membership;
    RoomSnapshot {
        room: row.room.clone(),
        kind: row.kind.unwrap_or(RoomKind::Private),
        name: row.name.clone(),
        topic: row.topic.clone(),
        role: access.role(),
        members: row.members,
        head: row.head,
        head_hash: row.head_hash,
        read,
        read_n: counts.read_n,
        join_n: membership.map_or(row.n, |membership| membership.join_n),
        unread: counts.unread,
        mentions: counts.mentions,
        frozen: row.frozen,
        slow_s: row.slow_s,
        history: row.history,
        room_seq: row.room_seq,
        at: row.head,
        tl: None,
    }
}
