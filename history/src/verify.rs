//! Whether the archive agrees with itself: each room's chain, and its messages with its events.
//!
//! Everything is computed anew from the lines. The chain alone is checked by [`ChainCheck`], which
//! takes the lines of the log as well.

mod fold;

use crate::projector::kind_of;
use crate::record::hash_of;
use crate::store::verify::EventCheck;
use crate::store::{self, Snapshot, StoreError};
use fold::{Fold, difference};
use protocol::chain::Hash;
use protocol::event::{Event, EventBody, LogEvent};
use protocol::{RoomId, Seq};
use sqlx::PgPool;

/// Rows that are read at once.
const CHUNK: u32 = 2_000;

/// The first thing that is wrong with a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The event or message.
    pub seq: Seq,
    /// Where: `events`, `messages`, `rooms` or `log`.
    pub place: &'static str,
    /// What is wrong.
    pub what: String,
}

/// What was found about a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomReport {
    /// The room.
    pub room: RoomId,
    /// Events checked.
    pub events: u64,
    /// Messages checked.
    pub messages: u64,
    /// Seq and hash of the last event of the chain.
    pub head: (Seq, Hash),
    /// The first fault, if there is one.
    pub fault: Option<Fault>,
}

/// Checks a chain, line after line.
#[derive(Clone, Debug)]
pub struct ChainCheck {
    head: Seq,
    hash: Hash,
    place: &'static str,
}

impl ChainCheck {
    /// A chain from its first event on; `place` names it in faults.
    #[must_use]
    pub const fn new(place: &'static str) -> Self {
        Self {
            head: Seq(0),
            hash: Hash::ZERO,
            place,
        }
    }

    /// A chain that goes on behind this event.
    #[must_use]
    pub const fn after(place: &'static str, head: Seq, hash: Hash) -> Self {
        Self { head, hash, place }
    }

    /// The last event that was checked, and its hash.
    #[must_use]
    pub const fn head(&self) -> (Seq, Hash) {
        (self.head, self.hash)
    }

    /// Checks that a line is the next event: its seq, and that it names the one before.
    ///
    /// # Errors
    /// The fault; the chain stands where it was.
    pub fn next(&mut self, line: &str) -> Result<Event, Fault> {
        let expected = self.head.next();
        let fault = |seq, what| Fault {
            seq,
            place: self.place,
            what,
        };
        let logged = LogEvent::parse(line)
            .map_err(|error| fault(expected, format!("the line cannot be read: {error}")))?;
        let event = logged.event;
        let follows = match &event.body {
            EventBody::Void { from } => *from == expected && event.seq >= expected,
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Unknown(_) => event.seq == expected,
        };
        if !follows {
            let what = format!("expected seq {expected}, found {}", event.seq);
            return Err(fault(expected, what));
        }
        if logged.prev != self.hash {
            let what = format!(
                "prev is {}, but the event before hashes to {}",
                logged.prev, self.hash
            );
            return Err(fault(event.seq, what));
        }
        (self.head, self.hash) = (event.seq, hash_of(line));
        Ok(event)
    }
}

/// Every room of the archive.
///
/// # Errors
/// If Postgres does not answer.
pub async fn rooms(pool: &PgPool) -> Result<Vec<RoomId>, StoreError> {
    let mut snapshot = Snapshot::begin(pool).await?;
    let rooms = store::verify::rooms(&mut snapshot).await?;
    snapshot.end().await?;
    Ok(rooms)
}

/// Checks a room; `None` if the archive has none of that id.
///
/// # Errors
/// If Postgres does not answer; what is wrong with the room is in the report.
pub async fn room(pool: &PgPool, room: &RoomId) -> Result<Option<RoomReport>, StoreError> {
    let mut snapshot = Snapshot::begin(pool).await?;
    let Some(row) = store::verify::room(&mut snapshot, room).await? else {
        return Ok(None);
    };
    let mut fold = Fold::default();
    let mut chain = ChainCheck::new("events");
    let mut fault = events(&mut snapshot, room, &mut chain, &mut fold).await?;
    let mut messages = 0;
    if fault.is_none() {
        (messages, fault) = self::messages(&mut snapshot, room, &fold).await?;
    }
    if fault.is_none() && chain.head() != (row.head, row.head_hash) {
        let what = format!(
            "the row says {}:{}, the chain ends at {}:{}",
            row.head, row.head_hash, chain.head, chain.hash
        );
        fault = Some(Fault {
            seq: chain.head,
            place: "rooms",
            what,
        });
    }
    snapshot.end().await?;
    let head = chain.head();
    Ok(Some(RoomReport {
        room: room.clone(),
        events: fold.events,
        messages,
        head,
        fault,
    }))
}

async fn events(
    snapshot: &mut Snapshot,
    room: &RoomId,
    chain: &mut ChainCheck,
    fold: &mut Fold,
) -> Result<Option<Fault>, StoreError> {
    let mut after = Seq(0);
    loop {
        let rows = store::verify::events(snapshot, room, after, CHUNK).await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        after = last.event.seq;
        for row in &rows {
            match check_event(row, chain) {
                Ok(event) => fold.add(&event),
                Err(fault) => return Ok(Some(fault)),
            }
        }
    }
}

fn check_event(row: &EventCheck, chain: &mut ChainCheck) -> Result<Event, Fault> {
    let fault = |what: String| Fault {
        seq: row.event.seq,
        place: "events",
        what,
    };
    if let Some(poison) = &row.poison {
        return Err(fault(format!("it was not applied: {poison}")));
    }
    let hash = hash_of(&row.event.line);
    if hash != row.hash {
        return Err(fault(format!(
            "the line hashes to {hash}, the row says {}",
            row.hash
        )));
    }
    let event = chain.next(&row.event.line)?;
    let checks = [
        (row.kind == kind_of(&event.body), "kind"),
        (row.author.as_ref() == Some(&event.by), "author"),
        (row.cid == Some(event.cid.uuid()), "cid"),
    ];
    if let Some((_, column)) = checks.iter().find(|(same, _)| !same) {
        return Err(fault(format!(
            "the column {column} is not what the line says"
        )));
    }
    if event.seq != row.event.seq || event.room != row.event.room {
        return Err(fault(format!(
            "the line is of {} in room {}",
            event.seq, event.room
        )));
    }
    Ok(event)
}

async fn messages(
    snapshot: &mut Snapshot,
    room: &RoomId,
    fold: &Fold,
) -> Result<(u64, Option<Fault>), StoreError> {
    let fault = |seq, what: &str| {
        Some(Fault {
            seq,
            place: "messages",
            what: what.to_owned(),
        })
    };
    let mut expected = fold.messages.iter();
    let (mut checked, mut after) = (0, Seq(0));
    loop {
        let rows = store::verify::messages(snapshot, room, after, CHUNK).await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in &rows {
            match expected.next() {
                Some((seq, _)) if *seq < row.seq => {
                    return Ok((checked, fault(*seq, "the row is missing")));
                }
                Some((seq, shown)) if *seq == row.seq => {
                    if let Some(what) = difference(shown, row) {
                        return Ok((checked, fault(row.seq, what)));
                    }
                }
                Some(_) | None => {
                    return Ok((
                        checked,
                        fault(row.seq, "there is no such message in the events"),
                    ));
                }
            }
            checked += 1;
        }
    }
    Ok((
        checked,
        expected
            .next()
            .and_then(|(seq, _)| fault(*seq, "the row is missing")),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::chain::{Salt, seal};
    use protocol::event::{HistoryScope, RoomChanges, RoomKind};
    use protocol::{Cid, Timestamp, UserId};

    fn lines(count: u64) -> Vec<String> {
        let mut prev = Hash::ZERO;
        let mut lines = Vec::new();
        for seq in 1..=count {
            let changes = RoomChanges {
                history: Some(HistoryScope::All),
                ..RoomChanges::default()
            };
            let sealed = seal(&LogEvent {
                prev,
                salt: Salt([7; 16]),
                event: Event {
                    room: RoomId::parse("r1").unwrap(),
                    seq: Seq(seq),
                    ts: Timestamp(5),
                    by: UserId::parse("alice").unwrap(),
                    cid: Cid::from_parts(seq, [0; 10]),
                    body: EventBody::Room {
                        kind: Some(RoomKind::Public),
                        changes,
                    },
                },
            });
            prev = sealed.hash;
            lines.push(sealed.line);
        }
        lines
    }

    fn first_fault(lines: &[String]) -> Option<u64> {
        let mut chain = ChainCheck::new("log");
        lines
            .iter()
            .find_map(|line| chain.next(line).err())
            .map(|fault| fault.seq.0)
    }

    #[test]
    fn a_whole_chain_has_no_fault() {
        assert_eq!(first_fault(&lines(5)), None);
    }

    #[test]
    fn a_changed_a_missing_and_a_repeated_line_are_found_where_they_are() {
        let mut changed = lines(5);
        changed[2] = changed[2].replace("alice", "alicf");
        assert_eq!(
            first_fault(&changed),
            Some(4),
            "the next one names what it was"
        );
        let mut missing = lines(5);
        missing.remove(2);
        assert_eq!(first_fault(&missing), Some(3));
        let mut repeated = lines(5);
        repeated.insert(3, repeated[2].clone());
        assert_eq!(first_fault(&repeated), Some(4));
    }
}
