//! Away and back: what was missed comes, in order, or is named.

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Part, Socket, Stack, User, message};

use crate::settings::unhurried;

/// Entries of a timeline that the harness asks for.
const WINDOW: usize = 20;

/// The seqs of the room that came after `last`.
fn later(user: &User, room: &str, last: u64) -> Vec<u64> {
    user.seqs(room)
        .into_iter()
        .filter(|seq| *seq > last)
        .collect()
}

#[tokio::test]
async fn a_cursor_brings_exactly_what_was_missed_and_then_it_is_live() {
    let stack = unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let (busy, calm) = (
        alice.creates_room("busy").await,
        alice.creates_room("calm").await,
    );
    for room in [&busy, &calm] {
        bob.joins(room).await;
        bob.enters(room).await;
    }
    bob.renews_cursor().await;
    bob.goes_away();
    let states = bob.rooms[&busy].states.len();
    let (busy_last, calm_last) = (bob.rooms[&busy].last, bob.rooms[&calm].last);
    alice.sends_many(&busy, "missed", 100).await;
    alice
        .edits(&busy, busy_last + 1, 1, "missed and edited")
        .await;
    alice.sends(&calm, "one").await;
    let repeated = bob.repeated;
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    assert_eq!(
        later(&bob, &busy, busy_last),
        (busy_last + 1..=busy_last + 101).collect::<Vec<_>>()
    );
    assert_eq!(later(&bob, &calm, calm_last), [calm_last + 1]);
    assert_eq!(bob.repeated, repeated, "nothing comes twice");
    assert_eq!(bob.rooms[&busy].states.len(), states, "nothing is skipped");
    alice.sends(&busy, "live again").await;
    bob.sees(&busy, "live again").await;
}

/// The `skip` that the user got last for the room, checked against what it may say.
fn check_skip(user: &User, room: &str, from: u64, head: u64, changed: &[u64]) {
    let skip = user.rooms[room].states.last().expect("a skip").clone();
    assert_eq!(skip["ev"], "skip", "{skip}");
    assert_eq!(
        (&skip["from"], &skip["to"], &skip["at"]),
        (&json!(from), &json!(head), &json!(head))
    );
    assert_eq!(
        (&skip["head"], &skip["name"]),
        (&json!(head), &json!("big"))
    );
    let dirty: Vec<(u64, u64)> = serde_json::from_value(skip["dirty"].clone()).expect("ranges");
    for seq in changed {
        let named = dirty
            .iter()
            .any(|(first, last)| first <= seq && seq <= last);
        assert!(named, "{seq} is not in {dirty:?}");
    }
    assert!(
        dirty
            .iter()
            .all(|(first, last)| first <= last && *last < from),
        "{dirty:?}"
    );
    let timeline = skip["tl"].as_array().expect("a timeline");
    assert_eq!(timeline.len(), WINDOW);
    let seqs: Vec<u64> = timeline
        .iter()
        .map(|it| it["seq"].as_u64().expect("a seq"))
        .collect();
    assert!(
        seqs.is_sorted() && seqs[0] >= from && seqs[WINDOW - 1] <= head,
        "{seqs:?}"
    );
}

#[tokio::test]
async fn away_for_ten_thousand_events_is_a_skip_that_names_what_changed() {
    let stack = unhurried().separate().start().await;
    let mut alice = stack.user("alice").await;
    let (mut bob, mut carol) = (stack.user("bob").await, stack.user("carol").await);
    let people = json!(["bob", "carol"]);
    let big = alice
        .creates(json!({"kind": "public", "name": "big", "members": people}))
        .await;
    let calm = alice
        .creates(json!({"kind": "public", "name": "calm", "members": people}))
        .await;
    alice.sends_many(&big, "known", 10).await;
    let known: Vec<u64> = (5..15).collect();
    for user in [&mut bob, &mut carol] {
        user.has_reached(&big, known[9]).await;
        user.enters(&calm).await;
        user.renews_cursor().await;
        user.goes_away();
    }
    alice.edits(&big, known[2], 1, "edited meanwhile").await;
    alice.deletes(&big, json!(known[5])).await;
    alice
        .replies_in_thread(&big, known[7], "a thread begins")
        .await;
    alice.sends_many(&big, "missed", 9_997).await;
    alice.sends(&calm, "one by one").await;
    let (from, head) = (known[9] + 1, known[9] + 10_000);
    let changed = [known[2], known[5], known[7]];

    // From the gateway's memory, or history: the same.
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    check_skip(&bob, &big, from, head, &changed);
    assert_eq!(bob.texts(&calm), ["one by one"]);
    // A gateway that has seen nothing of it asks history.
    stack.kills(Part::Gateway).await;
    stack.is_ready().await;
    carol.comes_back().await;
    assert_eq!(carol.hello["resumed"], true);
    check_skip(&carol, &big, from, head, &changed);
    assert_eq!(carol.texts(&calm), ["one by one"]);
    alice.comes_back().await;
    alice.sends(&big, "live").await;
    bob.comes_back().await;
    for user in [&mut bob, &mut carol] {
        user.sees(&big, "live").await;
        assert_eq!(user.rooms[&big].last, head + 1);
    }
}

#[tokio::test]
async fn who_is_kicked_while_away_gets_everything_up_to_it_and_nothing_after() {
    let stack = unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let mut carol = stack.user("carol").await;
    let people = json!(["bob", "carol"]);
    let room = alice
        .creates(json!({"kind": "private", "name": "board", "members": people}))
        .await;
    for user in [&mut bob, &mut carol] {
        user.enters(&room).await;
        user.renews_cursor().await;
    }
    // More than come one by one otherwise.
    bob.goes_away();
    alice.sends_many(&room, "before", 700).await;
    carol.has_reached(&room, 704).await;
    carol.renews_cursor().await;
    carol.goes_away();
    let states = |user: &User| user.rooms[&room].states.len();
    let known = (states(&bob), states(&carol));
    alice.sends(&room, "the last").await;
    for user in ["bob", "carol"] {
        alice.moderates("kick", &room, user).await;
        alice.sends(&room, &format!("after {user}")).await;
    }
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    bob.is_out_of(&room).await;
    assert_eq!(later(&bob, &room, 4), (5..=706).collect::<Vec<_>>());
    assert_eq!(bob.texts(&room).last(), Some(&"the last"));
    carol.comes_back().await;
    carol.is_out_of(&room).await;
    assert_eq!(later(&carol, &room, 704), (705..=708).collect::<Vec<_>>());
    assert_eq!(carol.texts(&room).last(), Some(&"after bob"));
    for user in [&mut bob, &mut carol] {
        user.is_refused(json!({"op": "history", "room": room}), "not_found")
            .await;
    }
    let now = (states(&bob), states(&carol));
    assert_eq!(now, known, "no state of a room that one is out of");
}

#[tokio::test]
async fn a_room_entered_while_away_comes_as_its_state() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let old = alice
        .creates(json!({"kind": "private", "name": "old", "members": ["bob"]}))
        .await;
    bob.enters(&old).await;
    bob.renews_cursor().await;
    let states = bob.rooms[&old].states.len();
    bob.goes_away();
    let room = alice
        .creates(json!({"kind": "private", "name": "new"}))
        .await;
    alice.sends(&room, "before bob").await;
    let joined = alice.moderates("invite", &room, "bob").await["seq"]
        .as_u64()
        .expect("a seq");
    alice.sends(&room, "after bob").await;
    // Out and in again is also entered meanwhile.
    alice.moderates("kick", &old, "bob").await;
    alice.sends(&old, "without bob").await;
    alice.moderates("invite", &old, "bob").await;
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    let state = bob.enters(&room).await;
    assert_eq!(
        (&state["ev"], &state["name"]),
        (&json!("state"), &json!("new"))
    );
    assert!(
        state["at"].as_u64().is_some_and(|at| at >= joined),
        "{state}"
    );
    bob.sees(&room, "after bob").await;
    bob.has_reached(&old, 6).await;
    alice.sends(&old, "welcome back").await;
    bob.sees(&old, "welcome back").await;
    assert_eq!(bob.rooms[&old].states.len(), states + 1);
}

#[tokio::test]
async fn a_cursor_that_nobody_knows_is_no_error() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let held = alice.creates_room("held").await;
    let other = alice.creates_room("other").await;
    for room in [&held, &other] {
        bob.joins(room).await;
        bob.enters(room).await;
    }
    let seq = alice.sends(&held, "known").await;
    bob.sees(&held, "known").await;
    alice.edits(&held, seq, 1, "changed").await;
    alice.sends(&held, "new").await;
    bob.sees(&held, "new").await;
    let cursor = bob.cursor.clone().expect("live brought one");
    let (log, position) = cursor
        .split_once('.')
        .expect("ours to look inside, not a client's");
    let absent = "rAAAAAAAAAAAAAAAAAAAAAA";
    for odd in [
        "",
        "nonsense",
        "\u{202e}",
        "a.b.c",
        ".",
        &"x".repeat(5_000),
        &format!("AnotherLog.{position}"),
        &format!("{log}.999999999"),
        &format!("{log}.18446744073709551615"),
        &format!("{log}.99999999999999999999999"),
        &format!("{log}.-1"),
    ] {
        let mut socket = Socket::open(stack.socket_url()).await;
        let hello = json!({
            "token": stack.tokens().token("bob"), "cur": odd, "win": {"rooms": 50, "tl": 5},
            "have": {held.clone(): seq, absent: 5},
        });
        let greeting = socket.says_hello(hello).await;
        assert_eq!(greeting.ok["resumed"], false, "{odd}");
        let line = |room: &str| -> Vec<&Value> {
            greeting
                .lines
                .iter()
                .filter(|line| line["room"] == room)
                .collect()
        };
        let skips = line(&held);
        assert_eq!(skips.len(), 1, "{odd}: {skips:?}");
        assert_eq!(skips[0]["ev"], "skip", "{odd}");
        assert_eq!(
            (&skips[0]["from"], &skips[0]["to"]),
            (&json!(seq + 1), &json!(seq + 2)),
            "{odd}"
        );
        assert_eq!(skips[0]["dirty"], json!([[seq, seq]]), "{odd}");
        assert_eq!(line(&other)[0]["ev"], "state", "{odd}");
        assert_eq!(line(absent).len(), 0, "{odd}");
        assert_eq!(greeting.lines[0]["kind"], "self", "{odd}");
    }
}

#[tokio::test]
async fn anothers_cursor_shows_nothing_of_the_others_rooms() {
    let stack = Stack::start().await;
    let (mut alice, eve) = (stack.user("alice").await, stack.user("eve").await);
    let cursor = alice.cursor.clone().expect("live brought one");
    let secret = alice
        .creates(json!({"kind": "private", "name": "secret"}))
        .await;
    alice.sends(&secret, "nobody knows").await;
    drop(eve);
    let mut socket = Socket::open(stack.socket_url()).await;
    let hello =
        json!({"token": stack.tokens().token("eve"), "cur": cursor, "have": {secret.clone(): 1}});
    let greeting = socket.says_hello(hello).await;
    assert!(
        !json!(greeting.lines).to_string().contains(&secret),
        "{greeting:?}"
    );
}

#[tokio::test]
async fn a_gateway_that_dies_costs_nobody_a_message() {
    let stack = Stack::builder().separate().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    alice.sends(&room, "before").await;
    bob.sees(&room, "before").await;
    bob.renews_cursor().await;
    stack.kills(Part::Gateway).await;
    // What was under way is sent again with its cid, and what is there comes by the cursor.
    let during = alice
        .insists(message(&room, "during"))
        .await
        .expect("stored");
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    bob.sees(&room, "during").await;
    assert_eq!(
        bob.rooms[&room].last,
        during["seq"].as_u64().expect("a seq")
    );
    assert_eq!(bob.texts(&room), ["before", "during"]);
}

#[tokio::test]
async fn a_gateway_that_stops_tells_its_clients_to_move_first() {
    let stack = Stack::builder()
        .separate()
        .env("NATTER_GATEWAY_DRAIN_SECONDS", "2")
        .start()
        .await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.enters(&room).await;
    alice.renews_cursor().await;
    let gateway = stack.pid(Part::Gateway);
    stack.signal(Part::Gateway, Signal::TERM);
    let told = alice.is_told("goaway").await;
    let window: (u64, u64) = serde_json::from_value(told["within_ms"].clone()).expect("a window");
    assert!(window.0 <= window.1 && window.1 <= 2_000, "{told}");
    assert!(told["why"].is_string(), "{told}");
    // Until it is closed it works.
    alice.sends(&room, "while draining").await;
    assert_eq!(alice.is_closed().await, tests::Closed::With(1012));
    alice.comes_back().await;
    assert_eq!(alice.hello["resumed"], true);
    assert_ne!(stack.pid(Part::Gateway), gateway);
    alice.sends(&room, "moved").await;
    alice.sees(&room, "moved").await;
    assert_eq!(alice.texts(&room), ["while draining", "moved"]);
}
