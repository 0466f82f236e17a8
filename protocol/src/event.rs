//! What has happened: durable events, as the log keeps them and as clients see them.
//!
//! An [`Event`] is what a client gets; a [`LogEvent`] adds what only the log and the archive hold:
//! the hash of the room's previous event and the salt of its own content (see [`crate::chain`]).

use crate::chain::{Hash, Salt};
use crate::{Cid, RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomKind {
    /// Any user reads, members write.
    Public,
    /// Members only.
    Private,
    /// Exactly these people, for ever.
    Direct,
    /// One user's own state; never listed.
    #[serde(rename = "self")]
    Own,
}

impl RoomKind {
    /// The word on the wire and in the archive.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Direct => "direct",
            Self::Own => "self",
        }
    }
}

/// How much of a room's past its members may read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum HistoryScope {
    /// Everything.
    #[default]
    All,
    /// From their join on.
    Joined,
}

impl HistoryScope {
    /// The word on the wire and in the archive.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Joined => "joined",
        }
    }
}

/// What a member may do. Ordered: a greater role may do what a lesser one may.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Invited from outside.
    Guest,
    /// Reads and writes.
    #[default]
    Member,
    /// Also kicks, bans, deletes.
    Mod,
    /// Also changes roles and the room itself.
    Owner,
}

impl Role {
    /// The word on the wire and in the archive.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Member => "member",
            Self::Mod => "mod",
            Self::Owner => "owner",
        }
    }
}

/// How a membership changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberChange {
    /// Came by themselves.
    Joined,
    /// Was added by somebody.
    Added,
    /// Went by themselves.
    Left,
    /// Was put out; may come back.
    Kicked,
    /// Was put out, or kept out; may not come back before the ban ends.
    Banned,
    /// The ban was lifted; this is no membership yet.
    Unbanned,
    /// May read, not write.
    Muted,
    /// May write again.
    Unmuted,
}

impl MemberChange {
    /// The word on the wire and in the archive.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Added => "added",
            Self::Left => "left",
            Self::Kicked => "kicked",
            Self::Banned => "banned",
            Self::Unbanned => "unbanned",
            Self::Muted => "muted",
            Self::Unmuted => "unmuted",
        }
    }

    /// Whether a membership begins with it.
    #[must_use]
    pub const fn begins_membership(self) -> bool {
        matches!(self, Self::Joined | Self::Added)
    }

    /// Whether a membership, if there is one, ends with it.
    #[must_use]
    pub const fn ends_membership(self) -> bool {
        matches!(self, Self::Left | Self::Kicked | Self::Banned)
    }
}

/// Who a message calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mention {
    /// One user.
    User(UserId),
    /// Every member.
    Room,
    /// Those online now: alerts them, never counts.
    Here,
}

impl Serialize for Mention {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::User(user) => user.as_str(),
            Self::Room => "@room",
            Self::Here => "@here",
        })
    }
}

impl<'de> Deserialize<'de> for Mention {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        match &*text {
            "@room" => Ok(Self::Room),
            "@here" => Ok(Self::Here),
            user => UserId::parse(user)
                .map(Self::User)
                .map_err(serde::de::Error::custom),
        }
    }
}

/// First and last seq of a range, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeqRange(pub Seq, pub Seq);

impl SeqRange {
    /// Whether `seq` lies in it.
    #[must_use]
    pub fn contains(self, seq: Seq) -> bool {
        self.0 <= seq && seq <= self.1
    }
}

/// Settings of a room that an event or a command may change; absent ones stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomChanges {
    /// Shown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Seconds between two messages of one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_s: Option<u32>,
    /// Nobody below a moderator writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<bool>,
    /// How much of the past members read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryScope>,
}

impl RoomChanges {
    /// Whether nothing is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A message as it was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// What it says.
    pub text: String,
    /// The message it answers, in the same room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// The root of the thread it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Seq>,
    /// Who it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<Mention>,
    /// Marks of the client, opaque to natter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Map<String, Value>>,
    /// Ordinal in the main timeline, from 1; absent in a thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Ordinal in its thread, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tn: Option<u64>,
}

/// What an event is about. The tag `ev` and these fields stand beside the header in one JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "lowercase")]
pub enum EventBody {
    /// The room was made (`kind` is present, seq is 1) or its settings changed.
    Room {
        /// Only in the event that makes the room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<RoomKind>,
        /// Only what changed.
        #[serde(flatten)]
        changes: RoomChanges,
    },
    /// A membership, ban or mute changed.
    Member {
        /// Whose.
        user: UserId,
        /// How.
        change: MemberChange,
        /// The role a beginning membership has; `member` if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
        /// When a ban or mute ends by itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
        /// The reason given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A member's role changed, for as long as this membership lasts.
    Role {
        /// Whose.
        user: UserId,
        /// The new role.
        role: Role,
    },
    /// A message was sent.
    Msg(Message),
    /// A message's text was changed, or a change came too late and is kept as a revision.
    Edit {
        /// The message.
        on: Seq,
        /// The number of this revision; the message as sent is 1.
        rev: u32,
        /// The new text.
        text: String,
        /// Who the new text calls.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mentions: Vec<Mention>,
        /// Whether this is now what is shown.
        won: bool,
        /// The effective time that later edits are compared with (design section 8).
        eff: Timestamp,
    },
    /// Messages were removed.
    Del {
        /// Which; empty when `user` says it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        on: Vec<SeqRange>,
        /// All messages of this user up to `to`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// The last seq that `user` concerns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Seq>,
        /// The reason given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The user has read a room up to a message (in the user's own room).
    Read {
        /// The room that was read.
        target: RoomId,
        /// Up to and including this seq.
        mark: Seq,
        /// The mark's ordinal in the main timeline, if history could tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        read_n: Option<u64>,
        /// Raised by marking unread: of two marks the greater (epoch, seq) holds.
        #[serde(default, skip_serializing_if = "crate::omit::is_default")]
        epoch: u32,
        /// Whether the user marked unread from `mark` on.
        #[serde(default, skip_serializing_if = "crate::omit::is_default")]
        back: bool,
    },
    /// A range of seqs was lost with a broker's store and is never used again.
    Void {
        /// First lost seq; the last is the one before this event's own.
        from: Seq,
    },
    /// An event of a later version: kept and counted, shown to nobody who does not know it.
    #[serde(untagged)]
    Unknown(Map<String, Value>),
}

/// The values of `ev` that this version knows as durable events.
pub const KNOWN: &[&str] = &[
    "room", "member", "role", "msg", "edit", "del", "read", "void",
];

impl EventBody {
    /// The word in `ev`.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Room { .. } => "room",
            Self::Member { .. } => "member",
            Self::Role { .. } => "role",
            Self::Msg(_) => "msg",
            Self::Edit { .. } => "edit",
            Self::Del { .. } => "del",
            Self::Read { .. } => "read",
            Self::Void { .. } => "void",
            Self::Unknown(fields) => fields.get("ev").and_then(Value::as_str).unwrap_or("?"),
        }
    }
}

/// A durable event: header and body, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The room it happened in.
    pub room: RoomId,
    /// Its position there.
    pub seq: Seq,
    /// When its owner ordered it; never falls within a partition.
    pub ts: Timestamp,
    /// Who caused it.
    pub by: UserId,
    /// The command it came from.
    pub cid: Cid,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// A durable event as the log and the archive hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// Hash of the room's previous event; of the first, [`Hash::ZERO`].
    pub prev: Hash,
    /// Blinds the commitment of the content, so that erased content cannot be guessed from a hash.
    pub salt: Salt,
    /// What clients see of it.
    #[serde(flatten)]
    pub event: Event,
}

/// A line of the log that is no event we can read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not the JSON of an event.
    #[error("not an event")]
    Json(#[source] serde_json::Error),
    /// A known kind of event with wrong fields.
    #[error("event of kind {0} has wrong fields")]
    Fields(String),
}

impl LogEvent {
    /// Reads one line of an envelope.
    ///
    /// # Errors
    /// A line that is no event, or an event of a known kind whose fields are wrong: poison.
    pub fn parse(line: &str) -> Result<Self, EventError> {
        let event: Self = serde_json::from_str(line).map_err(EventError::Json)?;
        if let EventBody::Unknown(_) = &event.event.body
            && KNOWN.contains(&event.event.body.kind())
        {
            return Err(EventError::Fields(event.event.body.kind().to_owned()));
        }
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> &'static str {
        r#""room":"r1","seq":3,"ts":5,"by":"alice","cid":"019b0000-0000-7000-8000-000000000000""#
    }

    fn event(rest: &str) -> Event {
        serde_json::from_str(&format!("{{{},{rest}}}", header())).unwrap()
    }

    #[test]
    fn every_kind_survives_json() {
        for rest in [
            r#""ev":"room","kind":"public","name":"ops""#,
            r#""ev":"room","topic":"""#,
            r#""ev":"member","user":"bob","change":"added","role":"owner""#,
            r#""ev":"role","user":"bob","role":"mod""#,
            r#""ev":"msg","text":"hi","reply_to":2,"mentions":["bob","@room"],"meta":{"a":1},"n":4"#,
            r#""ev":"edit","on":1,"rev":2,"text":"x","won":true,"eff":9"#,
            r#""ev":"del","on":[[1,2]],"why":"spam""#,
            r#""ev":"read","target":"r2","mark":7,"read_n":5"#,
            r#""ev":"void","from":4"#,
        ] {
            let one = event(rest);
            assert!(KNOWN.contains(&one.body.kind()), "{rest}");
            assert!(!matches!(one.body, EventBody::Unknown(_)), "{rest}");
            let again: Event = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
            assert_eq!(one, again);
        }
    }

    #[test]
    fn an_unknown_event_is_kept_and_a_broken_known_one_is_poison() {
        let later = event(r#""ev":"poll","q":"tea?""#);
        assert_eq!(later.body.kind(), "poll");
        let text = serde_json::to_string(&later).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), later);
        let broken = format!(
            r#"{{"prev":"{}","salt":"{}",{},"ev":"msg","text":5}}"#,
            Hash::ZERO,
            Salt([0; 16]),
            header()
        );
        assert!(matches!(
            LogEvent::parse(&broken),
            Err(EventError::Fields(_))
        ));
    }
}
