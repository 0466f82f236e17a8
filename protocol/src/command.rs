//! What a client asks: commands that write, with their checks that need nothing but their own bytes.
//!
//! Whether a command may happen is decided by the owner of its partition (`messages::policy`), not here.

use crate::event::{HistoryScope, Mention, Role, RoomChanges, RoomKind, SeqRange};
use crate::{Cid, ErrorCode, Refusal, RoomId, Seq, Timestamp, UserId, limits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A command that writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCommand {
    /// The client's name for it, kept across retries.
    pub cid: Cid,
    /// What is asked. The tag is `op`.
    #[serde(flatten)]
    pub write: Write,
}

/// Asks for a new room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// What it shall be. `self` comes only from a gateway.
    pub kind: RoomKind,
    /// Shown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Who is added at once, beside the author.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<UserId>,
    /// How much of the past members read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryScope>,
}

/// Sends a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// What it says.
    pub text: String,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Seq>,
    /// The root of the thread it goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Seq>,
    /// Who it calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mentions: Vec<Mention>,
    /// Marks of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Map<String, Value>>,
    /// Store only if this is the room's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_head: Option<Seq>,
}

/// What a deletion is about: one message, or ranges (moderators).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DeleteTarget {
    /// One message.
    One(Seq),
    /// Ranges, both ends included.
    Ranges(Vec<SeqRange>),
}

impl DeleteTarget {
    /// The same as ranges.
    #[must_use]
    pub fn ranges(&self) -> Vec<SeqRange> {
        match self {
            Self::One(seq) => vec![SeqRange(*seq, *seq)],
            Self::Ranges(ranges) => ranges.clone(),
        }
    }
}

/// Moves a read mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The room that was read, `room` on the socket; the event goes to the reader's own room.
    #[serde(rename = "target", alias = "room")]
    pub target: RoomId,
    /// Up to and including this seq; with `back`, unread from this seq on.
    pub seq: Seq,
    /// Mark unread.
    #[serde(default)]
    pub back: bool,
    /// The mark's ordinal in the timeline; only a gateway sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_n: Option<u64>,
}

/// What a writing command asks for; the names are those of protocol section 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Write {
    /// Make a room.
    Create(Create),
    /// Change settings.
    Update {
        /// What shall change.
        #[serde(flatten)]
        changes: RoomChanges,
        /// Only if this is the seq of the room's last `room` event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<Seq>,
    },
    /// Become a member.
    Join {},
    /// End one's membership.
    Leave {},
    /// Add a user.
    Invite {
        /// Whom.
        user: UserId,
    },
    /// Put a member out.
    Kick {
        /// Whom.
        user: UserId,
        /// The reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The head that the kicker had seen; a membership begun later survives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seq>,
    },
    /// Keep a user out.
    Ban {
        /// Whom.
        user: UserId,
        /// The reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// Until when; without it for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// Lift a ban.
    Unban {
        /// Whose.
        user: UserId,
        /// The head that was seen; a later ban survives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seen: Option<Seq>,
    },
    /// Give a member a role.
    Role {
        /// Whom.
        user: UserId,
        /// Which.
        role: Role,
    },
    /// Send a message.
    Send(Send),
    /// Change a message of one's own.
    Edit {
        /// Which.
        on: Seq,
        /// The revision that was changed.
        base: u32,
        /// The new text.
        text: String,
        /// Who the new text calls.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mentions: Vec<Mention>,
    },
    /// Remove messages.
    Del {
        /// Which.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<DeleteTarget>,
        /// All of this user (moderators).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
        /// Up to this seq, with `user`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Seq>,
        /// The reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Move a read mark.
    Read(Read),
}

/// The values of `op` that write.
pub const WRITE_OPS: &[&str] = &[
    "create", "update", "join", "leave", "invite", "kick", "ban", "unban", "role", "send", "edit",
    "del", "read",
];

impl Write {
    /// The word in `op`.
    #[must_use]
    pub const fn op(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update { .. } => "update",
            Self::Join {} => "join",
            Self::Leave {} => "leave",
            Self::Invite { .. } => "invite",
            Self::Kick { .. } => "kick",
            Self::Ban { .. } => "ban",
            Self::Unban { .. } => "unban",
            Self::Role { .. } => "role",
            Self::Send(_) => "send",
            Self::Edit { .. } => "edit",
            Self::Del { .. } => "del",
            Self::Read(_) => "read",
        }
    }

    /// Whether it goes to a room that the command itself tells (create, self), not to its field `room`.
    #[must_use]
    pub const fn room_is_derived(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Read(_))
    }
}

impl WriteCommand {
    /// The room that `author`'s command goes to: derived for `create` and self commands, else `named`.
    ///
    /// # Errors
    /// `bad_request` if the command needs a room and none is named.
    pub fn room(&self, author: &UserId, named: Option<&RoomId>) -> Result<RoomId, Refusal> {
        match &self.write {
            Write::Create(create) => Ok(match create.kind {
                RoomKind::Direct => {
                    let mut people = create.members.clone();
                    people.push(author.clone());
                    RoomId::direct(&people)
                }
                RoomKind::Own => RoomId::own(author),
                RoomKind::Public | RoomKind::Private => RoomId::created(author, self.cid),
            }),
            Write::Read(_) => Ok(RoomId::own(author)),
            Write::Update { .. }
            | Write::Join {}
            | Write::Leave {}
            | Write::Invite { .. }
            | Write::Kick { .. }
            | Write::Ban { .. }
            | Write::Unban { .. }
            | Write::Role { .. }
            | Write::Send(_)
            | Write::Edit { .. }
            | Write::Del { .. } => named
                .cloned()
                .ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "`room` is missing")),
        }
    }

    /// Checks what the command's own bytes can tell: emptiness and sizes.
    ///
    /// # Errors
    /// `bad_request` or `too_large`, naming the field.
    pub fn check(&self) -> Result<(), Refusal> {
        match &self.write {
            Write::Create(create) => check_create(create),
            Write::Update { changes, .. } => check_changes(changes),
            Write::Send(send) => {
                check_text(&send.text)?;
                check_mentions(&send.mentions)?;
                check_meta(send.meta.as_ref())
            }
            Write::Edit { text, mentions, .. } => {
                check_text(text)?;
                check_mentions(mentions)
            }
            Write::Del { on, user, to, why } => {
                check_delete(on.as_ref(), user.is_some(), to.is_some())?;
                check_chars("why", why.as_deref(), limits::WHY_CHARS_MAX)
            }
            Write::Kick { why, .. } | Write::Ban { why, .. } => {
                check_chars("why", why.as_deref(), limits::WHY_CHARS_MAX)
            }
            Write::Join {}
            | Write::Leave {}
            | Write::Invite { .. }
            | Write::Unban { .. }
            | Write::Role { .. }
            | Write::Read(_) => Ok(()),
        }
    }
}

fn too_large(field: &str, max: usize, unit: &str) -> Refusal {
    Refusal::new(
        ErrorCode::TooLarge,
        format!("`{field}` may have at most {max} {unit}"),
    )
}

fn bad(msg: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, msg)
}

fn check_chars(field: &str, text: Option<&str>, max: usize) -> Result<(), Refusal> {
    match text {
        Some(text) if text.chars().count() > max => Err(too_large(field, max, "characters")),
        Some(_) | None => Ok(()),
    }
}

/// Checks a message's text: not blank, at most 8,000 scalar values and 32 KiB.
///
/// # Errors
/// `bad_request` if blank, `too_large` beyond the limits.
pub fn check_text(text: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(bad("`text` is empty"));
    }
    if text.len() > limits::TEXT_BYTES_MAX {
        return Err(too_large("text", limits::TEXT_BYTES_MAX, "bytes"));
    }
    check_chars("text", Some(text), limits::TEXT_CHARS_MAX)
}

fn check_mentions(mentions: &[Mention]) -> Result<(), Refusal> {
    if mentions.len() > limits::MENTIONS_MAX {
        return Err(too_large("mentions", limits::MENTIONS_MAX, "entries"));
    }
    Ok(())
}

fn check_meta(meta: Option<&Map<String, Value>>) -> Result<(), Refusal> {
    let Some(meta) = meta else { return Ok(()) };
    let bytes = serde_json::to_string(meta).map_or(usize::MAX, |text| text.len());
    if bytes > limits::META_BYTES_MAX {
        return Err(too_large("meta", limits::META_BYTES_MAX, "bytes"));
    }
    if !meta
        .values()
        .all(|value| is_nested_within(value, limits::META_DEPTH_MAX - 1))
    {
        return Err(too_large("meta", limits::META_DEPTH_MAX, "levels"));
    }
    Ok(())
}

/// Whether objects and arrays lie at most `levels` deep in each other.
fn is_nested_within(value: &Value, levels: usize) -> bool {
    let inside = |value| levels > 0 && is_nested_within(value, levels - 1);
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => levels > 0 && items.iter().all(inside),
        Value::Object(fields) => levels > 0 && fields.values().all(inside),
    }
}

fn check_changes(changes: &RoomChanges) -> Result<(), Refusal> {
    if changes.is_empty() {
        return Err(bad("nothing to change"));
    }
    check_names(changes.name.as_deref(), changes.topic.as_deref())
}

fn check_names(name: Option<&str>, topic: Option<&str>) -> Result<(), Refusal> {
    check_chars("name", name, limits::ROOM_NAME_CHARS_MAX)?;
    check_chars("topic", topic, limits::TOPIC_CHARS_MAX)?;
    if name.is_some_and(|name| name.trim().is_empty()) {
        return Err(bad("`name` is empty"));
    }
    Ok(())
}

fn check_create(create: &Create) -> Result<(), Refusal> {
    check_names(create.name.as_deref(), create.topic.as_deref())?;
    if create.members.len() > limits::CREATE_MEMBERS_MAX {
        return Err(too_large("members", limits::CREATE_MEMBERS_MAX, "entries"));
    }
    if create.kind == RoomKind::Direct && create.members.is_empty() {
        return Err(bad("a direct room needs `members`"));
    }
    Ok(())
}

fn check_delete(on: Option<&DeleteTarget>, by_user: bool, with_to: bool) -> Result<(), Refusal> {
    match (on, by_user) {
        (None, false) => return Err(bad("`on` is missing")),
        (Some(_), true) => return Err(bad("`on` and `user` exclude each other")),
        (None, true) => {
            return if with_to {
                Ok(())
            } else {
                Err(bad("`to` is missing"))
            };
        }
        (Some(_), false) => {}
    }
    let ranges = on.map(DeleteTarget::ranges).unwrap_or_default();
    if ranges.is_empty() {
        return Err(bad("`on` is empty"));
    }
    if ranges.len() > limits::DELETE_RANGES_MAX {
        return Err(too_large("on", limits::DELETE_RANGES_MAX, "ranges"));
    }
    if ranges
        .iter()
        .any(|range| range.0 > range.1 || range.0.0 == 0)
    {
        return Err(bad("a range is [first, last], from 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> WriteCommand {
        let cid = "019b0000-0000-7000-8000-000000000000";
        serde_json::from_str(&format!(r#"{{"cid":"{cid}",{rest}}}"#)).unwrap()
    }

    fn code(rest: &str) -> Option<ErrorCode> {
        parse(rest).check().err().map(|refusal| refusal.code)
    }

    #[test]
    fn limits_are_checked_to_the_character() {
        let text = |n: usize| format!(r#""op":"send","text":"{}""#, "é".repeat(n));
        assert_eq!(code(&text(8_000)), None);
        assert_eq!(code(&text(8_001)), Some(ErrorCode::TooLarge));
        assert_eq!(
            code(r#""op":"send","text":" \n""#),
            Some(ErrorCode::BadRequest)
        );
        let meta = |n: usize| {
            format!(
                r#""op":"send","text":"a","meta":{{"a":"{}"}}"#,
                "x".repeat(n)
            )
        };
        assert_eq!(code(&meta(2048 - 8)), None);
        assert_eq!(code(&meta(2048 - 7)), Some(ErrorCode::TooLarge));
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            format!(r#""op":"send","text":"a","meta":{{"a":{open}1{close}}}"#)
        };
        assert_eq!(code(&nested(limits::META_DEPTH_MAX)), None);
        assert_eq!(
            code(&nested(limits::META_DEPTH_MAX + 1)),
            Some(ErrorCode::TooLarge)
        );
        assert_eq!(
            code(&format!(r#""op":"update","name":"{}""#, "x".repeat(81))),
            Some(ErrorCode::TooLarge)
        );
        assert_eq!(code(r#""op":"update""#), Some(ErrorCode::BadRequest));
    }

    #[test]
    fn a_deletion_names_one_thing() {
        assert_eq!(code(r#""op":"del","on":3"#), None);
        assert_eq!(code(r#""op":"del","on":[[1,3],[5,5]]"#), None);
        assert_eq!(code(r#""op":"del","user":"eve","to":9"#), None);
        for bad in [
            r#""op":"del""#,
            r#""op":"del","on":[]"#,
            r#""op":"del","on":[[3,1]]"#,
            r#""op":"del","on":[[0,1]]"#,
            r#""op":"del","user":"eve""#,
            r#""op":"del","on":1,"user":"eve","to":2"#,
        ] {
            assert_eq!(code(bad), Some(ErrorCode::BadRequest), "{bad}");
        }
    }

    #[test]
    fn a_created_room_is_derived_and_so_the_same_for_every_retry() {
        let alice = UserId::parse("alice").unwrap();
        let one = parse(r#""op":"create","kind":"public","name":"x""#);
        assert_eq!(one.room(&alice, None), one.room(&alice, None));
        let direct = parse(r#""op":"create","kind":"direct","members":["bob"]"#);
        let bob = UserId::parse("bob").unwrap();
        assert_eq!(
            direct.room(&alice, None).unwrap(),
            RoomId::direct(&[bob, alice])
        );
    }

    #[test]
    fn every_op_is_listed() {
        for op in WRITE_OPS {
            let text = format!(r#"{{"op":"{op}"}}"#);
            let error = serde_json::from_str::<Write>(&text)
                .err()
                .map(|e| e.to_string());
            assert!(
                !error.unwrap_or_default().contains("unknown variant"),
                "{op}"
            );
        }
    }
}
