//! All services are stopped for longer than the log keeps its records.
//!
//! What history had applied is in the archive: all goes on. What it had not is gone: that is told by
//! name, to operators, and nobody is answered as if it had never been (design section 2).

use std::time::Duration;

use serde_json::{Value, json};
use tests::http::Request;
use tests::{PATIENCE, Part, Socket, Stack, User, eventually, message};

use crate::owners::unhurried;

/// The services.
const SERVICES: [Part; 3] = [Part::Gateway, Part::Messages, Part::History];
/// Messages that history has.
const ARCHIVED: usize = 10;
/// Messages that come after those.
const LATER: usize = 20;

/// Asks JetStream.
async fn jetstream(stack: &Stack, subject: &str, body: &Value) -> Value {
    let client = async_nats::connect(stack.nats_url())
        .await
        .expect("the broker is there");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let asked = client.request(format!("$JS.API.{subject}.NATTER_LOG"), body.into());
    let answer = tokio::time::timeout(PATIENCE, asked)
        .await
        .expect("in time");
    let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
    assert!(answer["error"].is_null(), "{answer}");
    answer
}

/// Everything that the log has ages out; the setting is as before then.
async fn ages_out(stack: &Stack) {
    let before = jetstream(stack, "STREAM.INFO", &Value::Null).await["config"].clone();
    let mut short = before.clone();
    short["max_age"] = json!(Duration::from_secs(1).as_nanos() as u64);
    jetstream(stack, "STREAM.UPDATE", &short).await;
    eventually(PATIENCE, async || {
        let info = jetstream(stack, "STREAM.INFO", &Value::Null).await;
        if info["state"]["messages"] == 0 {
            Ok(())
        } else {
            Err(info["state"].clone())
        }
    })
    .await;
    jetstream(stack, "STREAM.UPDATE", &before).await;
}

/// All services stand still, the log ages out, and then all are started anew.
async fn long_stop(stack: &Stack) {
    for part in SERVICES {
        stack.freezes(part).await;
    }
    ages_out(stack).await;
    for part in SERVICES {
        stack.kills(part).await;
    }
}

/// Alice and Bob in a room, some of it archived.
async fn in_a_room(stack: &Stack) -> (User, User, String) {
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    alice.sends_many(&room, "archived", ARCHIVED).await;
    assert!(alice.archive(&room).await.len() > ARCHIVED);
    bob.renews_cursor().await;
    (alice, bob, room)
}

/// The ranges that messages has named as lost.
async fn lost_ranges(stack: &Stack) -> u64 {
    let url = format!("{}/metrics", stack.ops_url(Part::Messages));
    let text = Request::get(url).send().await.body;
    let count = text
        .lines()
        .find_map(|line| line.strip_prefix("natter_messages_lost_ranges_total "));
    count.expect("it is measured").parse().expect("a number")
}

#[tokio::test]
async fn what_history_had_not_applied_is_told_as_lost_and_nobody_goes_on_as_if_it_had_never_been() {
    let stack = unhurried().start().await;
    let (mut alice, bob, room) = in_a_room(&stack).await;
    let applied = stack.number("select applied from cursors").await;
    stack.freezes(Part::History).await;
    alice.sends_many(&room, "only in the log", LATER).await;
    let last = jetstream(&stack, "STREAM.INFO", &Value::Null).await["state"]["last_seq"].clone();
    long_stop(&stack).await;
    // History names the range, and applies nothing behind it.
    let applied_then = stack.number("select applied from cursors").await;
    assert!(applied_then >= applied);
    stack
        .reports(Part::History, "naming what is lost", |report| {
            !report.ready && report.body.to_string().contains("have left the log")
        })
        .await;
    let told = stack
        .report(Part::History)
        .await
        .expect("it answers")
        .body
        .to_string();
    let named = format!("records {} to", applied_then + 1);
    assert!(told.contains(&named), "{named} and at least {last}: {told}");
    // So does the owner.
    eventually(PATIENCE, async || match lost_ranges(&stack).await {
        0 => Err("no range is told"),
        _ => Ok(()),
    })
    .await;
    // Nobody resumes over the hole, and nobody writes as if it were not there.
    eventually(PATIENCE, async || {
        let headers = [("sec-websocket-protocol", "natter.v1.json")];
        let mut socket = Socket::open_with(stack.socket_url(), &headers).await?;
        let hello = json!({"op": "hello", "token": bob.token, "dev": "bob", "cur": bob.cursor});
        let refused = socket.asks(hello).await.expect_err("the past is not known");
        assert_eq!(refused["temp"], true, "{refused}");
        if refused["code"] == "unavailable" {
            Ok(())
        } else {
            Err(0)
        }
    })
    .await;
    assert_eq!(
        stack.number("select applied from cursors").await,
        applied_then
    );
}

#[tokio::test]
async fn when_history_had_applied_all_everything_goes_on_after_a_long_stop() {
    let stack = unhurried().start().await;
    let (mut alice, mut bob, room) = in_a_room(&stack).await;
    alice.sends_many(&room, "later", LATER).await;
    assert!(alice.archive(&room).await.len() > ARCHIVED + LATER);
    let head = bob.rooms[&room].last;
    long_stop(&stack).await;
    stack.is_ready().await;
    alice.comes_back().await;
    let after = alice
        .insists(message(&room, "after"))
        .await
        .expect("stored");
    bob.comes_back().await;
    bob.sees(&room, "after").await;
    assert_eq!(
        bob.rooms[&room].last,
        after["seq"].as_u64().expect("a number")
    );
    assert!(bob.rooms[&room].last > head);
    let archive = alice.archive(&room).await;
    let seqs: Vec<u64> = archive
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    assert_eq!(archive.len() as u64, bob.rooms[&room].last);
    assert_eq!(lost_ranges(&stack).await, 0, "nothing is lost");
}
