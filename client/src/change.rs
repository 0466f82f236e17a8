//! What a store must remember, as values: the cores emit changes, a store applies them.
//!
//! A store applies a list of changes in one transaction, so a cursor is never stored without the
//! events it covers. Nothing here knows SQL.

use crate::outbox::Entry;
use crate::timeline::Shown;
use protocol::frame::RoomSnapshot;
use protocol::{DeviceId, RoomId, Seq, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One thing to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The name of this store, made once.
    Device(DeviceId),
    /// Whose store this is, known from the first `hello`.
    User(UserId),
    /// Everything before it is in this store.
    Cursor(String),
    /// A command is queued, or its cid or state changed; the key is its position.
    OutboxPut(Box<Entry>),
    /// A command is done.
    OutboxRemove(u64),
    /// A room as it is, and the last event that was applied to it.
    Room(Box<SavedRoom>),
    /// Only the last applied event of a room moved.
    Last(RoomId, Seq),
    /// The room is not ours any more: forget it and its timeline.
    RoomGone(RoomId),
    /// A timeline entry is new or changed.
    Entry(RoomId, Box<Shown>),
    /// Timeline entries of this range, both ends included, are not valid any more.
    Forget(RoomId, Seq, Seq),
}

/// A room in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRoom {
    /// What is known of it; its `tl` is empty, the timeline is stored beside it.
    pub snapshot: RoomSnapshot,
    /// The last event applied.
    pub last: Seq,
}

/// What a store held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// The name of this store.
    pub device: Option<DeviceId>,
    /// Whose it is.
    pub user: Option<UserId>,
    /// Where it was.
    pub cursor: Option<String>,
    /// Commands that have neither an acknowledgement nor been discarded, by position.
    pub outbox: Vec<Entry>,
    /// The rooms.
    pub rooms: Vec<SavedRoom>,
    /// Their timelines, by seq.
    pub timelines: BTreeMap<RoomId, Vec<Shown>>,
}
