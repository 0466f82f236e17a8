//! Every limit, at it and one above it, and commands that are no commands.

use serde_json::{Value, json};
use tests::{PATIENCE, Socket, Stack, cid, cid_at, message, with_cid};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn texts_names_and_lists_are_taken_up_to_their_limit() {
    let stack = crate::settings::unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let send = |fields: Value| {
        let mut send = message(&room, "x");
        send.as_object_mut()
            .expect("an object")
            .extend(fields.as_object().expect("fields").clone());
        send
    };
    let update =
        |field: &str, text: String| with_cid(json!({"op": "update", "room": room, field: text}));
    let create = |members: usize| {
        let members: Vec<String> = (0..members).map(|number| format!("user{number}")).collect();
        with_cid(json!({"op": "create", "kind": "private", "name": "x", "members": members}))
    };
    let meta = |bytes: usize| json!({"meta": {"a": "x".repeat(bytes - 8)}});
    let mentions = |count: usize| json!({"mentions": vec!["bob"; count]});
    let ranges = |count: usize| {
        let ranges: Vec<[usize; 2]> = (0..count)
            .map(|number| [3 * number + 1, 3 * number + 1])
            .collect();
        with_cid(json!({"op": "del", "room": room, "on": ranges}))
    };
    for taken in [
        // One character of four bytes is one character.
        send(json!({"text": "\u{1f600}".repeat(8_000)})),
        send(json!({"text": "x".repeat(8_000)})),
        send(meta(2_048)),
        send(mentions(50)),
        update("name", "\u{e9}".repeat(80)),
        update("topic", "x".repeat(500)),
        ranges(200),
    ] {
        alice.does(taken).await;
    }
    for refused in [
        send(json!({"text": "x".repeat(8_001)})),
        send(json!({"text": "\u{1f600}".repeat(8_001)})),
        send(meta(2_049)),
        send(mentions(51)),
        update("name", "x".repeat(81)),
        update("topic", "x".repeat(501)),
        ranges(201),
        create(101),
        with_cid(json!({"op": "kick", "room": room, "user": "bob", "why": "x".repeat(501)})),
        with_cid(
            json!({"op": "edit", "room": room, "on": 4, "base": 1, "text": "x".repeat(8_001)}),
        ),
    ] {
        alice.is_refused(refused, "too_large").await;
    }
    bob.sees(&room, &"x".repeat(8_000)).await;
}

#[tokio::test]
async fn a_command_with_something_missing_or_of_the_wrong_type_is_a_bad_request() {
    let stack = crate::settings::unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let id = || json!(cid());
    for bad in [
        json!({"op": "send", "room": room, "text": "no cid"}),
        json!({"op": "send", "room": room, "text": "x", "cid": null}),
        json!({"op": "send", "room": room, "text": "x", "cid": "019b"}),
        json!({"op": "send", "room": room, "text": "x", "cid": "00000000-0000-4000-8000-000000000000"}),
        json!({"op": "send", "text": "no room", "cid": id()}),
        json!({"op": "send", "room": room, "cid": id()}),
        json!({"op": "send", "room": room, "text": "", "cid": id()}),
        json!({"op": "send", "room": room, "text": " \t\n", "cid": id()}),
        json!({"op": "send", "room": room, "text": 5, "cid": id()}),
        json!({"op": "send", "room": room, "text": ["x"], "cid": id()}),
        json!({"op": "send", "room": room, "text": "x", "meta": "x", "cid": id()}),
        json!({"op": "send", "room": room, "text": "x", "reply_to": "3", "cid": id()}),
        json!({"op": "send", "room": room, "text": "x", "reply_to": -1, "cid": id()}),
        json!({"op": "send", "room": room, "text": "x", "if_head": 1.5, "cid": id()}),
        json!({"op": "edit", "room": room, "on": 2, "text": "no base", "cid": id()}),
        json!({"op": "del", "room": room, "cid": id()}),
        json!({"op": "del", "room": room, "on": [], "cid": id()}),
        json!({"op": "del", "room": room, "on": [[5, 3]], "cid": id()}),
        json!({"op": "del", "room": room, "user": "bob", "cid": id()}),
        json!({"op": "update", "room": room, "cid": id()}),
        json!({"op": "update", "room": room, "slow_s": "60", "cid": id()}),
        json!({"op": "update", "room": room, "history": "none", "cid": id()}),
        json!({"op": "role", "room": room, "user": "bob", "role": "king", "cid": id()}),
        json!({"op": "create", "kind": "castle", "cid": id()}),
        json!({"op": "create", "kind": "direct", "cid": id()}),
        json!({"op": "create", "kind": "public", "name": " ", "cid": id()}),
        json!({"op": "ban", "room": room, "user": "bob", "until": "tomorrow", "cid": id()}),
        json!({"op": "history"}),
        json!({"op": "history", "room": room, "limit": "many"}),
        json!({"op": "history", "room": room, "before": 3, "after": 1}),
        json!({"op": "thread", "room": room}),
        json!({"op": "rooms", "cursor": 5}),
        json!({"op": "token"}),
    ] {
        alice.is_refused(bad, "bad_request").await;
    }
    // A client does not make own rooms.
    let own = alice
        .asks(json!({"op": "create", "kind": "self", "cid": id()}))
        .await;
    assert!(own.is_err() || own.expect("a repeat")["dup"] == true);
    alice.sends(&room, "still here").await;
    bob.sees(&room, "still here").await;
    assert_eq!(alice.archive(&room).await.len(), 4);
}

#[tokio::test]
async fn what_comes_later_or_never_is_unsupported() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    for op in [
        "react", "pin", "mute", "restore", "search", "typing", "watch", "teleport", "",
    ] {
        let refused = alice
            .is_refused(json!({"op": op, "room": room, "cid": cid()}), "unsupported")
            .await;
        assert_eq!(refused["temp"], false);
    }
}

#[tokio::test]
async fn a_line_that_is_no_command_is_answered_by_its_id_if_it_has_one() {
    let stack = Stack::start().await;
    let mut socket = Socket::open(stack.socket_url()).await;
    socket
        .says_hello(json!({"token": stack.tokens().token("alice")}))
        .await;
    // These have no id that could be read, and the socket lives.
    for line in [
        "",
        "{",
        "[]",
        "5",
        "null",
        "\"send\"",
        "{\"op\":\"join\"",
        "\u{0}",
        &"[".repeat(20_000),
    ] {
        socket.sends_message(Message::text(line)).await;
    }
    for (number, line) in [
        r#"{"id":101}"#,
        r#"{"id":102,"op":5}"#,
        r#"{"id":103,"op":null}"#,
        r#"{"id":104,"op":["send"]}"#,
    ]
    .into_iter()
    .enumerate()
    {
        socket.sends_message(Message::text(line)).await;
        let reply = loop {
            let line = socket.next().await.expect("the socket lives");
            if !line["id"].is_null() {
                break line;
            }
        };
        assert_eq!(
            (&reply["id"], &reply["err"]["code"]),
            (&json!(101 + number), &json!("bad_request"))
        );
    }
    // A good line beside bad ones in the same message is carried out.
    let good = r#"{"id":200,"op":"rooms"}"#;
    socket
        .sends_message(Message::text(format!("{{\n{good}\nnonsense")))
        .await;
    loop {
        let line = socket.next().await.expect("the socket lives");
        if line["id"] == 200 {
            assert!(line["ok"]["rooms"].is_array(), "{line}");
            return;
        }
    }
}

#[tokio::test]
async fn a_cid_from_the_future_is_refused_with_the_servers_clock() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let mut early = message(&room, "from tomorrow");
    early["cid"] = json!(cid_at(120_000));
    let refused = alice.is_refused(early, "clock_skew").await;
    let now = i64::try_from(tests::now_s() * 1_000).expect("a time");
    let told = refused["now"].as_i64().expect("the server's clock");
    assert!((told - now).abs() < 10_000, "{refused}");
    assert_eq!(refused["temp"], false);
    let mut slightly = message(&room, "a little fast");
    slightly["cid"] = json!(cid_at(20_000));
    alice.does(slightly).await;
    // However old, it is taken.
    let mut old = message(&room, "from the outbox");
    old["cid"] = json!(cid_at(-90 * 24 * 3_600 * 1_000));
    assert_eq!(alice.does(old.clone()).await["dup"], Value::Null);
    assert_eq!(alice.does(old).await["dup"], true);
}

#[tokio::test]
async fn too_many_commands_are_answered_and_the_socket_lives() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let batch = vec![json!({"op": "unread"}); 64];
    let replies = alice.asks_batch(batch.clone()).await;
    let more = alice.asks_batch(batch).await;
    let refused: Vec<Value> = replies
        .into_iter()
        .chain(more)
        .filter_map(Result::err)
        .collect();
    assert!(
        !refused.is_empty(),
        "128 at once are more than a burst of 60"
    );
    for err in &refused {
        assert_eq!(
            (&err["code"], &err["temp"]),
            (&json!("rate_limited"), &json!(true)),
            "{err}"
        );
        assert!(
            err["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0),
            "{err}"
        );
    }
    // Others are not slowed, and waiting helps.
    bob.sends(&room, "calm").await;
    alice.sees(&room, "calm").await;
    alice
        .insists(message(&room, "calm again"))
        .await
        .expect("stored");
    bob.sees(&room, "calm again").await;
}

#[tokio::test]
async fn who_goes_on_at_ten_times_the_rate_is_closed_and_nobody_else() {
    let stack = Stack::start().await;
    let mut bob = stack.user("bob").await;
    let mut socket = Socket::open(stack.socket_url()).await;
    socket
        .says_hello(json!({"token": stack.tokens().token("eve")}))
        .await;
    let flood = vec![r#"{"op":"unread"}"#; 64].join("\n");
    let closed = tokio::time::timeout(PATIENCE, async {
        loop {
            socket.sends_message(Message::text(flood.clone())).await;
            while let Some(line) = socket.next_within(std::time::Duration::ZERO).await {
                if let Err(closed) = line {
                    return closed;
                }
            }
        }
    });
    let closed = closed.await.expect("a flood ends the socket");
    // The close frame may be lost where bytes of the flood are still unread.
    assert!(
        matches!(closed, tests::Closed::With(4005) | tests::Closed::Abruptly),
        "{closed:?}"
    );
    bob.does(json!({"op": "unread"})).await;
}
