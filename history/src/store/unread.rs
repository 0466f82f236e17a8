//! Unread, by the formula: live messages by others in the main timeline above mark and join.
//!
//! Counted on an index, never stored, never counted up and down, so it cannot drift. An ordinal `n`
//! rises with `seq`, so "n above that of the mark" is "seq above the mark".

use super::{Columns as _, Doing as _, Snapshot, StoreError, int};
use protocol::limits::UNREAD_SHOWN_MAX;
use protocol::query::ReadCounts;
use protocol::{RoomId, Seq, UserId};
use sqlx::postgres::PgRow;

/// From where to count in one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The room.
    pub room: RoomId,
    /// The reader's mark, at most the room's head.
    pub mark: Seq,
    /// The event that began the membership.
    pub since: Seq,
}

const COUNTS: &str = "select
        coalesce((select m.n from messages m
            where m.room = k.room and m.seq <= k.mark and m.n is not null
            order by m.seq desc limit 1), 0) as read_n,
        (select count(*) from (select from messages m
            where m.room = k.room and m.seq > greatest(k.mark, k.since)
                and m.n is not null and not m.deleted and m.author <> $4
            limit $5) as c) as unread,
        (select count(*) from (
            (select x.seq from mentions x
                where x.room = k.room and x.target = $4
                    and x.seq > greatest(k.mark, k.since) and x.author <> $4
                order by x.seq limit $5)
            union
            (select x.seq from mentions x
                where x.room = k.room and x.target = '@room'
                    and x.seq > greatest(k.mark, k.since) and x.author <> $4
                order by x.seq limit $5)
            limit $5) as c) as mentions
    from unnest($1::text[], $2::bigint[], $3::bigint[])
        with ordinality as k (room, mark, since, place)
    order by k.place";

/// The counts of these rooms, in the same order.
///
/// # Errors
/// If the statement fails.
pub async fn counts(
    snapshot: &mut Snapshot,
    user: &UserId,
    from: &[Start],
) -> Result<Vec<ReadCounts>, StoreError> {
    if from.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query(COUNTS)
        .bind(
            from.iter()
                .map(|from| from.room.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(from.iter().map(|from| int(from.mark.0)).collect::<Vec<_>>())
        .bind(
            from.iter()
                .map(|from| int(from.since.0))
                .collect::<Vec<_>>(),
        )
        .bind(user.as_str())
        .bind(i64::from(UNREAD_SHOWN_MAX));
    let rows = query
        .fetch_all(&mut *snapshot.tx)
        .await
        .doing("counting unread messages")?;
    let counts = |row: &PgRow| {
        let shown = |column| {
            row.number(column)
                .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
        };
        Ok(ReadCounts {
            read_n: row.number("read_n")?,
            unread: shown("unread")?,
            mentions: shown("mentions")?,
        })
    };
    rows.iter()
        .map(counts)
        .collect::<Result<_, _>>()
        .doing("counting unread messages")
}
