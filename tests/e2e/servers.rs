//! The servers of `natter dev`: they live exactly as long as it does, and their data longer.

use std::path::Path;

use async_nats::jetstream;
use sqlx::{Connection as _, PgConnection};
use tests::{PATIENCE, Part, Stack, eventually};

async fn database(stack: &Stack) -> PgConnection {
    let url = stack.database_url().to_owned();
    eventually(PATIENCE, async || PgConnection::connect(&url).await).await
}

async fn stream(stack: &Stack) -> jetstream::stream::Stream {
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    let config = jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    eventually(PATIENCE, async || {
        jetstream::new(client.clone())
            .get_or_create_stream(config.clone())
            .await
    })
    .await
}

/// Whether a process lives; one that waits to be reaped does not.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

async fn all_gone(pids: &[u32]) {
    eventually(PATIENCE, async || {
        match pids.iter().find(|pid| lives(**pid)) {
            Some(pid) => Err(format!("{pid} still lives")),
            None => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn both_servers_keep_their_data_over_a_restart() {
    let mut stack = Stack::builder().servers_only().start().await;
    let mut connection = database(&stack).await;
    sqlx::raw_sql("create table kept (n int); insert into kept values (7)")
        .execute(&mut connection)
        .await
        .unwrap();
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    stream(&stack).await;
    jetstream::new(client)
        .publish("kept", "seven".into())
        .await
        .unwrap()
        .await
        .unwrap();

    stack.stops().await;
    stack.starts_again().await;

    let mut connection = database(&stack).await;
    let n: i32 = sqlx::query_scalar("select n from kept")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(n, 7);
    let message = stream(&stack).await.get_raw_message(1).await.unwrap();
    assert_eq!(message.payload, "seven");
}

#[tokio::test]
async fn a_killed_server_runs_again() {
    let stack = Stack::builder().servers_only().start().await;
    for part in [Part::NatsServer, Part::Postgres] {
        stack.kills(part).await;
        match part {
            Part::NatsServer => {
                let url = stack.nats_url().to_owned();
                eventually(PATIENCE, async || async_nats::connect(&url).await).await;
            }
            _ => drop(database(&stack).await),
        }
    }
}

#[tokio::test]
async fn killing_dev_leaves_no_child_and_the_next_start_is_clean() {
    let mut stack = Stack::builder().servers_only().start().await;
    let pids = [stack.pid(Part::NatsServer), stack.pid(Part::Postgres)];
    assert!(pids.iter().all(|pid| lives(*pid)));
    stack.dies().await;
    // At once, while the old servers may still be stopping.
    stack.starts_again().await;
    all_gone(&pids).await;
    drop(database(&stack).await);
}

#[tokio::test]
async fn stopping_dev_leaves_no_child() {
    let mut stack = Stack::builder().servers_only().start().await;
    let pids = [stack.pid(Part::NatsServer), stack.pid(Part::Postgres)];
    stack.stops().await;
    all_gone(&pids).await;
    let left: Vec<_> = std::fs::read_dir(stack.data().join("run"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_stale_lock_that_names_a_stranger_does_not_stop_postgres() {
    let mut stack = Stack::builder().servers_only().start().await;
    stack.stops().await;
    let lock = stack.data().join("pg/postmaster.pid");
    assert!(!Path::new(&lock).exists());
    std::fs::write(&lock, format!("{}\n/somewhere\n", std::process::id())).unwrap();
    stack.starts_again().await;
    drop(database(&stack).await);
}

#[tokio::test]
async fn a_killed_service_runs_again() {
    let stack = Stack::builder().separate().start().await;
    for part in [Part::Gateway, Part::Messages, Part::History] {
        stack.kills(part).await;
        let url = stack.ops_url(part).trim_start_matches("http://").to_owned();
        eventually(PATIENCE, async || {
            tokio::net::TcpStream::connect(&url).await
        })
        .await;
    }
}
