//! Who is in a room: join, leave, invite, kick, ban, unban (design section 8).
//!
//! A removal names what its author had `seen`, and takes away only that.

use super::create::member;
use super::{Facts, Known, Need, Scene, Step, Verdict, absent, bad, forbid, refuse, space_for};
use protocol::event::{EventBody, MemberChange, Role, RoomKind};
use protocol::limits::{ROOM_BANS_MAX, ROOM_MEMBERS_MAX};
use protocol::room::RoomState;
use protocol::{ErrorCode, Refusal, Seq, Timestamp, UserId};

pub(super) fn join<F: Facts>(scene: &Scene<'_, F>) -> Step<Verdict> {
    let room = scene.visible()?;
    match room.kind {
        RoomKind::Direct => return Err(forbid("the people of a direct room are fixed")),
        RoomKind::Own => return Err(refuse(ErrorCode::Forbidden)),
        RoomKind::Public | RoomKind::Private => {}
    }
    // A join by a member begins nothing new, or it would evade a kick.
    if room.members.contains_key(scene.actor.user) {
        return Ok(Verdict::Noop);
    }
    if room.kind == RoomKind::Private {
        // Only a site moderator sees it, and comes in by inviting.
        return Err(refuse(ErrorCode::Forbidden));
    }
    if room.is_banned(scene.actor.user, scene.now) {
        return Err(refuse(ErrorCode::Banned));
    }
    check_full(room)?;
    scene.has_space(scene.actor.user)?;
    Ok(Verdict::one(member(
        scene.actor.user,
        MemberChange::Joined,
        Role::Member,
    )))
}

/// Refuses one member more where the room is full.
fn check_full(room: &RoomState) -> Step<()> {
    if room.members.len() >= ROOM_MEMBERS_MAX {
        return Err(refuse(ErrorCode::RoomFull));
    }
    Ok(())
}

pub(super) fn leave<F: Facts>(scene: &Scene<'_, F>) -> Step<Verdict> {
    let room = scene.visible()?;
    match room.kind {
        RoomKind::Direct => return Err(forbid("the people of a direct room are fixed")),
        RoomKind::Own => return Err(refuse(ErrorCode::Forbidden)),
        RoomKind::Public | RoomKind::Private => {}
    }
    let Some(role) = room.role(scene.actor.user) else {
        return Ok(Verdict::Noop);
    };
    if role == Role::Owner && room.owner_count() == 1 {
        return Err(refuse(ErrorCode::LastOwner));
    }
    Ok(Verdict::one(change(
        scene.actor.user,
        MemberChange::Left,
        None,
    )))
}

pub(super) fn invite<F: Facts>(scene: &Scene<'_, F>, user: &UserId) -> Step<Verdict> {
    let (room, _) = scene.moderating(Role::Member)?;
    if room.members.contains_key(user) {
        return Ok(Verdict::Noop);
    }
    if room.is_banned(user, scene.now) {
        return Err(forbid("that user is banned from this room: unban first"));
    }
    check_full(room)?;
    match scene.facts.user(user) {
        Known::Unknown => return Err(Verdict::Need(vec![Need::User(user.clone())])),
        Known::Absent => {
            return Err(Verdict::Refuse(Refusal::new(
                ErrorCode::Unavailable,
                "whether that user exists cannot be told just now",
            )));
        }
        Known::Is(facts) if !facts.known => return Err(absent()),
        Known::Is(facts) => space_for(facts)?,
    }
    Ok(Verdict::one(member(
        user,
        MemberChange::Added,
        Role::Member,
    )))
}

pub(super) fn kick<F: Facts>(
    scene: &Scene<'_, F>,
    user: &UserId,
    why: Option<&String>,
    seen: Option<Seq>,
) -> Step<Verdict> {
    let (room, rank) = scene.moderating(Role::Mod)?;
    check_target(scene, room, (rank, user))?;
    let Some(membership) = room.members.get(user) else {
        return Ok(Verdict::Noop);
    };
    if seen.is_some_and(|seen| membership.since > seen) {
        return Err(refuse(ErrorCode::Superseded));
    }
    Ok(Verdict::one(change(user, MemberChange::Kicked, why)))
}

pub(super) fn ban<F: Facts>(
    scene: &Scene<'_, F>,
    user: &UserId,
    why: Option<&String>,
    until: Option<Timestamp>,
) -> Step<Verdict> {
    let (room, rank) = scene.moderating(Role::Mod)?;
    check_target(scene, room, (rank, user))?;
    if until.is_some_and(|until| until <= scene.now) {
        return Err(bad("`until` has passed"));
    }
    let standing = room.bans.get(user);
    if standing.is_some_and(|ban| ban.until == until) && !room.members.contains_key(user) {
        return Ok(Verdict::Noop);
    }
    if standing.is_none() && room.bans.len() >= ROOM_BANS_MAX {
        return Err(Verdict::Refuse(Refusal::new(
            ErrorCode::TooLarge,
            "the room has as many bans as it may have",
        )));
    }
    let mut event = change(user, MemberChange::Banned, why);
    if let EventBody::Member { until: end, .. } = &mut event {
        *end = until;
    }
    Ok(Verdict::one(event))
}

pub(super) fn unban<F: Facts>(
    scene: &Scene<'_, F>,
    user: &UserId,
    seen: Option<Seq>,
) -> Step<Verdict> {
    let (room, _) = scene.moderating(Role::Mod)?;
    let Some(ban) = room.bans.get(user).filter(|ban| ban.holds(scene.now)) else {
        return Ok(Verdict::Noop);
    };
    if seen.is_some_and(|seen| ban.since > seen) {
        return Err(refuse(ErrorCode::Superseded));
    }
    Ok(Verdict::one(change(user, MemberChange::Unbanned, None)))
}

/// Nobody acts against themselves or against a role that is not below theirs; owners act on anyone.
fn check_target<F: Facts>(
    scene: &Scene<'_, F>,
    room: &RoomState,
    (rank, user): (Role, &UserId),
) -> Step<()> {
    if user == scene.actor.user {
        return Err(forbid("leave the room instead"));
    }
    if rank != Role::Owner && room.role(user).is_some_and(|role| role >= rank) {
        return Err(refuse(ErrorCode::Forbidden));
    }
    if room.role(user) == Some(Role::Owner) && room.owner_count() == 1 {
        return Err(refuse(ErrorCode::LastOwner));
    }
    Ok(())
}

fn change(user: &UserId, change: MemberChange, why: Option<&String>) -> EventBody {
    EventBody::Member {
        user: user.clone(),
        change,
        role: None,
        until: None,
        why: why.cloned(),
    }
}
