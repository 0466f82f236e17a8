//! Two processes of one service: users of both meet, and either may go at any time.

use std::cell::Cell;

use tests::http::Request;
use tests::{PATIENCE, Part, Stack, Twin, User, eventually, message};

use crate::settings::unhurried;

/// Rooms enough that both owners have some.
const ROOMS: usize = 12;

/// Rounds of talk before something happens.
const FIRST_ROUNDS: usize = 3;

/// Alice and Bob in several rooms.
async fn in_many_rooms(stack: &Stack) -> (User, User, Vec<String>) {
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let mut rooms = Vec::new();
    for number in 0..ROOMS {
        let room = alice.creates_room(&format!("room {number}")).await;
        bob.joins(&room).await;
        bob.enters(&room).await;
        rooms.push(room);
    }
    (alice, bob, rooms)
}

/// Alice says something in every room, and no command is refused even for a moment.
async fn all_hear(alice: &mut User, rooms: &[String], round: usize) {
    for room in rooms {
        alice.sends(room, &format!("round {round}")).await;
    }
}

/// Waits until both owners have their share of the partitions.
async fn is_shared(stack: &Stack, twin: &Twin) {
    let first = format!("{}/metrics", stack.ops_url(Part::Messages));
    eventually(PATIENCE, async || {
        let mut owned = Vec::new();
        for url in [first.clone(), twin.ops_url("/metrics")] {
            let text = Request::get(url).send().await.body;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("natter_messages_partitions "));
            owned.push(count.and_then(|count| count.parse::<u32>().ok()));
        }
        match owned[..] {
            [Some(one), Some(two)] if one > 10 && two > 10 && one + two == 64 => Ok(()),
            _ => Err(owned),
        }
    })
    .await;
}

/// Waits until both owners have renewed every lease and looked at the other's, several times.
async fn have_settled(stack: &Stack) {
    let client = async_nats::connect(stack.nats_url())
        .await
        .expect("the broker is there");
    let jetstream = async_nats::jetstream::new(client);
    let renewals = async || {
        let bucket = jetstream
            .get_stream("KV_NATTER_LEASE")
            .await
            .map_err(|error| error.to_string())?;
        Ok::<u64, String>(bucket.cached_info().state.last_sequence)
    };
    // 64 leases and two instances each time.
    let settled = eventually(PATIENCE, renewals).await + 3 * 66;
    eventually(PATIENCE, async || match renewals().await {
        Ok(now) if now >= settled => Ok(()),
        other => Err(format!("{other:?} of {settled}")),
    })
    .await;
}

/// Everybody has everything once and in order.
async fn check_all(bob: &mut User, rooms: &[String], rounds: usize) {
    let said: Vec<String> = (0..rounds).map(|round| format!("round {round}")).collect();
    for room in rooms {
        bob.sees_in_the_end(room, &said[rounds - 1]).await;
        assert_eq!(bob.texts(room), said);
        let archive = bob.archive(room).await;
        let archived: Vec<&str> = archive
            .iter()
            .filter_map(|event| event["text"].as_str())
            .collect();
        assert_eq!(archived, said);
    }
}

#[tokio::test]
async fn users_of_two_gateways_meet_and_a_cursor_of_one_is_good_at_the_other() {
    let stack = unhurried().separate().start().await;
    let twin = stack.twin(Part::Gateway).await;
    let mut alice = stack.user("alice").await;
    let mut bob = User::connect(&twin.socket_url(), "bob", &stack.tokens().token("bob")).await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.sends(&room, "from there").await;
    alice.sees(&room, "from there").await;
    bob.renews_cursor().await;
    bob.goes_away();
    alice.sends_many(&room, "missed", 20).await;
    let (states, repeated) = (bob.rooms[&room].states.len(), bob.repeated);
    bob.finds(stack.socket_url());
    bob.comes_back().await;
    assert_eq!(bob.hello["resumed"], true);
    bob.sees(&room, "missed 19").await;
    assert_eq!(
        (bob.rooms[&room].states.len(), bob.repeated),
        (states, repeated)
    );
    assert_eq!(bob.texts(&room).len(), 21);
}

#[tokio::test]
async fn who_is_asked_to_move_loses_and_repeats_nothing() {
    let stack = unhurried()
        .separate()
        .env("NATTER_GATEWAY_DRAIN_SECONDS", "3")
        .start()
        .await;
    let mut twin = stack.twin(Part::Gateway).await;
    let mut alice = stack.user("alice").await;
    let mut bob = User::connect(&twin.socket_url(), "bob", &stack.tokens().token("bob")).await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    twin.is_asked_to_stop();
    alice.sends(&room, "meanwhile").await;
    bob.is_told("goaway").await;
    bob.sees(&room, "meanwhile").await;
    bob.finds(stack.socket_url());
    bob.renews_cursor().await;
    assert_eq!(bob.hello["resumed"], true);
    alice.sends(&room, "moved").await;
    bob.sees(&room, "moved").await;
    assert_eq!(bob.texts(&room), ["meanwhile", "moved"]);
    twin.stops().await;
}

#[tokio::test]
async fn an_owner_that_stops_hands_over_without_an_error() {
    let stack = unhurried().separate().start().await;
    let mut twin = stack.twin(Part::Messages).await;
    is_shared(&stack, &twin).await;
    have_settled(&stack).await;
    let (mut alice, mut bob, rooms) = in_many_rooms(&stack).await;
    bob.renews_cursor().await;
    for round in 0..FIRST_ROUNDS {
        all_hear(&mut alice, &rooms, round).await;
    }
    let stopped = Cell::new(false);
    let stop = async {
        twin.stops().await;
        stopped.set(true);
    };
    let talk = async {
        let mut round = FIRST_ROUNDS;
        while !stopped.get() {
            all_hear(&mut alice, &rooms, round).await;
            round += 1;
        }
        round
    };
    let ((), rounds) = tokio::join!(stop, talk);
    check_all(&mut bob, &rooms, rounds).await;
}

#[tokio::test]
async fn when_an_owner_dies_the_other_goes_on() {
    let stack = unhurried().separate().start().await;
    let mut twin = stack.twin(Part::Messages).await;
    is_shared(&stack, &twin).await;
    let (mut alice, mut bob, rooms) = in_many_rooms(&stack).await;
    bob.renews_cursor().await;
    let talk = async |alice: &mut User, round: usize| {
        for room in &rooms {
            let send = message(room, &format!("round {round}"));
            alice.insists(send).await.expect("stored");
        }
    };
    talk(&mut alice, 0).await;
    let (_, ()) = tokio::join!(twin.dies(), talk(&mut alice, 1));
    for round in 2..5 {
        talk(&mut alice, round).await;
    }
    check_all(&mut bob, &rooms, 5).await;
}

#[tokio::test]
async fn when_one_history_dies_the_other_goes_on() {
    let stack = unhurried().separate().start().await;
    let _twin = stack.twin(Part::History).await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    for round in 0..4 {
        alice.sends(&room, &format!("round {round}")).await;
        if round == 1 {
            stack.kills(Part::History).await;
        }
    }
    check_all(&mut bob, &[room], 4).await;
}
