//! Whether the log is lost, and what a new one begins with. Pure, but for fresh salts and names.

use chassis::nats::StreamState;
use chassis::topology::SUCCEEDS;
use history::store::cursor::Cursor;
use history::store::heads::Head;
use protocol::chain::{Salt, seal};
use protocol::envelope::{EnvelopeBuilder, EnvelopeId, epoch_record};
use protocol::event::{Event, EventBody, LogEvent};
use protocol::subject::LOG_EPOCH_METADATA;
use protocol::{Cid, InstanceId, Seq, StreamSeq, Timestamp, UserId};

/// Whom a `void` comes from: no person.
const AUTHOR: &str = "natter";

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The archive follows no log yet.
    New,
    /// History can follow the log.
    Whole,
    /// The log is lost, and the archive has all that is left; says what happened.
    Lost(String),
    /// History cannot follow the log, which has records that are not in the archive.
    Unapplied(String),
}

/// Compares history's cursor with what the broker has.
pub(super) fn judge(cursor: Option<&Cursor>, log: Option<&StreamState>) -> Finding {
    let Some(cursor) = cursor else {
        return Finding::New;
    };
    let applied = cursor.applied;
    let was = format!("lost      log {} behind record {applied}", cursor.log);
    let Some(log) = log else {
        return Finding::Lost(format!("{was}: the broker has none"));
    };
    let id = log.metadata.get(LOG_EPOCH_METADATA).map(String::as_str);
    if id == Some(cursor.log.as_str()) {
        let (first, last) = (StreamSeq(log.first_seq), StreamSeq(log.last_seq));
        if last < applied {
            return Finding::Lost(format!("{was}: the broker has it up to {last}"));
        }
        if first > applied.next() {
            return Finding::Unapplied(format!(
                "history has applied the log up to {applied}, but the broker has only its records {first} to {last}"
            ));
        }
        return Finding::Whole;
    }
    let id = id.unwrap_or("without an id");
    if log.metadata.get(SUCCEEDS) == Some(&super::cursor_of(cursor)) {
        return Finding::Lost(format!("{was}: an earlier run did not get to its end"));
    }
    if log.messages == 0 {
        return Finding::Lost(format!("{was}: the broker has an empty log {id}"));
    }
    Finding::Unapplied(format!(
        "the broker has log {id} with {} records, and history follows log {}",
        log.messages, cursor.log
    ))
}

/// What the records of one run have in common.
#[derive(Clone, Debug)]
pub(super) struct Records {
    pub(super) instance: InstanceId,
    pub(super) skip_seqs: u64,
    pub(super) now: Timestamp,
}

/// What a partition of the new log begins with: an epoch record, and a `void` of each of its rooms.
pub(super) fn records_of(run: &Records, heads: &[Head]) -> Vec<String> {
    let mut counter = 0;
    let mut next_id = || {
        let id = EnvelopeId {
            instance: run.instance.clone(),
            epoch: 1,
            counter,
        };
        counter += 1;
        id
    };
    let mut records = vec![epoch_record(&next_id())];
    let mut builder = EnvelopeBuilder::default();
    // Time does not fall within a partition.
    let ts = heads
        .iter()
        .map(|head| head.ts)
        .fold(run.now, Timestamp::max);
    for head in heads {
        let line = seal(&void_of(head, run.skip_seqs, ts)).line;
        if !builder.fits(1, line.len()) {
            records.push(std::mem::take(&mut builder).finish(&next_id()));
        }
        builder.push(&head.room, &line);
    }
    if builder.event_count() > 0 {
        records.push(builder.finish(&next_id()));
    }
    records
}

/// The event that says that the next numbers of a room are lost.
fn void_of(head: &Head, skip_seqs: u64, ts: Timestamp) -> LogEvent {
    let unix_ms = u64::try_from(ts.0).unwrap_or(0);
    LogEvent {
        prev: head.hash,
        salt: Salt::derive(&rand::random(), 0),
        event: Event {
            room: head.room.clone(),
            seq: Seq(head.seq.0 + skip_seqs),
            ts,
            by: UserId::parse(AUTHOR).expect("it is in the grammar"),
            cid: Cid::from_parts(unix_ms, rand::random()),
            body: EventBody::Void {
                from: head.seq.next(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use history::record::{Content, Record};
    use history::verify::ChainCheck;
    use protocol::chain::Hash;
    use protocol::limits::ENVELOPE_EVENTS_MAX;
    use protocol::{LogId, RoomId};

    fn cursor(applied: u64) -> Cursor {
        Cursor {
            log: LogId::parse("old").unwrap(),
            applied: StreamSeq(applied),
            time: Timestamp(0),
        }
    }

    fn log(id: &str, first_seq: u64, last_seq: u64) -> StreamState {
        StreamState {
            first_seq,
            last_seq,
            messages: (last_seq + 1).saturating_sub(first_seq),
            bytes: 0,
            metadata: BTreeMap::from([(LOG_EPOCH_METADATA.to_owned(), id.to_owned())]),
            config: serde_json::Map::new(),
        }
    }

    /// One letter for each finding.
    fn found(cursor: Option<&Cursor>, log: Option<&StreamState>) -> char {
        match judge(cursor, log) {
            Finding::New => 'n',
            Finding::Whole => 'w',
            Finding::Lost(_) => 'l',
            Finding::Unapplied(_) => 'u',
        }
    }

    #[test]
    fn only_a_log_that_history_cannot_follow_is_replaced() {
        let at = cursor(50);
        let mut unfinished = log("new", 100, 180);
        unfinished
            .metadata
            .insert(SUCCEEDS.to_owned(), "old.50".to_owned());
        let mut of_another = unfinished.clone();
        of_another
            .metadata
            .insert(SUCCEEDS.to_owned(), "old.49".to_owned());
        let table = [
            (None, Some(log("old", 1, 9)), 'n'),
            (Some(&at), Some(log("old", 1, 60)), 'w'),
            (Some(&at), Some(log("old", 1, 50)), 'w'),
            // Everything has aged out.
            (Some(&at), Some(log("old", 51, 50)), 'w'),
            (Some(&at), None, 'l'),
            (Some(&at), Some(log("old", 1, 49)), 'l'),
            (Some(&at), Some(log("other", 1, 0)), 'l'),
            (Some(&at), Some(unfinished), 'l'),
            (Some(&at), Some(of_another), 'u'),
            (Some(&at), Some(log("other", 1, 3)), 'u'),
            (Some(&at), Some(log("old", 52, 60)), 'u'),
        ];
        for (cursor, log, expected) in table {
            assert_eq!(found(cursor, log.as_ref()), expected, "{log:?}");
        }
    }

    #[test]
    fn every_room_goes_on_from_its_head_and_says_what_is_lost() {
        let count = u64::try_from(ENVELOPE_EVENTS_MAX).unwrap() + 88;
        let heads: Vec<Head> = (1..=count)
            .map(|number| Head {
                room: RoomId::parse(&format!("r{number}")).unwrap(),
                seq: Seq(number),
                hash: Hash([7; 32]),
                ts: Timestamp(1_000 + i64::try_from(number).unwrap()),
            })
            .collect();
        let run = Records {
            instance: InstanceId::parse("k7").unwrap(),
            skip_seqs: 10_000,
            now: Timestamp(5),
        };
        let records = records_of(&run, &heads);
        let parsed: Vec<Record> = records
            .iter()
            .map(|text| Record::parse(StreamSeq(1), None, Timestamp(0), text.as_bytes()))
            .collect();
        assert!(matches!(parsed[0].content, Content::Epoch { .. }));
        assert_eq!(parsed.len(), 3, "two envelopes hold all rooms");
        let lines = parsed.iter().flat_map(Record::lines);
        let mut rooms = 0;
        for (line, head) in lines.zip(&heads) {
            let mut chain = ChainCheck::after("log", head.seq, head.hash);
            let event = chain.next(&line.line).unwrap();
            assert_eq!(event.seq, Seq(head.seq.0 + 10_000));
            let ts = Timestamp(1_000 + i64::try_from(count).unwrap());
            assert_eq!(event.ts, ts, "no time of the partition lies behind it");
            rooms += 1;
        }
        assert_eq!(rooms, heads.len());
    }
}
