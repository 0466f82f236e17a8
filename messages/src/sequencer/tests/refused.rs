//! What was refused for good stays refused, whatever copies of it are on their way.

use super::{Owner, T0, config, create, room, send, start, words};
use crate::partition::Record;
use crate::sequencer::{Config, Request, Sequencer, Ticket};
use protocol::request::{CommandReply, CommandRequest};
use protocol::subject::Door;
use protocol::{Cid, StreamSeq, UserId};
use serde_json::json;

/// Refused unless the room's head is 4: it is 2 when the room is made.
fn if_head_is_4(n: u8) -> serde_json::Value {
    let cid = Cid::from_parts(1_800_000_000_000, [n; 10]);
    json!({"cid": cid, "op": "send", "text": "a", "if_head": 4})
}

fn told(replies: &[(Ticket, CommandReply)], ticket: Ticket) -> Vec<String> {
    let reply = replies.iter().find(|(of, _)| *of == ticket);
    words(&reply.expect("an answer").1)
}

#[test]
fn an_older_copy_of_what_was_refused_is_not_stored() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    assert_eq!(owner.gets(&[if_head_is_4(1)]), ["conflict"]);
    assert_eq!(owner.gets(&[send(), send()]), ["3", "4"]);
    assert_eq!(owner.gets(&[if_head_is_4(1)]), ["conflict"]);
    // No copy that was made before the refusal is begun any more.
    owner.now = owner.now.plus_ms(Config::default().refusals_ms);
    owner.sequencer.handle_tick(owner.now);
    assert_eq!(owner.gets(&[if_head_is_4(1)]), ["5"]);
}

#[test]
fn a_copy_in_the_envelope_that_takes_the_reason_away_is_not_stored() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let refused = owner.asks(&[if_head_is_4(1)]);
    let stored = owner.asks(&[send(), send()]);
    let copy = owner.asks(&[if_head_is_4(1)]);
    let replies = owner.settle();
    assert_eq!(told(&replies, refused), ["conflict"]);
    assert_eq!(told(&replies, stored), ["3", "4"]);
    assert_eq!(told(&replies, copy), ["conflict"]);
}

#[test]
fn a_noop_is_remembered_too() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let cid = Cid::from_parts(1_800_000_000_000, [9; 10]);
    let join = json!({"cid": cid, "op": "join"});
    assert_eq!(owner.gets(std::slice::from_ref(&join)), ["noop"]);
    assert_eq!(owner.gets(&[join]), ["noop"]);
    assert_eq!(owner.sequencer.refusals.len(), 1);
}

#[test]
fn beyond_the_bound_nothing_is_refused_for_good() {
    let config = Config {
        refusals_max: 1,
        ..config()
    };
    let mut owner = Owner::new(config, start(0, None));
    owner.makes_room();
    let both = [if_head_is_4(1), if_head_is_4(2)];
    assert_eq!(owner.gets(&both), ["conflict", "unavailable"]);
    assert_eq!(owner.gets(&[send(), send()]), ["3", "4"]);
    assert_eq!(owner.gets(&both), ["conflict", "5"]);
}

/// A ban of bob that ends so long after T0.
fn ban_until(ms: i64) -> serde_json::Value {
    json!({"op": "ban", "user": "bob", "until": T0.plus_ms(ms).0})
}

#[test]
fn a_new_owner_leaves_open_what_a_ban_refused_that_has_ended_meanwhile() {
    let mut before = Owner::new(config(), start(0, None));
    before.makes_room();
    assert_eq!(before.gets(&[ban_until(10_000)]), ["3"]);
    before.now = T0.plus_ms(9_000);
    let mut owner = successor(&before);
    owner.now = T0.plus_ms(10_000);
    let mut join = |deadline_ms| {
        let cid = Cid::from_parts(1_800_000_000_000, [8; 10]);
        let commands = json!([{"cid": cid, "op": "join"}]);
        let request = Request {
            door: Door::User,
            actor: UserId::parse("bob").unwrap(),
            room: room(),
            body: CommandRequest {
                deadline: T0.plus_ms(deadline_ms),
                guest: false,
                commands: serde_json::from_value(commands).unwrap(),
            },
        };
        let ticket = owner.sequencer.handle_request(owner.now, request);
        let mut replies = owner.settle();
        while let Some(ask) = owner.sequencer.poll_lookup() {
            owner.sequencer.handle_answer(ask.id, None);
            replies.extend(owner.settle());
        }
        told(&replies, ticket)
    };
    // Made while the ban held, under the owner before; then after it had begun.
    assert_eq!(join(13_900), ["timeout"]);
    assert_eq!(join(14_001), ["4"]);
}

/// Takes over what another owner has written, at the same moment.
fn successor(before: &Owner) -> Owner {
    let mut start = start(0, None);
    start.epoch = 2;
    let config = Config {
        // As far as the deadlines of these tests.
        request_within_ms: 5_000,
        ..config()
    };
    let mut sequencer = Sequencer::new(config, start);
    let records: &[Record] = &before.log;
    for record in records {
        sequencer.handle_record(record);
    }
    sequencer.handle_caught_up(StreamSeq(0));
    let mut owner = Owner {
        sequencer,
        now: before.now,
        log: before.log.clone(),
        cids: 1_000,
    };
    owner.settle();
    owner
}

#[test]
fn a_new_owner_leaves_open_what_the_one_before_may_have_refused() {
    let mut before = Owner::new(config(), start(0, None));
    before.makes_room();
    let mut owner = successor(&before);
    // Made when the room had just changed, and before this owner began.
    assert_eq!(owner.gets(&[send()]), ["timeout"]);
    // A repeat is answered all the same.
    assert_eq!(owner.gets(&[create()]), ["1 again"]);
    owner.now = owner.now.plus_ms(1);
    assert_eq!(owner.gets(&[send()]), ["3"]);
}

#[test]
fn a_new_owner_takes_in_what_is_on_its_way_to_a_room_that_has_not_changed() {
    let mut before = Owner::new(config(), start(0, None));
    before.makes_room();
    before.now = before.now.plus_ms(1);
    let mut owner = successor(&before);
    assert_eq!(owner.gets(&[send()]), ["3"]);
}
