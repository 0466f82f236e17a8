//! One record of the log in memory: which rooms it touches, and its events as finished frames.
//!
//! The rooms and the changes of membership are read at once, because they decide who wants the record.
//! The events are decoded only when a local room wants them, once for all sockets of the process.

use bytestring::ByteString;
use protocol::envelope::{Envelope, EnvelopeError};
use protocol::event::{Event, EventBody, LogEvent};
use protocol::{RoomId, Seq, StreamSeq, UserId};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// How the canonical line of a change of membership gives itself away. A text that contains these
/// words has its quotes escaped, so nothing else matches.
const MEMBER_MARK: &str = r#""ev":"member""#;

/// Bytes that a record costs beside its payload: the structs and the two indexes.
const OVERHEAD_BYTES: usize = 512;

/// Whether a membership begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Joined or added.
    Begins,
    /// Left, kicked or banned.
    Ends,
}

/// A change of one user's membership in one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub user: UserId,
    /// Where.
    pub room: RoomId,
    /// How.
    pub turn: Turn,
}

/// One event, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its room.
    pub room: RoomId,
    /// Its position there.
    pub seq: Seq,
    /// Its place within the record, from 0.
    pub index: u32,
    /// Its line on the wire, without `prev` and `salt`; shared by every socket.
    pub frame: ByteString,
    /// The change of membership, if it is one.
    pub change: Option<Change>,
}

/// A record of the log.
#[derive(Debug)]
pub struct Record {
    /// Its position in the log.
    pub position: StreamSeq,
    /// The distinct rooms inside.
    pub rooms: Vec<RoomId>,
    /// The memberships that it changes, in order.
    pub changes: Vec<Change>,
    lines: Vec<(usize, String)>,
    bytes: usize,
    entries: OnceLock<Vec<Entry>>,
}

impl Record {
    /// Reads the payload of a log message.
    ///
    /// # Errors
    /// The payload is no envelope.
    pub fn from_envelope(position: StreamSeq, payload: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope = Envelope::parse(payload)?;
        let mut rooms = Vec::with_capacity(envelope.rooms.len());
        for room in &envelope.rooms {
            match RoomId::parse(room) {
                Ok(room) => rooms.push(room),
                Err(_) => return Err(EnvelopeError::Header),
            }
        }
        let mut lines = Vec::new();
        for line in envelope.lines() {
            let (room, json) = line?;
            let room = envelope
                .rooms
                .iter()
                .position(|known| *known == room)
                .unwrap_or(0);
            lines.push((room, json.to_owned()));
        }
        Ok(Self::assemble(position, rooms, lines))
    }

    /// Makes a record from the lines that history archived; lines that name no room are left out.
    #[must_use]
    pub fn from_lines(position: StreamSeq, archived: &[String]) -> Self {
        let (mut rooms, mut lines) = (Vec::new(), Vec::new());
        for line in archived {
            // An envelope's line starts with the index of its room; the event starts with a brace.
            let Some((_, json)) = line.find('{').map(|brace| line.split_at(brace)) else {
                continue;
            };
            let Some(room) = room_of(json) else { continue };
            let index = rooms
                .iter()
                .position(|known| *known == room)
                .unwrap_or_else(|| {
                    rooms.push(room);
                    rooms.len() - 1
                });
            lines.push((index, json.to_owned()));
        }
        Self::assemble(position, rooms, lines)
    }

    /// A record without events: an epoch record, or one that is lost.
    #[must_use]
    pub fn empty(position: StreamSeq) -> Self {
        Self::assemble(position, Vec::new(), Vec::new())
    }

    fn assemble(position: StreamSeq, rooms: Vec<RoomId>, lines: Vec<(usize, String)>) -> Self {
        let changes = lines
            .iter()
            .filter(|(_, json)| json.contains(MEMBER_MARK))
            .filter_map(|(_, json)| change_of(&LogEvent::parse(json).ok()?.event))
            .collect();
        let payload: usize = lines.iter().map(|(_, json)| json.len()).sum();
        Self {
            position,
            rooms,
            changes,
            lines,
            // Twice: the line as it came, and the frame that is made of it.
            bytes: 2 * payload + OVERHEAD_BYTES,
            entries: OnceLock::new(),
        }
    }

    /// Its events, decoded at the first call. A line that is no event is left out and logged.
    pub fn entries(&self) -> &[Entry] {
        self.entries.get_or_init(|| {
            let mut entries = Vec::with_capacity(self.lines.len());
            for (index, (room, json)) in self.lines.iter().enumerate() {
                let room = self.rooms.get(*room).cloned();
                match room.and_then(|room| entry(room, index, json)) {
                    Some(entry) => entries.push(entry),
                    None => tracing::error!(
                        position = self.position.0,
                        index,
                        "a line of the log is no event; clients see a gap there"
                    ),
                }
            }
            entries
        })
    }

    /// Bytes of memory that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn room_of(json: &str) -> Option<RoomId> {
    #[derive(serde::Deserialize)]
    struct Head {
        room: RoomId,
    }
    serde_json::from_str::<Head>(json)
        .ok()
        .map(|head| head.room)
}

fn entry(room: RoomId, index: usize, json: &str) -> Option<Entry> {
    let mut fields: Map<String, Value> = serde_json::from_str(json).ok()?;
    fields.remove("prev");
    fields.remove("salt");
    let seq = Seq(fields.get("seq")?.as_u64()?);
    let frame = serde_json::to_string(&fields).ok()?;
    let change = if json.contains(MEMBER_MARK) {
        change_of(&LogEvent::parse(json).ok()?.event)
    } else {
        None
    };
    Some(Entry {
        room,
        seq,
        index: u32::try_from(index).ok()?,
        frame: frame.into(),
        change,
    })
}

fn change_of(event: &Event) -> Option<Change> {
    let EventBody::Member { user, change, .. } = &event.body else {
        return None;
    };
    let turn = if change.begins_membership() {
        Turn::Begins
    } else if change.ends_membership() {
        Turn::Ends
    } else {
        return None;
    };
    Some(Change {
        user: user.clone(),
        room: event.room.clone(),
        turn,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use protocol::chain::{Hash, Salt, seal};
    use protocol::envelope::{EnvelopeBuilder, EnvelopeId, epoch_record};
    use protocol::event::{MemberChange, Message};
    use protocol::{Cid, InstanceId, Timestamp};

    /// A record with these events, as an owner would write it.
    pub(crate) fn record(position: u64, events: &[(&str, u64, EventBody)]) -> Record {
        Record::from_envelope(StreamSeq(position), payload(events).as_bytes()).unwrap()
    }

    pub(crate) fn payload(events: &[(&str, u64, EventBody)]) -> String {
        let mut builder = EnvelopeBuilder::default();
        for (room, seq, body) in events {
            let room = RoomId::parse(room).unwrap();
            let event = Event {
                room: room.clone(),
                seq: Seq(*seq),
                ts: Timestamp(1),
                by: UserId::parse("alice").unwrap(),
                cid: Cid::from_parts(1, [0; 10]),
                body: body.clone(),
            };
            let event = LogEvent {
                prev: Hash::ZERO,
                salt: Salt([1; 16]),
                event,
            };
            builder.push(&room, &seal(&event).line);
        }
        builder.finish(&id())
    }

    fn id() -> EnvelopeId {
        EnvelopeId {
            instance: InstanceId::parse("i").unwrap(),
            epoch: 1,
            counter: 1,
        }
    }

    /// A message.
    pub(crate) fn msg(text: &str) -> EventBody {
        EventBody::Msg(Message {
            text: text.to_owned(),
            ..Message::default()
        })
    }

    /// A change of membership.
    pub(crate) fn member(user: &str, change: MemberChange) -> EventBody {
        EventBody::Member {
            user: UserId::parse(user).unwrap(),
            change,
            role: None,
            until: None,
            why: None,
        }
    }

    #[test]
    fn a_frame_has_neither_prev_nor_salt_and_keeps_everything_else() {
        let record = record(
            7,
            &[
                ("r1", 3, msg(r#"he said "ev":"member""#)),
                ("r2", 9, msg("x")),
            ],
        );
        let [first, second] = record.entries() else {
            panic!("two events")
        };
        let frame: Map<String, Value> = serde_json::from_str(&first.frame).unwrap();
        assert!(!frame.contains_key("prev") && !frame.contains_key("salt"));
        assert_eq!(
            (&frame["ev"], &frame["seq"]),
            (&Value::from("msg"), &Value::from(3))
        );
        assert_eq!(
            (second.room.as_str(), second.seq, second.index),
            ("r2", Seq(9), 1)
        );
        assert!(
            record.changes.is_empty(),
            "a text is no change of membership"
        );
    }

    #[test]
    fn changes_of_membership_are_known_without_decoding_the_events() {
        let record = record(
            7,
            &[
                ("r1", 3, member("bob", MemberChange::Added)),
                ("r1", 4, member("bob", MemberChange::Muted)),
                ("r1", 5, member("bob", MemberChange::Kicked)),
            ],
        );
        let turns: Vec<_> = record.changes.iter().map(|change| change.turn).collect();
        assert_eq!(turns, [Turn::Begins, Turn::Ends]);
        assert_eq!(record.entries()[2].change, Some(record.changes[1].clone()));
    }

    #[test]
    fn archived_lines_give_the_same_record_as_the_envelope() {
        let payload = payload(&[
            ("r1", 3, msg("a")),
            ("r2", 4, member("bob", MemberChange::Left)),
        ]);
        let envelope = Envelope::parse(payload.as_bytes()).unwrap();
        let lines: Vec<String> = envelope
            .lines()
            .map(|line| line.unwrap().1.to_owned())
            .collect();
        let live = Record::from_envelope(StreamSeq(7), payload.as_bytes()).unwrap();
        let archived = Record::from_lines(StreamSeq(7), &lines);
        assert_eq!(live.entries(), archived.entries());
        assert_eq!(
            (live.rooms, live.changes),
            (archived.rooms, archived.changes)
        );
    }

    #[test]
    fn an_epoch_record_is_empty_and_nonsense_is_refused() {
        let epoch = Record::from_envelope(StreamSeq(1), epoch_record(&id()).as_bytes()).unwrap();
        assert!(epoch.rooms.is_empty() && epoch.entries().is_empty());
        assert!(Record::from_envelope(StreamSeq(1), b"hello").is_err());
    }
}
