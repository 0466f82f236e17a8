//! Ids that would mean something in a subject, or only look alike: refused on every command.

use serde_json::{Value, json};
use tests::{Stack, cid};

/// Texts that are no ids (`tests/data/ids.txt`).
pub(crate) fn hostile_texts() -> Vec<String> {
    let corpus = include_str!("../data/ids.txt");
    let lines = corpus.lines().filter(|line| line.starts_with('"'));
    lines
        .map(|line| serde_json::from_str(line).expect("each line is a JSON string"))
        .collect()
}

/// None of these is an id.
fn hostile_ids() -> Vec<Value> {
    let mut ids: Vec<Value> = hostile_texts().into_iter().map(Value::from).collect();
    ids.extend([
        json!(5),
        json!(null),
        json!(["a"]),
        json!({"a": 1}),
        json!(true),
    ]);
    ids
}

/// Every command with an id in it, and which field that is.
pub(crate) fn commands_with_ids() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"op": "update", "topic": "x"}), "room"),
        (json!({"op": "join"}), "room"),
        (json!({"op": "leave"}), "room"),
        (json!({"op": "invite", "user": "bob"}), "room"),
        (json!({"op": "kick", "user": "bob"}), "room"),
        (json!({"op": "ban", "user": "bob"}), "room"),
        (json!({"op": "unban", "user": "bob"}), "room"),
        (json!({"op": "role", "user": "bob", "role": "mod"}), "room"),
        (json!({"op": "send", "text": "x"}), "room"),
        (
            json!({"op": "edit", "on": 1, "base": 1, "text": "x"}),
            "room",
        ),
        (json!({"op": "del", "on": 1}), "room"),
        (json!({"op": "read", "seq": 1}), "room"),
        (json!({"op": "history"}), "room"),
        (json!({"op": "thread", "root": 1}), "room"),
        (json!({"op": "members"}), "room"),
        (json!({"op": "bans"}), "room"),
        (json!({"op": "revisions", "on": 1}), "room"),
        (json!({"op": "invite"}), "user"),
        (json!({"op": "kick"}), "user"),
        (json!({"op": "ban"}), "user"),
        (json!({"op": "unban"}), "user"),
        (json!({"op": "role", "role": "mod"}), "user"),
        (json!({"op": "del", "to": 1}), "user"),
    ]
}

#[tokio::test]
async fn an_id_outside_the_grammar_is_a_bad_request_on_every_command() {
    let stack = crate::settings::unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    for (command, field) in commands_with_ids() {
        for id in hostile_ids() {
            let mut command = command.clone();
            if command["room"].is_null() {
                command["room"] = json!(room);
            }
            command["cid"] = json!(cid());
            command[field] = id;
            // Who leaves a target out of a deletion is refused for that; null is leaving out.
            alice.is_refused(command, "bad_request").await;
        }
    }
    for id in hostile_ids() {
        let create =
            json!({"op": "create", "kind": "private", "name": "x", "members": [id], "cid": cid()});
        alice.is_refused(create, "bad_request").await;
        let mention =
            json!({"op": "send", "room": room, "text": "x", "mentions": [id], "cid": cid()});
        alice.is_refused(mention, "bad_request").await;
        let name = json!({"op": "join", "room": room, "cid": id});
        alice.is_refused(name, "bad_request").await;
    }
    // Nobody noticed.
    alice.sends(&room, "all quiet").await;
    bob.sees(&room, "all quiet").await;
    assert_eq!(alice.archive(&room).await.len(), 4);
}

#[tokio::test]
async fn a_subject_outside_the_grammar_becomes_an_id_that_is_not_its_neighbours() {
    let stack = Stack::start().await;
    let mut ids = Vec::new();
    for sub in hostile_texts().iter().filter(|sub| !sub.is_empty()) {
        let token = stack.tokens().token(sub);
        let user = tests::User::connect(stack.socket_url(), sub, &token).await;
        ids.push(user.hello["user"].as_str().expect("an id").to_owned());
    }
    assert_eq!(stack.user("alice").await.hello["user"], "alice");
    assert!(
        ids.iter().all(|id| id.starts_with("u_") && id.len() == 24),
        "{ids:?}"
    );
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn a_device_id_or_a_held_room_outside_the_grammar_is_a_bad_request() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    for fields in [
        json!({"dev": "a.b"}),
        json!({"dev": "x".repeat(5_000)}),
        json!({"have": {"a.b": 1}}),
        json!({"have": {"r": -1}}),
        json!({"win": {"rooms": "many", "tl": 1}}),
    ] {
        let mut hello = json!({"op": "hello", "token": token});
        hello
            .as_object_mut()
            .expect("an object")
            .extend(fields.as_object().expect("fields").clone());
        let mut socket = tests::Socket::open(stack.socket_url()).await;
        let refused = socket.asks(hello).await.expect_err("not a hello");
        assert_eq!(refused["code"], "bad_request", "{fields}");
    }
}
