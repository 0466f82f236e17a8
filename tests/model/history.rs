//! What history answers once it has applied a part of the log: the real folds, without a database.

use crate::log::{Entry, Records};
use crate::script::Script;
use messages::sequencer::{Answered, Lookup};
use protocol::query::UserFacts;
use protocol::request::Accepted;
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq};

/// The answer as of `log`.
pub fn answer(script: &Script, records: &Records, lookup: &Lookup, log: &[Entry]) -> Answered {
    match lookup {
        Lookup::Room(room) => Answered::Room(room_state(records, room, log).map(Box::new)),
        Lookup::Messages(room, seqs) => Answered::Messages(
            seqs.iter()
                .map(|seq| message_state(records, (room, *seq), log))
                .collect(),
        ),
        Lookup::Cids(keys) => Answered::Cids(
            keys.iter()
                .map(|key| {
                    let line = records.lines(log).find(|line| {
                        line.event.cid == key.cid
                            && line.event.by == key.author
                            && line.event.room == key.room
                    })?;
                    assert!(script.id_of(key.cid).is_some());
                    Some(Accepted::stored(line.event.seq, line.event.ts))
                })
                .collect(),
        ),
        Lookup::User(_) => Answered::User(UserFacts {
            known: true,
            rooms: 1,
        }),
    }
}

/// The same, as a history answers that has never seen a command: for a shortcut.
pub fn never_seen(lookup: &Lookup) -> Option<Answered> {
    match lookup {
        Lookup::Cids(keys) => Some(Answered::Cids(vec![None; keys.len()])),
        Lookup::Room(_) | Lookup::Messages(..) | Lookup::User(_) => None,
    }
}

fn room_state(records: &Records, room: &RoomId, log: &[Entry]) -> Option<RoomState> {
    let mut lines = records.lines(log).filter(|line| line.event.room == *room);
    let first = lines.next()?;
    let mut state = RoomState::create(&first.event, first.hash).ok()?;
    for line in lines {
        // What does not follow is what the properties look for; history archives it and goes on.
        if state.apply(&line.event, line.hash).is_err() {
            state.head = state.head.max(line.event.seq);
            state.head_hash = line.hash;
        }
    }
    Some(state)
}

fn message_state(
    records: &Records,
    (room, seq): (&RoomId, Seq),
    log: &[Entry],
) -> Option<MessageState> {
    let mut state = None;
    for line in records.lines(log).filter(|line| line.event.room == *room) {
        match &mut state {
            None if line.event.seq == seq => state = MessageState::sent(&line.event),
            None => {}
            Some(state) => state.apply(seq, &line.event),
        }
    }
    state
}
