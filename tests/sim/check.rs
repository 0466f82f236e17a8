//! Judges the log from the outside, by the protocol's words alone.

use crate::client::Outcome;
use crate::world::World;
use messages::policy::{Actor, Facts, Known, Verdict, admit};
use protocol::chain::{Hash, hash_line};
use protocol::command::Write;
use protocol::envelope::Envelope;
use protocol::event::{EventBody, LogEvent, MemberChange, RoomKind};
use protocol::query::UserFacts;
use protocol::request::Accepted;
use protocol::room::message::MessageState;
use protocol::room::{Mark, RoomState};
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, Event, RoomId, Seq, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// A room as the log tells it.
struct Told {
    state: RoomState,
    messages: BTreeMap<Seq, MessageState>,
    /// Commands that would have been stored before a later one of their maker was.
    overtaken: BTreeSet<(UserId, Cid)>,
    stored: BTreeSet<(UserId, Cid)>,
    /// The record in which each maker's last command is.
    last_record: BTreeMap<UserId, usize>,
}

impl Facts for Told {
    fn room(&self) -> Known<&RoomState> {
        Known::Is(&self.state)
    }
    fn message(&self, seq: Seq) -> Known<&MessageState> {
        self.messages.get(&seq).map_or(Known::Absent, Known::Is)
    }
    fn user(&self, _: &UserId) -> Known<UserFacts> {
        Known::Absent
    }
    fn last_sent(&self, _: &UserId) -> Option<Timestamp> {
        None
    }
}

impl Told {
    /// Commands of one maker for one room are stored in the order in which they were made.
    ///
    /// One that was refused, of which its maker did not hear, may be stored when it comes again: so it
    /// counts only if it could have been stored where the batch of a later one began.
    fn in_order(
        &mut self,
        world: &World,
        (record, event): (usize, &Event),
    ) -> Result<(), &'static str> {
        let name = (event.by.clone(), event.cid);
        if !self.stored.insert(name.clone()) {
            return Ok(());
        }
        if self.overtaken.contains(&name) {
            return Err("a command is stored behind a later one of its maker");
        }
        if self.last_record.insert(event.by.clone(), record) == Some(record) {
            return Ok(());
        }
        let maker = world.clients.iter().find(|client| client.user == event.by);
        let made = maker.and_then(|client| client.made.get(&event.room));
        let Some(made) = made else { return Ok(()) };
        for command in made {
            if command.cid == event.cid {
                break;
            }
            let name = (event.by.clone(), command.cid);
            let actor = Actor {
                user: &event.by,
                door: Door::User,
                guest: false,
            };
            if !self.stored.contains(&name)
                && let Verdict::Events(_) = admit(self, &actor, command, event.ts)
            {
                self.overtaken.insert(name);
            }
        }
        Ok(())
    }
}

/// Checks everything that can be seen when all is over.
///
/// # Errors
/// Says which promise is broken, and where.
pub fn log(world: &World) -> Result<(), String> {
    let mut rooms: BTreeMap<RoomId, Told> = BTreeMap::new();
    let mut commands: BTreeMap<(RoomId, UserId, Cid), (usize, Seq, Seq)> = BTreeMap::new();
    let mut last_ts = Timestamp::MIN;
    for (index, record) in world.broker.records.iter().enumerate() {
        let envelope = Envelope::parse(&record.payload).map_err(|e| e.to_string())?;
        for (line, logged) in envelope.lines().zip(&world.broker.events[index]) {
            let line = line.map_err(|e| e.to_string())?.1;
            let event = &logged.event;
            let place = format!("{} {} ({})", event.room, event.seq, event.body.kind());
            if event.ts < last_ts {
                return Err(format!("time falls at {place}"));
            }
            last_ts = event.ts;
            let hash = hash_line(line).map_err(|e| e.to_string())?;
            if let Some(told) = rooms.get_mut(&event.room) {
                let ordered = told.in_order(world, (index, event));
                ordered.map_err(|what| format!("{what} at {place}"))?;
            }
            fold(&mut rooms, logged, hash).map_err(|what| format!("{what} at {place}"))?;
            if let Some(told) = rooms.get_mut(&event.room) {
                told.last_record.insert(event.by.clone(), index);
            }
            let key = (event.room.clone(), event.by.clone(), event.cid);
            let command = commands.entry(key).or_insert((index, event.seq, event.seq));
            let continues = command.0 == index && event.seq.0 <= command.2.0 + 1;
            if !continues {
                return Err(format!("a command is stored twice, again at {place}"));
            }
            command.2 = event.seq;
        }
    }
    outcomes(world, &commands)
}

fn fold(
    rooms: &mut BTreeMap<RoomId, Told>,
    logged: &LogEvent,
    hash: Hash,
) -> Result<(), &'static str> {
    let event = &logged.event;
    let Some(told) = rooms.get_mut(&event.room) else {
        if logged.prev != Hash::ZERO {
            return Err("a room does not begin with its making");
        }
        let state = RoomState::create(event, hash).map_err(|_| "a room is not made first")?;
        let told = Told {
            state,
            messages: BTreeMap::new(),
            overtaken: BTreeSet::new(),
            stored: BTreeSet::from([(event.by.clone(), event.cid)]),
            last_record: BTreeMap::new(),
        };
        rooms.insert(event.room.clone(), told);
        return Ok(());
    };
    if logged.prev != told.state.head_hash {
        return Err("the chain is broken");
    }
    may(told, logged)?;
    told.state
        .apply(event, hash)
        .map_err(|_| "the seq is not the next")?;
    for (seq, state) in &mut told.messages {
        state.apply(*seq, event);
    }
    if let Some(state) = MessageState::sent(event) {
        told.messages.insert(event.seq, state);
    }
    Ok(())
}

/// Whether the event may stand where it does, by the room as it was just before.
fn may(told: &Told, logged: &LogEvent) -> Result<(), &'static str> {
    let (event, room) = (&logged.event, &told.state);
    let by_member = room.members.contains_key(&event.by);
    match &event.body {
        EventBody::Msg(message) => {
            if !by_member {
                return Err("somebody speaks who is no member");
            }
            if room.frozen && room.role(&event.by) < Some(protocol::event::Role::Mod) {
                return Err("somebody speaks in a frozen room");
            }
            let root = message.thread.map(|root| told.messages.get(&root));
            let numbers = match root {
                None => (message.n, message.tn) == (Some(room.n + 1), None),
                Some(None) => return Err("a thread has no root"),
                Some(Some(root)) => (message.n, message.tn) == (None, Some(root.replies + 1)),
            };
            let answers_something = message
                .reply_to
                .is_none_or(|seq| told.messages.contains_key(&seq));
            match (numbers, answers_something) {
                (false, _) => Err("the ordinal is not the next"),
                (_, false) => Err("the answered message is not there"),
                (true, true) => Ok(()),
            }
        }
        EventBody::Edit { on, rev, .. } => match told.messages.get(on) {
            Some(message) if message.deleted => Err("a deleted message is changed"),
            Some(message) if message.rev + 1 != *rev => Err("the revision is not the next"),
            Some(message) if message.author != event.by => Err("a stranger changes a message"),
            Some(_) if !by_member => Err("somebody changes who is no member"),
            Some(_) => Ok(()),
            None => Err("the changed message is not there"),
        },
        EventBody::Member { user, change, .. } => match change {
            MemberChange::Joined | MemberChange::Added if room.members.contains_key(user) => {
                Err("a member comes again")
            }
            MemberChange::Joined
                if room.is_banned(user, event.ts) && room.kind != RoomKind::Own =>
            {
                Err("a banned user comes")
            }
            MemberChange::Left | MemberChange::Kicked if !room.members.contains_key(user) => {
                Err("somebody goes who is not there")
            }
            MemberChange::Unbanned if !room.bans.contains_key(user) => {
                Err("a ban is lifted that is none")
            }
            MemberChange::Joined
            | MemberChange::Added
            | MemberChange::Left
            | MemberChange::Kicked
            | MemberChange::Banned
            | MemberChange::Unbanned
            | MemberChange::Muted
            | MemberChange::Unmuted => Ok(()),
        },
        EventBody::Read {
            target,
            mark,
            epoch,
            ..
        } => {
            let new = Mark {
                epoch: *epoch,
                seq: *mark,
            };
            if new <= room.marks.get(target).copied().unwrap_or_default() {
                return Err("a read mark does not rise");
            }
            Ok(())
        }
        EventBody::Room { .. }
        | EventBody::Role { .. }
        | EventBody::Del { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => Ok(()),
    }
}

/// What clients were told must be what is stored, and in the order in which it was made.
fn outcomes(
    world: &World,
    commands: &BTreeMap<(RoomId, UserId, Cid), (usize, Seq, Seq)>,
) -> Result<(), String> {
    for client in &world.clients {
        for ((room, cid), outcome) in &client.outcomes {
            let stored = commands.get(&(room.clone(), client.user.clone(), *cid));
            match (outcome, stored) {
                (Outcome::Noop | Outcome::Refused(_), None) => {}
                (Outcome::Stored(accepted), Some((_, seq, _))) if accepted.seq == *seq => {}
                // The room of two, or one's own, was there: somebody else's command made it.
                (Outcome::Stored(accepted), None) if accepted.dup && accepted.room.is_some() => {}
                (Outcome::Stored(accepted), _) => {
                    return Err(format!(
                        "{room} {} was answered, {stored:?} is stored",
                        accepted.seq
                    ));
                }
                (Outcome::Noop | Outcome::Refused(_), Some((_, seq, _))) => {
                    return Err(format!("{outcome:?} was answered, {room} {seq} is stored"));
                }
            }
        }
    }
    Ok(())
}

/// An acknowledgement that leaves an owner must be true already.
///
/// # Errors
/// What was acknowledged is not what is stored.
pub fn acknowledged(
    world: &World,
    (room, user): (&RoomId, &UserId),
    (cid, write): (Cid, &Write),
    accepted: &Accepted,
) -> Result<(), String> {
    let place = format!("{room} {}", accepted.seq);
    let Some(logged) = world.broker.event(room, accepted.seq) else {
        return Err(format!("{place} is acknowledged and not stored"));
    };
    // The same room of two people has one maker, whoever else asks for it.
    let is_shared = accepted.dup
        && matches!(write, Write::Create(create) if matches!(create.kind, RoomKind::Direct | RoomKind::Own));
    let is_own = logged.event.cid == cid && logged.event.by == *user;
    if is_own || is_shared {
        Ok(())
    } else {
        Err(format!("{place} is acknowledged and somebody else's"))
    }
}

/// Refusals that nothing in the simulation can cause.
pub fn is_strange(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Internal | ErrorCode::Unauthorized | ErrorCode::Unsupported
    )
}
