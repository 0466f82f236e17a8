//! Changes to rows that are there, or that were inserted just before in the same batch.

use super::super::text::encode;
use super::super::{Columns as _, Doing as _, StoreError, int};
use super::{column, entries, joined};
use crate::projector::rows::{BanRow, DeletionRow, MuteRow, RevisionRow, Rows};
use protocol::room::Mark;
use protocol::{RoomId, Seq, UserId};
use sqlx::PgConnection;
use std::collections::BTreeMap;

const BANS: &str = "insert into bans (room, user_id, since, until_time, author, ts, why)
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[],
        $6::bigint[], $7::text[])
    on conflict on constraint bans_key do update set
        since = excluded.since, until_time = excluded.until_time, author = excluded.author,
        ts = excluded.ts, why = excluded.why";

const UNBANS: &str = "delete from bans b using unnest($1::text[], $2::text[]) as k (room, user_id)
    where b.room = k.room and b.user_id = k.user_id";

pub(super) async fn bans(
    db: &mut PgConnection,
    rows: &BTreeMap<(RoomId, UserId), Option<BanRow>>,
) -> Result<(), StoreError> {
    let made: Vec<_> = rows
        .iter()
        .filter_map(|(key, row)| Some((key, row.as_ref()?)))
        .collect();
    if !made.is_empty() {
        let query = sqlx::query(BANS)
            .bind(column(&made, |((room, _), _)| room.as_str()))
            .bind(column(&made, |((_, user), _)| user.as_str()))
            .bind(column(&made, |(_, row)| int(row.since.0)))
            .bind(column(&made, |(_, row)| row.until.map(|until| until.0)))
            .bind(column(&made, |(_, row)| row.author.as_str()))
            .bind(column(&made, |(_, row)| row.ts.0))
            .bind(column(&made, |(_, row)| row.why.as_deref().map(encode)));
        query.execute(&mut *db).await.doing("writing bans")?;
    }
    lift(db, UNBANS, rows).await
}

const MUTES: &str = "insert into mutes (room, user_id, since, until_time)
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
    on conflict on constraint mutes_key do update set
        since = excluded.since, until_time = excluded.until_time";

const UNMUTES: &str =
    "delete from mutes m using unnest($1::text[], $2::text[]) as k (room, user_id)
    where m.room = k.room and m.user_id = k.user_id";

pub(super) async fn mutes(
    db: &mut PgConnection,
    rows: &BTreeMap<(RoomId, UserId), Option<MuteRow>>,
) -> Result<(), StoreError> {
    let made: Vec<_> = rows
        .iter()
        .filter_map(|(key, row)| Some((key, row.as_ref()?)))
        .collect();
    if !made.is_empty() {
        let query = sqlx::query(MUTES)
            .bind(column(&made, |((room, _), _)| room.as_str()))
            .bind(column(&made, |((_, user), _)| user.as_str()))
            .bind(column(&made, |(_, row)| int(row.since.0)))
            .bind(column(&made, |(_, row)| row.until.map(|until| until.0)));
        query.execute(&mut *db).await.doing("writing mutes")?;
    }
    lift(db, UNMUTES, rows).await
}

async fn lift<R>(
    db: &mut PgConnection,
    sql: &'static str,
    rows: &BTreeMap<(RoomId, UserId), Option<R>>,
) -> Result<(), StoreError> {
    let lifted: Vec<_> = rows
        .iter()
        .filter(|(_, row)| row.is_none())
        .map(|(key, _)| key)
        .collect();
    if lifted.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(sql)
        .bind(column(&lifted, |(room, _)| room.as_str()))
        .bind(column(&lifted, |(_, user)| user.as_str()));
    query.execute(db).await.doing("lifting bans or mutes")?;
    Ok(())
}

const MARKS: &str = "insert into marks as old (user_id, room, epoch, seq)
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
    on conflict on constraint marks_key do update set epoch = excluded.epoch, seq = excluded.seq
    where (excluded.epoch, excluded.seq) > (old.epoch, old.seq)";

pub(super) async fn marks(
    db: &mut PgConnection,
    rows: &BTreeMap<(UserId, RoomId), Mark>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = entries(rows);
    let query = sqlx::query(MARKS)
        .bind(column(&rows, |((user, _), _)| user.as_str()))
        .bind(column(&rows, |((_, room), _)| room.as_str()))
        .bind(column(&rows, |(_, mark)| i64::from(mark.epoch)))
        .bind(column(&rows, |(_, mark)| int(mark.seq.0)));
    query.execute(db).await.doing("writing marks")?;
    Ok(())
}

const THREADS: &str = "update messages m set replies = greatest(m.replies, t.tn)
    from unnest($1::text[], $2::bigint[], $3::bigint[]) as t (room, seq, tn)
    where m.room = t.room and m.seq = t.seq";

pub(super) async fn threads(
    db: &mut PgConnection,
    rows: &BTreeMap<(RoomId, Seq), u64>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = entries(rows);
    let query = sqlx::query(THREADS)
        .bind(column(&rows, |((room, _), _)| room.as_str()))
        .bind(column(&rows, |((_, root), _)| int(root.0)))
        .bind(column(&rows, |(_, tn)| int(**tn)));
    query.execute(db).await.doing("counting thread replies")?;
    Ok(())
}

const REVISIONS: &str = "insert into revisions
        (room, on_seq, seq, rev, author, ts, eff, won, mentions, text)
    select room, on_seq, seq, rev, author, ts, eff, won, string_to_array(mentions, ','), text
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[],
        $7::bigint[], $8::boolean[], $9::text[], $10::text[])
        as r (room, on_seq, seq, rev, author, ts, eff, won, mentions, text)";

/// Each edited message gets the greatest of all its revisions and, if one of this batch won, the last
/// of those as its text.
const EDITS: &str = "update messages m set
        rev = greatest(m.rev, e.rev),
        shown_rev = coalesce(w.rev, m.shown_rev),
        eff = coalesce(w.eff, m.eff),
        edited = coalesce(w.ts, m.edited),
        text = coalesce(w.text, m.text),
        mentions = case when w.rev is null then m.mentions else w.mentions end
    from (
        select k.room, k.on_seq, k.last_won, max(r.rev) as rev
        from unnest($1::text[], $2::bigint[], $3::bigint[]) as k (room, on_seq, last_won)
        join revisions r on r.room = k.room and r.on_seq = k.on_seq
        group by k.room, k.on_seq, k.last_won
    ) e
    left join revisions w on w.room = e.room and w.on_seq = e.on_seq and w.seq = e.last_won
    where m.room = e.room and m.seq = e.on_seq";

pub(super) async fn edits(
    db: &mut PgConnection,
    rows: &[RevisionRow<'_>],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(REVISIONS)
        .bind(column(rows, |row| row.room.as_str()))
        .bind(column(rows, |row| int(row.on.0)))
        .bind(column(rows, |row| int(row.seq.0)))
        .bind(column(rows, |row| i64::from(row.rev)))
        .bind(column(rows, |row| row.author.as_str()))
        .bind(column(rows, |row| row.ts.0))
        .bind(column(rows, |row| row.eff.0))
        .bind(column(rows, |row| row.won))
        .bind(column(rows, |row| joined(row.mentions)))
        .bind(column(rows, |row| encode(row.text)));
    query.execute(&mut *db).await.doing("inserting revisions")?;
    let mut edited: BTreeMap<(&RoomId, Seq), Option<Seq>> = BTreeMap::new();
    for row in rows {
        let last_won = edited.entry((&row.room, row.on)).or_default();
        if row.won {
            *last_won = Some(row.seq);
        }
    }
    let edited = entries(&edited);
    let query = sqlx::query(EDITS)
        .bind(column(&edited, |((room, _), _)| room.as_str()))
        .bind(column(&edited, |((_, on), _)| int(on.0)))
        .bind(column(&edited, |(_, won)| won.map(|seq| int(seq.0))));
    query.execute(db).await.doing("applying edits")?;
    Ok(())
}

const UNMENTION: &str =
    "delete from mentions x using unnest($1::text[], $2::bigint[]) as k (room, seq)
    where x.room = k.room and x.seq = k.seq";

const MENTION: &str = "insert into mentions (room, target, seq, author)
    select distinct m.room, t.target, m.seq, m.author
    from unnest($1::text[], $2::bigint[]) as k (room, seq)
    join messages m on m.room = k.room and m.seq = k.seq
    cross join unnest(m.mentions) as t (target)
    where m.n is not null and not m.deleted and t.target <> '@here'";

/// Who is called by the shown texts of messages that are new or were edited.
pub(super) async fn mentions(db: &mut PgConnection, rows: &Rows<'_>) -> Result<(), StoreError> {
    let edited = rows
        .revisions
        .iter()
        .filter(|row| row.won)
        .map(|row| (&row.room, row.on));
    let mut keys: Vec<_> = edited.collect();
    if !keys.is_empty() {
        keys.sort_unstable();
        keys.dedup();
        let query = sqlx::query(UNMENTION)
            .bind(column(&keys, |(room, _)| room.as_str()))
            .bind(column(&keys, |(_, seq)| int(seq.0)));
        query
            .execute(&mut *db)
            .await
            .doing("removing old mentions")?;
    }
    let calling = rows.messages.iter().filter(|row| !row.mentions.is_empty());
    keys.extend(calling.map(|row| (&row.room, row.seq)));
    if keys.is_empty() {
        return Ok(());
    }
    keys.sort_unstable();
    keys.dedup();
    let query = sqlx::query(MENTION)
        .bind(column(&keys, |(room, _)| room.as_str()))
        .bind(column(&keys, |(_, seq)| int(seq.0)));
    query.execute(db).await.doing("inserting mentions")?;
    Ok(())
}

/// A message counts as removed by the first event that says so; what is removed calls nobody.
const DELETIONS: &str = "with gone as (
        select m.room, m.seq, min(d.seq) as deleted_seq
        from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
            as d (room, seq, lo, hi, author)
        join messages m on m.room = d.room and m.seq between d.lo and least(d.hi, d.seq - 1)
        where not m.deleted and (d.author is null or m.author = d.author)
        group by m.room, m.seq
    ), marked as (
        update messages m set deleted = true, deleted_seq = g.deleted_seq
        from gone g where m.room = g.room and m.seq = g.seq
        returning m.room, m.seq, m.thread
    ), unmentioned as (
        delete from mentions x using marked k where x.room = k.room and x.seq = k.seq
    )
    select distinct room, thread from marked where thread is not null";

const RECOUNT: &str = "update messages m set replies_deleted =
        (select count(*) from messages c where c.room = m.room and c.thread = m.seq and c.deleted)
    from unnest($1::text[], $2::bigint[]) as k (room, seq)
    where m.room = k.room and m.seq = k.seq";

pub(super) async fn deletions(
    db: &mut PgConnection,
    rows: &[DeletionRow],
) -> Result<(), StoreError> {
    const DOING: &str = "removing messages";
    if rows.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(DELETIONS)
        .bind(column(rows, |row| row.room.as_str()))
        .bind(column(rows, |row| int(row.seq.0)))
        .bind(column(rows, |row| int(row.from.0)))
        .bind(column(rows, |row| int(row.to.0)))
        .bind(column(rows, |row| row.author.as_ref().map(UserId::as_str)));
    let touched = query.fetch_all(&mut *db).await.doing(DOING)?;
    if touched.is_empty() {
        return Ok(());
    }
    let mut roots = Vec::with_capacity(touched.len());
    for row in &touched {
        roots.push((
            row.room("room").doing(DOING)?,
            row.seq("thread").doing(DOING)?,
        ));
    }
    let query = sqlx::query(RECOUNT)
        .bind(column(&roots, |(room, _)| room.as_str()))
        .bind(column(&roots, |(_, root)| int(root.0)));
    query.execute(db).await.doing("recounting thread replies")?;
    Ok(())
}
