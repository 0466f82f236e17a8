//! The errands of the binary: replay, verify, chat; and a client in another language.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::program::{Dialogue, Said, run};
use tests::{PATIENCE, Part, Stack, User, eventually};
use tokio::process::Command;

use crate::settings::unhurried;

/// A file of this crate.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Real chat: part of a day.
fn day() -> String {
    file("data/irc/2007-09-07.raw.txt").display().to_string()
}

/// Every form of a line once.
fn forms() -> String {
    file("data/irc/forms.txt").display().to_string()
}

/// The verdict of a replay, of which everything that may not be must be zero.
fn check_verdict(said: &Said) -> Value {
    assert_eq!(said.code, Some(0), "{said:?}");
    let report: Value =
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let verdict = &report["verdict"];
    let audit = verdict["audit"].as_object().expect("every counter");
    for (wrong, count) in audit {
        assert_eq!(count, 0, "{wrong} in {verdict}");
    }
    assert_eq!(
        (&verdict["sent"], &verdict["sent"]),
        (&verdict["acked"], &verdict["stored"]),
        "{verdict}"
    );
    report
}

/// Replays files with three observers.
fn replay(stack: &Stack, files: &[String]) -> Command {
    let mut command = stack.natter(&[
        "replay",
        "--url",
        stack.socket_url(),
        "--observers",
        "3",
        "--json",
    ]);
    command.args(files);
    command
}

#[tokio::test]
async fn a_replay_of_real_chat_ends_with_zeros() {
    let stack = unhurried().start().await;
    let report = check_verdict(&run(replay(&stack, &[day(), forms()])).await);
    let lines = &report["lines"];
    assert!(lines["messages"].as_u64() > Some(200), "{report}");
    for kind in ["actions", "replies", "joins", "leaves", "renames", "blank"] {
        assert!(lines[kind].as_u64() > Some(0), "{kind}: {report}");
    }
    for room in report["rooms"].as_array().expect("a list") {
        let said = verify(&stack, room["room"].as_str().expect("an id")).await;
        assert_eq!(said.code, Some(0), "{said:?}");
    }
}

/// Waits until there are some messages more in the archive.
async fn some_is_archived(stack: &Stack) {
    let archived = async || stack.number("select count(*) from messages").await;
    let before = archived().await;
    eventually(PATIENCE, async || match archived().await {
        now if now > before + 10 => Ok(()),
        now => Err(format!("{now} messages")),
    })
    .await;
}

#[tokio::test]
async fn a_replay_ends_with_zeros_though_every_part_is_killed_meanwhile() {
    let stack = Stack::builder().separate().start().await;
    // Few sockets and rate limits make it last long enough for all the kills.
    let mut command = replay(&stack, &[day()]);
    command.args(["--connections", "2"]);
    let ended = Cell::new(false);
    let played = async {
        let said = run(command).await;
        ended.set(true);
        said
    };
    let kills = async {
        for part in [
            Part::Gateway,
            Part::Messages,
            Part::History,
            Part::NatsServer,
            Part::Postgres,
        ] {
            some_is_archived(&stack).await;
            assert!(!ended.get(), "too short for a kill of {}", part.name());
            stack.kills(part).await;
            stack.is_ready().await;
        }
    };
    let (said, ()) = tokio::join!(played, kills);
    check_verdict(&said);
}

/// Alice's public room with some life in it.
async fn lively_room(stack: &Stack) -> (User, String) {
    let mut alice = stack.user("alice").await;
    let mut bob = stack.user("bob").await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    alice.sends_many(&room, "line", 10).await;
    let on = bob.sends(&room, "helo").await;
    bob.edits(&room, on, 1, "hello").await;
    alice.deletes(&room, json!(6)).await;
    alice.archive(&room).await;
    (alice, room)
}

/// What `natter verify` says of the room.
async fn verify(stack: &Stack, room: &str) -> Said {
    run(stack.natter(&["verify", room])).await
}

#[tokio::test]
async fn a_room_is_proven_and_its_first_forged_event_named() {
    let stack = Stack::start().await;
    let (_alice, room) = lively_room(&stack).await;
    let said = verify(&stack, &room).await;
    assert_eq!(said.code, Some(0), "{said:?}");

    let forged = stack
        .sql(format!(
            "update events set line = replace(line, 'line 3', 'lime 3') where room = '{room}' and seq = 7"
        ))
        .await;
    assert_eq!(forged, 1);
    let said = verify(&stack, &room).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(names(&said, 7, "events"), "{said:?}");
}

#[tokio::test]
async fn a_forged_message_is_named_though_every_event_is_true() {
    let stack = Stack::start().await;
    let (_alice, room) = lively_room(&stack).await;
    for (seq, change) in [
        (8, "text = 'I resign'"),
        (14, "text = 'helo'"),
        (6, "deleted = false"),
        (9, "author = 'bob'"),
    ] {
        let keep = format!(
            "create table kept as select * from messages where room = '{room}' and seq = {seq}"
        );
        stack.sql(keep).await;
        let forged = format!("update messages set {change} where room = '{room}' and seq = {seq}");
        assert_eq!(stack.sql(forged).await, 1, "{change}");
        let said = verify(&stack, &room).await;
        assert_eq!(said.code, Some(1), "{change}: {said:?}");
        assert!(names(&said, seq, "messages"), "{change}: {said:?}");
        stack
            .sql(format!(
                "delete from messages where room = '{room}' and seq = {seq}"
            ))
            .await;
        let said = verify(&stack, &room).await;
        assert_eq!(said.code, Some(1), "removed: {said:?}");
        stack
            .sql("insert into messages select * from kept".to_owned())
            .await;
        stack.sql("drop table kept".to_owned()).await;
        assert_eq!(verify(&stack, &room).await.code, Some(0), "as it was");
    }
}

#[tokio::test]
async fn an_anchor_catches_a_chain_that_was_made_anew() {
    let stack = Stack::start().await;
    let (alice, room) = lively_room(&stack).await;
    let mut socket = tests::Socket::open(stack.socket_url()).await;
    let greeting = socket.says_hello(json!({"token": alice.token})).await;
    let state = greeting
        .lines
        .iter()
        .find(|line| line["room"] == room)
        .expect("its state");
    let anchor = |hash: &str| format!("{}:{hash}", state["head"]);
    let hash = state["head_hash"].as_str().expect("a hash");
    let said = run(stack.natter(&["verify", &room, "--expect", &anchor(hash)])).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let other: String = hash.chars().rev().collect();
    let said = run(stack.natter(&["verify", &room, "--expect", &anchor(&other)])).await;
    assert_ne!(said.code, Some(0), "{said:?}");
}

/// Whether it tells that this seq is wrong in that table.
fn names(said: &Said, seq: u64, place: &str) -> bool {
    let all = format!("{}{}", said.out, said.err);
    let words: Vec<&str> = all.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    words.contains(&seq.to_string().as_str()) && words.contains(&place)
}

/// A terminal of that user in the room `general`.
fn chat(stack: &Stack, user: &str) -> Dialogue {
    let url = stack.url().replace("http://", "ws://");
    Dialogue::start(stack.natter(&["chat", "--url", &url, "--user", user]))
}

#[tokio::test]
async fn two_terminals_talk() {
    let stack = Stack::start().await;
    let mut alice = chat(&stack, "alice");
    alice.shows("== general").await;
    alice.types("hello from alice").await;
    alice.shows("alice: hello from alice").await;
    let mut bob = chat(&stack, "bob");
    // What was said before one came is shown on entry.
    bob.shows("alice: hello from alice").await;
    bob.types("hello from bob").await;
    alice.shows("bob: hello from bob").await;
    alice.types("/members").await;
    alice
        .shows_where("both members", |text| {
            text.rsplit("hello from bob")
                .next()
                .is_some_and(|rest| rest.contains("bob"))
        })
        .await;
    alice.types("/edit hello again").await;
    bob.shows("changed").await;
    let said = alice.hangs_up().await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(bob.hangs_up().await.code, Some(0));
}

#[tokio::test]
async fn what_is_typed_while_the_server_is_down_arrives_once_and_in_order() {
    let mut stack = Stack::start().await;
    let mut alice = chat(&stack, "alice");
    alice.shows("== general").await;
    let mut bob = chat(&stack, "bob");
    bob.shows("== general").await;
    alice.types("before").await;
    bob.shows("alice: before").await;
    stack.dies().await;
    alice.shows("no connection").await;
    let typed: Vec<String> = (0..5)
        .map(|number| format!("typed in the dark {number}"))
        .collect();
    for line in &typed[..3] {
        alice.types(line).await;
        alice.shows(&format!("queued: {line}")).await;
    }
    // The terminal dies too, and comes back before the server does.
    alice.dies().await;
    let mut alice = chat(&stack, "alice");
    alice.shows(&format!("queued: {}", typed[2])).await;
    for line in &typed[3..] {
        alice.types(line).await;
        alice.shows(&format!("queued: {line}")).await;
    }
    bob.pauses();
    stack.starts_again().await;
    for line in &typed {
        alice
            .shows_where(line, |text| text.contains(&format!("alice: {line} ✓")))
            .await;
    }
    bob.goes_on();
    bob.shows(&format!("alice: {}", typed[4])).await;
    alice.types("over").await;
    bob.shows("alice: over").await;
    // A terminal may print a room anew; what was sent twice would have two numbers.
    let numbered: BTreeMap<u64, &str> = bob.text().lines().filter_map(numbered).collect();
    let arrived: Vec<&str> = numbered
        .into_values()
        .filter(|text| text.contains("dark"))
        .collect();
    assert_eq!(arrived, typed, "{}", bob.text());
}

/// Number and text of a line of Alice's in a terminal.
fn numbered(line: &str) -> Option<(u64, &str)> {
    let (number, text) = line.split_once('#')?.1.split_once(" alice: ")?;
    Some((number.parse().ok()?, text))
}

#[tokio::test]
async fn a_client_in_another_language_follows_the_protocol() {
    let stack = Stack::start().await;
    let mut command = Command::new("python3");
    command
        .arg(file("independent/client.py"))
        .args(["--url", stack.socket_url()])
        .kill_on_drop(true);
    let said = run(command).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}
