//! `natter dev`: what is kept, what is left behind, and the tokens it gives.

use rustix::process::Signal;
use serde_json::json;
use tests::{Closed, Part, Socket, Stack, User, all_end, program};

#[tokio::test]
async fn a_second_start_keeps_all_data() {
    let mut stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.enters(&room).await;
    alice.renews_cursor().await;
    alice.sends(&room, "remember me").await;
    alice.goes_away();
    stack.stops().await;
    stack.starts_again().await;
    // The same client with the same cursor and token goes on.
    alice.finds(stack.socket_url());
    alice.comes_back().await;
    assert_eq!(alice.hello["resumed"], true);
    let next = alice.sends(&room, "I do").await;
    alice.sees(&room, "I do").await;
    assert_eq!(alice.texts(&room), ["remember me", "I do"]);
    let archive = alice.archive(&room).await;
    assert_eq!(archive.len() as u64, next);
    assert_eq!(archive[2]["text"], "remember me");
}

#[tokio::test]
async fn nothing_is_left_running_after_ctrl_c() {
    let mut stack = Stack::builder().separate().start().await;
    let processes = stack.processes();
    for name in ["nats-server", "postgres", "natter"] {
        assert!(
            processes.iter().any(|it| it.name.starts_with(name)),
            "no {name} in {processes:?}"
        );
    }
    stack.stops().await;
    all_end(&processes).await;
}

#[tokio::test]
async fn nothing_is_left_running_after_it_is_killed() {
    for builder in [Stack::builder(), Stack::builder().separate()] {
        let mut stack = builder.start().await;
        let processes = stack.processes();
        assert!(processes.len() >= 4, "{processes:?}");
        stack.dies().await;
        all_end(&processes).await;
    }
}

#[tokio::test]
async fn a_part_that_dies_is_started_again() {
    let stack = Stack::start().await;
    for part in [Part::All, Part::NatsServer, Part::Postgres] {
        stack.kills(part).await;
        stack.is_ready().await;
    }
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "alive").await;
}

#[tokio::test]
async fn its_tokens_are_good_until_they_expire() {
    let stack = Stack::start().await;
    let token = async |arguments: &[&str]| {
        let said = program::run(stack.natter(arguments)).await;
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out.trim().to_owned()
    };
    let good = token(&["token", "alice"]).await;
    let alice = User::connect(stack.socket_url(), "alice", &good).await;
    assert_eq!(alice.hello["user"], "alice");
    let expired = token(&["token", "alice", "--expired"]).await;
    let mut socket = Socket::open(stack.socket_url()).await;
    let refused = socket.asks(json!({"op": "hello", "token": expired})).await;
    assert_eq!(
        refused.expect_err("it has expired")["code"],
        "token_expired"
    );
    assert_eq!(socket.ends().await, Closed::With(4100));
    let guest = token(&["token", "gus", "--name", "Gus", "--role", "guest"]).await;
    let mut gus = User::connect(stack.socket_url(), "gus", &guest).await;
    let create = json!({"op": "create", "kind": "public", "name": "x", "cid": tests::cid()});
    gus.is_refused(create, "forbidden").await;
}

#[tokio::test]
async fn two_on_one_machine_do_not_disturb_each_other() {
    let (one, two) = tokio::join!(Stack::start(), Stack::start());
    let (mut alice, mut bob) = (one.user("alice").await, two.user("bob").await);
    alice.creates_room("here").await;
    assert_eq!(
        bob.does(json!({"op": "discover"})).await["rooms"],
        json!([])
    );
    // A token of one is nothing in the other: each has a key of its own.
    let mut socket = Socket::open(two.socket_url()).await;
    let refused = socket
        .asks(json!({"op": "hello", "token": one.tokens().token("alice")}))
        .await;
    assert_eq!(refused.expect_err("another key")["code"], "unauthorized");
}

#[tokio::test]
async fn all_mistakes_in_the_settings_are_told_at_once() {
    let mut command = program::natter(&["gateway"]);
    command
        .env_clear()
        .env("NATTER_GATEWAY_USER_RATE", "0")
        .env("NATTER_GATEWAY_DRAIN_SECONDS", "100000");
    let said = program::run(command).await;
    assert_eq!(said.code, Some(64), "{said:?}");
    for name in [
        "NATTER_GATEWAY_USER_RATE",
        "NATTER_GATEWAY_DRAIN_SECONDS",
        "NATTER_JWT_HS256_SECRET_FILE",
    ] {
        assert!(said.err.contains(name), "{name} is not in {said:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_asked_to_stop_stops_in_order() {
    let stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    for part in [Part::Messages, Part::History] {
        let pid = stack.pid(part);
        stack.signal(part, Signal::TERM);
        stack.is_started_again(part, pid).await;
        stack.is_ready().await;
        alice
            .insists(tests::message(&room, part.name()))
            .await
            .expect("stored");
    }
    assert_eq!(alice.archive(&room).await.len(), 4);
}
