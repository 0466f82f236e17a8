//! A user's own room: read marks (design section 3, "User state is a room too").

use super::{Facts, Scene, Step, Verdict, absent};
use protocol::command::Read;
use protocol::event::{EventBody, RoomKind};
use protocol::limits::USER_ROOMS_MAX;
use protocol::room::Mark;
use protocol::{ErrorCode, Refusal};

/// Marks that one user may have: rooms come and go, so several times as many as rooms at once.
const MARKS_MAX: usize = 10 * USER_ROOMS_MAX;

pub(super) fn read<F: Facts>(scene: &Scene<'_, F>, read: &Read) -> Step<Verdict> {
    let room = scene.visible()?;
    if room.kind != RoomKind::Own {
        return Err(absent());
    }
    let present = room.marks.get(&read.target);
    if present.is_none() && room.marks.len() >= MARKS_MAX {
        return Err(Verdict::Refuse(Refusal::new(
            ErrorCode::TooLarge,
            "there are as many read marks as there may be",
        )));
    }
    let present = present.copied().unwrap_or_default();
    let mark = if read.back {
        // Unread from this seq on is read up to the one before; a new epoch beats every older mark.
        Mark {
            epoch: present.epoch.saturating_add(1),
            seq: read.seq.before(),
        }
    } else {
        Mark {
            epoch: present.epoch,
            seq: read.seq,
        }
    };
    if mark <= present {
        return Ok(Verdict::Noop);
    }
    Ok(Verdict::one(EventBody::Read {
        target: read.target.clone(),
        mark: mark.seq,
        read_n: read.read_n,
        epoch: mark.epoch,
        back: read.back,
    }))
}
