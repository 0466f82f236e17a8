//! One record of the log, taken apart: what of it can be known without any state.
//!
//! Parsing and hashing are most of the work of ingestion and depend on nothing before, so they are
//! done here, ahead of the projector. Whether an event may follow is not decided here.

use protocol::chain::{Hash, hash_line};
use protocol::envelope::{Envelope, EnvelopeKind};
use protocol::event::{EventBody, LogEvent};
use protocol::room::FoldError;
use protocol::{Event, Partition, RoomId, Seq, StreamSeq, Timestamp};

/// A record of the log as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub position: StreamSeq,
    /// The partition of its subject; `None` if the subject is none of ours.
    pub partition: Option<Partition>,
    /// When the broker stored it.
    pub time: Timestamp,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A takeover, or an idle partition's sign of life.
    Epoch {
        /// The id of the envelope.
        envelope: String,
    },
    /// Events of some rooms.
    Events {
        /// The id of the envelope.
        envelope: String,
        /// The rooms inside, separated by blanks.
        rooms: String,
        /// The events, in order.
        lines: Vec<Line>,
        /// The payload, kept if a line of it names no room.
        broken: Option<Broken>,
    },
    /// No envelope that can be read.
    Bad(Broken),
}

/// A payload that cannot be read, or not wholly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong.
    pub reason: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// One line of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The room that the envelope says it is of.
    pub room: RoomId,
    /// Its place in the record, from 0.
    pub index: i32,
    /// The line to the byte.
    pub line: String,
    /// Its hash; of a line that is no object, of the text itself.
    pub hash: Hash,
    /// The event, or why there is none.
    pub event: Result<LogEvent, Poison>,
    /// Whether the line before it in this room and record is of the same command.
    pub continues: bool,
}

/// Why an event is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Poison {
    /// The line is no event.
    #[error("the line is no event: {0}")]
    Line(String),
    /// The line names another room than its envelope.
    #[error("the line is of another room than its envelope says")]
    Room,
    /// The room does not belong to the partition of the record.
    #[error("the room does not belong to this partition")]
    Partition,
    /// A gap or a repetition.
    #[error("expected seq {expected}, found {found}")]
    Seq {
        /// The seq that had to come.
        expected: Seq,
        /// The seq that came.
        found: Seq,
    },
    /// The chain is broken: it does not name the event before it.
    #[error("prev is not the hash of the event before")]
    Prev,
    /// The first event of a room does not make it.
    #[error("the first event of a room must make it")]
    NotCreated,
    /// A command was stored before.
    #[error("the command was stored before")]
    Repeated,
}

impl From<FoldError> for Poison {
    fn from(error: FoldError) -> Self {
        match error {
            FoldError::Seq { expected, found } => Self::Seq { expected, found },
            FoldError::NotCreated => Self::NotCreated,
        }
    }
}

impl Record {
    /// Takes a record apart.
    #[must_use]
    pub fn parse(
        position: StreamSeq,
        partition: Option<Partition>,
        time: Timestamp,
        payload: &[u8],
    ) -> Self {
        Self {
            position,
            partition,
            time,
            content: content(partition, payload),
        }
    }

    /// How many events it holds.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.lines().len()
    }

    /// The events, none if it is no record of events.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        match &self.content {
            Content::Events { lines, .. } => lines,
            Content::Epoch { .. } | Content::Bad(_) => &[],
        }
    }

    /// What of the payload could not be read.
    #[must_use]
    pub fn broken(&self) -> Option<&Broken> {
        match &self.content {
            Content::Events { broken, .. } => broken.as_ref(),
            Content::Bad(broken) => Some(broken),
            Content::Epoch { .. } => None,
        }
    }
}

fn content(partition: Option<Partition>, payload: &[u8]) -> Content {
    let broken = |reason: String| Broken {
        reason,
        payload: payload.to_vec(),
    };
    let envelope = match Envelope::parse(payload) {
        Ok(envelope) => envelope,
        Err(error) => return Content::Bad(broken(error.to_string())),
    };
    let id = envelope.id.to_string();
    match envelope.kind {
        EnvelopeKind::Epoch => return Content::Epoch { envelope: id },
        EnvelopeKind::Events => {}
    }
    let mut lines: Vec<Line> = Vec::new();
    let mut unreadable = None;
    for (index, line) in envelope.lines().enumerate() {
        let parsed = line
            .map_err(|error| error.to_string())
            .and_then(|(room, line)| {
                let room = RoomId::parse(room).map_err(|error| error.to_string())?;
                Ok((room, line))
            });
        match parsed {
            Ok((room, text)) => {
                let index = i32::try_from(index).expect("a payload has fewer than 2^31 lines");
                let mut line = parse_line(partition, room, index, text);
                line.continues = continues(&lines, &line);
                lines.push(line);
            }
            Err(reason) => unreadable = Some(broken(reason)),
        }
    }
    Content::Events {
        envelope: id,
        rooms: envelope.rooms.join(" "),
        lines,
        broken: unreadable,
    }
}

fn parse_line(partition: Option<Partition>, room: RoomId, index: i32, text: &str) -> Line {
    let event = match LogEvent::parse(text) {
        Ok(event) if event.event.room != room => Err(Poison::Room),
        Ok(_) if partition.is_some_and(|partition| partition != room.partition()) => {
            Err(Poison::Partition)
        }
        Ok(event) => Ok(event),
        Err(error) => Err(Poison::Line(error.to_string())),
    };
    Line {
        hash: hash_of(text),
        room,
        index,
        line: text.to_owned(),
        event,
        continues: false,
    }
}

/// The hash of a line, of whatever is in it.
#[must_use]
pub fn hash_of(text: &str) -> Hash {
    hash_line(text).unwrap_or_else(|_| {
        let wrapped = serde_json::json!({ "line": text }).to_string();
        hash_line(&wrapped).expect("it is a JSON object")
    })
}

/// Whether a line is not the first event of its command: a member event after an event of the same
/// author and cid in the same room, as `create` writes them, or a kind that is not known here.
fn continues(before: &[Line], line: &Line) -> bool {
    let Ok(event) = &line.event else { return false };
    let may_follow = match &event.event.body {
        EventBody::Member { .. } | EventBody::Unknown(_) => true,
        EventBody::Room { .. }
        | EventBody::Role { .. }
        | EventBody::Msg(_)
        | EventBody::Edit { .. }
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. } => false,
    };
    let same_command = |last: &Event| last.by == event.event.by && last.cid == event.event.cid;
    may_follow
        && before
            .iter()
            .rev()
            .find(|last| last.room == line.room)
            .and_then(|last| last.event.as_ref().ok())
            .is_some_and(|last| same_command(&last.event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(payload: &str) -> Record {
        Record::parse(StreamSeq(1), None, Timestamp(5), payload.as_bytes())
    }

    #[test]
    fn a_payload_that_is_no_envelope_is_kept_whole() {
        let record = parse("natter2 what is this");
        assert_eq!(record.broken().unwrap().payload, b"natter2 what is this");
        assert_eq!(record.event_count(), 0);
    }

    #[test]
    fn a_line_without_a_room_does_not_take_the_others_with_it() {
        let record = parse("natter1 events k.1.1 r1\n7 {}\n0 {\"x\":1}\n");
        assert!(record.broken().is_some());
        let [line] = record.lines() else {
            panic!("one line is readable")
        };
        assert_eq!((line.index, line.room.as_str()), (1, "r1"));
        assert!(matches!(line.event, Err(Poison::Line(_))));
    }

    #[test]
    fn a_line_that_is_no_json_still_has_a_hash_of_its_own() {
        assert_ne!(hash_of("x"), hash_of("y"));
        assert_eq!(hash_of("x"), hash_of("x"));
    }

    #[test]
    fn an_epoch_record_has_no_events() {
        let record = parse("natter1 epoch k.1.0\n");
        assert!(matches!(record.content, Content::Epoch { .. }));
        assert!(record.broken().is_none());
    }
}
