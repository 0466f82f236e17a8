//! What history is asked on `svc.history.<verb>`, and what it answers.
//!
//! Every answer names the stream sequence that history had applied ([`Answer::applied`]); every question
//! may demand one (`min_seq`), so that a reader sees its own writes and an owner gets a base above W.

use crate::command::WriteCommand;
use crate::event::SeqRange;
use crate::frame::server::{RoomSnapshot, Skip};
use crate::request::Accepted;
use crate::room::RoomState;
use crate::room::message::MessageState;
use crate::{Cid, LogId, Refusal, RoomId, Seq, StreamSeq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A command that reads (protocol, "Commands that read"), answered by history as the client gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum ReadCommand {
    /// A page of the timeline, or with `all` the dense events.
    History {
        /// Which room.
        room: RoomId,
        /// Entries below this seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        /// Entries above this seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Seq>,
        /// Entries on both sides of this seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        around: Option<Seq>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
        /// Every durable event as it was.
        #[serde(default)]
        all: bool,
    },
    /// A page of a thread.
    Thread {
        /// Which room.
        room: RoomId,
        /// The thread's root.
        root: Seq,
        /// Replies below this seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Seq>,
        /// Replies above this seq.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Seq>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// The reader's rooms, latest activity first.
    Rooms {
        /// Where the last page ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Public rooms.
    Discover {
        /// Part of a name or topic.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        q: Option<String>,
        /// Where the last page ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Who is in a room.
    Members {
        /// Which room.
        room: RoomId,
        /// Where the last page ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Who is kept out (moderators).
    Bans {
        /// Which room.
        room: RoomId,
        /// Where the last page ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Every stored text of a message.
    Revisions {
        /// Which room.
        room: RoomId,
        /// Which message.
        on: Seq,
        /// Where the last page ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// How many at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Counts of every room.
    Unread {},
}

/// The values of `op` that read.
pub const READ_OPS: &[&str] = &[
    "history",
    "thread",
    "rooms",
    "discover",
    "members",
    "bans",
    "revisions",
    "unread",
];

impl ReadCommand {
    /// The word in `op`, which is also the verb of the subject.
    #[must_use]
    pub const fn op(&self) -> &'static str {
        match self {
            Self::History { .. } => "history",
            Self::Thread { .. } => "thread",
            Self::Rooms { .. } => "rooms",
            Self::Discover { .. } => "discover",
            Self::Members { .. } => "members",
            Self::Bans { .. } => "bans",
            Self::Revisions { .. } => "revisions",
            Self::Unread {} => "unread",
        }
    }
}

/// Who looks, with what the token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewer {
    /// The reader.
    pub user: UserId,
    /// Whether the token's role is `guest`.
    #[serde(default)]
    pub guest: bool,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Answer only from a state that has applied this record; wait a bounded time for it, then refuse `unavailable`.
    #[serde(default)]
    pub min_seq: StreamSeq,
    /// The asker has given up after this moment.
    pub deadline: Timestamp,
    /// What is asked.
    pub query: Query,
}

/// What is asked; the tag is the verb of the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "q", rename_all = "snake_case")]
pub enum Query {
    /// A client's read. Answer: the raw JSON that the client gets as `ok`.
    Read {
        /// Who reads.
        viewer: Viewer,
        /// What.
        read: ReadCommand,
    },
    /// Where history is. Answer: [`Position`].
    Position {},
    /// Rooms as one user sees them, for `hello` and for a room entered live. Answer: [`Snapshots`].
    Snapshots {
        /// Whose.
        viewer: Viewer,
        /// Only these; without it all of the user's rooms, own room first, then latest activity first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rooms: Option<Vec<RoomId>>,
        /// How many of them carry a timeline.
        window_rooms: u32,
        /// Entries of each timeline.
        window_timeline: u32,
    },
    /// What one user missed. Answer: [`CatchUp`].
    CatchUp {
        /// Whose.
        viewer: Viewer,
        /// The last record that the user's client has covered.
        after: StreamSeq,
        /// What the client holds of its rooms, which may be more than its cursor covers: a room that was
        /// entered and left behind the cursor is told only to whoever holds something of it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        have: BTreeMap<RoomId, Seq>,
        /// Entries of the timeline of a `skip` or `state`.
        window_timeline: u32,
    },
    /// Rooms of which the client holds something, but with no usable cursor. Answer: [`CatchUp`] of skips.
    Have {
        /// Whose.
        viewer: Viewer,
        /// What the client holds of each.
        have: BTreeMap<RoomId, Seq>,
        /// Entries of the timeline of each `skip`.
        window_timeline: u32,
    },
    /// Whole state of a room, for its owner. Answer: `Option<RoomState>`.
    RoomState {
        /// Which.
        room: RoomId,
    },
    /// States of messages, for the room's owner. Answer: `Vec<Option<MessageState>>` in the order asked.
    MessageStates {
        /// Which room.
        room: RoomId,
        /// Which messages.
        seqs: Vec<Seq>,
    },
    /// What became of commands that are older than the owner's window. Answer: `Vec<Option<Accepted>>`.
    Cids {
        /// In the order of the answer.
        cids: Vec<CidKey>,
    },
    /// Facts about a user that another partition holds. Answer: [`UserFacts`].
    UserFacts {
        /// Whose.
        user: UserId,
    },
    /// Unread counts of one room, for the reply to `read`. Answer: [`ReadCounts`].
    ReadCounts {
        /// Who reads.
        viewer: Viewer,
        /// Which room.
        room: RoomId,
        /// The mark to count from; without it the stored one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<Seq>,
    },
    /// Archived records, for a gateway whose gap the log no longer holds. Answer: [`Records`].
    Records {
        /// First stream sequence wanted.
        from: StreamSeq,
        /// Last stream sequence wanted.
        to: StreamSeq,
    },
}

impl Query {
    /// The verb of the subject.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Read { read, .. } => read.op(),
            Self::Position {} => "position",
            Self::Snapshots { .. } => "snapshots",
            Self::CatchUp { .. } => "catch_up",
            Self::Have { .. } => "have",
            Self::RoomState { .. } => "room_state",
            Self::MessageStates { .. } => "message_states",
            Self::Cids { .. } => "cids",
            Self::UserFacts { .. } => "user_facts",
            Self::ReadCounts { .. } => "read_counts",
            Self::Records { .. } => "records",
        }
    }
}

/// The name of a command for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CidKey {
    /// Its room.
    pub room: RoomId,
    /// Its author.
    pub author: UserId,
    /// Its cid.
    pub cid: Cid,
}

impl CidKey {
    /// The name of this command.
    #[must_use]
    pub fn new(room: &RoomId, author: &UserId, command: &WriteCommand) -> Self {
        Self {
            room: room.clone(),
            author: author.clone(),
            cid: command.cid,
        }
    }
}

/// An answer: what was asked, as of `applied`, or a refusal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Every record up to here was applied when the answer was read, in one SQL snapshot.
    pub applied: StreamSeq,
    /// The answer, in the JSON form that the query's documentation names; `null` is an answer too.
    #[serde(
        default,
        deserialize_with = "even_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub ok: Option<Box<RawValue>>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub err: Option<Refusal>,
}

/// A field that is there, be it `null`: serde would take that for an absent one.
fn even_null<'de, D>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// Where history is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The log that it follows.
    pub log: LogId,
    /// The broker's time of the last applied record.
    pub time: Timestamp,
}

/// Rooms as one user sees them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshots {
    /// Whether the user has an own room, that is, is known.
    pub known: bool,
    /// The rooms.
    pub rooms: Vec<RoomSnapshot>,
}

/// What one user missed in one room, in the order in which it is to be sent.
///
/// Externally tagged: serde reads an internally tagged enum through a buffer that raw JSON does not survive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Event after event, as they go to the client.
    Events {
        /// The room.
        room: RoomId,
        /// The events' wire form (no `prev`, no `salt`).
        events: Vec<Box<RawValue>>,
        /// Whether the membership ended with the last of them: `gone` follows.
        gone: bool,
    },
    /// Too many: the room's state instead.
    Skip(Box<Skip>),
    /// The room was entered meanwhile.
    State(Box<RoomSnapshot>),
}

/// What one user missed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatchUp {
    /// False if `after` is older than what history can tell, or of the future.
    pub known: bool,
    /// Room by room.
    pub missed: Vec<Missed>,
    /// The rooms that the user is in as of `applied`, for judging what comes next.
    pub rooms: Vec<RoomId>,
    /// The answer would have been too large: it covers only what is up to [`Answer::applied`], which is
    /// lowered accordingly. Send it, then ask again with that as `after`, before anything later.
    #[serde(default)]
    pub more: bool,
}

/// Facts about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    /// Whether the user has ever said hello.
    pub known: bool,
    /// Rooms the user is in, the own one not counted.
    pub rooms: u32,
}

/// Counts of one room for one reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadCounts {
    /// Ordinal of the mark.
    pub read_n: u64,
    /// Live messages by others above mark and join.
    pub unread: u32,
    /// Those that call the reader.
    pub mentions: u32,
}

/// Archived records of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// By stream sequence, ascending; epoch records have no lines.
    pub records: Vec<Record>,
}

/// One archived record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its position in the log.
    pub position: StreamSeq,
    /// Its events' lines, as they lay in the envelope.
    pub lines: Vec<String>,
}

/// The answer's type for [`Query::RoomState`].
pub type RoomStateAnswer = Option<RoomState>;
/// The answer's type for [`Query::MessageStates`].
pub type MessageStatesAnswer = Vec<Option<MessageState>>;
/// The answer's type for [`Query::Cids`].
pub type CidsAnswer = Vec<Option<Accepted>>;

/// Merges ranges until at most `max` are left, joining the nearest first; the result is sorted and covers all.
#[must_use]
pub fn merge_ranges(mut ranges: Vec<SeqRange>, max: usize) -> Vec<SeqRange> {
    ranges.sort_unstable();
    let mut merged: Vec<SeqRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.0.0 <= last.1.0.saturating_add(1) => last.1 = last.1.max(range.1),
            _ => merged.push(range),
        }
    }
    while merged.len() > max.max(1) {
        let gap = |pair: &[SeqRange]| match pair {
            [a, b] => b.0.0 - a.1.0,
            _ => u64::MAX,
        };
        let nearest = merged
            .windows(2)
            .enumerate()
            .min_by_key(|(_, pair)| gap(pair))
            .map(|(index, _)| index);
        let Some(index) = nearest else { break };
        let next = merged.remove(index + 1);
        if let Some(range) = merged.get_mut(index) {
            range.1 = next.1;
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Vec<SeqRange> {
        pairs
            .iter()
            .map(|(a, b)| SeqRange(Seq(*a), Seq(*b)))
            .collect()
    }

    #[test]
    fn ranges_are_merged_nearest_first_and_still_cover_everything() {
        let all = ranges(&[(10, 12), (1, 2), (3, 3), (50, 60), (55, 70)]);
        assert_eq!(
            merge_ranges(all.clone(), 9),
            ranges(&[(1, 3), (10, 12), (50, 70)])
        );
        assert_eq!(merge_ranges(all.clone(), 2), ranges(&[(1, 12), (50, 70)]));
        assert_eq!(merge_ranges(all, 1), ranges(&[(1, 70)]));
    }

    #[test]
    fn what_was_missed_survives_json() {
        let event = RawValue::from_string(r#"{"ev":"msg","seq":3}"#.to_owned()).unwrap();
        let missed = Missed::Events {
            room: RoomId::parse("r1").unwrap(),
            events: vec![event],
            gone: true,
        };
        let text = serde_json::to_string(&missed).unwrap();
        let Missed::Events { events, gone, .. } = serde_json::from_str(&text).unwrap() else {
            panic!("it was events: {text}")
        };
        assert_eq!(
            events.first().map(|event| event.get()),
            Some(r#"{"ev":"msg","seq":3}"#)
        );
        assert!(gone);
    }

    #[test]
    fn an_answer_that_is_null_is_no_refusal() {
        let answer: Answer = serde_json::from_str(r#"{"applied":7,"ok":null}"#).unwrap();
        let state: RoomStateAnswer = serde_json::from_str(answer.ok.unwrap().get()).unwrap();
        assert_eq!(state, None);
        let refused: Answer = serde_json::from_str(r#"{"applied":7}"#).unwrap();
        assert!(refused.ok.is_none());
    }

    #[test]
    fn every_read_op_is_listed() {
        for op in READ_OPS {
            let error = serde_json::from_str::<ReadCommand>(&format!(r#"{{"op":"{op}"}}"#)).err();
            assert!(
                !error
                    .map(|e| e.to_string())
                    .unwrap_or_default()
                    .contains("unknown variant")
            );
        }
    }
}
