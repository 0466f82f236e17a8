//! Whether a command may happen, and which events it becomes: the same for every door.
//!
//! Pure: state, actor, command and time in; events, a refusal, "nothing to do" or a need out.
//! Does not look for repeats, count rates or give numbers: that is [`crate::sequencer`].
//! Folding never asks this module (what is in the log is true), so a rule may change between versions.

mod create;
mod membership;
mod own;
mod room;
mod speak;

use protocol::command::{Write, WriteCommand};
use protocol::event::{EventBody, Role, RoomKind};
use protocol::query::UserFacts;
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::subject::Door;
use protocol::{ErrorCode, Refusal, Seq, Timestamp, UserId};

/// Who acts, as the subject and the token say.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The door the command came through.
    pub door: Door,
    /// Whether the token's role is `guest`.
    pub guest: bool,
}

/// What is known about a thing that lives in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// Nothing: ask.
    Unknown,
    /// It is not there; of a user's facts: history does not answer just now.
    Absent,
    /// This.
    Is(T),
}

/// What a decision may look at beside the command.
pub trait Facts {
    /// The room that the command goes to.
    fn room(&self) -> Known<&RoomState>;
    /// A message of that room.
    fn message(&self, seq: Seq) -> Known<&MessageState>;
    /// Facts of other partitions: checked, not fenced (design section 3).
    fn user(&self, user: &UserId) -> Known<UserFacts>;
    /// When the user last sent a message to that room while it was in slow mode.
    fn last_sent(&self, user: &UserId) -> Option<Timestamp>;
}

/// Something that must be looked up before the command can be judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The room's state.
    Room,
    /// The state of one message of the room.
    Message(Seq),
    /// Facts about a user.
    User(UserId),
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It happens: these events, at least one.
    Events(Vec<EventBody>),
    /// It may not happen.
    Refuse(Refusal),
    /// Nothing has to change.
    Noop,
    /// What it would make has been there since this seq.
    Exists(Seq),
    /// It cannot be judged yet.
    Need(Vec<Need>),
}

impl Verdict {
    fn one(body: EventBody) -> Self {
        Self::Events(vec![body])
    }
}

/// A step of a decision: go on with a value, or this is the verdict.
type Step<T> = Result<T, Verdict>;

/// Judges a command whose own bytes have been checked and of which no repeat was found.
///
/// `now` is the owner's time, with which bans, mutes and slow mode are judged.
#[must_use]
pub fn admit(
    facts: &impl Facts,
    actor: &Actor<'_>,
    command: &WriteCommand,
    now: Timestamp,
) -> Verdict {
    let scene = Scene { facts, actor, now };
    let step = match &command.write {
        Write::Create(wanted) => create::create(&scene, wanted),
        Write::Update { changes, base } => room::update(&scene, changes, *base),
        Write::Join {} => membership::join(&scene),
        Write::Leave {} => membership::leave(&scene),
        Write::Invite { user } => membership::invite(&scene, user),
        Write::Kick { user, why, seen } => membership::kick(&scene, user, why.as_ref(), *seen),
        Write::Ban { user, why, until } => membership::ban(&scene, user, why.as_ref(), *until),
        Write::Unban { user, seen } => membership::unban(&scene, user, *seen),
        Write::Role { user, role } => room::role(&scene, user, *role),
        Write::Send(send) => speak::send(&scene, send),
        Write::Edit { .. } => speak::edit(&scene, command),
        Write::Del { .. } => speak::del(&scene, &command.write),
        Write::Read(read) => own::read(&scene, read),
    };
    step.unwrap_or_else(|verdict| verdict)
}

/// The things that every rule looks at.
struct Scene<'a, F> {
    facts: &'a F,
    actor: &'a Actor<'a>,
    now: Timestamp,
}

impl<F: Facts> Scene<'_, F> {
    /// The room, if the actor may know that it is there.
    fn visible(&self) -> Step<&RoomState> {
        let room = match self.facts.room() {
            Known::Unknown => return Err(Verdict::Need(vec![Need::Room])),
            Known::Absent => return Err(absent()),
            Known::Is(room) => room,
        };
        if room.members.contains_key(self.actor.user) {
            return Ok(room);
        }
        let visible = match room.kind {
            RoomKind::Own => false,
            RoomKind::Public => !self.actor.guest || self.is_moderator(),
            RoomKind::Private | RoomKind::Direct => self.is_moderator(),
        };
        if visible { Ok(room) } else { Err(absent()) }
    }

    /// The room and the actor's role in it, if the actor is a member.
    fn member(&self) -> Step<(&RoomState, Role)> {
        let room = self.visible()?;
        match room.role(self.actor.user) {
            Some(role) => Ok((room, role)),
            None if room.is_banned(self.actor.user, self.now) => Err(refuse(ErrorCode::Banned)),
            None => Err(refuse(ErrorCode::NotMember)),
        }
    }

    /// The room and the role with which the actor moderates it: site moderators stand with owners.
    fn moderating(&self, least: Role) -> Step<(&RoomState, Role)> {
        let (room, role) = if self.is_moderator() {
            (self.visible()?, Role::Owner)
        } else {
            self.member()?
        };
        if room.kind == RoomKind::Direct {
            return Err(forbid("the people of a direct room are fixed"));
        }
        if room.kind == RoomKind::Own || role < least {
            return Err(refuse(ErrorCode::Forbidden));
        }
        Ok((room, role))
    }

    /// Whether the command came through the moderators' door.
    fn is_moderator(&self) -> bool {
        self.actor.door == Door::Moderator
    }

    /// Refuses `user` one room more if they have as many as they may; without history they may.
    fn has_space(&self, user: &UserId) -> Step<()> {
        match self.facts.user(user) {
            Known::Unknown => Err(Verdict::Need(vec![Need::User(user.clone())])),
            Known::Is(facts) => space_for(facts),
            Known::Absent => Ok(()),
        }
    }
}

fn space_for(facts: UserFacts) -> Step<()> {
    if facts.rooms as usize >= protocol::limits::USER_ROOMS_MAX {
        return Err(Verdict::Refuse(Refusal::new(
            ErrorCode::TooLarge,
            "that user is in as many rooms as one may be",
        )));
    }
    Ok(())
}

fn refuse(code: ErrorCode) -> Verdict {
    Verdict::Refuse(Refusal::plain(code))
}

fn forbid(msg: &str) -> Verdict {
    Verdict::Refuse(Refusal::new(ErrorCode::Forbidden, msg))
}

fn bad(msg: &str) -> Verdict {
    Verdict::Refuse(Refusal::new(ErrorCode::BadRequest, msg))
}

fn absent() -> Verdict {
    refuse(ErrorCode::NotFound)
}

#[cfg(test)]
mod tests;
