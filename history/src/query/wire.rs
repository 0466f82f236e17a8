//! Lines of the log as clients get them: without `prev` and `salt`, and without the contents of
//! messages that were removed.
//!
//! Fields that a later version added stay.

use crate::store::page::Archived;
use protocol::event::SeqRange;
use protocol::{RoomId, Seq};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Fields that only the log and the archive hold.
const INTERNAL: &[&str] = &["prev", "salt", "commit"];

/// What a removed message leaves behind, apart from its empty text.
const REMOVED: &[&str] = &["mentions", "meta"];

/// An archived event, parsed as far as the wire needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct WireEvent {
    /// The room.
    pub room: RoomId,
    /// Its position there.
    pub seq: Seq,
    /// Its record.
    pub position: protocol::StreamSeq,
    fields: Map<String, Value>,
}

impl WireEvent {
    /// Parses a line; what is no JSON object becomes an event of which only the header is known.
    #[must_use]
    pub fn new(event: Archived) -> Self {
        let mut fields: Map<String, Value> =
            serde_json::from_str(&event.line).unwrap_or_else(|_| unreadable(&event));
        fields.retain(|key, _| !INTERNAL.contains(&key.as_str()));
        Self {
            room: event.room,
            seq: event.seq,
            position: event.position,
            fields,
        }
    }

    /// The message whose removal blanks this event.
    #[must_use]
    pub fn message(&self) -> Option<Seq> {
        match self.fields.get("ev").and_then(Value::as_str) {
            Some("msg") => Some(self.seq),
            Some("edit") => self.fields.get("on").and_then(Value::as_u64).map(Seq),
            Some(_) | None => None,
        }
    }

    /// Writes it, blanked if its message is among the `removed`.
    #[must_use]
    pub fn write(mut self, removed: &BTreeSet<(RoomId, Seq)>) -> Box<RawValue> {
        if let Some(message) = self.message()
            && removed.contains(&(self.room.clone(), message))
        {
            self.fields.insert("text".to_owned(), Value::from(""));
            self.fields
                .retain(|key, _| !REMOVED.contains(&key.as_str()));
        }
        serde_json::value::to_raw_value(&self.fields).expect("JSON came from JSON")
    }
}

fn unreadable(event: &Archived) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("ev".to_owned(), "unreadable".into());
    fields.insert("room".to_owned(), event.room.as_str().into());
    fields.insert("seq".to_owned(), event.seq.0.into());
    fields
}

/// Single seqs as ranges.
#[must_use]
pub fn ranges(seqs: &BTreeSet<Seq>) -> Vec<SeqRange> {
    let mut ranges: Vec<SeqRange> = Vec::new();
    for seq in seqs {
        match ranges.last_mut() {
            Some(last) if last.1.next() == *seq => last.1 = *seq,
            Some(_) | None => ranges.push(SeqRange(*seq, *seq)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(line: &str) -> WireEvent {
        WireEvent::new(Archived {
            room: RoomId::parse("r1").unwrap(),
            seq: Seq(4),
            position: protocol::StreamSeq(9),
            line: line.to_owned(),
        })
    }

    fn removed(seqs: &[u64]) -> BTreeSet<(RoomId, Seq)> {
        seqs.iter()
            .map(|seq| (RoomId::parse("r1").unwrap(), Seq(*seq)))
            .collect()
    }

    #[test]
    fn what_only_the_log_holds_does_not_leave_it() {
        let line = r#"{"ev":"msg","prev":"p","salt":"s","seq":4,"text":"hi","zz":1}"#;
        let written = wire(line).write(&removed(&[5]));
        assert_eq!(written.get(), r#"{"ev":"msg","seq":4,"text":"hi","zz":1}"#);
    }

    #[test]
    fn a_removed_message_and_its_edits_lose_their_contents() {
        let sent =
            r#"{"ev":"msg","mentions":["bob"],"meta":{"a":1},"n":2,"seq":4,"text":"secret"}"#;
        let written = wire(sent).write(&removed(&[4]));
        assert_eq!(written.get(), r#"{"ev":"msg","n":2,"seq":4,"text":""}"#);
        let edit = r#"{"ev":"edit","on":2,"seq":4,"text":"secret"}"#;
        assert_eq!(
            wire(edit).write(&removed(&[2])).get(),
            r#"{"ev":"edit","on":2,"seq":4,"text":""}"#
        );
        assert!(wire(edit).write(&removed(&[4])).get().contains("secret"));
    }

    #[test]
    fn neighbours_become_one_range() {
        let seqs = [1, 2, 3, 7, 9].map(Seq).into();
        let expected = [(1, 3), (7, 7), (9, 9)].map(|(a, b)| SeqRange(Seq(a), Seq(b)));
        assert_eq!(ranges(&seqs), expected);
    }
}
