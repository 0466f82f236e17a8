//! Changing a room itself: its settings and its members' roles.

use super::{Facts, Scene, Step, Verdict, absent, refuse};
use protocol::event::{EventBody, Role, RoomChanges};
use protocol::room::RoomState;
use protocol::{ErrorCode, Refusal, Seq, UserId};

pub(super) fn update<F: Facts>(
    scene: &Scene<'_, F>,
    wanted: &RoomChanges,
    base: Option<Seq>,
) -> Step<Verdict> {
    let (room, _) = scene.moderating(Role::Owner)?;
    if base.is_some_and(|base| base != room.room_seq) {
        return Err(conflict(room));
    }
    let changes = differing(room, wanted);
    if changes.is_empty() {
        return Ok(Verdict::Noop);
    }
    Ok(Verdict::one(EventBody::Room {
        kind: None,
        changes,
    }))
}

/// The refusal of a compare-and-set: it names the head to look at.
pub(super) fn conflict(room: &RoomState) -> Verdict {
    let mut refusal = Refusal::plain(ErrorCode::Conflict);
    refusal.head = Some(room.head);
    Verdict::Refuse(refusal)
}

/// Only what really changes goes into the event.
fn differing(room: &RoomState, wanted: &RoomChanges) -> RoomChanges {
    RoomChanges {
        name: wanted.name.clone().filter(|name| *name != room.name),
        topic: wanted.topic.clone().filter(|topic| *topic != room.topic),
        slow_s: wanted.slow_s.filter(|slow_s| *slow_s != room.slow_s),
        frozen: wanted.frozen.filter(|frozen| *frozen != room.frozen),
        history: wanted.history.filter(|history| *history != room.history),
    }
}

pub(super) fn role<F: Facts>(scene: &Scene<'_, F>, user: &UserId, role: Role) -> Step<Verdict> {
    let (room, _) = scene.moderating(Role::Owner)?;
    let Some(present) = room.role(user) else {
        return Err(absent());
    };
    if present == role {
        return Ok(Verdict::Noop);
    }
    if present == Role::Owner && room.owner_count() == 1 {
        return Err(refuse(ErrorCode::LastOwner));
    }
    Ok(Verdict::one(EventBody::Role {
        user: user.clone(),
        role,
    }))
}
