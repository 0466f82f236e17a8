//! Rooms that were told although the cursor is older, and rooms whose states are still to come.

use super::world::{Client, World, answer, snapshots};
use crate::ring::record::tests::{member, msg};
use protocol::event::MemberChange::{Added, Kicked};
use protocol::query::Query;
use protocol::{RoomId, Seq, StreamSeq};
use serde_json::json;
use std::rc::Rc;

fn resume(world: &Rc<World>, have: &serde_json::Value) -> Client {
    let mut client = Client::connects(world);
    let line = json!({"id":1,"op":"hello","token":"good:alice","cur":"log1.10","have":have});
    client.says(&line.to_string());
    client
}

/// A log in which alice came into r2 behind the cursor 10, and was taken out of it.
fn came_and_went() -> Rc<World> {
    let world = World::new();
    drop(Client::is_in(&world, &["r1"]));
    world.stores(&[("r2", 3, member("alice", Added)), ("r2", 4, msg("a"))]);
    world.stores(&[("r2", 5, msg("b"))]);
    world.stores(&[("r2", 6, member("alice", Kicked)), ("r2", 7, msg("no"))]);
    world.position.set(StreamSeq(13));
    world
}

#[test]
fn whoever_was_told_that_a_room_came_is_told_that_it_went() {
    let mut client = resume(&came_and_went(), &json!({"r1":0,"r2":4}));
    let heard = ["ok 1", "msg r2 5", "member r2 6", "gone r2", "live"];
    assert_eq!(client.hears_short(), heard);
    assert!(client.asks().is_empty());
}

#[test]
fn whoever_was_not_told_of_it_hears_nothing() {
    let mut client = resume(&came_and_went(), &json!({"r1":0}));
    client.history_answers(13, &snapshots(&[], 0));
    assert_eq!(client.hears_short(), ["ok 1", "live"]);
}

#[test]
fn a_client_cannot_have_itself_into_a_room() {
    let world = World::new();
    drop(Client::is_in(&world, &["r1"]));
    world.stores(&[("r2", 5, msg("secret"))]);
    world.position.set(StreamSeq(11));
    let mut client = resume(&world, &json!({"r1":0,"r2":4}));
    assert_eq!(client.hears_short(), ["ok 1", "live"]);
    world.stores(&[("r2", 6, msg("secret"))]);
    client.worker_delivers();
    assert!(client.hears_short().is_empty());
}

#[test]
fn a_state_that_is_older_than_a_mark_that_was_told_is_asked_for_again() {
    let world = World::new();
    let alice = protocol::UserId::parse("alice").unwrap();
    let own = RoomId::own(&alice);
    let mut client = Client::is_in(&world, &[own.as_str()]);
    world.stores(&[("r2", 3, member("alice", Added))]);
    client.worker_delivers();
    let (first, ..) = client.question();
    world.stores(&[(own.as_str(), 4, msg("read, say"))]);
    client.worker_delivers();
    assert_eq!(client.hears_short().len(), 1);
    client.outcome(first, answer(11, &snapshots(&["r2"], 3)));
    assert!(client.hears_short().is_empty());
    let (second, _, at_least) = client.question();
    assert_eq!(at_least, StreamSeq(12));
    client.outcome(second, answer(12, &snapshots(&["r2"], 3)));
    assert_eq!(client.hears_short(), ["state r2 at 3", "live"]);
}

/// Fills the client's queue, so that it lags and memory forgets what it has not seen.
fn lags_beyond_memory(world: &World, client: &mut Client) {
    let text = "x".repeat(2_000);
    for seq in 1..=200 {
        world.stores(&[("r1", seq, msg(&text))]);
        client.worker_delivers();
    }
}

#[test]
fn a_state_that_is_under_way_survives_a_lag() {
    let world = World::with_ring(50);
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r2", 3, member("alice", Added))]);
    client.worker_delivers();
    let (first, ..) = client.question();
    lags_beyond_memory(&world, &mut client);
    client.hears();
    // History has nothing to add about r2: its cursor lies behind the entering.
    let events = json!([{"ev":"msg","room":"r2","seq":4}]);
    let missed = json!([{"events":{"room":"r2","events":events,"gone":false}}]);
    let missed = json!({"known":true,"missed":missed,"rooms":["r1","r2"],"more":false});
    client.history_answers(211, &missed);
    assert_eq!(client.hears_short(), Vec::<String>::new());
    let alice = protocol::UserId::parse("alice").unwrap();
    let inside = world.views.rooms_at(&alice, StreamSeq(211), 0).unwrap();
    assert!(inside.contains("r2"), "she is in it all the same");
    client.outcome(first, answer(211, &snapshots(&["r2"], 4)));
    assert_eq!(client.hears_short(), ["state r2 at 4", "live"]);
    world.stores(&[("r2", 5, msg("b"))]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["msg r2 5"]);
}

#[test]
fn a_room_told_while_history_was_thinking_is_told_to_its_end() {
    let world = World::with_ring(50);
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r2", 3, member("alice", Added))]);
    client.worker_delivers();
    let (second, ..) = client.question();
    world.stores(&[("r3", 7, member("alice", Added))]);
    client.worker_delivers();
    let (third, ..) = client.question();
    lags_beyond_memory(&world, &mut client);
    client.hears();
    let (lagged, ..) = client.question();
    // The place goes back before the entering of r3, of which nothing was told yet.
    client.outcome(second, answer(11, &snapshots(&["r2"], 3)));
    let away = protocol::Refusal::plain(protocol::ErrorCode::Unavailable);
    client.outcome(lagged, crate::session::outside::Outcome::Answer(Err(away)));
    client.waits_until(2_000);
    let (asked, ..) = client.question();
    client.outcome(third, answer(12, &snapshots(&["r3"], 7)));
    assert_eq!(client.hears_short(), ["state r2 at 3", "state r3 at 7"]);
    // Asked before, history does not know that anybody was told of r3, which has ended.
    let nothing = json!({"known":true,"missed":[],"rooms":["r1","r2"],"more":false});
    client.outcome(asked, answer(212, &nothing));
    let missed = json!([{"events":{"room":"r3","events":[],"gone":true}}]);
    let missed = json!({"known":true,"missed":missed,"rooms":["r1","r2"],"more":false});
    let query = client.history_answers(212, &missed);
    let Query::CatchUp { have, .. } = query else {
        panic!("{query:?}")
    };
    assert_eq!(have.get("r3"), Some(&Seq(7)));
    assert_eq!(client.hears_short(), ["gone r3", "live"]);
}

#[test]
fn a_room_entered_behind_a_rewound_place_is_named_to_history() {
    let world = World::with_ring(50);
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r2", 3, member("alice", Added))]);
    client.worker_delivers();
    let (slow, ..) = client.question();
    world.stores(&[("r3", 7, member("alice", Added))]);
    client.worker_delivers();
    client.history_answers(12, &snapshots(&["r3"], 7));
    assert_eq!(client.hears_short(), ["state r3 at 7"]);
    lags_beyond_memory(&world, &mut client);
    client.hears();
    let (lagged, ..) = client.question();
    // The answer about r2 is older than the entering of r3: the place goes back before that.
    client.outcome(slow, answer(11, &snapshots(&["r2"], 3)));
    let away = protocol::Refusal::plain(protocol::ErrorCode::Unavailable);
    client.outcome(lagged, crate::session::outside::Outcome::Answer(Err(away)));
    client.waits_until(2_000);
    let (_, query, _) = client.question();
    let Query::CatchUp { after, have, .. } = query else {
        panic!("{query:?}")
    };
    assert_eq!(after, StreamSeq(11));
    let r3 = RoomId::parse("r3").unwrap();
    assert_eq!(have.get(&r3), Some(&Seq(7)));
}
