//! Late copies: a command is stored once, however late it is sent again and whatever has happened since.

use serde_json::{Value, json};
use tests::http::Request;
use tests::{PATIENCE, Part, Stack, User, eventually, message, with_cid};

use crate::settings::forgetful;

/// Enough events by others that nothing older is kept in memory.
async fn much_happens(user: &mut User, room: &str) {
    user.sends_many(room, "meanwhile", 50).await;
    // History has it all, so messages need not keep it.
    user.archive(room).await;
}

/// How often the owner had to ask history about old commands.
async fn questions(stack: &Stack) -> u64 {
    let metrics = Request::get(format!("{}/metrics", stack.ops_url(Part::Messages)));
    let text = metrics.send().await.body;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("natter_messages_lookups_total{kind=\"cids\"} "));
    line.expect("the metric begins at 0")
        .parse()
        .expect("a count")
}

/// Sends a copy once, which answers the first result.
async fn check_repeat(user: &mut User, (command, first): (&Value, &Value)) {
    let again = user.insists(command.clone()).await.expect("a repeat");
    assert_eq!((&again["seq"], &again["ts"]), (&first["seq"], &first["ts"]));
    assert_eq!(again["dup"], true, "{again}");
}

/// Sends a copy again and again, until one is below the window; each answers the first result.
pub(crate) async fn repeats(stack: &Stack, user: &mut User, (command, first): (&Value, &Value)) {
    let asked = questions(stack).await;
    eventually(PATIENCE, async || {
        check_repeat(user, (command, first)).await;
        match questions(stack).await {
            now if now > asked => Ok(()),
            _ => Err("it is still in the window"),
        }
    })
    .await;
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
    // A room that is there answers for its making.
    check_repeat(&mut alice, (&create, &made)).await;
    for result in results {
        repeats(&stack, &mut eve, result).await;
    }
    stack.kills(Part::Messages).await;
    stack.is_ready().await;
    check_repeat(&mut alice, (&create, &made)).await;
    for result in results {
        repeats(&stack, &mut eve, result).await;
    }

    alice.moderates("ban", &room, "eve").await;
    much_happens(&mut alice, &room).await;
    for result in results {
        repeats(&stack, &mut eve, result).await;
    }
    eve.is_refused(message(&room, "twice"), "banned").await;
    stack.kills(Part::Messages).await;
    stack.is_ready().await;
    for result in results {
        repeats(&stack, &mut eve, result).await;
    }
    let refused = eve.insists(message(&room, "twice")).await;
    assert_eq!(refused.expect_err("banned")["code"], "banned");
    let archive = alice.archive(&room).await;
    let by_eve = archive.iter().filter(|event| event["by"] == "eve");
    assert_eq!(by_eve.count(), results.len());
}

#[tokio::test]
async fn what_comes_late_and_was_never_stored_is_judged() {
    let stack = forgetful().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    // Made now and sent when its time lies below the window: only history knows that it is no repeat.
    let late = message(&room, "held up on the way");
    much_happens(&mut alice, &room).await;
    assert_eq!(bob.does(late.clone()).await["dup"], Value::Null);
    assert_eq!(bob.does(late).await["dup"], true);
    alice.sees(&room, "held up on the way").await;
}

#[tokio::test]
async fn what_was_refused_for_good_is_refused_again_though_its_reason_has_gone() {
    let stack = forgetful().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    let early = message(&room, "before I joined");
    bob.is_refused(early.clone(), "not_member").await;
    bob.joins(&room).await;
    bob.is_refused(early, "not_member").await;
    bob.sends(&room, "a new command").await;
    alice.sees(&room, "a new command").await;
    assert_eq!(alice.texts(&room), ["a new command"]);
}
