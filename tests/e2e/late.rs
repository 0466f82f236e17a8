//! Late copies: a command is stored once, however late it is sent again and whatever has happened since.

use serde_json::{Value, json};
use tests::{Part, Stack, User, message, with_cid};

use crate::settings::forgetful;

/// The first result of a command, told again.
fn check_repeat(first: &Value, again: &Value) {
    assert_eq!((&again["seq"], &again["ts"]), (&first["seq"], &first["ts"]));
    assert_eq!(again["dup"], true, "{again}");
}

/// Enough events by others that nothing older is kept in memory.
async fn much_happens(user: &mut User, room: &str) {
    user.sends_many(room, "meanwhile", 50).await;
    // History has it all, so messages need not keep it.
    user.archive(room).await;
}

/// Whether the owner had to ask history about a repeat; it counts them.
async fn looked_up(stack: &Stack) -> bool {
    let metrics = tests::http::Request::get(format!("{}/metrics", stack.ops_url(Part::Messages)));
    let text = metrics.send().await.body;
    text.lines().any(|line| {
        line.starts_with("natter_messages_lookups_total")
            && !line.ends_with(" 0")
            && line.contains("cid")
    })
}

#[tokio::test]
async fn a_copy_from_below_the_window_answers_the_first_result() {
    let stack = forgetful().separate().start().await;
    let (mut alice, mut eve) = (stack.user("alice").await, stack.user("eve").await);
    let create = with_cid(json!({"op": "create", "kind": "public", "name": "ops"}));
    let made = alice.does(create.clone()).await;
    let room = made["room"].as_str().expect("an id").to_owned();
    let join = with_cid(json!({"op": "join", "room": room}));
    let joined = eve.does(join.clone()).await;
    let send = message(&room, "once");
    let sent = eve.does(send.clone()).await;
    let edit = json!({"op": "edit", "room": room, "on": sent["seq"], "base": 1, "text": "once!"});
    let edit = with_cid(edit);
    let edited = eve.does(edit.clone()).await;
    let results = [(&join, &joined), (&send, &sent), (&edit, &edited)];

    much_happens(&mut alice, &room).await;
    check_repeat(&made, &alice.does(create.clone()).await);
    for (command, first) in results {
        check_repeat(first, &eve.does(command.clone()).await);
    }
    assert!(
        looked_up(&stack).await,
        "the window was not small enough to prove anything"
    );

    stack.kills(Part::Messages).await;
    stack.is_ready().await;
    check_repeat(&made, &alice.insists(create).await.expect("a repeat"));
    for (command, first) in results {
        check_repeat(
            first,
            &eve.insists(command.clone()).await.expect("a repeat"),
        );
    }

    alice.moderates("ban", &room, "eve").await;
    much_happens(&mut alice, &room).await;
    for (command, first) in results {
        check_repeat(first, &eve.does(command.clone()).await);
    }
    eve.is_refused(message(&room, "twice"), "banned").await;

    stack.kills(Part::Messages).await;
    stack.is_ready().await;
    for (command, first) in results {
        check_repeat(
            first,
            &eve.insists(command.clone()).await.expect("a repeat"),
        );
    }
    let refused = eve.insists(message(&room, "twice")).await;
    assert_eq!(refused.expect_err("banned")["code"], "banned");
    let archive = alice.archive(&room).await;
    assert_eq!(
        archive.iter().filter(|event| event["by"] == "eve").count(),
        3
    );
}

#[tokio::test]
async fn a_copy_of_what_was_never_stored_is_judged_anew() {
    let stack = forgetful().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    let early = message(&room, "before I joined");
    bob.is_refused(early.clone(), "not_member").await;
    bob.joins(&room).await;
    assert_eq!(bob.does(early.clone()).await["dup"], Value::Null);
    much_happens(&mut alice, &room).await;
    assert_eq!(bob.does(early).await["dup"], true);
    alice.sees(&room, "before I joined").await;
}
