//! The client's rule per room: `seq <= last` drop, `last + 1` apply, larger: fetch the hole.
//!
//! Pure. [`Rooms::handle_event`] and its siblings take frames, [`Rooms::poll_fetch`] says which hole
//! to ask `history` for, [`Rooms::poll_effect`] what to store and to show.
//! Which socket a frame came from does not matter here: the rule makes repeats harmless.

use crate::change::{Change, SavedRoom};
use crate::timeline::{Shown, Timeline};
use crate::update::{Follow, Update};
use protocol::event::{Event, EventBody, MemberChange, SeqRange};
use protocol::frame::{Page, RoomSnapshot, Skip};
use protocol::{Refusal, RoomId, Seq, Timestamp, UserId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Events that wait behind a hole; what comes beyond is fetched with the hole.
const WAITING_MAX: usize = 1_000;
/// Holes asked for at once.
const FETCHES_MAX: usize = 8;
/// Shortest and longest wait before a hole that history does not have yet is asked for again, in ms.
const REFETCH_MS: (i64, i64) = (200, 5_000);

/// What has to be done about rooms.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Remember it.
    Save(Change),
    /// Show it.
    Show(Update),
}

/// A hole to ask for, with `all:true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Which room.
    pub room: RoomId,
    /// Events above this seq.
    pub after: Seq,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FetchState {
    #[default]
    Idle,
    InFlight,
    Later(Timestamp),
}

/// One room.
#[derive(Debug)]
pub struct Room {
    /// What is known of it; `tl` is empty, see [`Self::timeline`].
    pub snapshot: RoomSnapshot,
    /// The last event applied.
    pub last: Seq,
    /// Its messages.
    pub timeline: Timeline,
    /// The greatest seq known to exist.
    target: Seq,
    waiting: BTreeMap<Seq, Event>,
    fetch: FetchState,
    /// Fetches in a row that brought nothing.
    fruitless: u32,
}

impl Room {
    fn new(mut snapshot: RoomSnapshot, last: Seq) -> Self {
        snapshot.tl = None;
        Self {
            snapshot,
            last,
            timeline: Timeline::default(),
            target: last,
            waiting: BTreeMap::new(),
            fetch: FetchState::Idle,
            fruitless: 0,
        }
    }

    fn has_hole(&self) -> bool {
        self.last < self.target
    }

    /// Whether this event comes next; a `void` may jump over lost numbers.
    fn is_next(&self, event: &Event) -> bool {
        let next = self.last.next();
        match &event.body {
            EventBody::Void { from } => *from <= next && event.seq >= next,
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Unknown(_) => event.seq == next,
        }
    }

    fn saved(&self) -> Change {
        Change::Room(Box::new(SavedRoom {
            snapshot: self.snapshot.clone(),
            last: self.last,
        }))
    }

    /// Live messages by others above the mark and the join, of those in the timeline.
    ///
    /// An ordinal rises with `seq`, so "above the mark" is judged by the mark itself: its ordinal is not
    /// told while history is away.
    #[must_use]
    pub fn unread(&self, me: &UserId) -> usize {
        let (mark, join) = (self.snapshot.read, self.snapshot.join_n);
        let counts = |shown: &&Shown| match &shown.entry.event.body {
            EventBody::Msg(message) => {
                !shown.entry.deleted
                    && shown.entry.event.by != *me
                    && shown.entry.event.seq > mark
                    && message.n.is_some_and(|n| n > join)
            }
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => false,
        };
        self.timeline.entries().filter(counts).count()
    }

    /// Folds what the snapshot shows; whether anything of it changed.
    fn fold(&mut self, event: &Event, me: Option<&UserId>) -> bool {
        let snapshot = &mut self.snapshot;
        match &event.body {
            EventBody::Room { changes, .. } => {
                if let Some(name) = &changes.name {
                    snapshot.name.clone_from(name);
                }
                if let Some(topic) = &changes.topic {
                    snapshot.topic.clone_from(topic);
                }
                snapshot.slow_s = changes.slow_s.unwrap_or(snapshot.slow_s);
                snapshot.frozen = changes.frozen.unwrap_or(snapshot.frozen);
                snapshot.history = changes.history.unwrap_or(snapshot.history);
                snapshot.room_seq = event.seq;
                true
            }
            EventBody::Member {
                user, change, role, ..
            } => {
                match change {
                    MemberChange::Joined | MemberChange::Added => snapshot.members += 1,
                    MemberChange::Left | MemberChange::Kicked => {
                        snapshot.members = snapshot.members.saturating_sub(1);
                    }
                    // Whether the banned was a member is not known here: the next state tells.
                    MemberChange::Banned
                    | MemberChange::Unbanned
                    | MemberChange::Muted
                    | MemberChange::Unmuted => {}
                }
                if me == Some(user) && change.begins_membership() {
                    snapshot.role = Some(role.unwrap_or_default());
                } else if me == Some(user) && change.ends_membership() {
                    snapshot.role = None;
                }
                true
            }
            EventBody::Role { user, role } if me == Some(user) => {
                snapshot.role = Some(*role);
                true
            }
            EventBody::Role { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => false,
        }
    }
}

/// The rooms of one client.
#[derive(Debug)]
pub struct Rooms {
    follow: Follow,
    me: Option<UserId>,
    rooms: BTreeMap<RoomId, Room>,
    effects: VecDeque<Effect>,
    /// Whether events of the own room were skipped in the catch-up that is running.
    marks_skipped: bool,
}

impl Rooms {
    /// Goes on with what a store held.
    #[must_use]
    pub fn restore(
        follow: Follow,
        me: Option<UserId>,
        saved: Vec<SavedRoom>,
        mut timelines: BTreeMap<RoomId, Vec<Shown>>,
    ) -> Self {
        let mut rooms = BTreeMap::new();
        for SavedRoom { snapshot, last } in saved {
            let id = snapshot.room.clone();
            let mut room = Room::new(snapshot, last);
            room.timeline = Timeline::restore(timelines.remove(&id).unwrap_or_default());
            // What was being fetched still is to be: nobody tells it again.
            room.target = last.max(room.snapshot.head);
            rooms.insert(id, room);
        }
        Self {
            follow,
            me,
            rooms,
            effects: VecDeque::new(),
            marks_skipped: false,
        }
    }

    /// Learns who we are.
    pub fn set_me(&mut self, me: UserId) {
        self.me = Some(me);
    }

    /// The rooms, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&RoomId, &Room)> {
        self.rooms.iter()
    }

    /// One room.
    #[must_use]
    pub fn get(&self, room: &RoomId) -> Option<&Room> {
        self.rooms.get(room)
    }

    /// Whether something known to exist is not here yet; a cursor must not be stored meanwhile.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.rooms.values().any(Room::has_hole)
    }

    /// The next thing to store or show.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// A durable event.
    pub fn handle_event(&mut self, event: Event) {
        if self.follow == Follow::Nothing {
            return;
        }
        // A room that is entered comes as a `state` first; without it there is nothing to follow.
        let Some(room) = self.rooms.get_mut(&event.room) else {
            return;
        };
        if event.seq <= room.last {
            return;
        }
        room.target = room.target.max(event.seq);
        let id = event.room.clone();
        if room.is_next(&event) {
            self.apply(event);
            self.drain(&id);
        } else if room.waiting.len() < WAITING_MAX {
            room.waiting.insert(event.seq, event);
        }
    }

    /// A room as it is.
    pub fn handle_state(&mut self, mut snapshot: RoomSnapshot) {
        let id = snapshot.room.clone();
        let (at, tl) = (snapshot.at, snapshot.tl.take());
        let known = self.rooms.remove(&id);
        let last = known.as_ref().map_or(Seq(0), |room| room.last);
        if let Some(known) = &known {
            self.keep_newer(&mut snapshot, known);
        }
        let mut room = Room::new(snapshot, last);
        if let Some(known) = known {
            (room.waiting, room.timeline) = (known.waiting, known.timeline);
            (room.fetch, room.target) = (known.fetch, known.target);
        }
        match self.follow {
            Follow::Everything => room.target = room.target.max(at),
            Follow::Timeline | Follow::Nothing => {
                if at > last {
                    // What was kept may have been edited meanwhile, and nothing would tell.
                    room.timeline = Timeline::default();
                    self.effects.push_back(Effect::Save(forget_all(&id)));
                }
                room.last = room.last.max(at);
                room.target = room
                    .waiting
                    .keys()
                    .next_back()
                    .map_or(room.last, |w| room.last.max(*w));
            }
        }
        self.enter(&id, room, tl, at);
    }

    /// What events have told already is not taken back by a state from before them: of the room itself,
    /// and of the mark, which the own room's events tell, as long as none of them was skipped.
    fn keep_newer(&mut self, snapshot: &mut RoomSnapshot, known: &Room) {
        if snapshot.room.is_own() {
            self.marks_skipped |= snapshot.at > known.last;
        }
        if snapshot.at < known.last {
            snapshot.clone_from(&known.snapshot);
        } else if !self.marks_skipped {
            (snapshot.read, snapshot.read_n) = (known.snapshot.read, known.snapshot.read_n);
        }
    }

    /// Everything missed is here: from now on the own room's events tell every mark.
    pub fn handle_live(&mut self) {
        self.marks_skipped = false;
    }

    /// A range that is not sent one by one.
    pub fn handle_skip(&mut self, skip: Skip) {
        let Skip {
            from,
            to,
            dirty,
            mut state,
        } = skip;
        let id = state.room.clone();
        if self.follow != Follow::Timeline || !self.rooms.contains_key(&id) {
            return self.handle_state(state);
        }
        let tl = state.tl.take();
        let Some(known) = self.rooms.remove(&id) else {
            return;
        };
        self.keep_newer(&mut state, &known);
        let mut room = Room::new(state, known.last.max(to));
        (room.waiting, room.timeline, room.fetch) = (known.waiting, known.timeline, known.fetch);
        room.target = room
            .waiting
            .keys()
            .next_back()
            .map_or(room.last, |w| room.last.max(*w));
        // What is left below the hole cannot be scrolled to without one; `history` brings it back.
        for range in std::iter::once(SeqRange(from, to)).chain(dirty.iter().copied()) {
            room.timeline.forget(range);
            self.effects
                .push_back(Effect::Save(Change::Forget(id.clone(), range.0, range.1)));
        }
        self.enter(&id, room, tl, to);
        self.effects.push_back(Effect::Show(Update::Skipped {
            room: id,
            from,
            to,
            dirty,
        }));
    }

    /// The room is not ours any more.
    pub fn handle_gone(&mut self, room: &RoomId) {
        // What is behind a hole was promised, but nobody will tell it any more.
        self.close_hole(room);
        if self.rooms.remove(room).is_some() {
            self.effects
                .push_back(Effect::Save(Change::RoomGone(room.clone())));
            self.effects
                .push_back(Effect::Show(Update::Gone(room.clone())));
        }
    }

    /// The hole to ask for next.
    pub fn poll_fetch(&mut self, now: Timestamp) -> Option<Fetch> {
        let in_flight = self
            .rooms
            .values()
            .filter(|room| room.fetch == FetchState::InFlight);
        if in_flight.count() >= FETCHES_MAX {
            return None;
        }
        let due = |room: &Room| match room.fetch {
            FetchState::Idle => true,
            FetchState::InFlight => false,
            FetchState::Later(at) => at <= now,
        };
        let (id, room) = self
            .rooms
            .iter_mut()
            .find(|(_, room)| room.has_hole() && due(room))?;
        room.fetch = FetchState::InFlight;
        Some(Fetch {
            room: id.clone(),
            after: room.last,
        })
    }

    /// When a hole may be asked for again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let holes = self.rooms.values().filter(|room| room.has_hole());
        holes
            .filter_map(|room| match room.fetch {
                FetchState::Later(at) => Some(at),
                FetchState::Idle | FetchState::InFlight => None,
            })
            .min()
    }

    /// The answer to a [`Fetch`].
    pub fn handle_page(&mut self, id: &RoomId, answer: Result<Page, Refusal>, now: Timestamp) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.fetch = FetchState::Idle;
        match answer {
            Ok(page) => self.fill(id, page, now),
            Err(refusal) if refusal.temp => {
                let wait = refusal.retry_after_ms.and_then(|ms| i64::try_from(ms).ok());
                room.fetch = FetchState::Later(now.plus_ms(wait.unwrap_or(REFETCH_MS.1)));
            }
            Err(_) => self.close_hole(id),
        }
    }

    /// Takes a page that the application asked for into the timeline.
    pub fn handle_history(&mut self, id: &RoomId, page: &Page) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        for shown in room.timeline.load(page.events.clone(), page.at) {
            self.effects
                .push_back(Effect::Save(Change::Entry(id.clone(), Box::new(shown))));
        }
    }

    fn fill(&mut self, id: &RoomId, page: Page, now: Timestamp) {
        let before = self.rooms.get(id).map(|room| room.last);
        let (at, is_empty) = (page.at, page.events.is_empty());
        for entry in page.events {
            let Some(room) = self.rooms.get_mut(id) else {
                return;
            };
            if entry.event.seq <= room.last {
                continue;
            }
            if !room.is_next(&entry.event) {
                // A dense page that begins later: what lies before it is not for us.
                self.jump(id, entry.event.seq.before());
            }
            self.apply(entry.event);
        }
        self.drain(id);
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        if Some(room.last) != before {
            room.fruitless = 0;
        } else if is_empty && at >= room.target {
            self.close_hole(id);
        } else {
            room.fruitless = room.fruitless.saturating_add(1);
            let wait = (REFETCH_MS.0 << room.fruitless.min(5)).min(REFETCH_MS.1);
            room.fetch = FetchState::Later(now.plus_ms(wait));
        }
    }

    /// Goes on behind a hole that nobody will fill.
    fn close_hole(&mut self, id: &RoomId) {
        while let Some(room) = self.rooms.get(id)
            && room.has_hole()
        {
            let to = room
                .waiting
                .keys()
                .next()
                .map_or(room.target, |first| first.before());
            self.jump(id, to);
            self.drain(id);
        }
    }

    fn jump(&mut self, id: &RoomId, to: Seq) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        let from = room.last.next();
        room.last = room.last.max(to);
        let missing = Update::Missing {
            room: id.clone(),
            from,
            to,
        };
        self.effects
            .push_back(Effect::Save(Change::Last(id.clone(), room.last)));
        self.effects.push_back(Effect::Show(missing));
    }

    fn enter(
        &mut self,
        id: &RoomId,
        mut room: Room,
        tl: Option<Vec<protocol::frame::TimelineEntry>>,
        at: Seq,
    ) {
        let keeps_timeline = self.follow == Follow::Timeline;
        let changed = match tl {
            Some(tl) if keeps_timeline => room.timeline.load(tl, at),
            Some(_) | None => Vec::new(),
        };
        self.effects.push_back(Effect::Save(room.saved()));
        for shown in changed {
            self.effects
                .push_back(Effect::Save(Change::Entry(id.clone(), Box::new(shown))));
        }
        self.rooms.insert(id.clone(), room);
        self.effects
            .push_back(Effect::Show(Update::Room(id.clone())));
        self.drain(id);
    }

    fn apply(&mut self, event: Event) {
        let Some(room) = self.rooms.get_mut(&event.room) else {
            return;
        };
        room.last = event.seq;
        room.snapshot.head = room.snapshot.head.max(event.seq);
        let folded = room.fold(&event, self.me.as_ref());
        let change = if folded {
            room.saved()
        } else {
            Change::Last(event.room.clone(), event.seq)
        };
        self.effects.push_back(Effect::Save(change));
        if self.follow == Follow::Timeline {
            for shown in room.timeline.apply(&event) {
                let change = Change::Entry(event.room.clone(), Box::new(shown));
                self.effects.push_back(Effect::Save(change));
            }
        }
        if let EventBody::Read {
            target,
            mark,
            read_n,
            ..
        } = &event.body
            && let Some(read) = self.rooms.get_mut(target)
        {
            read.snapshot.read = *mark;
            read.snapshot.read_n = read_n.unwrap_or(read.snapshot.read_n);
            self.effects.push_back(Effect::Save(read.saved()));
        }
        self.effects
            .push_back(Effect::Show(Update::Event(Arc::new(event))));
    }

    /// Applies what waited and comes next now.
    fn drain(&mut self, id: &RoomId) {
        loop {
            let Some(room) = self.rooms.get_mut(id) else {
                return;
            };
            let Some(first) = room.waiting.first_entry() else {
                return;
            };
            if *first.key() <= room.last {
                first.remove();
                continue;
            }
            let event = first.get().clone();
            if !room.is_next(&event) {
                return;
            }
            room.waiting.remove(&event.seq);
            self.apply(event);
        }
    }
}

fn forget_all(room: &RoomId) -> Change {
    Change::Forget(room.clone(), Seq(0), Seq(u64::MAX))
}

#[cfg(test)]
mod tests;
