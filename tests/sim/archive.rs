//! History as a model: folds the log behind it, and answers as of where it is.

use crate::broker::Broker;
use messages::sequencer::{Answered, Lookup};
use protocol::chain::hash_line;
use protocol::envelope::Envelope;
use protocol::event::{EventBody, LogEvent};
use protocol::query::{CidKey, UserFacts};
use protocol::request::Accepted;
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq, StreamSeq};
use std::collections::BTreeMap;

/// What is applied so far.
#[derive(Debug, Default)]
pub struct Archive {
    applied: usize,
    rooms: BTreeMap<RoomId, RoomState>,
    messages: BTreeMap<RoomId, BTreeMap<Seq, MessageState>>,
    cids: BTreeMap<CidKey, Accepted>,
}

impl Archive {
    /// Up to where the log is applied; records of other subjects are applied with those before them.
    pub fn cursor(&self, broker: &Broker) -> StreamSeq {
        match broker.records.get(self.applied) {
            Some(next) => next.position.before(),
            None => broker.stream_last(),
        }
    }

    /// Applies up to `count` more records.
    pub fn apply(&mut self, broker: &Broker, count: usize) {
        for _ in 0..count {
            let (Some(record), Some(events)) = (
                broker.records.get(self.applied),
                broker.events.get(self.applied),
            ) else {
                return;
            };
            self.applied += 1;
            let envelope = Envelope::parse(&record.payload).expect("owners write envelopes");
            for (line, logged) in envelope.lines().zip(events) {
                self.fold(line.expect("a line").1, logged);
            }
        }
    }

    fn fold(&mut self, line: &str, logged: &LogEvent) {
        let event = &logged.event;
        let hash = hash_line(line).expect("an event is JSON");
        // A log that is wrong is found by the checks; here it only must not stop the run.
        let folded = match self.rooms.get_mut(&event.room) {
            Some(room) => room.apply(event, hash).is_ok(),
            None => RoomState::create(event, hash)
                .map(|room| self.rooms.insert(event.room.clone(), room))
                .is_ok(),
        };
        if !folded {
            return;
        }
        let messages = self.messages.entry(event.room.clone()).or_default();
        for (seq, state) in messages.iter_mut() {
            state.apply(*seq, event);
        }
        if let Some(state) = MessageState::sent(event) {
            messages.insert(event.seq, state);
        }
        let key = CidKey {
            room: event.room.clone(),
            author: event.by.clone(),
            cid: event.cid,
        };
        self.cids.entry(key).or_insert_with(|| {
            let mut accepted = Accepted::stored(event.seq, event.ts);
            accepted.dup = true;
            if let EventBody::Edit { rev, won, .. } = &event.body {
                (accepted.rev, accepted.won) = (Some(*rev), Some(*won));
            }
            accepted
        });
    }

    /// The answer to a question, as of the cursor.
    pub fn answer(&self, lookup: &Lookup) -> Answered {
        match lookup {
            Lookup::Room(room) => Answered::Room(self.rooms.get(room).cloned().map(Box::new)),
            Lookup::Messages(room, seqs) => {
                let messages = self.messages.get(room);
                Answered::Messages(
                    seqs.iter()
                        .map(|seq| messages.and_then(|messages| messages.get(seq)).cloned())
                        .collect(),
                )
            }
            Lookup::Cids(keys) => {
                Answered::Cids(keys.iter().map(|key| self.cids.get(key).cloned()).collect())
            }
            Lookup::User(user) => Answered::User(UserFacts {
                known: self.rooms.contains_key(&RoomId::own(user)),
                rooms: 1,
            }),
        }
    }
}
