//! `kill -9` of each part while people talk: nothing lost, repeated or out of order.

use std::cell::Cell;
use std::time::Duration;

use tests::{Part, Stack, User, message};
use tokio::time::Instant;

use crate::settings::unhurried;

/// Messages before the kill that show that all is well.
const WARM: usize = 20;
/// Messages after everything is ready again.
const AFTER: usize = 20;
/// The promise of `natter dev`, with the time that a busy machine takes to tell.
const STARTED_WITHIN: Duration = Duration::from_secs(3);

/// Says the next line and waits for the answer, over however many sockets, like an outbox.
async fn talks(user: &mut User, room: &str, number: usize) {
    let text = format!("line {number}");
    let answer = user.insists(message(room, &text)).await;
    let answer = answer.unwrap_or_else(|err| panic!("{text} is refused: {err}"));
    assert!(answer["seq"].is_u64());
}

/// Talks while `part` is killed once, and checks that everybody has everything once and in order.
async fn a_kill_costs_nothing(part: Part) {
    let stack = unhurried().separate().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    for number in 0..WARM {
        talks(&mut alice, &room, number).await;
    }
    let recovered = Cell::new(false);
    let kill = async {
        let killed = Instant::now();
        stack.kills(part).await;
        assert!(
            killed.elapsed() < STARTED_WITHIN,
            "started after {:?}",
            killed.elapsed()
        );
        stack.is_ready().await;
        recovered.set(true);
    };
    let talk = async {
        let mut number = WARM;
        while !recovered.get() {
            talks(&mut alice, &room, number).await;
            number += 1;
        }
        let end = number + AFTER;
        for number in number..end {
            talks(&mut alice, &room, number).await;
        }
        end
    };
    let ((), end) = tokio::join!(kill, talk);
    let said: Vec<String> = (0..end).map(|number| format!("line {number}")).collect();
    bob.sees_in_the_end(&room, &said[end - 1]).await;
    assert_eq!(bob.texts(&room), said, "seen live");
    let archive = alice.archive(&room).await;
    let archived: Vec<&str> = archive
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    assert_eq!(archived, said, "read back");
}

#[tokio::test]
async fn killing_the_gateway_costs_nothing() {
    a_kill_costs_nothing(Part::Gateway).await;
}

#[tokio::test]
async fn killing_messages_costs_nothing() {
    a_kill_costs_nothing(Part::Messages).await;
}

#[tokio::test]
async fn killing_history_costs_nothing() {
    a_kill_costs_nothing(Part::History).await;
}

#[tokio::test]
async fn killing_the_broker_costs_nothing() {
    a_kill_costs_nothing(Part::NatsServer).await;
}

#[tokio::test]
async fn killing_the_database_costs_nothing() {
    a_kill_costs_nothing(Part::Postgres).await;
}

#[tokio::test]
async fn killing_everything_at_once_costs_nothing_that_was_acknowledged() {
    let mut stack: Stack = unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.sends_many(&room, "line", 200).await;
    let before = alice.archive(&room).await;
    stack.dies().await;
    stack.starts_again().await;
    let mut alice = stack.user("alice").await;
    assert_eq!(alice.archive(&room).await, before);
    alice.sends(&room, "and on").await;
}
