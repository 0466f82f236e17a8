//! Who sees what (protocol, "Who sees what"), as one pure decision for every read.

use super::Failure;
use crate::store::Snapshot;
use crate::store::room::{RoomView, views};
use protocol::event::{HistoryScope, Role, RoomKind};
use protocol::query::Viewer;
use protocol::{ErrorCode, Refusal, RoomId, Seq, Timestamp};

/// A room that its viewer may read, from `floor` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The room.
    pub view: RoomView,
    /// The first seq that may be read.
    pub floor: Seq,
}

impl Access {
    /// The viewer's role, if they are a member.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.view.membership.map(|membership| membership.role)
    }

    /// The room's head.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.view.row.head
    }
}

/// What a viewer may do with a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Read it.
    Visible(Box<Access>),
    /// Nothing; as if it were not there.
    Hidden,
    /// They may read it, but its state is not known.
    Poisoned,
}

/// Judges whether `viewer` may read a room.
///
/// Members may; of public rooms so may everybody who is no guest and not banned at `now`; a self
/// room is its owner's alone.
#[must_use]
pub fn judge(view: RoomView, viewer: &Viewer, now: Timestamp) -> Verdict {
    let row = &view.row;
    let banned = view.ban.is_some_and(|ban| ban.holds(now));
    let may = match row.kind {
        Some(RoomKind::Own) => row.creator.as_ref() == Some(&viewer.user),
        Some(RoomKind::Public) => view.membership.is_some() || (!viewer.guest && !banned),
        Some(RoomKind::Private | RoomKind::Direct) | None => view.membership.is_some(),
    };
    if !may {
        return Verdict::Hidden;
    }
    if row.poison.is_some() {
        return Verdict::Poisoned;
    }
    let floor = match (row.history, view.membership) {
        (HistoryScope::All, _) => Seq(1),
        (HistoryScope::Joined, Some(membership)) => membership.since,
        // Whoever has not joined sees what a member who joins now would see.
        (HistoryScope::Joined, None) if row.kind == Some(RoomKind::Own) => Seq(1),
        (HistoryScope::Joined, None) => row.head.next(),
    };
    Verdict::Visible(Box::new(Access { view, floor }))
}

/// The room, if `viewer` may read it.
///
/// # Errors
/// `not_found` if it is absent or forbidden, `unavailable` if its state is not known.
pub async fn room(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    room: &RoomId,
    now: Timestamp,
) -> Result<Access, Failure> {
    let found = views(snapshot, &viewer.user, std::slice::from_ref(room)).await?;
    match found
        .into_iter()
        .next()
        .map(|view| judge(view, viewer, now))
    {
        Some(Verdict::Visible(access)) => Ok(*access),
        Some(Verdict::Hidden) | None => Err(Failure::code(ErrorCode::NotFound)),
        Some(Verdict::Poisoned) => Err(poisoned()),
    }
}

/// What is said about a room whose state is not known.
pub(super) fn poisoned() -> Failure {
    let refusal = Refusal::new(ErrorCode::Unavailable, "The room waits for repair.");
    Failure::Refused(refusal.after_ms(30_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projector::rows::RoomRow;
    use protocol::UserId;
    use protocol::room::{Mark, Membership, Restriction};

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn view(kind: RoomKind) -> RoomView {
        let mut row = RoomRow::unknown(&RoomId::parse("r1").unwrap());
        (row.kind, row.creator, row.head) = (Some(kind), Some(user("alice")), Seq(9));
        RoomView {
            row,
            membership: None,
            ban: None,
            mark: Mark::default(),
        }
    }

    fn member(mut view: RoomView) -> RoomView {
        view.membership = Some(Membership {
            role: Role::Member,
            since: Seq(5),
            join_n: 2,
        });
        view
    }

    fn sees(view: RoomView, name: &str, guest: bool) -> Option<u64> {
        let viewer = Viewer {
            user: user(name),
            guest,
        };
        match judge(view, &viewer, Timestamp(100)) {
            Verdict::Visible(access) => Some(access.floor.0),
            Verdict::Hidden | Verdict::Poisoned => None,
        }
    }

    #[test]
    fn rooms_are_seen_by_those_whom_the_protocol_names() {
        use RoomKind::{Direct, Own, Private, Public};
        let table = [
            (view(Public), false, Some(1)),
            (view(Public), true, None),
            (member(view(Public)), true, Some(1)),
            (view(Private), false, None),
            (view(Direct), false, None),
            (member(view(Private)), false, Some(1)),
            (member(view(Direct)), true, Some(1)),
            (view(Own), false, None),
        ];
        for (view, guest, floor) in table {
            assert_eq!(
                sees(view.clone(), "bob", guest),
                floor,
                "{view:?} guest {guest}"
            );
        }
        assert_eq!(sees(view(Own), "alice", false), Some(1));
    }

    #[test]
    fn a_ban_hides_a_public_room_until_it_ends() {
        let mut banned = view(RoomKind::Public);
        banned.ban = Some(Restriction {
            since: Seq(3),
            until: Some(Timestamp(101)),
        });
        assert_eq!(sees(banned.clone(), "bob", false), None);
        banned.ban = Some(Restriction {
            since: Seq(3),
            until: Some(Timestamp(100)),
        });
        assert_eq!(sees(banned, "bob", false), Some(1));
    }

    #[test]
    fn history_joined_begins_at_the_join_and_shows_nothing_to_others() {
        let mut room = view(RoomKind::Public);
        room.row.history = HistoryScope::Joined;
        assert_eq!(sees(room.clone(), "bob", false), Some(10));
        assert_eq!(sees(member(room), "bob", false), Some(5));
    }

    #[test]
    fn a_poisoned_room_is_not_told_to_those_who_may_not_see_it() {
        let mut room = view(RoomKind::Private);
        room.row.poison = Some((Seq(4), "x".to_owned()));
        let viewer = Viewer {
            user: user("bob"),
            guest: false,
        };
        assert_eq!(judge(room.clone(), &viewer, Timestamp(0)), Verdict::Hidden);
        assert_eq!(
            judge(member(room), &viewer, Timestamp(0)),
            Verdict::Poisoned
        );
    }
}
