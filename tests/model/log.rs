//! The partition's subject in the broker: what is stored, and what every stored record says.
//!
//! Records are kept once and named by number, so that a state of the model stays small.

use crate::script::{Id, Script};
use bytes::Bytes;
use protocol::chain::{Hash, hash_line};
use protocol::envelope::Envelope;
use protocol::event::{Event, LogEvent};
use protocol::{Seq, StreamSeq};
use std::collections::HashMap;

/// The stream's position of the n-th record of the subject. Those between belong to other partitions;
/// a shortcut pretends that one of them is its own.
pub fn position(nth: usize) -> StreamSeq {
    StreamSeq(u64::try_from(nth).unwrap() * 2)
}

/// How many records of the subject lie at or below a position.
pub fn count_at(position: StreamSeq) -> usize {
    usize::try_from(position.0 / 2).unwrap()
}

/// One stored record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub record: u32,
    /// At which moment of the clock it was stored.
    pub at: u8,
}

impl Entry {
    /// Before the first step.
    pub const PAST: u8 = u8::MAX;
}

/// One event of a record.
#[derive(Debug)]
pub struct Line {
    /// The command of the script that it comes from; `None` for what was before.
    pub id: Option<Id>,
    pub prev: Hash,
    pub hash: Hash,
    pub event: Event,
}

/// What a record says.
#[derive(Debug)]
pub struct Read {
    pub payload: Bytes,
    pub lines: Vec<Line>,
}

/// All records that were ever published.
#[derive(Debug, Default)]
pub struct Records {
    all: Vec<Read>,
    numbers: HashMap<Bytes, u32>,
}

impl Records {
    pub fn get(&self, number: u32) -> &Read {
        &self.all[number as usize]
    }

    pub fn intern(&mut self, script: &Script, payload: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(payload) {
            return *number;
        }
        let payload = Bytes::copy_from_slice(payload);
        let envelope = Envelope::parse(&payload).expect("an owner publishes envelopes");
        let lines = envelope.lines().map(|line| {
            let (_, line) = line.expect("an owner's envelopes are well formed");
            let logged = LogEvent::parse(line).expect("an owner publishes events");
            Line {
                id: script.id_of(logged.event.cid),
                prev: logged.prev,
                hash: hash_line(line).expect("an event is JSON"),
                event: logged.event,
            }
        });
        let lines = lines.collect();
        let number = u32::try_from(self.all.len()).unwrap();
        self.numbers.insert(payload.clone(), number);
        self.all.push(Read { payload, lines });
        number
    }

    /// All events of a part of the log, in order.
    pub fn lines<'a>(&'a self, entries: &'a [Entry]) -> impl Iterator<Item = &'a Line> {
        entries
            .iter()
            .flat_map(|entry| &self.get(entry.record).lines)
    }

    /// The seq that a record gives to a command, if it is in it.
    pub fn seq_in(&self, number: u32, id: Id) -> Option<Seq> {
        let line = self
            .get(number)
            .lines
            .iter()
            .find(|line| line.id == Some(id));
        line.map(|line| line.event.seq)
    }
}
