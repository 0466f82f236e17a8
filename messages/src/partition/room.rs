//! What an owner holds of one room: its state, and the states of messages that may be asked about.
//!
//! An event can be folded before it is stored, and taken back: every fold hands out a [`Change`].
//! Does not know where events come from, nor when something may be forgotten beyond a position.

use crate::rate::Bucket;
use protocol::chain::Hash;
use protocol::event::{EventBody, HistoryScope, SeqRange};
use protocol::room::message::MessageState;
use protocol::room::{FoldError, Mark, Membership, Restriction, RoomState};
use protocol::{Event, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, VecDeque};

/// The position of what is folded but not known to be stored yet: above every other.
pub(crate) const UNSTORED: StreamSeq = StreamSeq(u64::MAX);

/// A message, or the knowledge that a seq is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) state: Option<MessageState>,
    /// History knows this as soon as it has applied this record.
    pub(crate) position: StreamSeq,
    /// Records up to here are in it, though they may not have been folded yet: history can be ahead of
    /// an owner that was overtaken.
    base: StreamSeq,
}

/// A room whose whole state is known.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) state: RoomState,
    /// Position of the last event, or of the base it was made from.
    pub(crate) position: StreamSeq,
    /// As of [`Held::base`], for the whole state.
    base: StreamSeq,
    messages: BTreeMap<Seq, Held>,
    /// Events above the floor that may concern messages which are not held, oldest first.
    touches: VecDeque<(StreamSeq, Event)>,
    /// Who sent when, kept only while the room is in slow mode.
    last_sent: BTreeMap<UserId, Timestamp>,
    /// Buckets that are not full.
    pub(crate) buckets: BTreeMap<UserId, Bucket>,
    /// When a command last needed it.
    pub(crate) used: Timestamp,
}

/// How to take back one folded event.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) room: RoomId,
    /// `None` if the event made the room.
    before: Option<Before>,
}

#[derive(Clone, Debug)]
struct Before {
    header: Header,
    body: BodyBefore,
    messages: Vec<(Seq, Option<Held>)>,
    touched: bool,
    sent: Option<(UserId, Option<Timestamp>)>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    head: Seq,
    head_hash: Hash,
    ts: Timestamp,
    n: u64,
    room_seq: Seq,
    position: StreamSeq,
}

#[derive(Clone, Debug)]
enum BodyBefore {
    Nothing,
    Settings(Box<Settings>),
    User {
        user: UserId,
        membership: Option<Membership>,
        ban: Option<Restriction>,
        mute: Option<Restriction>,
    },
    Mark(RoomId, Option<Mark>),
}

#[derive(Clone, Debug)]
struct Settings {
    name: String,
    topic: String,
    slow_s: u32,
    frozen: bool,
    history: HistoryScope,
}

impl Room {
    /// The room that this event makes, and how to take that back.
    pub(crate) fn create(
        position: StreamSeq,
        event: &Event,
        hash: Hash,
    ) -> Result<(Self, Change), FoldError> {
        let mut room = Self::from_base(position, RoomState::create(event, hash)?);
        room.base = StreamSeq(0);
        let change = Change {
            room: event.room.clone(),
            before: None,
        };
        Ok((room, change))
    }

    /// A room as history answered it as of `position`.
    pub(crate) fn from_base(position: StreamSeq, state: RoomState) -> Self {
        Self {
            used: state.ts,
            state,
            position,
            base: position,
            messages: BTreeMap::new(),
            touches: VecDeque::new(),
            last_sent: BTreeMap::new(),
            buckets: BTreeMap::new(),
        }
    }

    /// Folds the next event.
    ///
    /// # Errors
    /// It is not the next one; nothing has changed then.
    pub(crate) fn apply(
        &mut self,
        position: StreamSeq,
        event: &Event,
        hash: Hash,
    ) -> Result<Change, FoldError> {
        let mut before = self.before(self.body_before(event));
        self.state.apply(event, hash)?;
        self.position = position;
        self.fold_messages(position, event, &mut before);
        Ok(Change {
            room: event.room.clone(),
            before: Some(before),
        })
    }

    /// Whether the base that this room was made from has the record at `position`.
    pub(crate) fn has(&self, position: StreamSeq) -> bool {
        position <= self.base
    }

    /// Folds an event that the state has already, for the messages it concerns.
    pub(crate) fn apply_to_messages(&mut self, position: StreamSeq, event: &Event) {
        let mut before = self.before(BodyBefore::Nothing);
        self.fold_messages(position, event, &mut before);
    }

    /// Takes back the last folded event; the room itself goes if that made it.
    ///
    /// Returns whether the room stays.
    pub(crate) fn undo(&mut self, change: Change) -> bool {
        let Some(before) = change.before else {
            return false;
        };
        let Header {
            head,
            head_hash,
            ts,
            n,
            room_seq,
            position,
        } = before.header;
        (self.state.head, self.state.head_hash) = (head, head_hash);
        (self.state.ts, self.state.n, self.state.room_seq) = (ts, n, room_seq);
        self.position = position;
        match before.body {
            BodyBefore::Nothing => {}
            BodyBefore::Settings(settings) => {
                self.state.name = settings.name;
                self.state.topic = settings.topic;
                self.state.slow_s = settings.slow_s;
                self.state.frozen = settings.frozen;
                self.state.history = settings.history;
            }
            BodyBefore::User {
                user,
                membership,
                ban,
                mute,
            } => {
                restore(&mut self.state.members, &user, membership);
                restore(&mut self.state.bans, &user, ban);
                restore(&mut self.state.mutes, &user, mute);
            }
            BodyBefore::Mark(target, mark) => restore(&mut self.state.marks, &target, mark),
        }
        for (seq, held) in before.messages.into_iter().rev() {
            restore(&mut self.messages, &seq, held);
        }
        if before.touched {
            self.touches.pop_back();
        }
        if let Some((user, at)) = before.sent {
            restore(&mut self.last_sent, &user, at);
        }
        true
    }

    /// What was folded with `change` is stored at `position`.
    pub(crate) fn stored(&mut self, change: &Change, position: StreamSeq) {
        self.position = position;
        let Some(before) = &change.before else {
            return;
        };
        for (seq, _) in &before.messages {
            if let Some(held) = self.messages.get_mut(seq) {
                held.position = position;
            }
        }
        if before.touched {
            for (touch, _) in self.touches.iter_mut().rev() {
                if *touch != UNSTORED {
                    break;
                }
                *touch = position;
            }
        }
    }

    /// A message, if something is known about it.
    pub(crate) fn message(&self, seq: Seq) -> Option<&Held> {
        self.messages.get(&seq)
    }

    /// When a user last sent a message in slow mode.
    pub(crate) fn last_sent(&self, user: &UserId) -> Option<Timestamp> {
        self.last_sent.get(user).copied()
    }

    /// Takes history's answer about a message as of `applied`, and folds what came after it.
    pub(crate) fn install_message(
        &mut self,
        seq: Seq,
        applied: StreamSeq,
        state: Option<MessageState>,
    ) {
        if self.messages.contains_key(&seq) {
            // What is held follows the log itself.
            return;
        }
        let mut held = Held {
            state,
            position: applied,
            base: applied,
        };
        for (position, event) in &self.touches {
            if *position > applied
                && let Some(state) = &mut held.state
            {
                state.apply(seq, event);
                held.position = held.position.max(*position);
            }
        }
        self.messages.insert(seq, held);
    }

    /// Forgets what history can tell as of `floor`, and what time has undone.
    pub(crate) fn prune(&mut self, floor: StreamSeq, now: Timestamp) {
        self.messages.retain(|_, held| held.position > floor);
        while self.touches.front().is_some_and(|touch| touch.0 <= floor) {
            self.touches.pop_front();
        }
        self.buckets.retain(|_, bucket| !bucket.is_full(now));
        let slow_ms = i64::from(self.state.slow_s) * 1_000;
        self.last_sent.retain(|_, at| now.since_ms(*at) < slow_ms);
    }

    /// Whether all of it can be forgotten as of `floor`.
    pub(crate) fn is_forgettable(&self, floor: StreamSeq) -> bool {
        self.position <= floor && self.messages.is_empty() && self.touches.is_empty()
    }

    /// How many messages and events are held.
    pub(crate) fn held(&self) -> usize {
        self.messages.len() + self.touches.len()
    }

    fn before(&self, body: BodyBefore) -> Before {
        Before {
            header: Header {
                head: self.state.head,
                head_hash: self.state.head_hash,
                ts: self.state.ts,
                n: self.state.n,
                room_seq: self.state.room_seq,
                position: self.position,
            },
            body,
            messages: Vec::new(),
            touched: false,
            sent: None,
        }
    }

    fn body_before(&self, event: &Event) -> BodyBefore {
        match &event.body {
            EventBody::Room { .. } => BodyBefore::Settings(Box::new(Settings {
                name: self.state.name.clone(),
                topic: self.state.topic.clone(),
                slow_s: self.state.slow_s,
                frozen: self.state.frozen,
                history: self.state.history,
            })),
            EventBody::Member { user, .. } | EventBody::Role { user, .. } => BodyBefore::User {
                user: user.clone(),
                membership: self.state.members.get(user).copied(),
                ban: self.state.bans.get(user).copied(),
                mute: self.state.mutes.get(user).copied(),
            },
            EventBody::Read { target, .. } => {
                BodyBefore::Mark(target.clone(), self.state.marks.get(target).copied())
            }
            EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => BodyBefore::Nothing,
        }
    }

    fn fold_messages(&mut self, position: StreamSeq, event: &Event, before: &mut Before) {
        match &event.body {
            EventBody::Msg(message) => {
                let known = self.messages.get(&event.seq);
                if known.is_none_or(|held| held.base < position) {
                    let held = Held {
                        state: MessageState::sent(event),
                        position,
                        base: StreamSeq(0),
                    };
                    let old = self.messages.insert(event.seq, held);
                    before.messages.push((event.seq, old));
                }
                if let Some(root) = message.thread {
                    self.touch(position, event, (root, before));
                }
                if self.state.slow_s > 0 {
                    let old = self.last_sent.insert(event.by.clone(), event.ts);
                    before.sent = Some((event.by.clone(), old));
                }
            }
            EventBody::Edit { on, .. } => self.touch(position, event, (*on, before)),
            EventBody::Del { on, user, to, .. } => {
                let by_user = to.filter(|_| user.is_some());
                let by_user = by_user.map(|to| SeqRange(Seq(0), to));
                let ranges = on.iter().copied().chain(by_user);
                // What is in the log is true, but a range need not be one.
                for range in ranges.filter(|range| range.0 <= range.1) {
                    for (seq, held) in self.messages.range_mut(range.0..=range.1) {
                        held.touch(position, event, (*seq, before));
                    }
                }
                // It may also concern messages that are not held.
                self.remember(position, event, before);
            }
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }

    /// Folds an event that concerns one other message: into it if it is held, else for later.
    fn touch(&mut self, position: StreamSeq, event: &Event, (seq, before): (Seq, &mut Before)) {
        match self.messages.get_mut(&seq) {
            Some(held) => held.touch(position, event, (seq, before)),
            None => self.remember(position, event, before),
        }
    }

    fn remember(&mut self, position: StreamSeq, event: &Event, before: &mut Before) {
        self.touches.push_back((position, stripped(event)));
        before.touched = true;
    }
}

impl Held {
    fn touch(&mut self, position: StreamSeq, event: &Event, (seq, before): (Seq, &mut Before)) {
        if position <= self.base {
            return;
        }
        before.messages.push((seq, Some(self.clone())));
        if let Some(state) = &mut self.state {
            state.apply(seq, event);
        }
        self.position = position;
    }
}

fn restore<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: &K, value: Option<V>) {
    match value {
        Some(value) => {
            map.insert(key.clone(), value);
        }
        None => {
            map.remove(key);
        }
    }
}

/// The event without what people wrote: folding does not need it, and memory does.
pub(crate) fn stripped(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event.body {
        EventBody::Msg(message) => {
            message.text = String::new();
            message.mentions = Vec::new();
            message.meta = None;
        }
        EventBody::Edit { text, mentions, .. } => {
            *text = String::new();
            *mentions = Vec::new();
        }
        EventBody::Del { why, .. } | EventBody::Member { why, .. } => *why = None,
        EventBody::Room { .. }
        | EventBody::Role { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => {}
    }
    event
}
