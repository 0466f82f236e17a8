//! Lists of a room's people: members and those kept out.

use super::{Columns as _, Doing as _, Snapshot, StoreError};
use protocol::frame::listing::{Ban, Member};
use protocol::{RoomId, Timestamp};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

const MEMBERS: &str = "select user_id, role, from_seq from memberships
    where room = $1 and to_seq is null and user_id > $2 order by user_id limit $3";

/// Members by id, those behind `after`.
///
/// # Errors
/// If the statement fails.
pub async fn members(
    snapshot: &mut Snapshot,
    room: &RoomId,
    after: &str,
    limit: u32,
) -> Result<Vec<Member>, StoreError> {
    let query = sqlx::query(MEMBERS)
        .bind(room.as_str())
        .bind(after)
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("listing members")?;
    let member = |row: &PgRow| {
        Ok(Member {
            user: row.user("user_id")?,
            role: row.word("role")?,
            since: row.seq("from_seq")?,
        })
    };
    rows.iter()
        .map(member)
        .collect::<Result<_, _>>()
        .doing("listing members")
}

const BANS: &str = "select user_id, since, until_time, author, ts, why from bans
    where room = $1 and user_id > $2 and (until_time is null or until_time > $3)
    order by user_id limit $4";

/// Bans that hold at `now`, by user id, those behind `after`.
///
/// # Errors
/// If the statement fails.
pub async fn bans(
    snapshot: &mut Snapshot,
    room: &RoomId,
    after: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Ban>, StoreError> {
    let query = sqlx::query(BANS)
        .bind(room.as_str())
        .bind(after)
        .bind(now.0)
        .bind(i64::from(limit));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("listing bans")?;
    let ban = |row: &PgRow| {
        let until: Option<i64> = row.try_get("until_time")?;
        let why: Option<&str> = row.try_get("why")?;
        Ok(Ban {
            user: row.user("user_id")?,
            since: row.seq("since")?,
            until: until.map(Timestamp),
            by: row.user("author")?,
            ts: Timestamp(row.try_get("ts")?),
            why: why.map(|why| super::text::decode(why).into_owned()),
        })
    };
    rows.iter()
        .map(ban)
        .collect::<Result<_, _>>()
        .doing("listing bans")
}
