//! What the projector makes: rows for the tables of `migrations/`, and changes to rows that are there.
//!
//! One struct per table, fields named as its columns. Nothing here knows SQL.

use crate::record::Poison;
use protocol::chain::Hash;
use protocol::event::{HistoryScope, Mention, Role, RoomKind};
use protocol::room::{Mark, Membership, RoomState};
use protocol::{Cid, Partition, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::BTreeMap;

/// A row of `rooms`: the state of a room at its head, without its people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRow {
    /// Which room.
    pub room: RoomId,
    /// What it is; `None` if its first event was poison.
    pub kind: Option<RoomKind>,
    /// Author of its first event.
    pub creator: Option<UserId>,
    /// Shown name.
    pub name: String,
    /// What it is about.
    pub topic: String,
    /// Seconds between two messages of one member.
    pub slow_s: u32,
    /// Nobody below a moderator writes.
    pub frozen: bool,
    /// How much of the past members read.
    pub history: HistoryScope,
    /// Open memberships.
    pub members: u64,
    /// Last ordinal of the main timeline.
    pub n: u64,
    /// Seq of the last `room` event.
    pub room_seq: Seq,
    /// Seq of the last event.
    pub head: Seq,
    /// Its hash.
    pub head_hash: Hash,
    /// Its time.
    pub head_ts: Timestamp,
    /// Its record.
    pub head_stream: StreamSeq,
    /// The first event that could not be applied, and why.
    pub poison: Option<(Seq, String)>,
}

impl RoomRow {
    /// A room of which nothing is known yet.
    #[must_use]
    pub fn unknown(room: &RoomId) -> Self {
        Self {
            room: room.clone(),
            kind: None,
            creator: None,
            name: String::new(),
            topic: String::new(),
            slow_s: 0,
            frozen: false,
            history: HistoryScope::All,
            members: 0,
            n: 0,
            room_seq: Seq(0),
            head: Seq(0),
            head_hash: Hash::ZERO,
            head_ts: Timestamp(0),
            head_stream: StreamSeq(0),
            poison: None,
        }
    }

    /// The same as the fold knows it, without people and marks; `None` for a room that was never made.
    #[must_use]
    pub fn state(&self) -> Option<RoomState> {
        Some(RoomState {
            room: self.room.clone(),
            kind: self.kind?,
            name: self.name.clone(),
            topic: self.topic.clone(),
            slow_s: self.slow_s,
            frozen: self.frozen,
            history: self.history,
            members: BTreeMap::new(),
            bans: BTreeMap::new(),
            mutes: BTreeMap::new(),
            head: self.head,
            head_hash: self.head_hash,
            ts: self.head_ts,
            n: self.n,
            room_seq: self.room_seq,
            marks: BTreeMap::new(),
        })
    }

    /// Takes over what the fold has changed.
    pub(super) fn absorb(&mut self, state: &RoomState) {
        self.kind = Some(state.kind);
        self.name.clone_from(&state.name);
        self.topic.clone_from(&state.topic);
        self.slow_s = state.slow_s;
        self.frozen = state.frozen;
        self.history = state.history;
        self.n = state.n;
        self.room_seq = state.room_seq;
    }
}

/// A row of `memberships`, but for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRow {
    /// The event that began it.
    pub from_seq: Seq,
    /// Its record.
    pub from_stream: StreamSeq,
    /// The event that ended it, and its record.
    pub to: Option<(Seq, StreamSeq)>,
    /// The role that it has, or had at its end.
    pub role: Role,
    /// The room's last ordinal when it began.
    pub join_n: u64,
}

impl MembershipRow {
    pub(super) const fn membership(&self) -> Membership {
        Membership {
            role: self.role,
            since: self.from_seq,
            join_n: self.join_n,
        }
    }
}

/// A row of `bans`, but for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRow {
    /// The event that made it.
    pub since: Seq,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Who made it.
    pub author: UserId,
    /// When.
    pub ts: Timestamp,
    /// The reason given.
    pub why: Option<String>,
}

/// A row of `mutes`, but for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MuteRow {
    /// The event that made it.
    pub since: Seq,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
}

/// A row of `records`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordRow<'a> {
    /// Its position.
    pub position: StreamSeq,
    /// The partition of its subject.
    pub partition: Option<Partition>,
    /// When the broker stored it.
    pub time: Timestamp,
    /// `events`, `epoch` or `bad`.
    pub kind: &'static str,
    /// The envelope's id.
    pub envelope: Option<&'a str>,
    /// The rooms inside, separated by blanks.
    pub rooms: &'a str,
    /// The payload, of a record that cannot wholly be read.
    pub payload: Option<&'a [u8]>,
}

/// A row of `events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow<'a> {
    /// The room.
    pub room: RoomId,
    /// Its position there, or for a poison event the one it takes.
    pub seq: Seq,
    /// Its record.
    pub position: StreamSeq,
    /// Its place in the record.
    pub index: i32,
    /// The word in `ev`, or `reply`, `other`, `poison`.
    pub kind: &'static str,
    /// Its author, if it was readable.
    pub author: Option<UserId>,
    /// Its command, if it was readable.
    pub cid: Option<Cid>,
    /// Whether it is the first event of its command.
    pub first: bool,
    /// Its hash.
    pub hash: Hash,
    /// Why it was not applied.
    pub poison: Option<String>,
    /// The line to the byte.
    pub line: &'a str,
}

/// A new row of `messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow<'a> {
    /// The room.
    pub room: RoomId,
    /// Its address there.
    pub seq: Seq,
    /// Who wrote it.
    pub author: UserId,
    /// When it was ordered.
    pub ts: Timestamp,
    /// The command it came from.
    pub cid: Cid,
    /// Ordinal in the main timeline.
    pub n: Option<u64>,
    /// The root of its thread.
    pub thread: Option<Seq>,
    /// Ordinal in the thread.
    pub tn: Option<u64>,
    /// The message it answers.
    pub reply_to: Option<Seq>,
    /// The client's marks as JSON.
    pub meta: Option<String>,
    /// What it says.
    pub text: &'a str,
    /// Who it calls.
    pub mentions: &'a [Mention],
}

/// A new row of `revisions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionRow<'a> {
    /// The room.
    pub room: RoomId,
    /// The message.
    pub on: Seq,
    /// The edit event.
    pub seq: Seq,
    /// Number of the revision.
    pub rev: u32,
    /// Who wrote it.
    pub author: UserId,
    /// When it was ordered.
    pub ts: Timestamp,
    /// Its effective time.
    pub eff: Timestamp,
    /// Whether it is shown from then on.
    pub won: bool,
    /// Who it calls.
    pub mentions: &'a [Mention],
    /// What it says.
    pub text: &'a str,
}

/// Messages that a `del` event removes: those in the range that are below the event itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionRow {
    /// The room.
    pub room: RoomId,
    /// The `del` event.
    pub seq: Seq,
    /// First seq of the range.
    pub from: Seq,
    /// Last seq of the range.
    pub to: Seq,
    /// Only messages of this author.
    pub author: Option<UserId>,
}

/// An event that was not applied, for the log and the alarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// The record it came in.
    pub position: StreamSeq,
    /// The room, if that was readable.
    pub room: Option<RoomId>,
    /// The seq that it took in the archive.
    pub seq: Option<Seq>,
    /// Why.
    pub reason: Reason,
}

/// Why something in the log was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An event.
    #[error(transparent)]
    Event(Poison),
    /// A record, or a line of it that names no room.
    #[error("the record cannot be read: {0}")]
    Record(String),
}

/// What a batch of records does to the tables.
///
/// Written in the order of the fields: later ones change rows that earlier ones may have made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows<'a> {
    /// The last record of the batch.
    pub applied: StreamSeq,
    /// When the broker stored it.
    pub time: Timestamp,
    /// New records.
    pub records: Vec<RecordRow<'a>>,
    /// New events.
    pub events: Vec<EventRow<'a>>,
    /// Rooms that changed, whole.
    pub rooms: Vec<RoomRow>,
    /// Memberships that began, changed or ended, whole; by room, user and first seq.
    pub memberships: BTreeMap<(RoomId, UserId, Seq), MembershipRow>,
    /// Bans that were made, or lifted.
    pub bans: BTreeMap<(RoomId, UserId), Option<BanRow>>,
    /// Mutes that were made, or lifted.
    pub mutes: BTreeMap<(RoomId, UserId), Option<MuteRow>>,
    /// New messages.
    pub messages: Vec<MessageRow<'a>>,
    /// New revisions; of each message the last that won is shown.
    pub revisions: Vec<RevisionRow<'a>>,
    /// Greatest `tn` seen in the thread of each root.
    pub threads: BTreeMap<(RoomId, Seq), u64>,
    /// Removed messages.
    pub deletions: Vec<DeletionRow>,
    /// Greatest mark of each user and room.
    pub marks: BTreeMap<(UserId, RoomId), Mark>,
    /// Users that became known, with their own room and since when.
    pub users: BTreeMap<UserId, (RoomId, Timestamp)>,
    /// What was not applied.
    pub poisoned: Vec<Poisoned>,
}
