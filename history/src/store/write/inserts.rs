//! New rows, and rows that are written whole.

use super::super::text::encode;
use super::super::{Doing as _, StoreError, int};
use super::{column, entries, int_or_null, joined};
use crate::projector::rows::{EventRow, MembershipRow, MessageRow, RecordRow, RoomRow};
use protocol::{RoomId, Seq, Timestamp, UserId};
use sqlx::PgConnection;
use std::collections::BTreeMap;

const RECORDS: &str = "insert into records
        (stream_seq, partition, broker_time, kind, envelope, rooms, payload)
    select * from unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::text[], $5::text[],
        $6::text[], $7::bytea[])";

pub(super) async fn records(
    db: &mut PgConnection,
    rows: &[RecordRow<'_>],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let partition =
        |row: &RecordRow<'_>| row.partition.map(|partition| i16::from(partition.number()));
    let query = sqlx::query(RECORDS)
        .bind(column(rows, |row| int(row.position.0)))
        .bind(column(rows, partition))
        .bind(column(rows, |row| row.time.0))
        .bind(column(rows, |row| row.kind))
        .bind(column(rows, |row| row.envelope))
        .bind(column(rows, |row| row.rooms))
        .bind(column(rows, |row| row.payload));
    query.execute(db).await.doing("inserting records")?;
    Ok(())
}

const EVENTS: &str = "insert into events
        (room, seq, stream_seq, idx, kind, author, cid, first, hash, poison, line)
    select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[],
        $6::text[], $7::uuid[], $8::boolean[], $9::bytea[], $10::text[], $11::text[])";

pub(super) async fn events(db: &mut PgConnection, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(EVENTS)
        .bind(column(rows, |row| row.room.as_str()))
        .bind(column(rows, |row| int(row.seq.0)))
        .bind(column(rows, |row| int(row.position.0)))
        .bind(column(rows, |row| row.index))
        .bind(column(rows, |row| row.kind))
        .bind(column(rows, |row| row.author.as_ref().map(UserId::as_str)))
        .bind(column(rows, |row| row.cid.map(protocol::Cid::uuid)))
        .bind(column(rows, |row| row.first))
        .bind(column(rows, |row| row.hash.0.as_slice()))
        .bind(column(rows, |row| row.poison.as_deref().map(encode)))
        .bind(column(rows, |row| encode(row.line)));
    query.execute(db).await.doing("inserting events")?;
    Ok(())
}

const ROOMS: &str = "insert into rooms
        (room, kind, creator, name, topic, slow_s, frozen, history, members, n,
        room_seq, head, head_hash, head_ts, head_stream, poison, poison_seq)
    select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
        $7::boolean[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
        $13::bytea[], $14::bigint[], $15::bigint[], $16::text[], $17::bigint[])
    on conflict on constraint rooms_key do update set
        kind = excluded.kind, creator = excluded.creator, name = excluded.name,
        topic = excluded.topic, slow_s = excluded.slow_s, frozen = excluded.frozen,
        history = excluded.history, members = excluded.members, n = excluded.n,
        room_seq = excluded.room_seq, head = excluded.head, head_hash = excluded.head_hash,
        head_ts = excluded.head_ts, head_stream = excluded.head_stream,
        poison = excluded.poison, poison_seq = excluded.poison_seq";

pub(super) async fn rooms(db: &mut PgConnection, rows: &[RoomRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let poison = |row: &RoomRow| row.poison.as_ref().map(|(_, why)| encode(why).into_owned());
    let query = sqlx::query(ROOMS)
        .bind(column(rows, |row| row.room.as_str()))
        .bind(column(rows, |row| {
            row.kind.map(protocol::event::RoomKind::as_str)
        }))
        .bind(column(rows, |row| row.creator.as_ref().map(UserId::as_str)))
        .bind(column(rows, |row| encode(&row.name)))
        .bind(column(rows, |row| encode(&row.topic)))
        .bind(column(rows, |row| i64::from(row.slow_s)))
        .bind(column(rows, |row| row.frozen))
        .bind(column(rows, |row| row.history.as_str()))
        .bind(column(rows, |row| int(row.members)))
        .bind(column(rows, |row| int(row.n)))
        .bind(column(rows, |row| int(row.room_seq.0)))
        .bind(column(rows, |row| int(row.head.0)))
        .bind(column(rows, |row| row.head_hash.0.as_slice()))
        .bind(column(rows, |row| row.head_ts.0))
        .bind(column(rows, |row| int(row.head_stream.0)))
        .bind(column(rows, poison))
        .bind(column(rows, |row| {
            row.poison.as_ref().map(|(seq, _)| int(seq.0))
        }));
    query.execute(db).await.doing("writing rooms")?;
    Ok(())
}

const MESSAGES: &str = "insert into messages
        (room, seq, author, ts, cid, n, thread, tn, reply_to, meta, text, mentions,
        rev, shown_rev, eff, edited, deleted, deleted_seq, replies, replies_deleted)
    select room, seq, author, ts, cid, n, thread, tn, reply_to, meta, text,
        string_to_array(mentions, ','), 1, 1, ts, null, false, null, 0, 0
    from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::uuid[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[])
        as m (room, seq, author, ts, cid, n, thread, tn, reply_to, meta, text, mentions)";

pub(super) async fn messages(
    db: &mut PgConnection,
    rows: &[MessageRow<'_>],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(MESSAGES)
        .bind(column(rows, |row| row.room.as_str()))
        .bind(column(rows, |row| int(row.seq.0)))
        .bind(column(rows, |row| row.author.as_str()))
        .bind(column(rows, |row| row.ts.0))
        .bind(column(rows, |row| row.cid.uuid()))
        .bind(column(rows, |row| int_or_null(row.n)))
        .bind(column(rows, |row| int_or_null(row.thread.map(|seq| seq.0))))
        .bind(column(rows, |row| int_or_null(row.tn)))
        .bind(column(rows, |row| {
            int_or_null(row.reply_to.map(|seq| seq.0))
        }))
        .bind(column(rows, |row| row.meta.as_deref()))
        .bind(column(rows, |row| encode(row.text)))
        .bind(column(rows, |row| joined(row.mentions)));
    query.execute(db).await.doing("inserting messages")?;
    Ok(())
}

const MEMBERSHIPS: &str = "insert into memberships
        (room, user_id, from_seq, from_stream, to_seq, to_stream, role, join_n)
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[], $7::text[], $8::bigint[])
    on conflict on constraint memberships_key do update set
        to_seq = excluded.to_seq, to_stream = excluded.to_stream, role = excluded.role";

pub(super) async fn memberships(
    db: &mut PgConnection,
    rows: &BTreeMap<(RoomId, UserId, Seq), MembershipRow>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    // Ends before beginnings: of one user and room only one row may be open at any moment.
    let mut rows = entries(rows);
    rows.sort_by_key(|(_, row)| row.to.is_none());
    for rows in rows.chunk_by(|(_, a), (_, b)| a.to.is_none() == b.to.is_none()) {
        let query = sqlx::query(MEMBERSHIPS)
            .bind(column(rows, |((room, _, _), _)| room.as_str()))
            .bind(column(rows, |((_, user, _), _)| user.as_str()))
            .bind(column(rows, |(_, row)| int(row.from_seq.0)))
            .bind(column(rows, |(_, row)| int(row.from_stream.0)))
            .bind(column(rows, |(_, row)| row.to.map(|(seq, _)| int(seq.0))))
            .bind(column(rows, |(_, row)| {
                row.to.map(|(_, position)| int(position.0))
            }))
            .bind(column(rows, |(_, row)| row.role.as_str()))
            .bind(column(rows, |(_, row)| int(row.join_n)));
        query.execute(&mut *db).await.doing("writing memberships")?;
    }
    Ok(())
}

const USERS: &str = "insert into users (user_id, own_room, known_ts)
    select * from unnest($1::text[], $2::text[], $3::bigint[])
    on conflict on constraint users_key do nothing";

pub(super) async fn users(
    db: &mut PgConnection,
    rows: &BTreeMap<UserId, (RoomId, Timestamp)>,
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows = entries(rows);
    let query = sqlx::query(USERS)
        .bind(column(&rows, |(user, _)| user.as_str()))
        .bind(column(&rows, |(_, (room, _))| room.as_str()))
        .bind(column(&rows, |(_, (_, ts))| ts.0));
    query.execute(db).await.doing("inserting users")?;
    Ok(())
}
