//! Lists: rooms, public rooms, members, bans, counts.
//!
//! A cursor is the key of the last entry; clients must not look inside.

use super::access::{self, Access};
use super::snapshots::{self, Window};
use super::{Failure, Terms};
use crate::store::rooms as public;
use crate::store::{Snapshot, people, room, unread};
use protocol::event::{Role, RoomKind};
use protocol::frame::listing::{
    BanList, MemberList, PublicRoomList, RoomList, UnreadList, UnreadRoom,
};
use protocol::query::{ReadCounts, Viewer};
use protocol::{ErrorCode, RoomId, Seq, UserId, limits};

/// The key of the last room of a page of `rooms`: `<position>.<room>`.
fn parse_activity(cursor: &str) -> Result<(u64, RoomId), Failure> {
    let parsed = cursor
        .split_once('.')
        .and_then(|(position, room)| Some((position.parse().ok()?, RoomId::parse(room).ok()?)));
    parsed.ok_or_else(|| Failure::bad("`cursor` is not one of ours"))
}

/// The reader's rooms, latest activity first.
pub(super) async fn rooms(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    cursor: Option<&str>,
    limit: u32,
) -> Result<RoomList, Failure> {
    let before = cursor.map(parse_activity).transpose()?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let views = room::views_of_user(snapshot, &viewer.user, before.as_ref(), wanted + 1).await?;
    let more = views.len() > wanted;
    let views: Vec<_> = views.into_iter().take(wanted).collect();
    let last = views
        .last()
        .map(|view| format!("{}.{}", view.row.head_stream, view.row.room));
    let rooms = snapshots::build(snapshot, viewer, readable(views), Window::NONE, 0).await?;
    Ok(RoomList {
        rooms,
        next: last.filter(|_| more),
    })
}

/// A member's views as accesses; poisoned rooms are left out.
fn readable(views: Vec<room::RoomView>) -> Vec<Access> {
    views
        .into_iter()
        .filter(|view| view.row.poison.is_none())
        // No timeline is read, so the floor does not matter.
        .map(|view| Access {
            view,
            floor: Seq(1),
        })
        .collect()
}

/// Which public rooms are wanted.
pub(super) struct Discover<'a> {
    pub(super) part: &'a str,
    pub(super) cursor: Option<&'a str>,
    pub(super) limit: u32,
}

/// Public rooms by name; none for guests. The cursor is `<room>.<stored name>`.
pub(super) async fn discover(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: Discover<'_>,
    terms: Terms,
) -> Result<PublicRoomList, Failure> {
    if wish.part.chars().count() > limits::ROOM_NAME_CHARS_MAX {
        return Err(Failure::code(ErrorCode::TooLarge));
    }
    if viewer.guest {
        return Ok(PublicRoomList {
            rooms: Vec::new(),
            next: None,
        });
    }
    let after = match wish.cursor {
        None => None,
        Some(cursor) => {
            let parsed = cursor
                .split_once('.')
                .and_then(|(room, name)| Some((name.to_owned(), RoomId::parse(room).ok()?)));
            let parsed = parsed.filter(|(name, _)| !name.contains('\0'));
            Some(parsed.ok_or_else(|| Failure::bad("`cursor` is not one of ours"))?)
        }
    };
    let found = public::Wish {
        user: &viewer.user,
        part: wish.part,
        after,
        now: terms.now,
        limit: wish.limit + 1,
    };
    let mut rooms = public::discover(snapshot, &found).await?;
    let wanted = usize::try_from(wish.limit).unwrap_or(usize::MAX);
    let more = rooms.len() > wanted;
    rooms.truncate(wanted);
    let last = rooms.last().filter(|_| more);
    let next = last.map(|(name, room)| format!("{}.{name}", room.room));
    Ok(PublicRoomList {
        rooms: rooms.into_iter().map(|(_, room)| room).collect(),
        next,
    })
}

/// Which people of a room are wanted.
#[derive(Clone, Copy)]
pub(super) struct People<'a> {
    pub(super) room: &'a RoomId,
    pub(super) cursor: Option<&'a str>,
    pub(super) limit: u32,
}

impl<'a> People<'a> {
    pub(super) const fn new(room: &'a RoomId, cursor: Option<&'a str>, limit: u32) -> Self {
        Self {
            room,
            cursor,
            limit,
        }
    }

    /// The last user of the page before, or what is before every user.
    fn after(&self) -> Result<&'a str, Failure> {
        match self.cursor {
            None => Ok(""),
            Some(cursor) if UserId::parse(cursor).is_ok() => Ok(cursor),
            Some(_) => Err(Failure::bad("`cursor` is not one of ours")),
        }
    }
}

/// Cuts one entry more than wanted off, and tells the cursor if it was there.
fn cut<T>(entries: &mut Vec<T>, limit: u32, user: impl Fn(&T) -> &UserId) -> Option<String> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > wanted;
    entries.truncate(wanted);
    entries
        .last()
        .filter(|_| more)
        .map(|entry| user(entry).to_string())
}

/// Members by user id.
pub(super) async fn members(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: People<'_>,
    terms: Terms,
) -> Result<MemberList, Failure> {
    access::room(snapshot, viewer, wish.room, terms.now).await?;
    let after = wish.after()?;
    let mut members = people::members(snapshot, wish.room, after, wish.limit + 1).await?;
    let next = cut(&mut members, wish.limit, |member| &member.user);
    Ok(MemberList { members, next })
}

/// Bans by user id, for moderators.
pub(super) async fn bans(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    wish: People<'_>,
    terms: Terms,
) -> Result<BanList, Failure> {
    let access = access::room(snapshot, viewer, wish.room, terms.now).await?;
    if access.role().is_none_or(|role| role < Role::Mod) {
        return Err(Failure::code(ErrorCode::Forbidden));
    }
    let after = wish.after()?;
    let mut bans = people::bans(snapshot, wish.room, after, terms.now, wish.limit + 1).await?;
    let next = cut(&mut bans, wish.limit, |ban| &ban.user);
    Ok(BanList { bans, next })
}

/// Counts of every room the reader is in.
pub(super) async fn unread(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
) -> Result<UnreadList, Failure> {
    let views =
        room::views_of_user(snapshot, &viewer.user, None, limits::USER_ROOMS_MAX * 2).await?;
    let accesses = readable(views);
    let from: Vec<_> = accesses.iter().map(snapshots::count_from).collect();
    let counts = unread::counts(snapshot, &viewer.user, &from).await?;
    let rooms = accesses
        .into_iter()
        .zip(from)
        .zip(counts)
        .map(|((access, from), counts)| UnreadRoom {
            room: access.view.row.room.clone(),
            head: access.head(),
            read: from.mark,
            read_n: counts.read_n,
            unread: counts.unread,
            mentions: counts.mentions,
        });
    Ok(UnreadList {
        rooms: rooms.collect(),
    })
}

/// Counts of one room, from the stored mark or from one that is not stored yet.
pub(super) async fn read_counts(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    room: &RoomId,
    mark: Option<Seq>,
    terms: Terms,
) -> Result<ReadCounts, Failure> {
    let mut access = access::room(snapshot, viewer, room, terms.now).await?;
    if access.view.row.kind == Some(RoomKind::Own) {
        return Ok(ReadCounts {
            read_n: 0,
            unread: 0,
            mentions: 0,
        });
    }
    if let Some(mark) = mark {
        access.view.mark.seq = mark;
    }
    let from = snapshots::count_from(&access);
    let counts = unread::counts(snapshot, &viewer.user, &[from]).await?;
    counts
        .into_iter()
        .next()
        .ok_or_else(|| Failure::code(ErrorCode::Internal))
}
