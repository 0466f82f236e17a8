//! Live delivery, entering and leaving rooms, resuming, lagging.

use super::world::{Client, World, answer, snapshots, state_of};
use crate::ring::record::tests::{member, msg};
use crate::session::outside::{Action, Outcome};
use protocol::error::CloseCode;
use protocol::event::EventBody;
use protocol::event::MemberChange::{Added, Joined, Kicked, Left};
use protocol::query::Query;
use protocol::{ErrorCode, Refusal, StreamSeq};
use serde_json::{Value, json};
use std::rc::Rc;

fn resume(world: &Rc<World>, position: u64) -> Client {
    let mut client = Client::connects(world);
    let line = json!({"id":1,"op":"hello","token":"good:alice","cur":format!("log1.{position}"),
        "win":{"tl":20},"have":{"r1":3}});
    client.says(&line.to_string());
    client
}

fn seqs(frames: &[Value], room: &str) -> Vec<u64> {
    let durable = frames
        .iter()
        .filter(|frame| frame["room"] == room && frame["seq"].is_u64());
    durable
        .map(|frame| frame["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn events_come_once_and_nothing_that_the_state_covers() {
    let world = World::new();
    let mut client = Client::connects(&world);
    client.says(r#"{"id":1,"op":"hello","token":"good:alice"}"#);
    world.stores(&[("r1", 4, msg("a")), ("r2", 1, msg("not hers"))]);
    world.stores(&[("r1", 5, msg("b"))]);
    // History answers from a later position than this worker has delivered.
    client.history_answers(12, &snapshots(&["r1"], 5));
    assert_eq!(client.hears_short(), ["ok 1", "state r1 at 5"]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["live"]);
    world.stores(&[("r1", 6, msg("c"))]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["msg r1 6"]);
}

#[test]
fn what_came_after_historys_answer_is_pulled_from_memory_before_live() {
    let world = World::new();
    let mut client = Client::connects(&world);
    client.says(r#"{"id":1,"op":"hello","token":"good:alice"}"#);
    world.stores(&[("r1", 4, msg("a"))]);
    world.stores(&[("r1", 5, msg("b"))]);
    client.worker_delivers();
    client.history_answers(11, &snapshots(&["r1"], 4));
    let frames = client.hears();
    assert_eq!(seqs(&frames, "r1"), [5]);
    assert_eq!(frames.last().unwrap()["cur"], "log1.12");
}

#[test]
fn one_who_is_kicked_gets_that_event_then_gone_then_nothing() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1", "r2"]);
    world.stores(&[
        ("r1", 1, msg("before")),
        ("r1", 2, member("bob", Kicked)),
        ("r1", 3, member("alice", Kicked)),
        ("r1", 4, msg("after")),
        ("r2", 1, msg("elsewhere")),
    ]);
    client.worker_delivers();
    assert_eq!(
        client.hears_short(),
        [
            "msg r1 1",
            "member r1 2",
            "member r1 3",
            "gone r1",
            "msg r2 1"
        ]
    );
    world.stores(&[("r1", 5, msg("later"))]);
    client.worker_delivers();
    assert!(client.hears().is_empty());
}

#[test]
fn a_room_entered_live_comes_as_one_state_and_then_from_there_on() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r9", 7, member("alice", Added)), ("r9", 8, msg("welcome"))]);
    client.worker_delivers();
    let (ticket, query, min_seq) = client.question();
    let Query::Snapshots {
        rooms: Some(rooms), ..
    } = query
    else {
        panic!()
    };
    assert_eq!((rooms[0].as_str(), min_seq), ("r9", StreamSeq(11)));
    world.stores(&[
        ("r9", 9, msg("missed meanwhile")),
        ("r1", 1, msg("elsewhere")),
    ]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["msg r1 1"]);
    client.waits_until(26_000);
    assert_eq!(
        client.hears()[0].get("cur"),
        None,
        "no cursor covers a room that is missing"
    );
    client.outcome(ticket, answer(11, &snapshots(&["r9"], 8)));
    assert_eq!(client.hears_short(), ["state r9 at 8", "msg r9 9", "live"]);
    world.stores(&[("r9", 10, msg("live"))]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["msg r9 10"]);
    client.waits_until(51_000);
    assert_eq!(client.hears()[0]["cur"], "log1.13");
}

#[test]
fn a_room_entered_and_left_before_its_state_came_is_never_mentioned() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r9", 7, member("alice", Joined))]);
    world.stores(&[("r9", 8, member("alice", Left))]);
    client.worker_delivers();
    client.history_answers(12, &json!({"known":true,"rooms":[]}));
    assert!(client.hears().is_empty() && client.asks().is_empty());
    // Unless history still saw the membership: then its end is told too.
    world.stores(&[("r9", 9, member("alice", Joined))]);
    world.stores(&[
        ("r9", 10, member("alice", Kicked)),
        ("r9", 11, msg("secret")),
    ]);
    client.worker_delivers();
    client.history_answers(13, &snapshots(&["r9"], 9));
    assert_eq!(
        client.hears_short(),
        ["state r9 at 9", "member r9 10", "gone r9", "live"]
    );
}

#[test]
fn a_state_that_history_cannot_tell_now_is_asked_for_again() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1"]);
    world.stores(&[("r9", 7, member("alice", Joined))]);
    client.worker_delivers();
    client.history_is_away();
    assert!(client.asks().is_empty());
    client.waits_until(1_000);
    client.history_answers(11, &snapshots(&["r9"], 7));
    assert_eq!(client.hears_short(), ["state r9 at 7", "live"]);
}

#[test]
fn a_resume_from_memory_asks_nobody() {
    let world = World::new();
    drop(Client::is_in(&world, &["r1", "r2"]));
    world.stores(&[("r1", 4, msg("a")), ("r3", 1, msg("not hers"))]);
    world.stores(&[("r2", 9, msg("b")), ("r1", 5, member("alice", Kicked))]);
    world.stores(&[("r1", 6, msg("behind her back"))]);
    world.position.set(StreamSeq(13));
    let mut client = resume(&world, 10);
    let frames = client.hears();
    assert_eq!(frames[0]["ok"]["resumed"], true);
    let short: Vec<_> = frames[1..].iter().map(super::world::short).collect();
    assert_eq!(
        short,
        ["msg r1 4", "msg r2 9", "member r1 5", "gone r1", "live"]
    );
    assert!(client.asks().is_empty());
    // The cursor after the kick: nothing of that room any more.
    let mut later = resume(&world, 12);
    assert_eq!(later.hears_short(), ["ok 1", "live"]);
}

#[test]
fn a_resume_beyond_memory_is_told_by_history() {
    let world = World::new();
    let mut client = resume(&world, 4);
    let event = json!({"ev":"msg","room":"r1","seq":8,"text":"x"});
    let mut skip = state_of("r2", 900);
    skip["from"] = json!(5);
    skip["to"] = json!(900);
    skip["dirty"] = json!([[1, 2]]);
    let missed = json!([
        {"events":{"room":"r1","events":[event],"gone":false}},
        {"skip":skip},
        {"events":{"room":"r4","events":[{"ev":"member","room":"r4","seq":3}],"gone":true}},
        {"state":state_of("r3", 2)},
    ]);
    let answer = json!({"known":true,"missed":missed,"rooms":["r1","r2","r3"],"more":false});
    let query = client.history_answers(10, &answer);
    assert!(matches!(
        query,
        Query::CatchUp {
            after: StreamSeq(4),
            window_timeline: 20,
            ..
        }
    ));
    let frames = client.hears();
    assert_eq!(frames[0]["ok"]["resumed"], true);
    let short: Vec<_> = frames[1..].iter().map(super::world::short).collect();
    assert_eq!(
        short,
        [
            "msg r1 8",
            "skip r2 at 900",
            "member r4 3",
            "gone r4",
            "state r3 at 2",
            "live"
        ]
    );
    world.stores(&[
        ("r1", 8, msg("again")),
        ("r1", 9, msg("y")),
        ("r4", 4, msg("z")),
        ("r3", 3, msg("w")),
    ]);
    client.worker_delivers();
    assert_eq!(client.hears_short(), ["msg r1 9", "msg r3 3"]);
}

#[test]
fn an_unknown_cursor_is_no_error_and_what_the_client_holds_gets_a_skip() {
    let world = World::new();
    for cursor in [
        "nonsense",
        "otherlog.10",
        "log1.4",
        "log1.11",
        "log1.99999",
        "log1.18446744073709551615",
    ] {
        let mut client = Client::connects(&world);
        let line = json!({"id":1,"op":"hello","token":"good:alice","cur":cursor,"have":{"r1":3}});
        client.says(&line.to_string());
        if cursor == "log1.4" {
            client.history_answers(
                10,
                &json!({"known":false,"missed":[],"rooms":[],"more":false}),
            );
        }
        if cursor == "log1.11" {
            // Another gateway may be ahead; if it is not, history never gets there.
            client.history_is_away();
        }
        client.history_answers(10, &snapshots(&["r1", "r2"], 7));
        let mut skip = state_of("r1", 8);
        skip["from"] = json!(4);
        skip["to"] = json!(8);
        skip["dirty"] = json!([]);
        let have = json!({"known":true,"missed":[{"skip":skip}],"rooms":["r1"],"more":false});
        let query = client.history_answers(10, &have);
        assert!(matches!(query, Query::Have { .. }));
        let frames = client.hears();
        assert_eq!(frames[0]["ok"]["resumed"], false);
        let short: Vec<_> = frames[1..].iter().map(super::world::short).collect();
        assert_eq!(short, ["skip r1 at 8", "state r2 at 7", "live"], "{cursor}");
    }
}

#[test]
fn more_than_500_missed_events_of_a_room_are_left_to_history() {
    let world = World::new();
    drop(Client::is_in(&world, &["r1"]));
    for seq in 1..=501 {
        world.stores(&[("r1", seq, msg("x"))]);
    }
    world.position.set(StreamSeq(511));
    let mut client = resume(&world, 10);
    let mut skip = state_of("r1", 501);
    skip["from"] = json!(1);
    skip["to"] = json!(501);
    skip["dirty"] = json!([]);
    let answer = json!({"known":true,"missed":[{"skip":skip}],"rooms":["r1"],"more":false});
    let query = client.history_answers(511, &answer);
    assert!(matches!(
        query,
        Query::CatchUp {
            after: StreamSeq(10),
            ..
        }
    ));
    assert_eq!(client.hears_short(), ["ok 1", "skip r1 at 501", "live"]);
    // Without history memory serves them all.
    let mut client = resume(&world, 10);
    client.history_is_away();
    let frames = client.hears();
    assert_eq!(seqs(&frames, "r1"), (1..=501).collect::<Vec<_>>());
    assert_eq!(frames.last().unwrap()["ev"], "live");
}

#[test]
fn what_is_too_much_for_one_answer_is_a_conversation_from_the_start() {
    let world = World::new();
    let mut client = resume(&world, 4);
    let (ticket, query, _) = client.question();
    assert!(matches!(query, Query::CatchUp { .. }));
    let refusal = Refusal::plain(ErrorCode::TooLarge);
    client.outcome(ticket, Outcome::Answer(Err(refusal)));
    client.history_answers(10, &snapshots(&["r1"], 5));
    client.history_answers(
        10,
        &json!({"known":true,"missed":[],"rooms":["r1"],"more":false}),
    );
    let frames = client.hears();
    assert_eq!(frames[0]["ok"]["resumed"], false);
    assert_eq!(super::world::short(&frames[1]), "state r1 at 5");
}

#[test]
fn what_leads_up_to_a_kick_comes_one_by_one_however_much_it_is() {
    let world = World::new();
    drop(Client::is_in(&world, &["r1"]));
    for seq in 1..=600 {
        world.stores(&[("r1", seq, msg("x"))]);
    }
    world.stores(&[("r1", 601, member("alice", Kicked)), ("r1", 602, msg("no"))]);
    world.position.set(StreamSeq(611));
    let mut client = resume(&world, 10);
    let frames = client.hears();
    assert_eq!(seqs(&frames, "r1"), (1..=601).collect::<Vec<_>>());
    assert_eq!(frames[602]["ev"], "gone");
}

#[test]
fn a_slow_reader_is_told_that_it_lags_and_loses_nothing() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1", "r2"]);
    let text = "x".repeat(1_000);
    for seq in 1..=450 {
        world.stores(&[("r1", seq, msg(&text)), ("r2", seq, msg("y"))]);
        client.worker_delivers();
    }
    client.waits_until(26_000);
    let first = client.hears_one_message();
    let mut frames = first;
    frames.extend(client.hears());
    assert_eq!(seqs(&frames, "r1"), (1..=450).collect::<Vec<_>>());
    assert_eq!(seqs(&frames, "r2"), (1..=450).collect::<Vec<_>>());
    let place = |name: &str| frames.iter().position(|frame| frame["ev"] == name).unwrap();
    let ping = &frames[place("ping")];
    assert!(
        place("lagged") < place("ping") && ping.get("cur").is_none(),
        "no cursor while lagged"
    );
    assert!(place("lagged") < place("live"));
    assert_eq!(frames.last().unwrap()["cur"], "log1.460");
    assert!(client.asks().is_empty());
}

#[test]
fn one_who_lags_beyond_memory_is_told_by_history_or_sent_elsewhere() {
    let world = World::with_ring(50);
    let mut client = Client::is_in(&world, &["r1"]);
    let text = "x".repeat(2_000);
    for seq in 1..=200 {
        world.stores(&[("r1", seq, msg(&text))]);
        client.worker_delivers();
    }
    let frames = client.hears();
    let sent = seqs(&frames, "r1");
    let last = *sent.last().unwrap();
    assert!(last < 200 && frames.last().unwrap()["ev"] == "lagged");
    let events: Vec<_> = (1..=200)
        .map(|seq| json!({"ev":"msg","room":"r1","seq":seq}))
        .collect();
    let missed = json!([{"events":{"room":"r1","events":events,"gone":false}}]);
    let answer = json!({"known":true,"missed":missed,"rooms":["r1"],"more":false});
    let query = client.history_answers(210, &answer);
    let Query::CatchUp { after, .. } = query else {
        panic!()
    };
    assert_eq!(after.0, last + 10);
    let rest = client.hears();
    assert_eq!(
        seqs(&rest, "r1"),
        (last + 1..=200).collect::<Vec<_>>(),
        "nothing twice"
    );
    assert_eq!(rest.last().unwrap()["ev"], "live");
}

#[test]
fn one_who_cannot_catch_up_for_two_minutes_is_closed_4002() {
    let world = World::with_ring(50);
    let mut client = Client::is_in(&world, &["r1"]);
    let text = "x".repeat(2_000);
    for seq in 1..=200 {
        world.stores(&[("r1", seq, msg(&text))]);
        client.worker_delivers();
    }
    client.hears();
    for second in 1..200 {
        if client.session.closing().is_some() {
            break;
        }
        for action in client.asks() {
            let Action::Ask { ticket, .. } = action else {
                panic!()
            };
            let away = Refusal::plain(ErrorCode::Unavailable);
            client.outcome(ticket, Outcome::Answer(Err(away)));
        }
        client.says(r#"{"op":"pong"}"#);
        client.waits_until(second * 1_000);
    }
    assert_eq!(client.session.closing(), Some(CloseCode::LagUnrecoverable));
}

/// Random numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Whatever the order of storing, delivering, reading and being kicked and added: a client that
/// follows the protocol's rule sees each event of its memberships once and in order, and no other.
#[test]
fn every_member_sees_every_event_of_their_membership_once() {
    let mut lagged = 0;
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let world = World::new();
        let mut client = Client::is_in(&world, &["r1", "r2"]);
        let (mut heads, mut inside) = ([0_u64; 2], [true; 2]);
        let mut visible: [Vec<u64>; 2] = Default::default();
        let mut frames = Vec::new();
        for _ in 0..200 {
            let index = usize::try_from(dice.roll(2)).unwrap();
            let room = ["r1", "r2"][index];
            match dice.roll(12) {
                0..=5 => {
                    heads[index] += 1;
                    let long = usize::try_from(dice.roll(2) * 50_000).unwrap();
                    world.stores(&[(room, heads[index], msg(&"x".repeat(long)))]);
                    visible[index].extend(inside[index].then_some(heads[index]));
                }
                6 => {
                    heads[index] += 1;
                    let change: EventBody =
                        member("alice", if inside[index] { Kicked } else { Added });
                    world.stores(&[(room, heads[index], change)]);
                    visible[index].push(heads[index]);
                    inside[index] = !inside[index];
                }
                7..=9 => client.worker_delivers(),
                10 => frames.extend(client.hears_one_message()),
                _ => answer_states(&mut client, &world),
            }
        }
        for _ in 0..6 {
            client.worker_delivers();
            answer_states(&mut client, &world);
            frames.extend(client.hears());
        }
        for (index, room) in ["r1", "r2"].into_iter().enumerate() {
            check(seed, room, &frames, &visible[index], inside[index]);
        }
        assert_eq!(client.session.closing(), None);
        lagged += frames
            .iter()
            .filter(|frame| frame["ev"] == "lagged")
            .count();
    }
    assert!(lagged > 5, "the test shall lag, too: {lagged}");
}

/// History answers every question from the end of the log, as if it had just applied it.
fn answer_states(client: &mut Client, world: &World) {
    for action in client.asks() {
        let Action::Ask { ticket, query, .. } = action else {
            panic!("{action:?}")
        };
        let Query::Snapshots {
            rooms: Some(rooms), ..
        } = *query
        else {
            panic!("{query:?}")
        };
        let (_, applied) = world.ring.head().unwrap();
        let alice = protocol::UserId::parse("alice").unwrap();
        let inside = world.views.rooms_at(&alice, applied, 0).unwrap();
        let states: Vec<_> = rooms
            .iter()
            .filter(|room| inside.contains(*room))
            .map(|room| state_of(room.as_str(), head_of(world, room.as_str())))
            .collect();
        client.outcome(
            ticket,
            answer(applied.0, &json!({"known":true,"rooms":states})),
        );
    }
}

fn head_of(world: &World, room: &str) -> u64 {
    let crate::ring::Read::Records(records) = world.ring.after(StreamSeq(10), usize::MAX) else {
        panic!("the ring is large")
    };
    let entries = records.iter().flat_map(|record| record.entries());
    entries
        .filter(|entry| entry.room.as_str() == room)
        .map(|entry| entry.seq.0)
        .max()
        .unwrap_or(0)
}

/// Replays the frames by the client's rule of the protocol.
fn check(seed: u64, room: &str, frames: &[Value], visible: &[u64], inside: bool) {
    let (mut last, mut member) = (0, true);
    for frame in frames.iter().filter(|frame| frame["room"] == room) {
        match (frame["ev"].as_str().unwrap(), frame["seq"].as_u64()) {
            ("state", _) => {
                last = frame["at"].as_u64().unwrap();
                member = true;
            }
            ("gone", _) => member = false,
            (_, Some(seq)) => {
                assert!(member, "seed {seed}: {room} {seq} came after gone");
                assert!(
                    visible.contains(&seq),
                    "seed {seed}: {room} {seq} is not for her"
                );
                assert_eq!(seq, last + 1, "seed {seed}: {room} has a hole or repeats");
                last = seq;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(member, inside, "seed {seed}: {room}");
    // A membership that ended before its state came is never mentioned; any other is complete.
    if inside {
        assert_eq!(
            Some(&last),
            visible.last(),
            "seed {seed}: {room} is not complete"
        );
    }
}
