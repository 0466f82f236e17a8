//! Answers to reads that list something else than a timeline: rooms, people, revisions, counts.
//!
//! `next` is an opaque cursor for the following page and absent on the last one.

use super::server::{RoomSnapshot, TimelineEntry};
use crate::event::{Mention, Role};
use crate::{RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Answer to `history` with `all`: every durable event of a range, dense, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DensePage {
    /// The events as they were, the contents of removed messages blanked.
    pub events: Vec<Box<RawValue>>,
    /// What is blanked is that of this seq.
    pub at: Seq,
    /// Whether there is more in the asked direction.
    pub more: bool,
    /// The room's head.
    pub head: Seq,
}

/// Answer to `thread`: replies in their state as of `at`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadPage {
    /// The replies.
    pub events: Vec<TimelineEntry>,
    /// The state they are in is that of this seq.
    pub at: Seq,
    /// Whether there is more in the asked direction.
    pub more: bool,
}

/// Answer to `rooms`: the reader's rooms, latest activity first, without timelines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomList {
    /// The rooms.
    pub rooms: Vec<RoomSnapshot>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A public room as somebody sees it who may not be in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicRoom {
    /// Which room.
    pub room: RoomId,
    /// Shown name.
    pub name: String,
    /// What it is about.
    pub topic: String,
    /// How many members.
    pub members: u64,
    /// Seq of the last event.
    pub head: Seq,
    /// The reader's role, if they are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Answer to `discover`, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicRoomList {
    /// The rooms.
    pub rooms: Vec<PublicRoom>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// The role that this membership has.
    pub role: Role,
    /// The event that began it.
    pub since: Seq,
}

/// Answer to `members`, by user id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// The members.
    pub members: Vec<Member>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One ban that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Who is kept out.
    pub user: UserId,
    /// The event that made it.
    pub since: Seq,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who made it.
    pub by: UserId,
    /// When.
    pub ts: Timestamp,
    /// The reason given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Answer to `bans`, by user id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    /// The bans.
    pub bans: Vec<Ban>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// One stored text of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number; the message as sent is 1.
    pub rev: u32,
    /// The event that brought it.
    pub seq: Seq,
    /// When.
    pub ts: Timestamp,
    /// Who wrote it.
    pub by: UserId,
    /// What it says.
    pub text: String,
    /// Who it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<Mention>,
    /// Whether it was shown when it came; of those the latest is shown now.
    pub won: bool,
}

/// Answer to `revisions`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionList {
    /// The revisions.
    pub revisions: Vec<Revision>,
    /// Where the next page begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Counts of one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadRoom {
    /// Which room.
    pub room: RoomId,
    /// Its head.
    pub head: Seq,
    /// Where the reader's mark is.
    pub read: Seq,
    /// The mark's ordinal.
    pub read_n: u64,
    /// Live messages by others above mark and join, at most 999.
    pub unread: u32,
    /// Those of them that call the reader.
    pub mentions: u32,
}

/// Answer to `unread`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadList {
    /// Every room the reader is in.
    pub rooms: Vec<UnreadRoom>,
}
