//! From records of the log to rows: pure, and the same however the records are batched.
//!
//! Applies exactly the next record, never past a gap, and never re-judges what is in the log.
//! An event that cannot follow is archived all the same, moves its room's head and hash, and marks
//! the room as poisoned (design section 6). All state it needs is handed in, read from the tables in
//! the transaction that writes the result, so there is nothing here that could be out of date.

pub mod rows;

use crate::record::{Content, Line, Poison, Record};
use protocol::event::{EventBody, LogEvent, MemberChange, Message, RoomKind};
use protocol::query::CidKey;
use protocol::room::{Mark, Membership, RoomState};
use protocol::{Event, RoomId, Seq, StreamSeq, UserId};
use rows::{
    BanRow, DeletionRow, EventRow, MembershipRow, MessageRow, MuteRow, Poisoned, Reason, RecordRow,
    RevisionRow, RoomRow, Rows,
};
use std::collections::{BTreeMap, BTreeSet};

/// What must be read from the tables before a batch can be projected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Rows of `rooms`.
    pub rooms: BTreeSet<RoomId>,
    /// Open rows of `memberships`.
    pub members: BTreeSet<(RoomId, UserId)>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// The cursor.
    pub applied: StreamSeq,
    /// The rooms that exist.
    pub rooms: BTreeMap<RoomId, RoomRow>,
    /// The memberships that are open, by room.
    pub members: BTreeMap<RoomId, BTreeMap<UserId, MembershipRow>>,
    /// Commands of the batch that the archive holds already. `None`: not looked up; the constraint
    /// `events_command_key` will tell if that was wrong, and then the batch is projected again.
    pub repeated: Option<BTreeSet<CidKey>>,
}

/// The next record is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected record {expected}, found {found}")]
pub struct Gap {
    /// The record that must come next.
    pub expected: StreamSeq,
    /// The one that came.
    pub found: StreamSeq,
}

/// What must be known to project these records.
#[must_use]
pub fn needs(records: &[Record]) -> Needs {
    let mut needs = Needs::default();
    for line in records.iter().flat_map(Record::lines) {
        if !needs.rooms.contains(&line.room) {
            needs.rooms.insert(line.room.clone());
        }
        let Ok(event) = &line.event else { continue };
        match &event.event.body {
            EventBody::Member { user, .. } | EventBody::Role { user, .. } => {
                needs.members.insert((line.room.clone(), user.clone()));
            }
            EventBody::Room { .. }
            | EventBody::Msg(_)
            | EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }
    needs
}

/// Projects records onto what was read; those already applied are passed over.
///
/// # Errors
/// [`Gap`] if a record is missing; nothing may be written then.
pub fn project(base: Base, records: &[Record]) -> Result<Rows<'_>, Gap> {
    let mut projector = Projector {
        rows: Rows {
            applied: base.applied,
            ..Rows::default()
        },
        rooms: BTreeMap::new(),
        stored: base.rooms,
        members: base.members,
        commands: base.repeated,
    };
    for record in records {
        if record.position <= projector.rows.applied {
            continue;
        }
        let expected = projector.rows.applied.next();
        if record.position != expected {
            return Err(Gap {
                expected,
                found: record.position,
            });
        }
        projector.record(record);
    }
    Ok(projector.finish())
}

/// A room of the batch.
struct Room {
    row: RoomRow,
    /// The fold; of its people only those are loaded whom the batch concerns.
    state: Option<RoomState>,
    /// Their rows.
    open: BTreeMap<UserId, MembershipRow>,
}

struct Projector<'a> {
    rows: Rows<'a>,
    rooms: BTreeMap<RoomId, Room>,
    stored: BTreeMap<RoomId, RoomRow>,
    members: BTreeMap<RoomId, BTreeMap<UserId, MembershipRow>>,
    commands: Option<BTreeSet<CidKey>>,
}

impl<'a> Projector<'a> {
    fn record(&mut self, record: &'a Record) {
        let (kind, envelope, rooms) = match &record.content {
            Content::Epoch { envelope } => ("epoch", Some(envelope.as_str()), ""),
            Content::Events {
                envelope,
                rooms,
                broken,
                ..
            } => {
                let kind = if broken.is_some() { "bad" } else { "events" };
                (kind, Some(envelope.as_str()), rooms.as_str())
            }
            Content::Bad(_) => ("bad", None, ""),
        };
        self.rows.records.push(RecordRow {
            position: record.position,
            partition: record.partition,
            time: record.time,
            kind,
            envelope,
            rooms,
            payload: record.broken().map(|broken| broken.payload.as_slice()),
        });
        if let Some(broken) = record.broken() {
            self.rows.poisoned.push(Poisoned {
                position: record.position,
                room: None,
                seq: None,
                reason: Reason::Record(broken.reason.clone()),
            });
        }
        for line in record.lines() {
            self.line(record.position, line);
        }
        self.rows.applied = record.position;
        self.rows.time = record.time;
    }

    fn line(&mut self, position: StreamSeq, line: &'a Line) {
        let mut room = self
            .rooms
            .remove(&line.room)
            .unwrap_or_else(|| self.load(&line.room));
        match self.apply(&mut room, position, line) {
            Ok(()) => {}
            Err(poison) => self.poison(&mut room, position, line, poison),
        }
        self.rooms.insert(line.room.clone(), room);
    }

    fn load(&mut self, room: &RoomId) -> Room {
        let row = self
            .stored
            .remove(room)
            .unwrap_or_else(|| RoomRow::unknown(room));
        let open = self.members.remove(room).unwrap_or_default();
        let state = row.state().map(|mut state| {
            let people = open
                .iter()
                .map(|(user, row)| (user.clone(), row.membership()));
            state.members = people.collect();
            state
        });
        Room { row, state, open }
    }

    /// Applies an event that may follow; on an error nothing has changed.
    fn apply(
        &mut self,
        room: &mut Room,
        position: StreamSeq,
        line: &'a Line,
    ) -> Result<(), Poison> {
        let logged = line.event.as_ref().map_err(Clone::clone)?;
        let event = &logged.event;
        check_position(&room.row, logged)?;
        self.check_command(line, event)?;
        let before = room
            .state
            .as_ref()
            .and_then(|state| membership_of(state, event))
            .is_some();
        match &mut room.state {
            Some(state) => state.apply(event, line.hash)?,
            None => {
                room.state = Some(RoomState::create(event, line.hash)?);
                room.row.creator = Some(event.by.clone());
            }
        }
        let state = room.state.as_ref().expect("it was folded or made just now");
        room.row.absorb(state);
        advance(&mut room.row, event.seq, position, line);
        room.row.head_ts = event.ts;
        let after = membership_of(state, event).copied();
        self.membership(room, position, event, (before, after));
        self.body(&room.row, event);
        self.rows
            .events
            .push(event_row(line, position, event.seq, None));
        Ok(())
    }

    /// Says no if the command was stored before, as far as that was looked up.
    fn check_command(&mut self, line: &Line, event: &Event) -> Result<(), Poison> {
        let Some(commands) = &mut self.commands else {
            return Ok(());
        };
        let key = CidKey {
            room: event.room.clone(),
            author: event.by.clone(),
            cid: event.cid,
        };
        if !line.continues && !commands.insert(key) {
            return Err(Poison::Repeated);
        }
        Ok(())
    }

    /// Archives an event that cannot follow, moves the head over it and marks its room.
    fn poison(&mut self, room: &mut Room, position: StreamSeq, line: &'a Line, poison: Poison) {
        let own = line.event.as_ref().ok().map(|event| event.event.seq);
        let next = room.row.head.next();
        // Its own seq if that is still free, so that a gap stays visible as one.
        let seq = own
            .filter(|seq| *seq > next && i64::try_from(seq.0).is_ok())
            .unwrap_or(next);
        advance(&mut room.row, seq, position, line);
        if let Some(state) = &mut room.state {
            (state.head, state.head_hash) = (seq, line.hash);
        }
        room.row
            .poison
            .get_or_insert_with(|| (seq, poison.to_string()));
        self.rows
            .events
            .push(event_row(line, position, seq, Some(poison.to_string())));
        self.rows.poisoned.push(Poisoned {
            position,
            room: Some(line.room.clone()),
            seq: Some(seq),
            reason: Reason::Event(poison),
        });
    }

    /// Turns a change of the fold's members into a change of their rows.
    fn membership(
        &mut self,
        room: &mut Room,
        position: StreamSeq,
        event: &Event,
        (before, after): (bool, Option<Membership>),
    ) {
        let Some(user) = concerned(event) else { return };
        let row = match (before, after) {
            (false, None) => return,
            (false, Some(now)) => {
                room.row.members += 1;
                let row = MembershipRow {
                    from_seq: event.seq,
                    from_stream: position,
                    to: None,
                    role: now.role,
                    join_n: now.join_n,
                };
                room.open.insert(user.clone(), row.clone());
                row
            }
            (true, Some(now)) => {
                let Some(row) = room.open.get_mut(user) else {
                    return;
                };
                row.role = now.role;
                row.clone()
            }
            (true, None) => {
                room.row.members = room.row.members.saturating_sub(1);
                let Some(mut row) = room.open.remove(user) else {
                    return;
                };
                row.to = Some((event.seq, position));
                row
            }
        };
        let key = (event.room.clone(), user.clone(), row.from_seq);
        self.rows.memberships.insert(key, row);
    }

    /// What an event does beside moving its room and its people.
    fn body(&mut self, room: &RoomRow, event: &'a Event) {
        let own = room.kind == Some(RoomKind::Own);
        match &event.body {
            EventBody::Room { .. } if own && event.seq == Seq(1) => {
                let entry = self.rows.users.entry(event.by.clone());
                entry.or_insert_with(|| (event.room.clone(), event.ts));
            }
            EventBody::Member { .. } => self.restriction(event),
            EventBody::Msg(message) => {
                if let Some(root) = message.thread {
                    let greatest = self
                        .rows
                        .threads
                        .entry((event.room.clone(), root))
                        .or_default();
                    *greatest = (*greatest).max(message.tn.unwrap_or(0));
                }
                self.rows.messages.push(message_row(event, message));
            }
            EventBody::Edit { .. } => self.rows.revisions.extend(revision_row(event)),
            EventBody::Del { .. } => self.rows.deletions.extend(deletion_rows(event)),
            EventBody::Read {
                target,
                mark,
                epoch,
                ..
            } => {
                if let Some(owner) = room.creator.as_ref().filter(|_| own) {
                    let new = Mark {
                        epoch: *epoch,
                        seq: *mark,
                    };
                    let old = self
                        .rows
                        .marks
                        .entry((owner.clone(), target.clone()))
                        .or_default();
                    *old = (*old).max(new);
                }
            }
            EventBody::Room { .. }
            | EventBody::Role { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }

    /// Bans and mutes; an expired one is no event, so it is not seen here.
    fn restriction(&mut self, event: &Event) {
        let EventBody::Member {
            user,
            change,
            until,
            why,
            ..
        } = &event.body
        else {
            return;
        };
        let key = (event.room.clone(), user.clone());
        match change {
            MemberChange::Banned => {
                let row = BanRow {
                    since: event.seq,
                    until: *until,
                    author: event.by.clone(),
                    ts: event.ts,
                    why: why.clone(),
                };
                self.rows.bans.insert(key, Some(row));
            }
            MemberChange::Unbanned => {
                self.rows.bans.insert(key, None);
            }
            MemberChange::Muted => {
                let row = MuteRow {
                    since: event.seq,
                    until: *until,
                };
                self.rows.mutes.insert(key, Some(row));
            }
            MemberChange::Unmuted => {
                self.rows.mutes.insert(key, None);
            }
            MemberChange::Joined
            | MemberChange::Added
            | MemberChange::Left
            | MemberChange::Kicked => {}
        }
    }

    fn finish(mut self) -> Rows<'a> {
        self.rows.rooms = self.rooms.into_values().map(|room| room.row).collect();
        self.rows
    }
}

/// Whether an event is the next of its room, by seq and by hash.
fn check_position(room: &RoomRow, logged: &LogEvent) -> Result<(), Poison> {
    let event = &logged.event;
    let expected = room.head.next();
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
    if !follows || i64::try_from(event.seq.0).is_err() {
        return Err(Poison::Seq {
            expected,
            found: event.seq,
        });
    }
    if logged.prev != room.head_hash {
        return Err(Poison::Prev);
    }
    Ok(())
}

fn advance(room: &mut RoomRow, seq: Seq, position: StreamSeq, line: &Line) {
    room.head = seq;
    room.head_hash = line.hash;
    room.head_stream = position;
}

/// The user whose membership an event may change.
fn concerned(event: &Event) -> Option<&UserId> {
    match &event.body {
        EventBody::Member { user, .. } | EventBody::Role { user, .. } => Some(user),
        EventBody::Room { .. }
        | EventBody::Msg(_)
        | EventBody::Edit { .. }
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => None,
    }
}

fn membership_of<'s>(state: &'s RoomState, event: &Event) -> Option<&'s Membership> {
    state.members.get(concerned(event)?)
}

/// The word in `events.kind` of an event that was applied.
pub(crate) const fn kind_of(body: &EventBody) -> &'static str {
    match body {
        EventBody::Room { .. } => "room",
        EventBody::Member { .. } => "member",
        EventBody::Role { .. } => "role",
        EventBody::Msg(message) if message.thread.is_some() => "reply",
        EventBody::Msg(_) => "msg",
        EventBody::Edit { .. } => "edit",
        EventBody::Del { .. } => "del",
        EventBody::Read { .. } => "read",
        EventBody::Void { .. } => "void",
        EventBody::Unknown(_) => "other",
    }
}

fn event_row(line: &Line, position: StreamSeq, seq: Seq, poison: Option<String>) -> EventRow<'_> {
    let event = line.event.as_ref().ok().map(|logged| &logged.event);
    let kind = match event.filter(|_| poison.is_none()) {
        None => "poison",
        Some(event) => kind_of(&event.body),
    };
    EventRow {
        room: line.room.clone(),
        seq,
        position,
        index: line.index,
        kind,
        author: event.map(|event| event.by.clone()),
        cid: event.map(|event| event.cid),
        // What was not applied took no command's place.
        first: poison.is_none() && !line.continues,
        hash: line.hash,
        poison,
        line: &line.line,
    }
}

fn revision_row(event: &Event) -> Option<RevisionRow<'_>> {
    let EventBody::Edit {
        on,
        rev,
        text,
        mentions,
        won,
        eff,
    } = &event.body
    else {
        return None;
    };
    Some(RevisionRow {
        room: event.room.clone(),
        on: *on,
        seq: event.seq,
        rev: *rev,
        author: event.by.clone(),
        ts: event.ts,
        eff: *eff,
        won: *won,
        mentions,
        text,
    })
}

fn deletion_rows(event: &Event) -> Vec<DeletionRow> {
    let EventBody::Del { on, user, to, .. } = &event.body else {
        return Vec::new();
    };
    let row = |from, to, author| DeletionRow {
        room: event.room.clone(),
        seq: event.seq,
        from,
        to,
        author,
    };
    let by_user = user
        .as_ref()
        .zip(*to)
        .map(|(user, to)| row(Seq(1), to, Some(user.clone())));
    on.iter()
        .map(|range| row(range.0, range.1, None))
        .chain(by_user)
        .collect()
}

fn message_row<'a>(event: &Event, message: &'a Message) -> MessageRow<'a> {
    let meta = message.meta.as_ref();
    MessageRow {
        room: event.room.clone(),
        seq: event.seq,
        author: event.by.clone(),
        ts: event.ts,
        cid: event.cid,
        n: message.n,
        thread: message.thread,
        tn: message.tn,
        reply_to: message.reply_to,
        meta: meta.map(|meta| serde_json::to_string(meta).expect("JSON came from JSON")),
        text: &message.text,
        mentions: &message.mentions,
    }
}

#[cfg(test)]
mod tests;
