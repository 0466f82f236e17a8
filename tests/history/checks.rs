//! Verifying: a row that was changed by hand is found, and named.

use history::verify;
use protocol::event::{HistoryScope, MemberChange, RoomKind};
use protocol::{Seq, Timestamp};

use crate::archive::{Archive, delete, edit, member, reply, room, say};

async fn fault(archive: &Archive) -> Option<(&'static str, u64)> {
    let report = verify::room(&archive.pool, &room("r1"))
        .await
        .unwrap()
        .unwrap();
    report.fault.map(|fault| (fault.place, fault.seq.0))
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_is_named() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive.writes("r1", "alice", say("three")).await;
    archive.writes("r1", "alice", say("four")).await;
    archive.writes("r1", "alice", edit(3, 2, "new")).await;
    archive.writes("r1", "bob", reply(3, "re \0")).await;
    archive.writes("r1", "alice", delete(4, 4)).await;
    archive
        .writes("r1", "alice", member("bob", MemberChange::Joined))
        .await;
    archive.writes("r1", "bob", reply(3, "gone")).await;
    archive.writes("r1", "alice", delete(9, 9)).await;
    let page = crate::archive::history("r1");
    archive
        .reads::<serde_json::Value>("alice", page)
        .await
        .unwrap();

    assert_eq!(fault(&archive).await, None);
    assert_eq!(verify::rooms(&archive.pool).await.unwrap(), [room("r1")]);
    assert_eq!(
        verify::room(&archive.pool, &room("r9")).await.unwrap(),
        None
    );
    let table: [(&'static str, &'static str, u64); 14] = [
        (
            "update events set line = replace(line, 'three', 'threw') where seq = 3",
            "events",
            3,
        ),
        (
            "update events set hash = '\\x00' || substr(hash, 2) where seq = 4",
            "events",
            4,
        ),
        ("delete from events where seq = 5", "events", 5),
        (
            "update messages set text = 'forged' where seq = 3",
            "messages",
            3,
        ),
        (
            "update messages set deleted = false where seq = 4",
            "messages",
            4,
        ),
        (
            "update messages set mentions = '{bob}' where seq = 6",
            "messages",
            6,
        ),
        ("delete from messages where seq = 3", "messages", 3),
        (
            "update messages set shown_rev = 1 where seq = 3",
            "messages",
            3,
        ),
        (
            "update messages set edited = edited + 1 where seq = 3",
            "messages",
            3,
        ),
        (
            "update messages set deleted_seq = 6 where seq = 4",
            "messages",
            4,
        ),
        (
            "update messages set replies = 3 where seq = 3",
            "messages",
            3,
        ),
        (
            "update messages set replies_deleted = 0 where seq = 3",
            "messages",
            3,
        ),
        (
            "update messages set edited = 1 where seq = 6",
            "messages",
            6,
        ),
        ("update rooms set head = 7", "rooms", 10),
    ];
    for (sql, place, seq) in table {
        let mut tables = String::from("create schema kept");
        for name in ["events", "messages", "rooms"] {
            tables.push_str(&format!(
                "; create table kept.{name} as table public.{name}"
            ));
        }
        sqlx::raw_sql(sqlx::AssertSqlSafe(tables))
            .execute(&archive.pool)
            .await
            .unwrap();
        sqlx::query(sql).execute(&archive.pool).await.unwrap();
        assert_eq!(fault(&archive).await, Some((place, seq)), "{sql}");
        let mut back = String::new();
        for name in ["events", "messages", "rooms"] {
            back.push_str(&format!(
                "truncate public.{name}; insert into public.{name} select * from kept.{name};"
            ));
        }
        back.push_str("drop schema kept cascade");
        sqlx::raw_sql(sqlx::AssertSqlSafe(back))
            .execute(&archive.pool)
            .await
            .unwrap();
        assert_eq!(fault(&archive).await, None, "put back after: {sql}");
    }
}

#[tokio::test]
async fn checkpoints_hold_the_heads_that_moved() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive
        .makes("r2", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    let page = crate::archive::history("r2");
    archive
        .reads::<serde_json::Value>("alice", page)
        .await
        .unwrap();
    let write = async |now| {
        let written = history::store::checkpoint::write(&archive.pool, Timestamp(now)).await;
        let heads = written
            .unwrap()
            .into_iter()
            .map(|at| (at.room.to_string(), at.seq));
        heads.collect::<Vec<_>>()
    };
    let both = [("r1".to_owned(), Seq(2)), ("r2".to_owned(), Seq(2))];
    assert_eq!(write(1).await, both);
    assert_eq!(write(2).await, []);
}
