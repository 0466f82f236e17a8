//! Making a room: its `room` event first, then one `member` event for each of its people.

use super::{Facts, Known, Need, Scene, Step, Verdict, absent, forbid, space_for};
use protocol::command::Create;
use protocol::event::{EventBody, MemberChange, Role, RoomChanges, RoomKind};
use protocol::{Seq, UserId};
use std::collections::BTreeSet;

/// The first event of every room.
const FIRST: Seq = Seq(1);

pub(super) fn create<F: Facts>(scene: &Scene<'_, F>, wanted: &Create) -> Step<Verdict> {
    match scene.facts.room() {
        Known::Unknown => return Err(Verdict::Need(vec![Need::Room])),
        // The id is derived, so what is there is what was asked for: the same direct or own room.
        Known::Is(_) => return Ok(Verdict::Exists(FIRST)),
        Known::Absent => {}
    }
    if scene.actor.guest && wanted.kind != RoomKind::Own {
        return Err(forbid("guests do not make rooms"));
    }
    let others: BTreeSet<&UserId> = match wanted.kind {
        RoomKind::Own => BTreeSet::new(),
        RoomKind::Public | RoomKind::Private | RoomKind::Direct => wanted
            .members
            .iter()
            .filter(|user| *user != scene.actor.user)
            .collect(),
    };
    if wanted.kind == RoomKind::Direct && others.is_empty() {
        return Err(super::bad("a direct room needs another person"));
    }
    if wanted.kind != RoomKind::Own {
        check_people(scene, &others)?;
    }
    Ok(Verdict::Events(events(scene.actor.user, wanted, &others)))
}

/// Everybody must be known and have space; all that is not known yet is asked for at once.
fn check_people<F: Facts>(scene: &Scene<'_, F>, others: &BTreeSet<&UserId>) -> Step<()> {
    let mut needs = Vec::new();
    for user in std::iter::once(scene.actor.user).chain(others.iter().copied()) {
        match scene.facts.user(user) {
            Known::Unknown => needs.push(Need::User(user.clone())),
            // Without history a room can still be made; these checks are no fence.
            Known::Absent => {}
            Known::Is(facts) if !facts.known && user != scene.actor.user => return Err(absent()),
            Known::Is(facts) => space_for(facts)?,
        }
    }
    if needs.is_empty() {
        Ok(())
    } else {
        Err(Verdict::Need(needs))
    }
}

fn events(author: &UserId, wanted: &Create, others: &BTreeSet<&UserId>) -> Vec<EventBody> {
    let mut events = Vec::with_capacity(others.len() + 2);
    events.push(EventBody::Room {
        kind: Some(wanted.kind),
        changes: RoomChanges {
            name: wanted.name.clone(),
            topic: wanted.topic.clone(),
            history: wanted.history,
            ..RoomChanges::default()
        },
    });
    let authors_role = match wanted.kind {
        RoomKind::Direct => Role::Member,
        RoomKind::Public | RoomKind::Private | RoomKind::Own => Role::Owner,
    };
    events.push(member(author, MemberChange::Joined, authors_role));
    for user in others {
        events.push(member(user, MemberChange::Added, Role::Member));
    }
    events
}

/// A membership that begins.
pub(super) fn member(user: &UserId, change: MemberChange, role: Role) -> EventBody {
    EventBody::Member {
        user: user.clone(),
        change,
        // `member` is what an absent role means.
        role: (role != Role::Member).then_some(role),
        until: None,
        why: None,
    }
}
