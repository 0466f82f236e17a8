//! Coming and going: each act is seen by a second person, and what may not be done is refused.

use std::cell::Cell;

use serde_json::{Value, json};
use tests::{Stack, User, message, with_cid};

use crate::settings::unhurried;

#[tokio::test]
async fn who_joins_and_leaves_is_seen_by_the_others() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let joined = alice.sees_member(&room, "bob", "joined").await;
    let state = bob.enters(&room).await;
    assert!(state["at"].as_u64() >= joined["seq"].as_u64(), "{state}");
    assert_eq!(
        (&state["role"], &state["members"]),
        (&json!("member"), &json!(2))
    );
    // Again is no second joining.
    assert_eq!(bob.joins(&room).await["noop"], true);
    bob.leaves(&room).await;
    alice.sees_member(&room, "bob", "left").await;
    bob.is_out_of(&room).await;
    assert_eq!(bob.leaves(&room).await["noop"], true);
    bob.is_refused(message(&room, "still here"), "not_member")
        .await;
}

/// One after the other, so that each comes to a room where more is said meanwhile.
async fn come_in(stack: &Stack, room: &str, count: usize) -> Vec<User> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut user = stack.user(&format!("guest{number}")).await;
        user.joins(room).await;
        all.push(user);
    }
    all
}

#[tokio::test]
async fn who_comes_in_while_others_talk_misses_and_repeats_nothing() {
    let stack = unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let done = Cell::new(false);
    let talk = async {
        while !done.get() {
            alice.sends(&room, "and so on").await;
        }
        alice.sends(&room, "the end").await
    };
    let come = async {
        let all = come_in(&stack, &room, 60).await;
        done.set(true);
        all
    };
    let (end, all) = tokio::join!(talk, come);
    for mut user in all {
        // That nothing is missing from the state on is asserted with every event.
        user.sees(&room, "the end").await;
        let view = &user.rooms[&room];
        assert_eq!((view.last, view.states.len(), user.repeated), (end, 1, 0));
    }
}

#[tokio::test]
async fn an_invited_user_is_in_at_once_and_a_kicked_one_hears_nothing_more() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice
        .creates(json!({"kind": "private", "name": "board"}))
        .await;
    alice.moderates("invite", &room, "bob").await;
    assert_eq!(bob.enters(&room).await["kind"], "private");
    alice.sends(&room, "welcome").await;
    bob.sees(&room, "welcome").await;
    assert_eq!(alice.moderates("invite", &room, "bob").await["noop"], true);
    let nobody = with_cid(json!({"op": "invite", "room": room, "user": "nobody"}));
    alice.is_refused(nobody, "not_found").await;

    let mut kick = with_cid(json!({"op": "kick", "room": room, "user": "bob", "why": "spam"}));
    alice.does(kick.clone()).await;
    let kicked = bob.sees_member(&room, "bob", "kicked").await;
    assert_eq!(
        (&kicked["by"], &kicked["why"]),
        (&json!("alice"), &json!("spam"))
    );
    bob.is_out_of(&room).await;
    alice.sends(&room, "about bob").await;
    // A round trip later anything that still came would have come.
    bob.does(json!({"op": "rooms"})).await;
    assert_eq!(bob.texts(&room), ["welcome"]);
    bob.is_refused(message(&room, "let me in"), "not_found")
        .await;
    kick["cid"] = json!(tests::cid());
    assert_eq!(alice.does(kick).await["noop"], true);
}

#[tokio::test]
async fn a_banned_user_is_out_and_stays_out_until_unbanned() {
    let stack = Stack::start().await;
    let (mut alice, mut eve) = (stack.user("alice").await, stack.user("eve").await);
    let room = alice.creates_room("ops").await;
    eve.joins(&room).await;
    eve.sends(&room, "buy now").await;
    let ban = alice.moderates("ban", &room, "eve").await;
    eve.sees_member(&room, "eve", "banned").await;
    eve.is_out_of(&room).await;
    for op in ["join", "send"] {
        let again = with_cid(json!({"op": op, "room": room, "text": "buy now"}));
        eve.is_refused(again, "banned").await;
    }
    eve.is_refused(json!({"op": "history", "room": room}), "not_found")
        .await;
    let invite = with_cid(json!({"op": "invite", "room": room, "user": "eve"}));
    alice.is_refused(invite, "forbidden").await;
    let bans = alice.does(json!({"op": "bans", "room": room})).await;
    let first = &bans["bans"][0];
    assert_eq!(
        (&first["user"], &first["since"], &first["by"]),
        (&json!("eve"), &ban["seq"], &json!("alice"))
    );

    // An unban that has not seen the ban does not lift it.
    let seen = ban["seq"].as_u64().expect("a seq") - 1;
    let unban = with_cid(json!({"op": "unban", "room": room, "user": "eve", "seen": seen}));
    alice.is_refused(unban, "superseded").await;
    alice.moderates("unban", &room, "eve").await;
    alice.sees_member(&room, "eve", "unbanned").await;
    eve.joins(&room).await;
    eve.sends(&room, "sorry").await;
    alice.sees(&room, "sorry").await;
}

#[tokio::test]
async fn a_ban_with_an_end_ends() {
    let stack = Stack::start().await;
    let (mut alice, mut eve) = (stack.user("alice").await, stack.user("eve").await);
    let room = alice.creates_room("ops").await;
    let now = alice.does(json!({"op": "unread"})).await;
    drop(now);
    let until = tests::now_s() * 1_000 + 2_000;
    let ban = with_cid(json!({"op": "ban", "room": room, "user": "eve", "until": until}));
    alice.does(ban).await;
    eve.is_refused(with_cid(json!({"op": "join", "room": room})), "banned")
        .await;
    tests::eventually(tests::PATIENCE, async || {
        eve.asks(with_cid(json!({"op": "join", "room": room})))
            .await
    })
    .await;
    alice.sees_member(&room, "eve", "joined").await;
}

#[tokio::test]
async fn settings_change_for_everybody_and_only_by_owners() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let base = bob.enters(&room).await["room_seq"].clone();
    let update = |fields: Value| {
        let mut update = with_cid(json!({"op": "update", "room": room}));
        update
            .as_object_mut()
            .expect("an object")
            .extend(fields.as_object().expect("fields").clone());
        update
    };
    bob.is_refused(update(json!({"topic": "mine"})), "forbidden")
        .await;
    let changed = alice
        .does(update(json!({"topic": "incidents", "base": base})))
        .await;
    let seen = bob
        .sees_where(&room, "the topic", |event| event["topic"] == "incidents")
        .await;
    assert_eq!(
        (&seen["ev"], &seen["seq"]),
        (&json!("room"), &changed["seq"])
    );
    assert_eq!(
        seen["name"],
        Value::Null,
        "only what changed is in the event"
    );
    // Somebody who has not seen the change does not undo it.
    let conflict = alice
        .is_refused(update(json!({"topic": "old", "base": base})), "conflict")
        .await;
    assert_eq!(conflict["head"], changed["seq"]);
    assert_eq!(
        alice.does(update(json!({"topic": "incidents"}))).await["noop"],
        true
    );

    alice.does(update(json!({"frozen": true}))).await;
    bob.is_refused(message(&room, "in a frozen room"), "frozen")
        .await;
    alice.sends(&room, "owners may").await;
    alice
        .does(update(json!({"frozen": false, "slow_s": 60})))
        .await;
    bob.sends(&room, "first").await;
    let slow = bob.is_refused(message(&room, "second"), "slow_mode").await;
    assert!(
        slow["retry_after_ms"]
            .as_u64()
            .is_some_and(|ms| (50_000..=60_000).contains(&ms)),
        "{slow}"
    );
}

#[tokio::test]
async fn a_room_never_loses_its_last_owner() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let leave = || with_cid(json!({"op": "leave", "room": room}));
    alice.is_refused(leave(), "last_owner").await;
    alice.makes(&room, "bob", "owner").await;
    bob.sees_where(&room, "the new role", |event| {
        event["ev"] == "role" && event["role"] == "owner"
    })
    .await;
    // Both at once: one of them stays.
    let (ours, theirs) = tokio::join!(alice.asks(leave()), bob.asks(leave()));
    let refused: Vec<Value> = [ours, theirs].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1, "exactly one may leave");
    assert_eq!(refused[0]["code"], "last_owner");
}

#[tokio::test]
async fn moderators_act_on_members_and_members_on_nobody() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let mut carol = stack.user("carol").await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    carol.joins(&room).await;
    let act = |op: &str, user: &str| with_cid(json!({"op": op, "room": room, "user": user}));
    for op in ["kick", "ban", "unban"] {
        bob.is_refused(act(op, "carol"), "forbidden").await;
    }
    bob.is_refused(json!({"op": "bans", "room": room}), "forbidden")
        .await;
    let spam = carol.sends(&room, "spam").await;
    let del = with_cid(json!({"op": "del", "room": room, "on": spam}));
    bob.is_refused(del.clone(), "forbidden").await;
    alice.makes(&room, "bob", "mod").await;
    bob.does(with_cid(del)).await;
    carol
        .sees_where(&room, "the deletion", |event| {
            event["ev"] == "del" && event["by"] == "bob"
        })
        .await;
    bob.is_refused(act("kick", "alice"), "forbidden").await;
    bob.does(act("kick", "carol")).await;
    carol.is_out_of(&room).await;
}

/// Every command that names a room, with the fields that it needs.
fn commands_about(room: &str) -> Vec<Value> {
    let writes = [
        json!({"op": "update", "topic": "x"}),
        json!({"op": "join"}),
        json!({"op": "leave"}),
        json!({"op": "invite", "user": "bob"}),
        json!({"op": "kick", "user": "bob"}),
        json!({"op": "ban", "user": "bob"}),
        json!({"op": "unban", "user": "bob"}),
        json!({"op": "role", "user": "bob", "role": "mod"}),
        json!({"op": "send", "text": "hi"}),
        json!({"op": "edit", "on": 1, "base": 1, "text": "hi"}),
        json!({"op": "del", "on": 1}),
    ];
    let reads = [
        json!({"op": "history"}),
        json!({"op": "history", "all": true, "after": 0}),
        json!({"op": "thread", "root": 1}),
        json!({"op": "members"}),
        json!({"op": "bans"}),
        json!({"op": "revisions", "on": 1}),
    ];
    let with_room = |mut command: Value| {
        command["room"] = json!(room);
        command
    };
    writes
        .into_iter()
        .map(with_cid)
        .chain(reads)
        .map(with_room)
        .collect()
}

#[tokio::test]
async fn an_absent_room_and_a_forbidden_one_are_told_apart_by_nothing() {
    let stack = Stack::start().await;
    let (mut alice, mut eve) = (stack.user("alice").await, stack.user("eve").await);
    stack.user("bob").await;
    let secret = alice
        .creates(json!({"kind": "private", "name": "secret"}))
        .await;
    let direct = alice
        .creates(json!({"kind": "direct", "members": ["bob"]}))
        .await;
    let own = alice.hello["self"].as_str().expect("an id").to_owned();
    let absent = format!("r{}", "A".repeat(22));
    for room in [secret, direct, own] {
        for (about_it, about_nothing) in commands_about(&room)
            .into_iter()
            .zip(commands_about(&absent))
        {
            let answer = eve.insists(about_it.clone()).await;
            let same = eve.insists(about_nothing).await;
            assert_eq!(answer, same, "{about_it}");
            assert_eq!(
                answer.expect_err("nothing to see")["code"],
                "not_found",
                "{about_it}"
            );
        }
    }
}

#[tokio::test]
async fn guests_see_only_what_they_were_invited_to() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let claims = tests::Claims::of("gus").with("roles", json!(["guest"]));
    let token = stack.tokens().sign(&claims);
    let mut gus = tests::User::connect(stack.socket_url(), "gus", &token).await;
    let room = alice.creates_room("lobby").await;
    gus.is_refused(with_cid(json!({"op": "join", "room": room})), "not_found")
        .await;
    gus.is_refused(json!({"op": "history", "room": room}), "not_found")
        .await;
    assert_eq!(
        gus.does(json!({"op": "discover"})).await["rooms"],
        json!([])
    );
    gus.is_refused(
        with_cid(json!({"op": "create", "kind": "public", "name": "x"})),
        "forbidden",
    )
    .await;
    alice.moderates("invite", &room, "gus").await;
    gus.enters(&room).await;
    gus.sends(&room, "thanks").await;
    alice.sees(&room, "thanks").await;
}
