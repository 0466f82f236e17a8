//! A part that stays away: what still works, what is answered, and that everything comes back by itself.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tests::{PATIENCE, Part, Proxy, SmallBroker, Stack, StackBuilder, User, eventually, message};

use crate::late::repeats;
use crate::settings::{forgetful, unhurried};

/// A stack whose database hangs on a cable.
async fn with_database_on_a_cable(builder: StackBuilder) -> (Stack, Stack, Proxy) {
    let servers = Stack::builder().servers_only().start().await;
    let cable = Proxy::to(servers.database_url());
    let url = cable.url(servers.database_url());
    let stack = builder
        .separate()
        .argument("--database-url")
        .argument(&url)
        .start()
        .await;
    (stack, servers, cable)
}

/// Asserts that it is refused for now, with a time to try again.
async fn is_put_off(user: &mut User, command: Value) {
    check_put_off(&user.is_refused(command, "unavailable").await);
}

fn check_put_off(err: &Value) {
    assert_eq!(
        (&err["code"], &err["temp"]),
        (&json!("unavailable"), &json!(true))
    );
    let wait = err["retry_after_ms"].as_u64();
    assert!(wait.is_some_and(|ms| (1..=60_000).contains(&ms)), "{err}");
}

#[tokio::test]
async fn without_the_database_people_go_on_talking() {
    let (stack, _servers, cable) = with_database_on_a_cable(unhurried()).await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    alice.sends(&room, "before").await;
    bob.sees(&room, "before").await;

    cable.is_cut();
    stack
        .reports(Part::History, "not ready", |report| !report.ready)
        .await;
    for part in [Part::Gateway, Part::Messages] {
        stack
            .reports(part, "degraded and ready", |report| {
                report.ready && report.degraded()
            })
            .await;
    }
    let during = alice.sends(&room, "during").await;
    bob.sees(&room, "during").await;
    alice.edits(&room, during, 1, "during!").await;
    bob.sees_where(&room, "the edit", |event| event["text"] == "during!")
        .await;
    let copy = message(&room, "repeated");
    alice.does(copy.clone()).await;
    assert_eq!(alice.does(copy).await["dup"], true);
    let reads = vec![
        json!({"op": "history", "room": room}),
        json!({"op": "rooms"}),
    ];
    for answer in alice.asks_batch(reads).await {
        check_put_off(&answer.expect_err("history cannot look"));
    }
    // The gateway's memory is enough to come back.
    bob.goes_away();
    alice.sends(&room, "while away").await;
    bob.comes_back().await;
    bob.sees(&room, "while away").await;
    // The mark is stored; the counts, which only history knows, are left out.
    let marked = bob.marks_read(&room, during).await;
    assert!(
        marked["seq"].is_u64() && marked["unread"].is_null(),
        "{marked}"
    );

    cable.is_mended();
    stack.is_ready().await;
    for part in [Part::Gateway, Part::Messages] {
        stack
            .reports(part, "whole", |report| report.ready && !report.degraded())
            .await;
    }
    alice.sends(&room, "after").await;
    bob.sees(&room, "after").await;
    let archive = alice.archive(&room).await;
    let texts: Vec<&str> = archive
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "before",
            "during",
            "during!",
            "repeated",
            "while away",
            "after"
        ]
    );
}

#[tokio::test]
async fn what_needs_the_database_waits_for_it_and_is_stored_once() {
    let (stack, _servers, cable) = with_database_on_a_cable(forgetful()).await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let old = message(&room, "from below the window");
    let first = alice.does(old.clone()).await;
    alice.sends_many(&room, "meanwhile", 20).await;
    repeats(&stack, &mut alice, (&old, &first)).await;
    cable.is_cut();
    stack
        .reports(Part::History, "not ready", |report| !report.ready)
        .await;
    // Whether they were stored before only history knows: the window begins behind their time.
    is_put_off(&mut alice, old.clone()).await;
    let new = message(&room, "new");
    is_put_off(&mut alice, new.clone()).await;
    cable.is_mended();
    assert_eq!(
        alice.insists(old).await.expect("a repeat")["seq"],
        first["seq"]
    );
    let stored = alice.insists(new.clone()).await.expect("stored");
    assert_eq!(
        alice.insists(new).await.expect("a repeat")["seq"],
        stored["seq"]
    );
    let archive = alice.archive(&room).await;
    assert_eq!(
        archive
            .iter()
            .filter(|event| event["text"] == "new")
            .count(),
        1
    );
}

#[tokio::test]
async fn without_the_broker_writes_are_put_off_and_go_through_afterwards() {
    let servers = Stack::builder().servers_only().start().await;
    let cable = Proxy::to(servers.nats_url());
    let url = cable.url(servers.nats_url());
    let stack = unhurried()
        .separate()
        .argument("--nats-url")
        .argument(&url)
        .start()
        .await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    alice.sends(&room, "before").await;

    cable.is_cut();
    for part in [Part::Gateway, Part::Messages] {
        stack
            .reports(part, "not ready", |report| !report.ready)
            .await;
    }
    let during = message(&room, "during");
    for _ in 0..3 {
        is_put_off(&mut alice, during.clone()).await;
    }
    cable.is_mended();
    stack.is_ready().await;
    let stored = alice.insists(during.clone()).await.expect("stored");
    assert_eq!(
        alice.insists(during).await.expect("a repeat")["seq"],
        stored["seq"]
    );
    alice.sends(&room, "after").await;
    bob.sees_in_the_end(&room, "after").await;
    assert_eq!(bob.texts(&room), ["before", "during", "after"]);
}

#[tokio::test]
async fn a_broker_that_hangs_is_as_good_as_none() {
    let stack = unhurried().separate().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    stack.freezes(Part::NatsServer).await;
    let during = message(&room, "during");
    let err = alice
        .asks(during.clone())
        .await
        .expect_err("no broker, no storing");
    // Whether it was stored cannot be known while nobody answers.
    assert!(
        err["code"] == "unavailable" || err["code"] == "timeout",
        "{err}"
    );
    assert!(
        err["temp"] == true && err["retry_after_ms"].is_u64(),
        "{err}"
    );
    stack.thaws(Part::NatsServer);
    alice.insists(during).await.expect("stored");
    alice.sends(&room, "after").await;
    bob.sees_in_the_end(&room, "after").await;
    assert_eq!(bob.texts(&room), ["during", "after"]);
}

#[tokio::test]
async fn with_a_full_disk_writes_are_put_off_and_go_through_when_there_is_room() {
    let broker = SmallBroker::start().await;
    let stack = unhurried()
        .separate()
        .argument("--nats-url")
        .argument(broker.url())
        .start()
        .await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    alice.sends(&room, "before").await;
    broker.disk_fills();
    // Large ones, until one does not fit.
    let mut texts = vec!["before".to_owned()];
    let refused = loop {
        assert!(texts.len() < 1_000, "the disk is never full");
        let text = format!("{} {}", texts.len(), "x".repeat(7_000));
        let large = message(&room, &text);
        texts.push(text);
        if let Err(err) = alice.asks(large.clone()).await {
            assert!(
                err["code"] == "unavailable" || err["code"] == "timeout",
                "{err}"
            );
            assert!(err["retry_after_ms"].is_u64(), "{err}");
            break large;
        }
    };
    // The client goes on trying, by which the gateway notices too.
    eventually(PATIENCE, async || {
        let err = alice
            .asks(refused.clone())
            .await
            .expect_err("there is no room");
        let ready = [Part::Gateway, Part::Messages].map(|part| stack.report(part));
        let ready = join_all(ready).await.into_iter().filter_map(Result::ok);
        match ready.filter(|report| report.ready).count() {
            0 if err["code"] == "unavailable" => Ok(()),
            count => Err(format!("{count} are ready, and {err}")),
        }
    })
    .await;
    // What is there can be read.
    assert!(alice.archive(&room).await.len() > texts.len());
    broker.disk_is_cleared();
    stack.is_ready().await;
    alice.insists(refused).await.expect("stored");
    alice.sends(&room, "after").await;
    texts.push("after".to_owned());
    bob.sees_in_the_end(&room, "after").await;
    assert_eq!(bob.texts(&room), texts);
}
