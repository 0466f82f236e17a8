//! The broker's stream: one subject, records that stay, a compare-and-set, a clock of its own.

use messages::partition::Record;
use protocol::envelope::Envelope;
use protocol::event::LogEvent;
use protocol::{RoomId, Seq, StreamSeq, Timestamp};
use std::collections::BTreeMap;

/// The stream.
#[derive(Debug, Default)]
pub struct Broker {
    /// The subject's records.
    pub records: Vec<Record>,
    /// The events of each record.
    pub events: Vec<Vec<LogEvent>>,
    /// Where each event is, for judging acknowledgements.
    pub places: BTreeMap<(RoomId, Seq), (usize, usize)>,
    /// The last seq of each room.
    pub heads: BTreeMap<RoomId, Seq>,
    /// The stream's last sequence: other subjects have records too.
    last: u64,
    /// Its leader's clock, compared with true time.
    pub clock_offset_ms: i64,
    /// It takes nothing: its disk is full.
    pub full: bool,
}

impl Broker {
    /// Position of the subject's last record.
    pub fn last(&self) -> StreamSeq {
        self.records.last().map_or(StreamSeq(0), |r| r.position)
    }

    /// The stream's last sequence.
    pub fn stream_last(&self) -> StreamSeq {
        StreamSeq(self.last)
    }

    /// A record on another subject.
    pub fn other_subject(&mut self) {
        self.last += 1;
    }

    /// Appends under a compare; `None` if it fails.
    pub fn append(
        &mut self,
        now_ms: i64,
        expected: Option<StreamSeq>,
        payload: &str,
    ) -> Option<StreamSeq> {
        if expected.is_some_and(|expected| expected != self.last()) {
            return None;
        }
        self.last += 1;
        let position = StreamSeq(self.last);
        let envelope = Envelope::parse(payload.as_bytes()).expect("owners write envelopes");
        let events: Vec<LogEvent> = envelope
            .lines()
            .map(|line| LogEvent::parse(line.expect("a line").1).expect("owners write events"))
            .collect();
        for (index, logged) in events.iter().enumerate() {
            let key = (logged.event.room.clone(), logged.event.seq);
            self.heads.insert(key.0.clone(), key.1);
            self.places
                .entry(key)
                .or_insert((self.records.len(), index));
        }
        self.events.push(events);
        self.records.push(Record {
            position,
            time: Timestamp(now_ms + self.clock_offset_ms),
            payload: payload.to_owned().into(),
        });
        Some(position)
    }

    /// The records behind a position.
    pub fn tail(&self, after: StreamSeq) -> Vec<Record> {
        let from = self.records.partition_point(|r| r.position <= after);
        self.records[from..].to_vec()
    }

    /// The event at a place of a room.
    pub fn event(&self, room: &RoomId, seq: Seq) -> Option<&LogEvent> {
        let (record, index) = self.places.get(&(room.clone(), seq))?;
        self.events[*record].get(*index)
    }
}
