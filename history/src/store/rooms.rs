//! Rooms to be found: the public ones, by name.

use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::frame::listing::PublicRoom;
use protocol::{RoomId, Timestamp, UserId};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// The pattern has `\`, `%` and `_` of the wish escaped. Without an index for substrings this reads
/// every public room behind the cursor until the page is full.
const DISCOVER: &str = "select r.room, r.name, r.topic, r.members, r.head, m.role
    from rooms r
    left join memberships m on m.room = r.room and m.user_id = $1 and m.to_seq is null
    where r.kind = 'public' and (r.name, r.room) > ($2, $3)
        and (r.name ilike $4 or r.topic ilike $4)
        and not exists (select from bans b where b.room = r.room and b.user_id = $1
            and (b.until_time is null or b.until_time > $5))
    order by r.name, r.room
    limit $6";

/// What to look for among public rooms.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// Who looks.
    pub user: &'a UserId,
    /// Part of a name or topic.
    pub part: &'a str,
    /// The last room of the page before: its name as stored, and its id.
    pub after: Option<(String, RoomId)>,
    /// Bans that hold then hide their rooms.
    pub now: Timestamp,
    /// How many at most.
    pub limit: u32,
}

/// Public rooms by name, with the name as it is stored, for the cursor.
///
/// # Errors
/// If the statement fails.
pub async fn discover(
    snapshot: &mut Snapshot,
    wish: &Wish<'_>,
) -> Result<Vec<(String, PublicRoom)>, StoreError> {
    let (name, room) = wish
        .after
        .as_ref()
        .map_or(("", ""), |(name, room)| (name, room.as_str()));
    let part = super::text::encode(wish.part);
    let part = part
        .replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_");
    let query = sqlx::query(DISCOVER)
        .bind(wish.user.as_str())
        .bind(name)
        .bind(room)
        .bind(format!("%{part}%"))
        .bind(wish.now.0)
        .bind(i64::from(wish.limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("looking for public rooms")?;
    let found = |row: &PgRow| {
        let role: Option<&str> = row.try_get("role")?;
        let room = PublicRoom {
            room: row.room("room")?,
            name: row.words("name")?,
            topic: row.words("topic")?,
            members: row.number("members")?,
            head: row.seq("head")?,
            role: role.map(|_| row.word("role")).transpose()?,
        };
        Ok((row.try_get("name")?, room))
    };
    rows.iter()
        .map(found)
        .collect::<Result<_, _>>()
        .doing("looking for public rooms")
}

const PRESENT: &str = "select m.room from (
        select room, from_stream from memberships where user_id = $1 and to_seq is null
        union all
        select room, from_stream from memberships
            where user_id = $1 and to_seq is not null and to_stream > $2
    ) as m
    join rooms r on r.room = m.room
    where r.kind <> 'self' and m.from_stream <= $2";

/// The rooms that `user` was in at a position of the log, the own one left out.
///
/// # Errors
/// If the statement fails.
pub async fn present_at(
    snapshot: &mut Snapshot,
    user: &UserId,
    position: protocol::StreamSeq,
) -> Result<Vec<RoomId>, StoreError> {
    let query = sqlx::query(PRESENT)
        .bind(user.as_str())
        .bind(int(position.0));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("reading a user's rooms")?;
    rows.iter()
        .map(|row| row.room("room"))
        .collect::<Result<_, _>>()
        .doing("reading a user's rooms")
}
