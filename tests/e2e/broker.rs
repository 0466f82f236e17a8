//! The broker enforces who may do what, whatever a service's code may try.

use async_nats::HeaderMap;
use chassis::config::NatsArgs;
use chassis::health::Health;
use futures_util::StreamExt as _;
use serde_json::json;
use tests::{PATIENCE, Part, Stack, cid};

#[tokio::test]
async fn no_service_tries_what_it_may_not() {
    let stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let mut bob = stack.user("bob").await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    alice.sends(&room, "hi").await;
    bob.sees(&room, "hi").await;
    // Coming up again, each does what it does on no other day: takes over, fills its ring, reads on.
    for part in [Part::Messages, Part::History, Part::Gateway] {
        stack.kills(part).await;
        stack.is_ready().await;
    }
    alice.comes_back().await;
    bob.comes_back().await;
    let again = json!({"op": "send", "room": room, "text": "again", "cid": cid()});
    alice.insists(again).await.unwrap();
    bob.sees(&room, "again").await;
    assert!(!alice.archive(&room).await.is_empty());
    let log = std::fs::read_to_string(stack.data().join("log/nats-server.log")).unwrap();
    assert!(log.contains("Server is ready"), "{log}");
    assert!(!log.contains("Violation"), "{log}");
}

#[tokio::test]
async fn an_append_behind_what_its_writer_knows_is_refused() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let health = Health::new();
    let nats = chassis::nats::connect(&NatsArgs::to(stack.nats_url()), "late", &health)
        .await
        .unwrap();
    nats.connected().await;
    // Every owner has written its epoch record: 0 is what no writer knows any more.
    let refused = nats
        .publish_expect("log.0", "late".into(), HeaderMap::new(), 0)
        .await;
    assert!(
        matches!(refused, Err(chassis::nats::PublishError::Conflict)),
        "{refused:?}"
    );
    alice.sends(&room, "nothing is in between").await;
}

/// A service that says much, closes its connection and is gone.
fn speaks_and_ends(nats_url: &str, messages: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // What is left to do when this ends is never done, as in a process that exits.
    runtime.block_on(async {
        let nats = chassis::nats::connect(&NatsArgs::to(nats_url), "ends", &Health::new())
            .await
            .unwrap();
        nats.connected().await;
        for _ in 0..messages {
            nats.publish("wm.last", HeaderMap::new(), "word".into())
                .await
                .unwrap();
        }
        nats.close().await;
    });
}

#[tokio::test]
async fn what_was_sent_before_a_process_ends_arrives() {
    const MESSAGES: usize = 5_000;
    let stack = Stack::builder().servers_only().start().await;
    let local = async_nats::connect(stack.nats_url()).await.unwrap();
    let mut heard = local.subscribe("wm.last").await.unwrap();
    local.flush().await.unwrap();
    let nats_url = stack.nats_url().to_owned();
    tokio::task::spawn_blocking(move || speaks_and_ends(&nats_url, MESSAGES))
        .await
        .unwrap();
    for number in 0..MESSAGES {
        let message = tokio::time::timeout(PATIENCE, heard.next()).await;
        assert!(matches!(message, Ok(Some(_))), "only {number} arrived");
    }
}
