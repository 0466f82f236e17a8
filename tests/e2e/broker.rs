//! The broker enforces who may do what, whatever a service's code may try.

use async_nats::{Client, ConnectOptions, Event, HeaderMap, ServerError};
use chassis::config::NatsArgs;
use chassis::health::Health;
use futures_util::StreamExt as _;
use tests::{PATIENCE, Stack};
use tokio::sync::mpsc;

/// A service's broker user, and what the broker complains of.
async fn connects_as(stack: &Stack, user: &str) -> (Client, mpsc::Receiver<String>) {
    let (complaint_tx, complaint_rx) = mpsc::channel(16);
    let password = stack.broker_password(user);
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password);
    let options = options.event_callback(move |event| {
        let complaint_tx = complaint_tx.clone();
        async move {
            if let Event::ServerError(ServerError::Other(text)) = event {
                // A test that has seen enough listens no more.
                complaint_tx.send(text).await.ok();
            }
        }
    });
    (
        options.connect(stack.nats_url()).await.unwrap(),
        complaint_rx,
    )
}

async fn is_refused(stack: &Stack, user: &str, subject: &str) {
    let (client, mut complaints) = connects_as(stack, user).await;
    client
        .publish(subject.to_owned(), "intruder".into())
        .await
        .unwrap();
    let complaint = tokio::time::timeout(PATIENCE, complaints.recv()).await;
    let complaint = complaint
        .unwrap_or_else(|_| panic!("{user} may publish {subject}"))
        .unwrap();
    assert!(
        complaint.contains("Permissions Violation"),
        "{user} {subject}: {complaint}"
    );
}

async fn is_allowed(stack: &Stack, user: &str, subject: &str) {
    let local = async_nats::connect(stack.nats_url()).await.unwrap();
    let mut published = local.subscribe(subject.to_owned()).await.unwrap();
    local.flush().await.unwrap();
    let (client, _complaints) = connects_as(stack, user).await;
    client
        .publish(subject.to_owned(), "as it should be".into())
        .await
        .unwrap();
    let message = tokio::time::timeout(PATIENCE, published.next()).await;
    assert!(
        matches!(message, Ok(Some(_))),
        "{user} may not publish {subject}"
    );
}

#[tokio::test]
async fn only_messages_may_write_the_log_and_nobody_the_live_feed() {
    let stack = Stack::start().await;
    for (user, subject) in [
        ("gateway", "log.3"),
        ("history", "log.3"),
        ("gateway", "wm.intruder"),
        ("history", "cmd.3.u.alice.send.r1"),
        ("gateway", "cmd.3.bot.b1.send.r1"),
        ("gateway", "live.3"),
        ("messages", "live.3"),
        ("history", "live.3"),
        ("all", "live.3"),
        ("messages", "$JS.API.STREAM.PURGE.NATTER_LOG"),
        ("history", "$JS.API.STREAM.DELETE.NATTER_LOG"),
    ] {
        is_refused(&stack, user, subject).await;
    }
    is_allowed(&stack, "gateway", "cmd.3.u.alice.nothing.r1").await;
    is_allowed(&stack, "messages", "wm.nobody").await;
}

#[tokio::test]
async fn no_service_tries_what_it_may_not() {
    let stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let mut bob = stack.user("bob").await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    alice.sends(&room, "hi").await;
    bob.sees(&room, "hi").await;
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
