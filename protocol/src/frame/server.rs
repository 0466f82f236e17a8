//! What the server sends: replies, durable events, and the frames around them.

use crate::chain::Hash;
use crate::event::{Event, EventBody, HistoryScope, Role, RoomKind, SeqRange};
use crate::limits::ClientLimits;
use crate::{ConnId, Refusal, RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloOk {
    /// Who the token says you are.
    pub user: UserId,
    /// Your own room.
    #[serde(rename = "self")]
    pub own: RoomId,
    /// This socket, for support.
    pub conn: ConnId,
    /// The server's clock: stamp cids by it.
    pub now: Timestamp,
    /// Between two pings of the server.
    pub ping_ms: i64,
    /// What the server takes.
    pub limits: ClientLimits,
    /// Whether the cursor was good.
    pub resumed: bool,
    /// How many rooms you are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rooms: Option<usize>,
    /// When the token ends, in ms since 1970.
    pub token_exp: Timestamp,
}

/// A thread as its root shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadSummary {
    /// Live replies.
    pub count: u64,
    /// Seq of the last one.
    pub last: Seq,
}

/// An entry of a timeline page: a message in its state as of `at`, or a member, role or room event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "EntryFields")]
pub struct TimelineEntry {
    /// The event; a message carries its shown text and mentions, a removed one no text.
    #[serde(flatten)]
    pub event: Event,
    /// The shown revision, if it is not the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rev: Option<u32>,
    /// When the shown revision was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edited: Option<Timestamp>,
    /// Whether it was removed.
    #[serde(skip_serializing_if = "crate::omit::is_default")]
    pub deleted: bool,
    /// The thread it is the root of.
    #[serde(rename = "thread", skip_serializing_if = "Option::is_none")]
    pub summary: Option<ThreadSummary>,
}

impl TimelineEntry {
    /// An event that is shown as it happened.
    #[must_use]
    pub const fn plain(event: Event) -> Self {
        Self {
            event,
            rev: None,
            edited: None,
            deleted: false,
            summary: None,
        }
    }
}

/// On a root `thread` is a summary, on a reply it is the root.
#[derive(Deserialize)]
#[serde(untagged)]
enum ThreadField {
    Summary(ThreadSummary),
    Root(Seq),
}

#[derive(Deserialize)]
struct EntryFields {
    #[serde(flatten)]
    event: Event,
    #[serde(default)]
    rev: Option<u32>,
    #[serde(default)]
    edited: Option<Timestamp>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    thread: Option<ThreadField>,
}

impl From<EntryFields> for TimelineEntry {
    fn from(fields: EntryFields) -> Self {
        let mut entry = Self {
            event: fields.event,
            rev: fields.rev,
            edited: fields.edited,
            deleted: fields.deleted,
            summary: None,
        };
        match fields.thread {
            Some(ThreadField::Summary(summary)) => entry.summary = Some(summary),
            Some(ThreadField::Root(root)) => {
                if let EventBody::Msg(message) = &mut entry.event.body {
                    message.thread = Some(root);
                }
            }
            None => {}
        }
        entry.return_revision();
        entry
    }
}

impl TimelineEntry {
    /// An edit has a `rev` of its own, and without it nobody could tell that it is one.
    fn return_revision(&mut self) {
        let EventBody::Unknown(fields) = &self.event.body else {
            return;
        };
        let Some(rev) = self.rev.filter(|_| self.event.body.kind() == "edit") else {
            return;
        };
        let mut fields = fields.clone();
        fields.insert("rev".to_owned(), rev.into());
        if let Ok(body) = serde_json::from_value(Value::Object(fields)) {
            self.event.body = body;
            self.rev = None;
        }
    }
}

/// A page of a timeline, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The entries.
    pub events: Vec<TimelineEntry>,
    /// The state they are in is that of this seq.
    pub at: Seq,
    /// Whether there is more in the asked direction.
    pub more: bool,
    /// The room's head.
    pub head: Seq,
}

/// A room as a member sees it: the fields of `state` and, after a long absence, of `skip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSnapshot {
    /// Which room.
    pub room: RoomId,
    /// What it is.
    pub kind: RoomKind,
    /// Shown name.
    #[serde(default)]
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub topic: String,
    /// The reader's role; absent for one who only reads a public room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// How many members.
    pub members: u64,
    /// Seq of the last event.
    pub head: Seq,
    /// Its hash.
    pub head_hash: Hash,
    /// Where the reader's mark is.
    #[serde(default)]
    pub read: Seq,
    /// The mark's ordinal.
    #[serde(default)]
    pub read_n: u64,
    /// The ordinal at the reader's join; messages up to it never count.
    #[serde(default)]
    pub join_n: u64,
    /// Live messages by others above mark and join, at most 999.
    #[serde(default)]
    pub unread: u32,
    /// Those of them that call the reader.
    #[serde(default)]
    pub mentions: u32,
    /// Nobody below a moderator writes.
    #[serde(default)]
    pub frozen: bool,
    /// Seconds between two messages of one member.
    #[serde(default)]
    pub slow_s: u32,
    /// How much of the past members read.
    #[serde(default)]
    pub history: HistoryScope,
    /// Seq of the last `room` event, for `base` of `update`.
    #[serde(default)]
    pub room_seq: Seq,
    /// The seq this state is of.
    pub at: Seq,
    /// The newest timeline entries, oldest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tl: Option<Vec<TimelineEntry>>,
}

/// Too much was missed: the room's present state instead of a range of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// First missed seq.
    pub from: Seq,
    /// Last missed seq: the room's head.
    pub to: Seq,
    /// Messages below `from` whose shown state changed meanwhile.
    pub dirty: Vec<SeqRange>,
    /// The room now.
    #[serde(flatten)]
    pub state: RoomSnapshot,
}

/// The room is not yours any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Which.
    pub room: RoomId,
}

/// An event line that is not a durable event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "lowercase")]
pub enum ServerEvent {
    /// A room as it is.
    State(Box<RoomSnapshot>),
    /// A range that is not sent one by one.
    Skip(Box<Skip>),
    /// From here on it is live.
    Live {
        /// Covers every frame sent before it.
        cur: String,
    },
    /// Are you there?
    Ping {
        /// Covers every frame sent before it; absent while the socket is lagged.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cur: Option<String>,
        /// The server's clock.
        now: Timestamp,
    },
    /// This gateway stops: move.
    Goaway {
        /// Open the second socket at a random time in this window.
        within_ms: [u64; 2],
        /// Why.
        why: String,
    },
    /// The socket was too slow; a catch-up follows.
    Lagged {},
    /// The token ends soon.
    Token {
        /// How soon.
        exp_in_s: u64,
    },
    /// The room is not yours any more.
    Gone(Gone),
}

/// One line of the server, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// The answer to the command with this id.
    Reply {
        /// The command's id; absent when a line had none that was readable.
        id: Option<u64>,
        /// What became of it.
        result: Result<Value, Refusal>,
    },
    /// Something durable happened.
    Durable(Box<Event>),
    /// A frame around durable events.
    Event(ServerEvent),
    /// An event of a later version without a `seq`: ignored.
    Unknown,
}

/// The line is nothing that a server sends.
#[derive(Debug, thiserror::Error)]
#[error("not a frame of a server")]
pub struct ServerFrameError(#[source] pub Option<serde_json::Error>);

impl ServerFrame {
    /// Parses one line of a server.
    ///
    /// # Errors
    /// [`ServerFrameError`] for what no server sends.
    pub fn parse(line: &str) -> Result<Self, ServerFrameError> {
        let wrong = |error| ServerFrameError(Some(error));
        let value: Value = serde_json::from_str(line).map_err(wrong)?;
        if let Some(name) = value.get("ev").and_then(Value::as_str) {
            if value.get("seq").is_some() && value.get("by").is_some() {
                let event = serde_json::from_value(value).map_err(wrong)?;
                return Ok(Self::Durable(Box::new(event)));
            }
            return match name {
                "state" | "skip" | "live" | "ping" | "goaway" | "lagged" | "token" | "gone" => {
                    serde_json::from_value(value)
                        .map(Self::Event)
                        .map_err(wrong)
                }
                _ => Ok(Self::Unknown),
            };
        }
        let id = value.get("id").and_then(Value::as_u64);
        if let Some(ok) = value.get("ok") {
            return Ok(Self::Reply {
                id,
                result: Ok(ok.clone()),
            });
        }
        match value.get("err") {
            Some(refusal) => Ok(Self::Reply {
                id,
                result: Err(serde_json::from_value(refusal.clone()).map_err(wrong)?),
            }),
            None => Err(ServerFrameError(None)),
        }
    }
}

/// Writes a reply line with any serialisable result.
#[must_use]
pub fn reply_ok<T: Serialize>(id: u64, ok: &T) -> String {
    let ok = serde_json::to_string(ok).expect("answers are JSON");
    format!(r#"{{"id":{id},"ok":{ok}}}"#)
}

/// Writes a refusal line; `id` is absent when the command's was not readable.
#[must_use]
pub fn reply_err(id: Option<u64>, refusal: &Refusal) -> String {
    let refusal = serde_json::to_string(refusal).expect("refusals are JSON");
    match id {
        Some(id) => format!(r#"{{"id":{id},"err":{refusal}}}"#),
        None => format!(r#"{{"err":{refusal}}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    #[test]
    fn a_reply_survives_its_line() {
        let refusal = Refusal::plain(ErrorCode::Banned);
        assert_eq!(
            ServerFrame::parse(&reply_err(Some(3), &refusal)).unwrap(),
            ServerFrame::Reply {
                id: Some(3),
                result: Err(refusal)
            }
        );
        let ok = ServerFrame::parse(&reply_ok(4, &serde_json::json!({"seq": 1}))).unwrap();
        assert!(matches!(
            ok,
            ServerFrame::Reply {
                id: Some(4),
                result: Ok(_)
            }
        ));
    }

    #[test]
    fn thread_is_a_summary_on_a_root_and_the_root_on_a_reply() {
        let header = r#""ev":"msg","room":"r","seq":4,"ts":1,"by":"a","cid":"019b0000-0000-7000-8000-000000000000","text":"x""#;
        for rest in [
            r#""thread":{"count":2,"last":9},"n":3"#,
            r#""thread":2,"tn":1"#,
            r#""n":3,"rev":2,"edited":8"#,
            r#""n":3,"deleted":true"#,
        ] {
            let entry: TimelineEntry =
                serde_json::from_str(&format!("{{{header},{rest}}}")).unwrap();
            let text = serde_json::to_string(&entry).unwrap();
            assert_eq!(serde_json::from_str::<TimelineEntry>(&text).unwrap(), entry);
            assert_eq!(entry.summary.is_some(), rest.contains("count"));
        }
    }

    #[test]
    fn an_edit_in_a_page_of_every_event_is_still_an_edit() {
        let line = r#"{"ev":"edit","room":"r","seq":4,"ts":1,"by":"a","cid":"019b0000-0000-7000-8000-000000000000","on":3,"rev":2,"text":"x","won":true,"eff":9}"#;
        let event: Event = serde_json::from_str(line).unwrap();
        let entry: TimelineEntry = serde_json::from_str(line).unwrap();
        assert!(matches!(entry.event.body, EventBody::Edit { rev: 2, .. }));
        assert_eq!(entry, TimelineEntry::plain(event));
        let text = serde_json::to_string(&entry).unwrap();
        assert_eq!(serde_json::from_str::<TimelineEntry>(&text).unwrap(), entry);
    }

    #[test]
    fn an_unknown_event_without_a_seq_is_ignored_and_one_with_a_seq_counts() {
        assert_eq!(
            ServerFrame::parse(r#"{"ev":"confetti"}"#).unwrap(),
            ServerFrame::Unknown
        );
        let durable = r#"{"ev":"poll","room":"r","seq":4,"ts":1,"by":"a","cid":"019b0000-0000-7000-8000-000000000000"}"#;
        assert!(matches!(
            ServerFrame::parse(durable).unwrap(),
            ServerFrame::Durable(_)
        ));
    }
}
