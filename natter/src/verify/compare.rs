//! Log against archive, event by event. Pure.

use history::record::{Content, Record};
use history::verify::{ChainCheck, Fault};
use protocol::chain::{Hash, hash_line};
use protocol::event::{EventBody, LogEvent};
use protocol::{RoomId, Seq, StreamSeq};

/// One event's line, from the log or from the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) seq: Seq,
    pub(crate) line: String,
    pub(crate) place: Place,
}

/// Where an event lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: StreamSeq,
    /// From 0, among the events of the record.
    pub(crate) index: i32,
    /// Whether it is the first event of its command.
    pub(crate) first: bool,
}

/// What the log holds of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// The first event, after which the chain is whole; older ones have aged out.
    pub(crate) from: Seq,
    /// The last event and its hash.
    pub(crate) head: (Seq, Hash),
}

/// Checks the chain of what the log holds; `None` if it holds nothing.
///
/// # Errors
/// The first event that does not follow the one before it.
pub(crate) fn check_log(lines: &[Line]) -> Result<Option<Held>, Fault> {
    let Some(first) = lines.first() else {
        return Ok(None);
    };
    let mut chain = if first.seq <= Seq(1) {
        ChainCheck::new("log")
    } else {
        // What it names as its predecessor has aged out of the log; the archive proves it.
        let logged = LogEvent::parse(&first.line).map_err(|error| {
            let what = format!("the line cannot be read: {error}");
            Fault {
                seq: first.seq,
                place: "log",
                what,
            }
        })?;
        let before = match logged.event.body {
            EventBody::Void { from } => from.before(),
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Unknown(_) => first.seq.before(),
        };
        ChainCheck::after("log", before, logged.prev)
    };
    for line in lines {
        chain.next(&line.line)?;
    }
    Ok(Some(Held {
        from: first.seq,
        head: chain.head(),
    }))
}

/// Finds the first event that is not the same in both; what is above `archive`'s end is not archived yet.
pub(crate) fn first_difference(log: &[Line], archive: &[Line]) -> Option<Fault> {
    let fault = |seq, place, what: &str| {
        Some(Fault {
            seq,
            place,
            what: what.to_owned(),
        })
    };
    let (first, last) = (log.first()?.seq, archive.last()?.seq);
    let mut archived = archive
        .iter()
        .skip_while(|line| line.seq < first)
        .peekable();
    for logged in log.iter().take_while(|line| line.seq <= last) {
        match archived.next() {
            Some(line) if line.seq == logged.seq => {
                if hash(&line.line) != hash(&logged.line) {
                    return fault(line.seq, "events", "the line is not the log's");
                }
                if line.line != logged.line && !is_erased(&line.line) {
                    return fault(line.seq, "events", "the line is not the log's, to the byte");
                }
                if line.place != logged.place {
                    return fault(line.seq, "events", "its place is not the log's");
                }
            }
            Some(line) if line.seq < logged.seq => {
                return fault(line.seq, "events", "the log has no such event");
            }
            Some(_) | None => return fault(logged.seq, "events", "the row is missing"),
        }
    }
    let extra = archived.peek()?;
    fault(extra.seq, "events", "the log ends before it")
}

/// Whether the chain had this hash at this seq; `Err` names what it had.
///
/// # Errors
/// What is there instead, in words.
pub(crate) fn check_expected(lines: &[Line], seq: Seq, expected: Hash) -> Result<(), String> {
    let Some(line) = lines.iter().find(|line| line.seq == seq) else {
        return Err(format!("there is no event {seq}"));
    };
    match hash(&line.line) {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(format!("the event {seq} hashes to {found}")),
        None => Err(format!("the event {seq} cannot be read")),
    }
}

/// Whether a commitment has taken the place of the content.
fn is_erased(line: &str) -> bool {
    let fields: Option<serde_json::Map<_, serde_json::Value>> = serde_json::from_str(line).ok();
    fields.is_some_and(|fields| fields.contains_key("commit") && !fields.contains_key("salt"))
}

/// Compared by hash: erased content has another line and the same hash.
fn hash(line: &str) -> Option<Hash> {
    hash_line(line).ok()
}

/// The events of `room` in a record.
///
/// # Errors
/// The record, or a line of it, cannot be read; says why.
pub(crate) fn lines_of(room: &RoomId, record: Record) -> Result<Vec<Line>, String> {
    let position = record.position;
    let lines = match record.content {
        Content::Epoch { .. } => Vec::new(),
        Content::Events {
            broken: None,
            lines,
            ..
        } => lines,
        Content::Events {
            broken: Some(broken),
            ..
        }
        | Content::Bad(broken) => {
            return Err(broken.reason);
        }
    };
    let of_room = lines.into_iter().filter(|line| line.room == *room);
    let found = of_room.map(|line| {
        let event = line.event.map_err(|poison| poison.to_string())?;
        let place = Place {
            position,
            index: line.index,
            first: !line.continues,
        };
        Ok(Line {
            seq: event.event.seq,
            line: line.line,
            place,
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::chain::{Salt, seal};
    use protocol::event::{Event, Message};
    use protocol::{Cid, Timestamp, UserId};

    fn chain(texts: &[&str]) -> Vec<Line> {
        let mut prev = Hash::ZERO;
        let mut lines = Vec::new();
        for (seq, text) in (1..).zip(texts) {
            let message = Message {
                text: (*text).to_owned(),
                ..Message::default()
            };
            let sealed = seal(&LogEvent {
                prev,
                salt: Salt([3; 16]),
                event: Event {
                    room: RoomId::parse("r1").unwrap(),
                    seq: Seq(seq),
                    ts: Timestamp(5),
                    by: UserId::parse("alice").unwrap(),
                    cid: Cid::from_parts(seq, [0; 10]),
                    body: EventBody::Msg(message),
                },
            });
            prev = sealed.hash;
            let place = Place {
                position: StreamSeq(seq),
                index: 0,
                first: true,
            };
            lines.push(Line {
                seq: Seq(seq),
                line: sealed.line,
                place,
            });
        }
        lines
    }

    fn found(log: &[Line], archive: &[Line]) -> Option<(u64, &'static str)> {
        first_difference(log, archive).map(|fault| (fault.seq.0, fault.place))
    }

    #[test]
    fn the_same_chain_is_the_same_also_when_the_log_begins_later_or_is_ahead() {
        let lines = chain(&["a", "b", "c", "d"]);
        assert_eq!(found(&lines, &lines), None);
        assert_eq!(found(&lines[2..], &lines), None);
        assert_eq!(found(&lines, &lines[..3]), None);
        assert_eq!(found(&[], &lines), None);
        let held = check_log(&lines[2..]).unwrap().unwrap();
        assert_eq!((held.from, held.head.0), (Seq(3), Seq(4)));
        assert_eq!(check_log(&lines).unwrap().unwrap().head, held.head);
    }

    #[test]
    fn the_first_event_that_differs_is_named() {
        let lines = chain(&["a", "b", "c", "d"]);
        let mut changed = lines.clone();
        changed[1].line = changed[1].line.replace("\"b\"", "\"B\"");
        assert_eq!(found(&lines, &changed), Some((2, "events")));
        let mut blank = lines.clone();
        blank[3].line.push(' ');
        assert_eq!(found(&lines, &blank), Some((4, "events")));
        let chained_anew = chain(&["a", "x", "c", "d"]);
        assert_eq!(found(&lines, &chained_anew), Some((2, "events")));
        let mut moved = lines.clone();
        moved[2].place.position = StreamSeq(9);
        assert_eq!(found(&lines, &moved), Some((3, "events")));
        let mut missing = lines.clone();
        missing.remove(2);
        assert_eq!(found(&lines, &missing), Some((3, "events")));
        assert_eq!(found(&missing, &lines), Some((3, "events")));
        assert_eq!(found(&lines[..3], &lines), Some((4, "events")));
    }

    #[test]
    fn a_log_that_does_not_chain_is_found() {
        let mut lines = chain(&["a", "b", "c"]);
        lines[1].line = lines[1].line.replace("\"b\"", "\"B\"");
        assert_eq!(check_log(&lines).unwrap_err().seq, Seq(3));
        let mut hole = chain(&["a", "b", "c"]);
        hole.remove(1);
        assert_eq!(check_log(&hole).unwrap_err().seq, Seq(2));
    }

    #[test]
    fn an_anchor_holds_or_says_what_is_there() {
        let lines = chain(&["a", "b"]);
        let head = check_log(&lines).unwrap().unwrap().head;
        assert_eq!(check_expected(&lines, head.0, head.1), Ok(()));
        assert!(
            check_expected(&lines, Seq(1), head.1)
                .unwrap_err()
                .contains("hashes to")
        );
        assert!(
            check_expected(&lines, Seq(9), head.1)
                .unwrap_err()
                .contains("no event")
        );
    }
}
