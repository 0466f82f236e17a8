//! How commands travel from a door to the owner of their partition, and its answer back.
//!
//! The subject tells door, actor and room (and the broker enforces them); the body tells the rest.

use crate::command::WriteCommand;
use crate::{Refusal, RoomId, Seq, Timestamp};
use serde::{Deserialize, Serialize};

/// Body of a request on `cmd.<p>.<door>.<actor>.<verb>.<room>`: one batch for one room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandRequest {
    /// After this moment the asker has given up: an owner does not begin it any more.
    ///
    /// While a NATS client is disconnected a publish waits and is delivered late (design section 10).
    pub deadline: Timestamp,
    /// Whether the token's role is `guest`.
    #[serde(default)]
    pub guest: bool,
    /// The commands, to be admitted in this order; after the first temporary error the rest get the same.
    pub commands: Vec<WriteCommand>,
}

/// Body of the answer: one result per command, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    /// One per command of the request.
    pub results: Vec<CommandResult>,
    /// The stream sequence as of which they hold: a read as of it sees what was stored.
    #[serde(default)]
    pub position: crate::StreamSeq,
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandResult {
    /// It is in the log, durably.
    Ok(Accepted),
    /// It is not in the log and, unless temporary, never will be.
    Err(Refusal),
}

/// An acknowledgement: ordered and durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Position of the command's first event; with `noop`, the room's head.
    pub seq: Seq,
    /// When it was ordered; absent with `noop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<Timestamp>,
    /// This was a repeat: the result is the original one.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub dup: bool,
    /// Nothing had to change, nothing was stored.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub noop: bool,
    /// The room, with `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<RoomId>,
    /// The revision, with `edit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rev: Option<u32>,
    /// Whether the revision is shown, with `edit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub won: Option<bool>,
}

impl Accepted {
    /// A stored command's acknowledgement.
    #[must_use]
    pub const fn stored(seq: Seq, ts: Timestamp) -> Self {
        Self {
            seq,
            ts: Some(ts),
            dup: false,
            noop: false,
            room: None,
            rev: None,
            won: None,
        }
    }

    /// Nothing had to change; the room's head is `head`.
    #[must_use]
    pub const fn noop(head: Seq) -> Self {
        Self {
            seq: head,
            ts: None,
            dup: false,
            noop: true,
            room: None,
            rev: None,
            won: None,
        }
    }
}

/// Body of a beacon on `wm.<instance>`: the owner's highest acknowledged stream sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// Nothing acknowledged by this owner lies above it.
    pub position: crate::StreamSeq,
    /// The log takes no records of this owner, as with a full disk: gateways are not ready then.
    #[serde(default, skip_serializing_if = "crate::omit::is_default")]
    pub in_trouble: bool,
}
