//! Pages of one room: the timeline, the dense events, a thread, a message's texts.

use super::access::{self, Access};
use super::wire::WireEvent;
use super::{Failure, Terms};
use crate::store::page::{self, End, Span};
use crate::store::{Snapshot, look_up, thread};
use protocol::frame::listing::{DensePage, RevisionList, ThreadPage};
use protocol::frame::{Page, TimelineEntry};
use protocol::query::Viewer;
use protocol::{ErrorCode, RoomId, Seq};
use serde_json::value::RawValue;
use std::collections::VecDeque;

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At the head.
    Newest,
    /// Below this seq.
    Before(Seq),
    /// Above this seq.
    After(Seq),
    /// On both sides of this seq.
    Around(Seq),
}

impl Place {
    /// From the fields of the command, of which one at most may be given.
    pub(super) fn new(
        before: Option<Seq>,
        after: Option<Seq>,
        around: Option<Seq>,
    ) -> Result<Self, Failure> {
        match (before, after, around) {
            (None, None, None) => Ok(Self::Newest),
            (Some(seq), None, None) => Ok(Self::Before(seq)),
            (None, Some(seq), None) => Ok(Self::After(seq)),
            (None, None, Some(seq)) => Ok(Self::Around(seq)),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => Err(
                Failure::bad("`before`, `after` and `around` exclude each other"),
            ),
        }
    }
}

/// Which page is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    /// The room.
    pub(super) room: &'a RoomId,
    /// Where in it.
    pub(super) place: Place,
    /// Entries at most.
    pub(super) limit: u32,
}

impl<'a> Wish<'a> {
    pub(super) const fn new(room: &'a RoomId, place: Place, limit: u32) -> Self {
        Self { room, place, limit }
    }
}

/// One read of a page: a range of seqs, both ends included, an end of it, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    from: Seq,
    to: Seq,
    end: End,
    limit: u32,
}

/// The reads that make up a page: one, or two for both sides of a seq.
fn parts(wish: Wish<'_>, floor: Seq, head: Seq) -> Vec<Part> {
    let part = |from, to, end, limit| Part {
        from,
        to,
        end,
        limit,
    };
    let limit = wish.limit;
    match wish.place {
        Place::Newest => vec![part(floor, head, End::Newest, limit)],
        // Nothing is below seq 1.
        Place::Before(Seq(0)) => vec![part(floor, Seq(0), End::Newest, limit)],
        Place::Before(seq) => vec![part(floor, head.min(seq.before()), End::Newest, limit)],
        Place::After(seq) => vec![part(above(seq).max(floor), head, End::Oldest, limit)],
        Place::Around(seq) => vec![
            part(floor, head.min(seq), End::Newest, limit.div_ceil(2)),
            part(above(seq).max(floor), head, End::Oldest, limit / 2),
        ],
    }
}

/// The next seq; that of the greatest is itself, where nothing can be.
fn above(seq: Seq) -> Seq {
    Seq(seq.0.saturating_add(1))
}

/// Entries of a page as they are gathered: one more than wanted was asked for, to know of more.
struct Gathered<T> {
    entries: VecDeque<T>,
    bytes: usize,
    more: bool,
}

impl<T> Gathered<T> {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            more: false,
        }
    }

    /// Adds what one part has found (oldest first), as far as limit and bytes allow.
    fn add(&mut self, part: Part, found: Vec<T>, size: impl Fn(&T) -> usize, bytes_max: usize) {
        let limit = usize::try_from(part.limit).unwrap_or(usize::MAX);
        let mut taken = 0;
        let mut found = VecDeque::from(found);
        loop {
            let next = match part.end {
                End::Newest => found.pop_back(),
                End::Oldest => found.pop_front(),
            };
            let Some(next) = next else { return };
            let bytes = self.bytes + size(&next);
            // One entry is always given, or a page could stand still.
            if taken == limit || (bytes > bytes_max && !self.entries.is_empty()) {
                self.more = true;
                return;
            }
            (taken, self.bytes) = (taken + 1, bytes);
            match part.end {
                End::Newest => self.entries.push_front(next),
                End::Oldest => self.entries.push_back(next),
            }
        }
    }
}

/// Bytes of an entry in an answer.
pub(super) fn entry_bytes(entry: &TimelineEntry) -> usize {
    serde_json::to_string(entry).map_or(0, |text| text.len() + 1)
}

/// A page of the timeline, in the state as of the head.
pub(super) async fn page(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: Wish<'_>,
    terms: Terms,
) -> Result<Page, Failure> {
    let access = access::room(snapshot, viewer, wish.room, terms.now).await?;
    let mut gathered = Gathered::new();
    for part in parts(wish, access.floor, access.head()) {
        let span = Span {
            room: wish.room.clone(),
            from: part.from,
            to: part.to,
        };
        let pages = page::timelines(snapshot, &[span], part.end, part.limit + 1).await?;
        let found = pages.into_iter().next().unwrap_or_default();
        gathered.add(part, found, entry_bytes, terms.bytes_max);
    }
    Ok(Page {
        events: gathered.entries.into(),
        at: access.head(),
        more: gathered.more,
        head: access.head(),
    })
}

/// A page of every durable event.
pub(super) async fn dense(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: Wish<'_>,
    terms: Terms,
) -> Result<DensePage, Failure> {
    let access = access::room(snapshot, viewer, wish.room, terms.now).await?;
    let mut gathered = Gathered::new();
    for part in parts(wish, access.floor, access.head()) {
        let span = Span {
            room: wish.room.clone(),
            from: part.from,
            to: part.to,
        };
        let found = page::dense(snapshot, &span, part.end, part.limit + 1).await?;
        gathered.add(part, found, |event| event.line.len() + 1, terms.bytes_max);
    }
    let events = gathered.entries.into_iter().map(WireEvent::new).collect();
    Ok(DensePage {
        events: written(snapshot, events).await?,
        at: access.head(),
        more: gathered.more,
        head: access.head(),
    })
}

/// Events as they go to a client, those of removed messages blanked.
pub(super) async fn written(
    snapshot: &mut Snapshot,
    events: Vec<WireEvent>,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let messages: Vec<_> = events
        .iter()
        .filter_map(|event| Some((event.room.clone(), event.message()?)))
        .collect();
    let removed = page::removed(snapshot, &messages).await?;
    Ok(events
        .into_iter()
        .map(|event| event.write(&removed))
        .collect())
}

/// A page of a thread.
pub(super) async fn thread(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: Wish<'_>,
    root: Seq,
    terms: Terms,
) -> Result<ThreadPage, Failure> {
    let access = access::room(snapshot, viewer, wish.room, terms.now).await?;
    if root < access.floor || !thread::is_root(snapshot, wish.room, root).await? {
        return Err(Failure::code(ErrorCode::NotFound));
    }
    let mut gathered = Gathered::new();
    for part in parts(wish, access.floor, access.head()) {
        let range = (part.from, part.to);
        let limit = part.limit + 1;
        let found = thread::replies(snapshot, (wish.room, root), range, part.end, limit).await?;
        gathered.add(part, found, entry_bytes, terms.bytes_max);
    }
    Ok(ThreadPage {
        events: gathered.entries.into(),
        at: access.head(),
        more: gathered.more,
    })
}

/// The stored texts of a message; the cursor is the seq of the last one given.
pub(super) async fn revisions(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: Wish<'_>,
    (on, cursor): (Seq, Option<&str>),
    terms: Terms,
) -> Result<RevisionList, Failure> {
    let access = access::room(snapshot, viewer, wish.room, terms.now).await?;
    let after = match cursor.map(str::parse) {
        None => None,
        Some(Ok(seq)) => Some(Seq(seq)),
        Some(Err(_)) => return Err(Failure::bad("`cursor` is not one of ours")),
    };
    require_shown(snapshot, &access, on).await?;
    let mut found = Vec::new();
    if after.is_none() {
        found.extend(look_up::as_sent(snapshot, wish.room, on).await?);
    }
    let after = after.unwrap_or_default();
    found.extend(look_up::revisions(snapshot, (wish.room, on), after, wish.limit + 1).await?);
    let part = Part {
        from: Seq(0),
        to: Seq(0),
        end: End::Oldest,
        limit: wish.limit,
    };
    let mut gathered = Gathered::new();
    let size = |revision: &protocol::frame::listing::Revision| {
        serde_json::to_string(revision).map_or(0, |text| text.len() + 1)
    };
    gathered.add(part, found, size, terms.bytes_max);
    let last = gathered.entries.back().filter(|_| gathered.more);
    let next = last.map(|revision| revision.seq.to_string());
    Ok(RevisionList {
        revisions: gathered.entries.into(),
        next,
    })
}

/// That there is such a message, that it may be read and that it was not removed.
async fn require_shown(snapshot: &mut Snapshot, access: &Access, on: Seq) -> Result<(), Failure> {
    let room = &access.view.row.room;
    let state = look_up::message_states(snapshot, room, &[on]).await?;
    match state.into_iter().flatten().next() {
        // What may not be read is not there, removed or not.
        Some(_) if on < access.floor => Err(Failure::code(ErrorCode::NotFound)),
        Some(message) if message.deleted => Err(Failure::code(ErrorCode::TargetGone)),
        Some(_) => Ok(()),
        None => Err(Failure::code(ErrorCode::NotFound)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(place: Place, limit: u32) -> Vec<(u64, u64, End, u32)> {
        let room = RoomId::parse("r1").unwrap();
        let wish = Wish {
            room: &room,
            place,
            limit,
        };
        let parts = parts(wish, Seq(5), Seq(20));
        parts
            .into_iter()
            .map(|part| (part.from.0, part.to.0, part.end, part.limit))
            .collect()
    }

    #[test]
    fn a_page_never_reaches_below_the_floor_or_above_the_head() {
        let table = [
            (Place::Newest, vec![(5, 20, End::Newest, 7)]),
            (Place::Before(Seq(9)), vec![(5, 8, End::Newest, 7)]),
            (Place::Before(Seq(u64::MAX)), vec![(5, 20, End::Newest, 7)]),
            (Place::Before(Seq(0)), vec![(5, 0, End::Newest, 7)]),
            (Place::After(Seq(0)), vec![(5, 20, End::Oldest, 7)]),
            (Place::After(Seq(8)), vec![(9, 20, End::Oldest, 7)]),
            (
                Place::After(Seq(u64::MAX)),
                vec![(u64::MAX, 20, End::Oldest, 7)],
            ),
            (
                Place::Around(Seq(9)),
                vec![(5, 9, End::Newest, 4), (10, 20, End::Oldest, 3)],
            ),
        ];
        for (place, expected) in table {
            assert_eq!(spans(place, 7), expected, "{place:?}");
        }
    }

    #[test]
    fn two_places_at_once_are_refused() {
        assert!(Place::new(Some(Seq(1)), Some(Seq(2)), None).is_err());
        assert!(Place::new(None, Some(Seq(2)), Some(Seq(1))).is_err());
    }

    #[test]
    fn a_page_is_cut_at_its_far_end() {
        let part = |end, limit| Part {
            from: Seq(1),
            to: Seq(9),
            end,
            limit,
        };
        let gather = |end, limit, bytes_max| {
            let mut gathered = Gathered::new();
            gathered.add(part(end, limit), vec![1, 2, 3], |_| 10, bytes_max);
            (Vec::from(gathered.entries), gathered.more)
        };
        assert_eq!(gather(End::Newest, 2, 1_000), (vec![2, 3], true));
        assert_eq!(gather(End::Oldest, 2, 1_000), (vec![1, 2], true));
        assert_eq!(gather(End::Oldest, 3, 1_000), (vec![1, 2, 3], false));
        assert_eq!(gather(End::Newest, 3, 25), (vec![2, 3], true));
        assert_eq!(gather(End::Newest, 3, 1), (vec![3], true));
    }
}
