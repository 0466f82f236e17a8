//! How events lie in the log: one JetStream message is one group commit.
//!
//! ```text
//! natter1 events 7kq2.12.480 rQ9 rBig       <- version, kind, id, the rooms inside
//! 0 {"by":...}                              <- index of its room, then the event
//! 1 {"by":...}
//! ```
//! Rooms come first, so that a reader skips an envelope, or one line of it, without decoding JSON.
//! An epoch record has kind `epoch` and no lines.

use crate::limits::{ENVELOPE_BYTES_MAX, ENVELOPE_EVENTS_MAX};
use crate::{InstanceId, RoomId};
use std::fmt;

/// Names an envelope for ever, so that an owner recognises its own after an unknown outcome.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvelopeId {
    /// The process that wrote it.
    pub instance: InstanceId,
    /// Which of its takeovers of this partition.
    pub epoch: u64,
    /// Which envelope of that takeover; the epoch record is 0.
    pub counter: u64,
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.instance, self.epoch, self.counter)
    }
}

impl EnvelopeId {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let id = Self {
            instance: InstanceId::parse(parts.next()?).ok()?,
            epoch: parts.next()?.parse().ok()?,
            counter: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

/// What an envelope is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeKind {
    /// Carries events.
    Events,
    /// Marks a takeover, or keeps an idle partition's last record young.
    Epoch,
}

/// The payload is no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not UTF-8.
    #[error("an envelope is UTF-8")]
    Utf8,
    /// The first line does not begin with `natter1`.
    #[error("not an envelope of version 1")]
    Version,
    /// The first line is malformed.
    #[error("the envelope's first line is malformed")]
    Header,
    /// A line names no room of the first line.
    #[error("line {0} of the envelope names no room")]
    Line(usize),
}

/// A decoded view of an envelope; the events are not parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Its name.
    pub id: EnvelopeId,
    /// What it is for.
    pub kind: EnvelopeKind,
    /// The distinct rooms inside, in order of first appearance.
    pub rooms: Vec<&'a str>,
    body: &'a str,
}

impl<'a> Envelope<'a> {
    /// Reads the first line only.
    ///
    /// # Errors
    /// The payload is no envelope of a version that is known here.
    pub fn parse(payload: &'a [u8]) -> Result<Self, EnvelopeError> {
        let Ok(text) = std::str::from_utf8(payload) else {
            return Err(EnvelopeError::Utf8);
        };
        let (first, body) = text.split_once('\n').unwrap_or((text, ""));
        let mut words = first.split(' ');
        if words.next() != Some("natter1") {
            return Err(EnvelopeError::Version);
        }
        let kind = match words.next() {
            Some("events") => EnvelopeKind::Events,
            Some("epoch") => EnvelopeKind::Epoch,
            _ => return Err(EnvelopeError::Header),
        };
        let id = words
            .next()
            .and_then(EnvelopeId::parse)
            .ok_or(EnvelopeError::Header)?;
        let rooms: Vec<&str> = words.collect();
        if rooms.iter().any(|room| crate::id::check(room).is_err()) {
            return Err(EnvelopeError::Header);
        }
        Ok(Self {
            id,
            kind,
            rooms,
            body,
        })
    }

    /// Each event as (its room, its line of JSON), in order.
    pub fn lines(&self) -> impl Iterator<Item = Result<(&'a str, &'a str), EnvelopeError>> + '_ {
        self.body
            .split('\n')
            .filter(|line| !line.is_empty())
            .enumerate()
            .map(|(number, line)| {
                let bad = EnvelopeError::Line(number);
                let (index, json) = line.split_once(' ').ok_or(bad)?;
                let Ok(index) = index.parse::<usize>() else {
                    return Err(bad);
                };
                let room = self.rooms.get(index).ok_or(bad)?;
                Ok((*room, json))
            })
    }
}

/// Collects sealed events for one envelope, up to its bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvelopeBuilder {
    rooms: Vec<RoomId>,
    body: String,
    events: usize,
}

impl EnvelopeBuilder {
    /// Whether these lines still fit. The events of one command never span two envelopes, and an empty envelope takes any command.
    #[must_use]
    pub fn fits(&self, events: usize, bytes: usize) -> bool {
        self.events == 0
            || (self.events + events <= ENVELOPE_EVENTS_MAX
                && self.body.len() + bytes + (events + self.rooms.len() + 1) * 72
                    <= ENVELOPE_BYTES_MAX)
    }

    /// Adds one event's line.
    pub fn push(&mut self, room: &RoomId, line: &str) {
        let index = match self.rooms.iter().position(|known| known == room) {
            Some(index) => index,
            None => {
                self.rooms.push(room.clone());
                self.rooms.len() - 1
            }
        };
        self.body.push_str(&index.to_string());
        self.body.push(' ');
        self.body.push_str(line);
        self.body.push('\n');
        self.events += 1;
    }

    /// Events so far.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.events
    }

    /// The payload to publish.
    #[must_use]
    pub fn finish(&self, id: &EnvelopeId) -> String {
        let kind = if self.events == 0 { "epoch" } else { "events" };
        let mut out = format!("natter1 {kind} {id}");
        for room in &self.rooms {
            out.push(' ');
            out.push_str(room.as_str());
        }
        out.push('\n');
        out.push_str(&self.body);
        out
    }
}

/// The payload of an epoch record.
#[must_use]
pub fn epoch_record(id: &EnvelopeId) -> String {
    EnvelopeBuilder::default().finish(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> EnvelopeId {
        EnvelopeId {
            instance: InstanceId::parse("k7").unwrap(),
            epoch: 3,
            counter: 9,
        }
    }

    #[test]
    fn an_envelope_gives_back_its_lines_by_room() {
        let (a, b) = (RoomId::parse("ra").unwrap(), RoomId::parse("rb").unwrap());
        let mut builder = EnvelopeBuilder::default();
        builder.push(&a, r#"{"x":1}"#);
        builder.push(&b, r#"{"x":2}"#);
        builder.push(&a, r#"{"x":3}"#);
        let payload = builder.finish(&id());
        let envelope = Envelope::parse(payload.as_bytes()).unwrap();
        assert_eq!(envelope.id, id());
        assert_eq!(envelope.rooms, ["ra", "rb"]);
        let lines: Vec<_> = envelope.lines().map(Result::unwrap).collect();
        assert_eq!(
            lines,
            [
                ("ra", r#"{"x":1}"#),
                ("rb", r#"{"x":2}"#),
                ("ra", r#"{"x":3}"#)
            ]
        );
    }

    #[test]
    fn an_epoch_record_has_no_lines() {
        let payload = epoch_record(&id());
        let envelope = Envelope::parse(payload.as_bytes()).unwrap();
        assert_eq!(envelope.kind, EnvelopeKind::Epoch);
        assert_eq!(envelope.lines().count(), 0);
    }

    #[test]
    fn nonsense_is_no_envelope() {
        for bad in [
            &b""[..],
            b"natter2 events a.1.1",
            b"natter1 x a.1.1",
            b"natter1 events a.1",
            b"natter1 events a.1.1 r*",
            b"\xff",
        ] {
            assert!(Envelope::parse(bad).is_err(), "{bad:?}");
        }
        let line = Envelope::parse(b"natter1 events a.1.1 ra\n7 {}\n").unwrap();
        assert!(line.lines().next().unwrap().is_err());
    }
}
