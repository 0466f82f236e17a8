//! Judging one command: own bytes, repeats, rate, then [`crate::policy`].

use super::build::Build;
use super::desk::{Active, Answers};
use super::lookup::Wanted;
use super::refusals::is_never;
use super::{Pressure, Sequencer, unavailable_refusal};
use crate::dedup::Key;
use crate::partition::{Origin, Partition, Slot, original};
use crate::policy::{Actor, Facts, Known, Need, Verdict, admit};
use protocol::chain::Salt;
use protocol::command::{Write, WriteCommand};
use protocol::event::{EventBody, RoomKind};
use protocol::limits::CID_AHEAD_MS_MAX;
use protocol::query::{CidKey, UserFacts};
use protocol::request::{Accepted, CommandResult};
use protocol::room::message::MessageState;
use protocol::room::{Restriction, RoomState};
use protocol::{ErrorCode, Refusal, RoomId, Seq, Timestamp, UserId};
use std::collections::BTreeMap;

/// What became of one command for now.
pub(super) enum Judged {
    /// Nothing can change this any more.
    Final(CommandResult),
    /// This stands once the envelope is stored, or the state is proven to be the present one.
    Tentative(CommandResult),
    /// Something must be looked up first.
    Wait(Vec<Wanted>),
    /// Its events do not fit into the envelope any more.
    Full,
}

/// Where a repeat of a command was found.
enum Repeat {
    Stored(Accepted),
    InThisEnvelope(Accepted),
    MustAsk,
    None,
}

impl Sequencer {
    /// Judges the next command of a request.
    pub(super) fn judge(&mut self, active: &Active, build: &mut Build, now: Timestamp) -> Judged {
        let index = active.results.len();
        let request = &active.request;
        let Some(command) = request.body.commands.get(index) else {
            unreachable!("only unjudged commands are judged")
        };
        if let Err(refusal) = self.own_bytes(request, command) {
            return Judged::Final(CommandResult::Err(refusal));
        }
        let key = Key::new(&request.room, &request.actor, command.cid);
        match self.repeat(active, command, (&key, build)) {
            Repeat::Stored(mut accepted) => {
                name_room(&mut accepted, command, &request.room);
                return Judged::Final(CommandResult::Ok(accepted));
            }
            Repeat::InThisEnvelope(mut accepted) => {
                name_room(&mut accepted, command, &request.room);
                return Judged::Tentative(CommandResult::Ok(accepted));
            }
            Repeat::MustAsk => return Judged::Wait(self.unknown_cids(active)),
            Repeat::None => {}
        }
        if let Some(told) = self.refusals.get(&key, self.wall(now)) {
            return Judged::Tentative(told.clone());
        }
        if self.may_be_refused_elsewhere(request, now) {
            let refusal = Refusal::plain(ErrorCode::Timeout);
            return Judged::Final(CommandResult::Err(refusal));
        }
        let judged = self.judge_new(active, (command, key), (build, now));
        self.expect_refusal(key, judged)
    }

    /// Judges a command that is in no record and that nobody was told anything about.
    fn judge_new(
        &mut self,
        active: &Active,
        (command, key): (&WriteCommand, Key),
        (build, now): (&mut Build, Timestamp),
    ) -> Judged {
        let request = &active.request;
        if command.cid.time().since_ms(now) > CID_AHEAD_MS_MAX {
            let mut refusal = Refusal::plain(ErrorCode::ClockSkew);
            refusal.now = Some(now);
            return Judged::Tentative(CommandResult::Err(refusal));
        }
        if let Err(refusal) = self.has_room_for(request, now) {
            return Judged::Final(CommandResult::Err(refusal));
        }
        let look = Look {
            partition: &self.partition,
            room: &request.room,
            answers: &active.answers,
            makes: makes_new_room(command),
        };
        let actor = Actor {
            user: &request.actor,
            door: request.door,
            guest: request.body.guest,
        };
        match admit(&look, &actor, command, now) {
            Verdict::Events(bodies) => self.store(active, (command, key), bodies, (build, now)),
            Verdict::Refuse(refusal) if refusal.temp => Judged::Final(CommandResult::Err(refusal)),
            Verdict::Refuse(refusal) => Judged::Tentative(CommandResult::Err(refusal)),
            Verdict::Noop => {
                let head = self
                    .partition
                    .warm(&request.room)
                    .map_or(Seq(0), |room| room.state.head);
                Judged::Tentative(CommandResult::Ok(Accepted::noop(head)))
            }
            Verdict::Exists(seq) => {
                let mut accepted = Accepted::noop(seq);
                (accepted.noop, accepted.dup) = (false, true);
                name_room(&mut accepted, command, &request.room);
                Judged::Tentative(CommandResult::Ok(accepted))
            }
            Verdict::Need(needs) => self.wait_for(&request.room, needs),
        }
    }

    /// Remembers a final refusal before it stands: a copy of the same command may be judged next.
    fn expect_refusal(&mut self, key: Key, judged: Judged) -> Judged {
        let Judged::Tentative(result) = &judged else {
            return judged;
        };
        if !is_never(result) {
            return judged;
        }
        if self.refusals.len() >= self.config.refusals_max {
            let refusal = unavailable_refusal("too many commands were refused lately");
            return Judged::Final(CommandResult::Err(refusal));
        }
        self.refusals.expect(key, result);
        judged
    }

    /// Whether the owner before may have refused a copy for a reason that has gone away since.
    ///
    /// It cannot be asked any more. It refused before our first record, and what takes a reason away is
    /// an event of the room, or the end of a ban or mute: a command made after any of these was not
    /// refused and then allowed. One made before has to come again; its client is told that nothing is
    /// known. (Only a command about a message that was not there yet slips through.)
    fn may_be_refused_elsewhere(&self, request: &super::Request, now: Timestamp) -> bool {
        let is_before = |moment: Timestamp| {
            request.body.deadline <= moment.plus_ms(self.config.request_within_ms)
        };
        if !self.fenced_at.is_some_and(is_before) {
            return false;
        }
        let has_ended = |restrictions: &BTreeMap<UserId, Restriction>| {
            let until = restrictions.get(&request.actor).and_then(|it| it.until);
            until.is_some_and(|until| until <= now && is_before(until))
        };
        let warm = self.partition.warm(&request.room).map(|room| &room.state);
        warm.is_some_and(|state| has_ended(&state.bans) || has_ended(&state.mutes))
            || self
                .partition
                .rights_changed(&request.room)
                .is_some_and(is_before)
    }

    /// What needs nothing but the request itself.
    fn own_bytes(&self, request: &super::Request, command: &WriteCommand) -> Result<(), Refusal> {
        command.check()?;
        let room = command.room(&request.actor, Some(&request.room))?;
        if room != request.room {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                "the command belongs to another room",
            ));
        }
        if room.partition() != self.number {
            return Err(Refusal::new(
                ErrorCode::BadRequest,
                "the room belongs to another partition",
            ));
        }
        Ok(())
    }

    fn repeat(
        &self,
        active: &Active,
        command: &WriteCommand,
        (key, build): (&Key, &Build),
    ) -> Repeat {
        if let Some(original) = build.commands.get(key) {
            return Repeat::InThisEnvelope(original.repeat());
        }
        let dedup = &self.partition.dedup;
        if let Some(original) = dedup.get(key) {
            return Repeat::Stored(original.repeat());
        }
        if dedup.is_fresh(command.cid) {
            return Repeat::None;
        }
        match active.answers.cids.get(&command.cid) {
            // What history had stored stays stored, however old the answer is.
            Some((_, Some(accepted))) => Repeat::Stored(Accepted {
                dup: true,
                ..accepted.clone()
            }),
            Some((applied, None)) if *applied >= dedup.position() => Repeat::None,
            Some((_, None)) | None => Repeat::MustAsk,
        }
    }

    /// All cids of the rest of the request that only history knows.
    fn unknown_cids(&self, active: &Active) -> Vec<Wanted> {
        let request = &active.request;
        let rest = request.body.commands.iter().skip(active.results.len());
        rest.filter(|command| !self.partition.dedup.is_fresh(command.cid))
            .map(|command| Wanted::Cid(CidKey::new(&request.room, &request.actor, command)))
            .collect()
    }

    /// Temporary reasons that have nothing to do with what is asked.
    fn has_room_for(&self, request: &super::Request, now: Timestamp) -> Result<(), Refusal> {
        if self.pressure == Pressure::Full {
            return Err(unavailable_refusal("this server's memory is full"));
        }
        let room = match self.partition.slot(&request.room) {
            Some(Slot::Poisoned) => {
                return Err(
                    unavailable_refusal("the room is damaged and being repaired").after_ms(30_000),
                );
            }
            Some(Slot::Warm(room)) => room,
            Some(Slot::Cold(_)) | None => return Ok(()),
        };
        let Some((rate, bucket)) = self.config.rate.zip(room.buckets.get(&request.actor)) else {
            return Ok(());
        };
        bucket
            .check(rate, now)
            .map_err(|wait_ms| Refusal::plain(ErrorCode::RateLimited).after_ms(wait_ms))
    }

    fn wait_for(&self, room: &RoomId, needs: Vec<Need>) -> Judged {
        if self.pressure > Pressure::Low && needs.contains(&Need::Room) {
            let refusal = unavailable_refusal("this server's memory is nearly full");
            return Judged::Final(CommandResult::Err(refusal));
        }
        let wanted = needs.into_iter().map(|need| match need {
            Need::Room => Wanted::Room(room.clone()),
            Need::Message(seq) => Wanted::Message(room.clone(), seq),
            Need::User(user) => Wanted::User(user),
        });
        Judged::Wait(wanted.collect())
    }

    /// Puts a command's events into the envelope and folds them.
    fn store(
        &mut self,
        active: &Active,
        (command, key): (&WriteCommand, Key),
        bodies: Vec<EventBody>,
        (build, now): (&mut Build, Timestamp),
    ) -> Judged {
        let request = &active.request;
        let origin = Origin {
            room: &request.room,
            by: &request.actor,
            cid: command.cid,
        };
        let (seed, salts) = (&self.seed, &mut self.salts);
        let salt = || {
            *salts += 1;
            Salt::derive(seed, *salts)
        };
        let ts = self.partition.next_ts(now);
        let drafts = self.partition.draft(&origin, bodies, ts, salt);
        let bytes = drafts.iter().map(|draft| draft.sealed.line.len()).sum();
        if !build.builder.fits(drafts.len(), bytes) {
            return Judged::Full;
        }
        let Some(first) = drafts.first().map(|draft| &draft.event) else {
            unreachable!("a command that happens has events")
        };
        let original = original(first.seq, first.ts, &first.body);
        for draft in &drafts {
            build.changes.push(self.partition.speculate(draft));
            build.builder.push(&request.room, &draft.sealed.line);
        }
        build.commands.insert(key, original);
        if let Some(room) = self.partition.warm_mut(&request.room) {
            room.used = now;
            if let Some(rate) = self.config.rate {
                let bucket = room.buckets.entry(request.actor.clone());
                bucket
                    .or_insert_with(crate::rate::Bucket::full)
                    .take(rate, now);
                build
                    .charged
                    .push((request.room.clone(), request.actor.clone()));
            }
        }
        let mut accepted = original.repeat();
        accepted.dup = false;
        name_room(&mut accepted, command, &request.room);
        Judged::Tentative(CommandResult::Ok(accepted))
    }
}

/// `create` answers with the room it made.
fn name_room(accepted: &mut Accepted, command: &WriteCommand, room: &RoomId) {
    if matches!(command.write, Write::Create(_)) {
        accepted.room = Some(room.clone());
    }
}

/// Whether the command's room comes from its own cid: then it is new if the command is.
fn makes_new_room(command: &WriteCommand) -> bool {
    match &command.write {
        Write::Create(create) => match create.kind {
            RoomKind::Public | RoomKind::Private => true,
            RoomKind::Direct | RoomKind::Own => false,
        },
        Write::Update { .. }
        | Write::Join {}
        | Write::Leave {}
        | Write::Invite { .. }
        | Write::Kick { .. }
        | Write::Ban { .. }
        | Write::Unban { .. }
        | Write::Role { .. }
        | Write::Send(_)
        | Write::Edit { .. }
        | Write::Del { .. }
        | Write::Read(_) => false,
    }
}

/// What one command's judgement may look at.
struct Look<'a> {
    partition: &'a Partition,
    room: &'a RoomId,
    answers: &'a Answers,
    makes: bool,
}

impl Facts for Look<'_> {
    fn room(&self) -> Known<&RoomState> {
        match self.partition.slot(self.room) {
            Some(Slot::Warm(room)) => Known::Is(&room.state),
            // A poisoned room was refused before.
            Some(Slot::Cold(_) | Slot::Poisoned) => Known::Unknown,
            None => {
                let absent = self.answers.absent;
                let is_absent = self.makes
                    || self.partition.is_whole()
                    || absent.is_some_and(|applied| applied >= self.partition.floor());
                if is_absent {
                    Known::Absent
                } else {
                    Known::Unknown
                }
            }
        }
    }

    fn message(&self, seq: Seq) -> Known<&MessageState> {
        let Some(room) = self.partition.warm(self.room) else {
            return Known::Unknown;
        };
        match room.message(seq) {
            Some(held) => held.state.as_ref().map_or(Known::Absent, Known::Is),
            None if self.partition.is_whole() => Known::Absent,
            None => Known::Unknown,
        }
    }

    fn user(&self, user: &UserId) -> Known<UserFacts> {
        match self.answers.users.get(user) {
            None => Known::Unknown,
            Some(None) => Known::Absent,
            Some(Some(facts)) => Known::Is(*facts),
        }
    }

    fn last_sent(&self, user: &UserId) -> Option<Timestamp> {
        self.partition.warm(self.room)?.last_sent(user)
    }
}
