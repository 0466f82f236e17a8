//! Following the log: exactly once, by one process, through failures, never past what is wrong.

use chassis::Process;
use protocol::event::{HistoryScope, RoomKind};
use protocol::frame::Page;
use protocol::query::{Position, Query, RoomStateAnswer};
use protocol::{ErrorCode, Seq, StreamSeq};
use tests::{PATIENCE, Part, eventually};

use crate::archive::{Archive, create, history, room, say};

/// Ends the connection that ingests, as a failing network would.
async fn cut(archive: &Archive) {
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'natter-history-ingest'";
    sqlx::query(sql).execute(&archive.pool).await.unwrap();
}

async fn head(archive: &Archive) -> Seq {
    let query = Query::RoomState { room: room("r1") };
    let state: RoomStateAnswer = archive.asks(query).await.unwrap();
    state.unwrap().head
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_database_connection_breaks() {
    let mut archive = Archive::start().await;
    archive
        .writes("r1", "alice", create(RoomKind::Public, HistoryScope::All))
        .await;
    for n in 0..60_u64 {
        if n % 20 == 10 {
            cut(&archive).await;
        }
        archive.writes("r1", "alice", say(&n.to_string())).await;
    }
    let answered = eventually(PATIENCE, async || {
        let query = Query::RoomState { room: room("r1") };
        archive.asks::<RoomStateAnswer>(query).await
    });
    assert_eq!(answered.await.unwrap().head, Seq(61));
    let report = ::history::verify::room(&archive.pool, &room("r1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (report.events, report.messages, report.fault),
        (61, 60, None)
    );
}

#[tokio::test]
async fn servers_that_die_are_waited_for() {
    let mut archive = Archive::start().await;
    archive
        .writes("r1", "alice", create(RoomKind::Public, HistoryScope::All))
        .await;
    archive.stack.kills(Part::Postgres).await;
    archive
        .writes("r1", "alice", say("while Postgres was away"))
        .await;
    archive.is_ready(&archive.process).await;
    eventually(PATIENCE, async || {
        archive.asks::<Position>(Query::Position {}).await
    })
    .await;
    archive.stack.kills(Part::NatsServer).await;
    archive.is_ready(&archive.process).await;
    eventually(PATIENCE, async || match archive.nats.flush().await {
        Ok(()) if archive.nats.connection_state() == async_nats::connection::State::Connected => {
            Ok(())
        }
        _ => Err("not connected again"),
    })
    .await;
    archive
        .writes("r1", "alice", say("after NATS came back"))
        .await;
    let answered = eventually(PATIENCE, async || {
        let query = Query::RoomState { room: room("r1") };
        archive.asks::<RoomStateAnswer>(query).await
    });
    assert_eq!(answered.await.unwrap().head, Seq(3));
}

#[tokio::test]
async fn of_two_processes_one_ingests_and_the_other_takes_over() {
    let mut archive = Archive::start().await;
    archive
        .writes("r1", "alice", create(RoomKind::Public, HistoryScope::All))
        .await;
    let second = Process::new();
    let second_context = archive.runs_history(&second).await;
    archive.is_ready(&second).await;
    for n in 0..10 {
        archive.writes("r1", "alice", say(&n.to_string())).await;
        // Whichever of the two is asked, it waits for what was written.
        assert_eq!(head(&archive).await, Seq(n + 2));
    }
    let counted = sqlx::query_scalar::<_, i64>(
        "select count(*) from pg_locks where locktype = 'advisory' and granted",
    );
    assert_eq!(counted.fetch_one(&archive.pool).await.unwrap(), 1);
    cut(&archive).await;
    archive
        .writes("r1", "alice", say("for whoever is first"))
        .await;
    let answered = eventually(PATIENCE, async || {
        let query = Query::RoomState { room: room("r1") };
        archive.asks::<RoomStateAnswer>(query).await
    });
    assert_eq!(answered.await.unwrap().head, Seq(12));
    second_context.shutdown.cancel();
    second_context.tasks.close_and_wait(PATIENCE).await.unwrap();
    archive
        .writes("r1", "alice", say("by the first alone"))
        .await;
    let answered = eventually(PATIENCE, async || {
        let query = Query::RoomState { room: room("r1") };
        archive.asks::<RoomStateAnswer>(query).await
    });
    assert_eq!(answered.await.unwrap().head, Seq(13));
}

#[tokio::test]
async fn another_log_or_a_shorter_one_stops_it_with_an_alarm() {
    let mut archive = Archive::start().await;
    archive
        .writes("r1", "alice", create(RoomKind::Public, HistoryScope::All))
        .await;
    assert_eq!(head(&archive).await, Seq(1));
    let update = async |sql: &'static str| {
        sqlx::query(sql).execute(&archive.pool).await.unwrap();
        cut(&archive).await;
    };
    let says = async |part: &str| {
        eventually(PATIENCE, async || {
            let report = archive.process.health.report();
            let shown = format!("{:?}", report.components);
            if !report.ready && shown.contains(part) {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .await;
    };
    update("update cursors set applied = applied + 100").await;
    says("ends at 1, before the cursor 101").await;
    update("update cursors set applied = applied - 100, log_id = 'another'").await;
    says("but log another was being applied").await;
    let log = chassis::topology::inspect(&archive.owner_nats())
        .await
        .unwrap()
        .log_id;
    sqlx::query("update cursors set log_id = $1")
        .bind(log)
        .execute(&archive.pool)
        .await
        .unwrap();
    archive.is_ready(&archive.process).await;
    archive.writes("r1", "alice", say("goes on")).await;
    let answered = eventually(PATIENCE, async || {
        let query = Query::RoomState { room: room("r1") };
        archive.asks::<RoomStateAnswer>(query).await
    });
    assert_eq!(answered.await.unwrap().head, Seq(2));
}

#[tokio::test]
async fn poison_stops_its_own_room_and_no_other() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive
        .makes("r2", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    let bad = "{\"ev\":\"msg\",\"text\":\u{0}}".to_owned();
    archive.publishes(&[(room("r1"), bad.clone())]).await;
    archive
        .publishes_raw(room("r1").partition(), "what is this")
        .await;
    archive.writes("r2", "alice", say("goes on")).await;
    let page: Page = archive.reads("alice", history("r2")).await.unwrap();
    assert_eq!(page.head, Seq(3));
    let poisoned = archive.reads::<Page>("alice", history("r1")).await;
    assert_eq!(poisoned, Err(ErrorCode::Unavailable));
    let state = archive
        .asks::<RoomStateAnswer>(Query::RoomState { room: room("r1") })
        .await;
    assert_eq!(state, Err(ErrorCode::Unavailable));
    let kept: Vec<u8> = sqlx::query_scalar("select payload from records where kind = 'bad'")
        .fetch_one(&archive.pool)
        .await
        .unwrap();
    assert_eq!(kept, b"what is this");
    let report = ::history::verify::room(&archive.pool, &room("r1"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(report.fault.map(|fault| fault.seq), Some(Seq(3)));
}

#[tokio::test]
async fn a_command_that_is_in_the_log_twice_is_poison_and_does_not_stop_the_rest() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive
        .makes("r2", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive.writes("r1", "alice", say("once")).await;
    let cid = archive.written.last().unwrap().0.cid;
    let (of, line, _) = archive.next("r1", "alice", say("twice"));
    let own = archive.written.last().unwrap().0.cid;
    archive
        .publishes(&[(of, line.replace(&own.to_string(), &cid.to_string()))])
        .await;
    archive.writes("r2", "alice", say("goes on")).await;
    let page: Page = archive.reads("alice", history("r2")).await.unwrap();
    assert_eq!(page.head, Seq(3));
    let poisoned = archive.reads::<Page>("alice", history("r1")).await;
    assert_eq!(poisoned, Err(ErrorCode::Unavailable));
    let position: Position = archive.asks(Query::Position {}).await.unwrap();
    assert!(archive.position > StreamSeq(0) && position.time.0 > 0);
}
