//! People talk: order, repeats, batches, rooms that are the same room.

use serde_json::{Value, json};
use tests::{Stack, User, cid, cid_at, message, with_cid};

/// Two people in a public room.
async fn two_in_a_room(stack: &Stack) -> (User, User, String) {
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    alice.enters(&room).await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    (alice, bob, room)
}

fn seq(ok: &Value) -> u64 {
    ok["seq"].as_u64().expect("a stored command has a seq")
}

#[tokio::test]
async fn two_people_talk_and_see_one_dense_order() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let joined = bob.enters(&room).await["at"].as_u64().expect("a seq");
    for turn in 0..5 {
        alice.sends(&room, &format!("alice {turn}")).await;
        bob.sends(&room, &format!("bob {turn}")).await;
    }
    alice.sees(&room, "bob 4").await;
    bob.sees(&room, "bob 4").await;
    let of = |user: &User| -> Vec<Value> {
        let all = user.rooms[&room].events.iter();
        all.filter(|event| event["ev"] == "msg").cloned().collect()
    };
    let (seen, same) = (of(&alice), of(&bob));
    assert_eq!(seen, same);
    let numbers = |field: &str| -> Vec<u64> {
        seen.iter()
            .map(|event| event[field].as_u64().expect("a number"))
            .collect()
    };
    assert_eq!(
        numbers("seq"),
        (joined + 1..=joined + 10).collect::<Vec<_>>()
    );
    assert_eq!(numbers("n"), (1..=10).collect::<Vec<_>>());
    assert!(numbers("ts").is_sorted());
    for event in &seen {
        let text = event["text"].as_str().expect("a message has text");
        assert_eq!(event["by"], text.split(' ').next().expect("a name"));
        assert!(event["cid"].is_string() && event["room"] == *room);
    }
}

#[tokio::test]
async fn a_command_sent_again_answers_its_first_result() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let once = message(&room, "once");
    let first = alice.does(once.clone()).await;
    alice.sends(&room, "between").await;
    let again = alice.does(once.clone()).await;
    assert_eq!((&again["seq"], &again["ts"]), (&first["seq"], &first["ts"]));
    assert_eq!((&first["dup"], &again["dup"]), (&Value::Null, &json!(true)));
    // From another device too, and as two copies in one message, the second of which waits for the first.
    let mut tablet = stack.user("alice").await;
    assert_eq!(tablet.does(once).await["dup"], true);
    let twice = message(&room, "twice");
    let copies = tablet.asks_batch(vec![twice.clone(), twice]).await;
    let copies: Vec<Value> = copies
        .into_iter()
        .map(|copy| copy.expect("stored"))
        .collect();
    assert_eq!(seq(&copies[0]), seq(&copies[1]));
    assert_eq!(copies[1]["dup"], true);
    // The same cid in another room or by another author is another command.
    let mut by_bob = message(&room, "mine");
    by_bob["cid"] = again["cid"].clone();
    by_bob["cid"] = json!(cid());
    alice.does(by_bob.clone()).await;
    assert_eq!(bob.does(by_bob).await["dup"], Value::Null);
    bob.sees_where(&room, "bob's own", |event| {
        event["by"] == "bob" && event["text"] == "mine"
    })
    .await;
    assert_eq!(
        bob.texts(&room),
        ["once", "between", "twice", "mine", "mine"]
    );
}

#[tokio::test]
async fn the_commands_of_one_message_are_stored_in_order() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let texts: Vec<String> = (0..12).map(|number| format!("line {number}")).collect();
    let batch = texts.iter().map(|text| message(&room, text)).collect();
    let replies = alice.asks_batch(batch).await;
    let seqs: Vec<u64> = replies
        .iter()
        .map(|reply| seq(reply.as_ref().expect("stored")))
        .collect();
    assert_eq!(seqs, (seqs[0]..seqs[0] + 12).collect::<Vec<_>>());
    bob.sees(&room, "line 11").await;
    assert_eq!(bob.texts(&room), texts);
}

#[tokio::test]
async fn a_refusal_for_good_does_not_stop_the_rest_of_a_batch() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let batch = vec![
        message(&room, "one"),
        message(&room, " \n"),
        message(&room, "two"),
    ];
    let replies = alice.asks_batch(batch).await;
    assert_eq!(
        replies[1].as_ref().expect_err("blank")["code"],
        "bad_request"
    );
    bob.sees(&room, "two").await;
    assert_eq!(bob.texts(&room), ["one", "two"]);
}

#[tokio::test]
async fn after_a_temporary_error_the_rest_of_a_batch_is_not_stored_until_it_is_sent_again() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let commands: Vec<Value> = (0..30)
        .map(|n| message(&room, &format!("line {n}")))
        .collect();
    let replies = alice.asks_batch(commands.clone()).await;
    let stored = replies.iter().take_while(|reply| reply.is_ok()).count();
    assert!(
        (10..=21).contains(&stored),
        "{stored} of a burst of 20 were stored"
    );
    for reply in &replies[stored..] {
        let err = reply
            .as_ref()
            .expect_err("after the first error all get it");
        assert_eq!(
            (&err["code"], &err["temp"]),
            (&json!("rate_limited"), &json!(true))
        );
        assert!(
            err["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0),
            "{err}"
        );
    }
    // From the first that has no final answer on, one by one; each waits as long as it is told.
    for command in &commands[stored..] {
        alice
            .insists(command.clone())
            .await
            .expect("stored in the end");
    }
    bob.sees(&room, "line 29").await;
    let texts: Vec<String> = (0..30).map(|n| format!("line {n}")).collect();
    assert_eq!(bob.texts(&room), texts);
}

#[tokio::test]
async fn a_room_made_twice_with_one_cid_is_one_room() {
    let stack = Stack::start().await;
    let (mut alice, _bob) = (stack.user("alice").await, stack.user("bob").await);
    let create =
        with_cid(json!({"op": "create", "kind": "private", "name": "x", "members": ["bob"]}));
    let first = alice.does(create.clone()).await;
    let again = alice.does(create).await;
    assert_eq!(
        (&again["room"], &again["seq"]),
        (&first["room"], &first["seq"])
    );
    assert_eq!((&first["dup"], &again["dup"]), (&Value::Null, &json!(true)));
    let events = alice.archive(first["room"].as_str().expect("an id")).await;
    let kinds: Vec<&Value> = events.iter().map(|event| &event["ev"]).collect();
    assert_eq!(kinds, ["room", "member", "member"]);
}

#[tokio::test]
async fn a_direct_room_of_the_same_people_is_the_same_room() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let direct =
        |other: &str| with_cid(json!({"op": "create", "kind": "direct", "members": [other]}));
    let first = alice.does(direct("bob")).await;
    let room = first["room"].as_str().expect("an id").to_owned();
    for (user, other) in [(&mut bob, "alice"), (&mut alice, "bob")] {
        let same = user.does(direct(other)).await;
        assert_eq!(
            (&same["room"], &same["dup"]),
            (&first["room"], &json!(true))
        );
    }
    bob.enters(&room).await;
    alice.sends(&room, "only us").await;
    bob.sees(&room, "only us").await;
    // Its people are fixed.
    let mut carol = stack.user("carol").await;
    for (op, user) in [("invite", "carol"), ("kick", "bob"), ("ban", "bob")] {
        let act = with_cid(json!({"op": op, "room": room, "user": user}));
        alice.is_refused(act, "forbidden").await;
    }
    alice
        .is_refused(with_cid(json!({"op": "leave", "room": room})), "forbidden")
        .await;
    carol
        .is_refused(with_cid(json!({"op": "join", "room": room})), "not_found")
        .await;
}

#[tokio::test]
async fn a_message_that_relies_on_the_head_is_stored_only_at_it() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let head = alice.sends(&room, "first").await;
    let mut answer = message(&room, "an answer to the first");
    answer["if_head"] = json!(head);
    bob.does(answer).await;
    let mut late = message(&room, "also an answer to the first");
    late["if_head"] = json!(head);
    let conflict = alice.is_refused(late.clone(), "conflict").await;
    assert_eq!(conflict["head"], head + 1);
    late["if_head"] = conflict["head"].clone();
    late["cid"] = json!(cid());
    alice.does(late).await;
}

#[tokio::test]
async fn of_two_edits_of_one_revision_the_later_wins_and_both_are_kept() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let on = alice.sends(&room, "helo").await;
    let edit = |base: u64, text: &str, made_ms: i64| {
        let cid = cid_at(made_ms);
        json!({"op": "edit", "room": room, "on": on, "base": base, "text": text, "cid": cid})
    };
    let first = alice.does(edit(1, "hello", 0)).await;
    assert_eq!((&first["rev"], &first["won"]), (&json!(2), &json!(true)));
    // Made earlier, without having seen the other, and arriving later.
    let second = alice.does(edit(1, "hallo", -5_000)).await;
    assert_eq!((&second["rev"], &second["won"]), (&json!(3), &json!(false)));
    // The shown one is built upon, and wins whatever its clock says.
    let third = alice.does(edit(3, "hullo", 0)).await;
    assert_eq!((&third["rev"], &third["won"]), (&json!(4), &json!(true)));
    let seen = bob
        .sees_where(&room, "the edit that lost", |event| {
            event["text"] == "hallo"
        })
        .await;
    assert_eq!(
        (&seen["ev"], &seen["on"], &seen["won"]),
        (&json!("edit"), &json!(on), &json!(false))
    );
    let page = bob
        .reads_back(&room, json!({"around": on, "limit": 1}))
        .await;
    assert_eq!(page["events"][0]["text"], "hullo");
    let revisions = bob
        .does(json!({"op": "revisions", "room": room, "on": on}))
        .await;
    let texts: Vec<&Value> = revisions["revisions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| &it["text"])
        .collect();
    assert_eq!(texts, ["helo", "hello", "hallo", "hullo"]);
    // Others may not touch it, and nobody once it is gone.
    bob.is_refused(edit(1, "mine", 0), "forbidden").await;
    alice.deletes(&room, json!(on)).await;
    alice
        .is_refused(edit(4, "too late", 0), "target_gone")
        .await;
}

#[tokio::test]
async fn ones_own_room_comes_first_and_carries_ones_marks_to_every_device() {
    let stack = Stack::start().await;
    let (mut alice, mut bob, room) = two_in_a_room(&stack).await;
    let mut tablet = stack.user("bob").await;
    let own = bob.hello["self"].as_str().expect("an id").to_owned();
    let last = alice.sends(&room, "read this").await;
    bob.sees(&room, "read this").await;
    let reply = bob.marks_read(&room, last).await;
    assert_eq!(
        (&reply["read_n"], &reply["unread"], &reply["mentions"]),
        (&json!(1), &json!(0), &json!(0))
    );
    let mark = |event: &Value| event["ev"] == "read" && event["mark"] == last;
    let seen = tablet.sees_where(&own, "the mark", mark).await;
    assert_eq!(
        (&seen["room"], &seen["target"]),
        (&json!(own), &json!(room))
    );
    assert!(
        !alice.rooms.contains_key(&own),
        "a mark is nobody else's business"
    );

    let mut socket = tests::Socket::open(stack.socket_url()).await;
    let token = stack.tokens().token("bob");
    let greeting = socket
        .says_hello(json!({"token": token, "win": {"rooms": 1, "tl": 5}}))
        .await;
    let rooms: Vec<&Value> = greeting.lines.iter().map(|state| &state["room"]).collect();
    assert_eq!(rooms, [&json!(own), &json!(room)]);
    assert_eq!(greeting.lines[0]["kind"], "self");
    assert_eq!(
        (&greeting.lines[1]["read"], &greeting.lines[1]["unread"]),
        (&json!(last), &json!(0))
    );
    assert_eq!(
        (&greeting.ok["user"], &greeting.ok["resumed"]),
        (&json!("bob"), &json!(false))
    );
}
