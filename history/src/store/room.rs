//! Rooms as one reader sees them, and the whole state of one for its owner.

use super::{Columns as _, Doing as _, Snapshot, StoreError, write};
use crate::projector::rows::RoomRow;
use protocol::event::RoomKind;
use protocol::room::{Mark, Membership, Restriction, RoomState};
use protocol::{RoomId, Seq, Timestamp, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// A room and how one user stands to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// The room.
    pub row: RoomRow,
    /// The user's membership, if they are in it.
    pub membership: Option<Membership>,
    /// What keeps the user out, whether or not it still holds.
    pub ban: Option<Restriction>,
    /// How far the user has read it.
    pub mark: Mark,
}

const VIEWS: &str = "select r.*, m.role, m.from_seq, m.join_n,
        b.since as ban_since, b.until_time as ban_until,
        k.epoch as mark_epoch, k.seq as mark_seq
    from rooms r
    left join memberships m on m.room = r.room and m.user_id = $2 and m.to_seq is null
    left join bans b on b.room = r.room and b.user_id = $2
    left join marks k on k.user_id = $2 and k.room = r.room
    where r.room = any($1::text[])";

/// These rooms as `user` sees them; those that do not exist are left out.
///
/// # Errors
/// If the statement fails.
pub async fn views(
    snapshot: &mut Snapshot,
    user: &UserId,
    rooms: &[RoomId],
) -> Result<Vec<RoomView>, StoreError> {
    let rooms: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
    let query = sqlx::query(VIEWS).bind(rooms).bind(user.as_str());
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading rooms")?;
    rows.iter()
        .map(view)
        .collect::<Result<_, _>>()
        .doing("reading rooms")
}

const VIEWS_OF_USER: &str = "select r.*, m.role, m.from_seq, m.join_n,
        null::bigint as ban_since, null::bigint as ban_until,
        k.epoch as mark_epoch, k.seq as mark_seq
    from memberships m
    join rooms r on r.room = m.room
    left join marks k on k.user_id = $1 and k.room = r.room
    where m.user_id = $1 and m.to_seq is null and r.kind <> 'self'
        and (r.head_stream, r.room) < ($2, $3)
    order by r.head_stream desc, r.room desc
    limit $4";

/// The rooms that `user` is in, latest activity first, the own one left out; only those behind
/// `before` in that order, `limit` at most.
///
/// # Errors
/// If the statement fails.
pub async fn views_of_user(
    snapshot: &mut Snapshot,
    user: &UserId,
    before: Option<&(u64, RoomId)>,
    limit: usize,
) -> Result<Vec<RoomView>, StoreError> {
    // "~" is above every character of an id.
    let (position, room) = before.map_or((i64::MAX, "~"), |(at, room)| {
        (super::int(*at), room.as_str())
    });
    let query = sqlx::query(VIEWS_OF_USER)
        .bind(user.as_str())
        .bind(position)
        .bind(room)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading a user's rooms")?;
    rows.iter()
        .map(view)
        .collect::<Result<_, _>>()
        .doing("reading a user's rooms")
}

fn view(row: &PgRow) -> Result<RoomView, sqlx::Error> {
    let role: Option<&str> = row.try_get("role")?;
    let membership = match role {
        None => None,
        Some(_) => Some(Membership {
            role: row.word("role")?,
            since: row.seq("from_seq")?,
            join_n: row.number("join_n")?,
        }),
    };
    let until: Option<i64> = row.try_get("ban_until")?;
    let ban = row.number_or_null("ban_since")?.map(|since| Restriction {
        since: Seq(since),
        until: until.map(Timestamp),
    });
    let epoch = row.number_or_null("mark_epoch")?.unwrap_or(0);
    let mark = Mark {
        epoch: u32::try_from(epoch).map_err(super::odd("mark_epoch"))?,
        seq: Seq(row.number_or_null("mark_seq")?.unwrap_or(0)),
    };
    Ok(RoomView {
        row: write::room_row(row)?,
        membership,
        ban,
        mark,
    })
}

const ROOM: &str = "select * from rooms where room = $1";
const MEMBERS: &str = "select user_id, role, from_seq, join_n from memberships
    where room = $1 and to_seq is null";
const BANS: &str = "select user_id, since, until_time from bans where room = $1";
const MUTES: &str = "select user_id, since, until_time from mutes where room = $1";
const MARKS: &str = "select room, epoch, seq from marks where user_id = $1";

/// What an owner gets of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// There is no such room.
    Absent,
    /// An event of it could not be applied, so its state is not known.
    Poisoned,
    /// All of it.
    State(Box<RoomState>),
}

/// The whole state of a room.
///
/// # Errors
/// If a statement fails.
pub async fn whole(snapshot: &mut Snapshot, room: &RoomId) -> Result<Whole, StoreError> {
    const DOING: &str = "reading the state of a room";
    let row = sqlx::query(ROOM)
        .bind(room.as_str())
        .fetch_optional(&mut *snapshot.tx)
        .await;
    let Some(row) = row.doing(DOING)? else {
        return Ok(Whole::Absent);
    };
    let row = write::room_row(&row).doing(DOING)?;
    let Some(mut state) = row.state().filter(|_| row.poison.is_none()) else {
        return Ok(Whole::Poisoned);
    };
    let members = sqlx::query(MEMBERS)
        .bind(room.as_str())
        .fetch_all(&mut *snapshot.tx)
        .await;
    for row in members.doing(DOING)? {
        let member = || {
            let membership = Membership {
                role: row.word("role")?,
                since: row.seq("from_seq")?,
                join_n: row.number("join_n")?,
            };
            Ok((row.user("user_id")?, membership))
        };
        state.members.extend([member().doing(DOING)?]);
    }
    let bans = sqlx::query(BANS)
        .bind(room.as_str())
        .fetch_all(&mut *snapshot.tx)
        .await;
    for row in bans.doing(DOING)? {
        state.bans.extend([restriction(&row).doing(DOING)?]);
    }
    let mutes = sqlx::query(MUTES)
        .bind(room.as_str())
        .fetch_all(&mut *snapshot.tx)
        .await;
    for row in mutes.doing(DOING)? {
        state.mutes.extend([restriction(&row).doing(DOING)?]);
    }
    if let (RoomKind::Own, Some(owner)) = (state.kind, &row.creator) {
        let marks = sqlx::query(MARKS)
            .bind(owner.as_str())
            .fetch_all(&mut *snapshot.tx)
            .await;
        for row in marks.doing(DOING)? {
            state.marks.extend([mark(&row).doing(DOING)?]);
        }
    }
    Ok(Whole::State(Box::new(state)))
}

fn restriction(row: &PgRow) -> Result<(UserId, Restriction), sqlx::Error> {
    let until: Option<i64> = row.try_get("until_time")?;
    let restriction = Restriction {
        since: row.seq("since")?,
        until: until.map(Timestamp),
    };
    Ok((row.user("user_id")?, restriction))
}

fn mark(row: &PgRow) -> Result<(RoomId, Mark), sqlx::Error> {
    let epoch = row.number("epoch")?;
    let epoch = u32::try_from(epoch).map_err(super::odd("epoch"))?;
    Ok((
        row.room("room")?,
        Mark {
            epoch,
            seq: row.seq("seq")?,
        },
    ))
}
