//! What the simulator's weather does not bring: bounds, alarms, rates, idle records, lost logs.

use super::{
    Answered, Ask, Config, LogBounds, Lookup, Outcome, Pressure, Publish, Request, Sequencer,
    Start, Stop, Ticket,
};
use crate::partition::{Notice, Record};
use crate::rate::Rate;
use protocol::request::{CommandReply, CommandRequest, CommandResult};
use protocol::room::RoomState;
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, InstanceId, RoomId, Seq, StreamSeq, Timestamp, UserId};
use serde_json::json;

mod refused;

const T0: Timestamp = Timestamp(1_800_000_000_000);

/// One owner and a broker that stores what comes.
struct Owner {
    sequencer: Sequencer,
    now: Timestamp,
    log: Vec<Record>,
    cids: u64,
}

fn config() -> Config {
    Config {
        rate: None,
        ..Config::default()
    }
}

fn start(above: u64, cursor: Option<u64>) -> Start {
    Start {
        partition: room().partition(),
        instance: InstanceId::parse("me").unwrap(),
        epoch: 1,
        seed: [7; 32],
        above: StreamSeq(above),
        above_time: None,
        log: LogBounds {
            first: StreamSeq(1),
            last: StreamSeq(above),
        },
        cursor: cursor.map(StreamSeq),
    }
}

fn alice() -> UserId {
    UserId::parse("alice").unwrap()
}

fn room_cid() -> Cid {
    Cid::from_parts(1_800_000_000_000, [3; 10])
}

fn room() -> RoomId {
    RoomId::created(&alice(), room_cid())
}

impl Owner {
    fn new(config: Config, start: Start) -> Self {
        let above = start.above;
        let mut sequencer = Sequencer::new(config, start);
        sequencer.handle_caught_up(above);
        Self {
            sequencer,
            now: T0,
            log: Vec::new(),
            cids: 0,
        }
    }

    /// Stores everything that is to be stored.
    fn settle(&mut self) -> Vec<(Ticket, CommandReply)> {
        let mut replies = Vec::new();
        loop {
            let mut busy = false;
            while let Some(publish) = self.sequencer.poll_publish(self.now) {
                let position = self.stores(&publish);
                self.sequencer
                    .handle_published(self.now, Outcome::Stored(position));
                busy = true;
            }
            while let Some(read) = self.sequencer.poll_read(self.now) {
                let tail = self
                    .log
                    .iter()
                    .filter(|record| record.position > read.after);
                let tail = tail.cloned().collect();
                self.sequencer.handle_tail(self.now, read.id, Some(tail));
                busy = true;
            }
            while let Some(reply) = self.sequencer.poll_reply() {
                replies.push(reply);
                busy = true;
            }
            if !busy {
                return replies;
            }
        }
    }

    fn stores(&mut self, publish: &Publish) -> StreamSeq {
        let position = publish.expected.next();
        self.log.push(Record {
            position,
            time: self.now,
            payload: publish.payload.clone().into(),
        });
        position
    }

    fn asks(&mut self, commands: &[serde_json::Value]) -> Ticket {
        let commands = commands.iter().map(|command| {
            let mut command = command.clone();
            if command.get("cid").is_none() {
                self.cids += 1;
                let time = u64::try_from(self.now.0).unwrap();
                let mut random = [0; 10];
                random[2..].copy_from_slice(&self.cids.to_be_bytes());
                command["cid"] = json!(Cid::from_parts(time, random));
            }
            serde_json::from_value(command).unwrap()
        });
        let request = Request {
            door: Door::User,
            actor: alice(),
            room: room(),
            body: CommandRequest {
                deadline: self.now.plus_ms(5_000),
                guest: false,
                commands: commands.collect(),
            },
        };
        self.sequencer.handle_request(self.now, request)
    }

    /// The answers to one batch, with history down.
    fn gets(&mut self, commands: &[serde_json::Value]) -> Vec<String> {
        let ticket = self.asks(commands);
        let mut replies = self.settle();
        while let Some(ask) = self.sequencer.poll_lookup() {
            self.sequencer.handle_answer(ask.id, None);
            replies.extend(self.settle());
        }
        let reply = replies.into_iter().find(|(of, _)| *of == ticket);
        words(&reply.expect("an answer").1)
    }

    fn makes_room(&mut self) {
        assert_eq!(self.gets(&[create()]), ["1"]);
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.sequencer.poll_notice()).collect()
    }
}

fn words(reply: &CommandReply) -> Vec<String> {
    let word = |result: &CommandResult| match result {
        CommandResult::Ok(accepted) if accepted.dup => format!("{} again", accepted.seq),
        CommandResult::Ok(accepted) if accepted.noop => "noop".to_owned(),
        CommandResult::Ok(accepted) => accepted.seq.to_string(),
        CommandResult::Err(refusal) => refusal.code.slug().to_owned(),
    };
    reply.results.iter().map(word).collect()
}

fn create() -> serde_json::Value {
    json!({"cid": room_cid(), "op": "create", "kind": "public"})
}

fn send() -> serde_json::Value {
    json!({"op": "send", "text": "hi"})
}

#[test]
fn a_batch_is_stored_in_order_up_to_the_first_temporary_error() {
    let rate = Some(Rate {
        per_second: 1,
        burst: 2,
    });
    let mut owner = Owner::new(Config { rate, ..config() }, start(0, None));
    owner.makes_room();
    let blank = json!({"op": "send", "text": " "});
    // Making the room took one of the two tokens.
    assert_eq!(
        owner.gets(&[blank, send(), send(), send()]),
        ["bad_request", "3", "rate_limited", "rate_limited"]
    );
    owner.now = owner.now.plus_ms(1_000);
    assert_eq!(owner.gets(&[send(), send()]), ["4", "rate_limited"]);
}

#[test]
fn a_repeat_is_answered_with_the_first_result_even_in_one_batch() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    assert_eq!(owner.gets(&[create()]), ["1 again"]);
    let cid = Cid::from_parts(1_800_000_000_000, [9; 10]);
    let same = json!({"cid": cid, "op": "send", "text": "hi"});
    assert_eq!(owner.gets(&[same.clone(), same.clone()]), ["3", "3 again"]);
    assert_eq!(owner.gets(&[same]), ["3 again"]);
}

#[test]
fn what_is_late_is_not_begun() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let ticket = owner.asks(&[send()]);
    owner.now = owner.now.plus_ms(5_001);
    let replies = owner.settle();
    assert_eq!(replies.first().map(|reply| reply.0), Some(ticket));
    assert_eq!(words(&replies[0].1), ["timeout"]);
}

#[test]
fn a_refusal_waits_for_a_proof() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    owner.asks(&[json!({"op": "send", "text": "a", "if_head": 9})]);
    assert_eq!(owner.sequencer.poll_publish(owner.now), None);
    assert_eq!(owner.sequencer.poll_reply(), None);
    let read = owner.sequencer.poll_read(owner.now).expect("a proof");
    // More refusals share the read only if it begins after them.
    owner.asks(&[json!({"op": "send", "text": "b", "if_head": 9})]);
    assert_eq!(owner.sequencer.poll_publish(owner.now), None);
    assert_eq!(owner.sequencer.poll_read(owner.now), None);
    owner
        .sequencer
        .handle_tail(owner.now, read.id, Some(Vec::new()));
    assert!(owner.sequencer.poll_reply().is_some());
    assert_eq!(owner.sequencer.poll_reply(), None);
    assert!(owner.sequencer.poll_read(owner.now).is_some());
}

#[test]
fn without_history_warm_rooms_go_on_and_cold_ones_wait() {
    let mut owner = Owner::new(config(), start(500, None));
    owner.settle();
    let ticket = owner.asks(&[send()]);
    assert!(owner.settle().is_empty());
    let ask = owner.sequencer.poll_lookup().expect("an old room");
    // A cid of this moment may lie below W: the time of W is that of the epoch record.
    assert!(matches!(ask.lookup, Lookup::Cids(_)));
    owner.sequencer.handle_answer(ask.id, None);
    let replies = owner.settle();
    assert_eq!(replies[0].0, ticket);
    assert_eq!(words(&replies[0].1), ["unavailable"]);
    owner.now = owner.now.plus_ms(60_000);
    assert_eq!(owner.gets(&[send()]), ["unavailable"]);
    assert_eq!(owner.gets(&[create()]), ["unavailable"]);
}

#[test]
fn a_base_below_the_floor_is_asked_again() {
    let mut owner = Owner::new(config(), start(500, None));
    owner.settle();
    owner.now = owner.now.plus_ms(60_000);
    let ticket = owner.asks(&[send()]);
    assert!(owner.settle().is_empty());
    let Ask { id, min_seq, .. } = owner.sequencer.poll_lookup().expect("an old room");
    assert_eq!(min_seq, StreamSeq(500));
    let answer = |applied| Some((StreamSeq(applied), Answered::Room(Some(Box::new(base())))));
    owner.sequencer.handle_answer(id, answer(499));
    assert!(owner.settle().is_empty());
    let ask = owner.sequencer.poll_lookup().expect("the same again");
    owner.sequencer.handle_answer(ask.id, answer(500));
    let replies = owner.settle();
    assert_eq!(replies[0].0, ticket);
    assert_eq!(words(&replies[0].1), ["42"]);
}

/// The room at seq 41, with alice in it.
fn base() -> RoomState {
    serde_json::from_value(json!({
        "room": room(), "kind": "public", "name": "", "topic": "", "slow_s": 0, "frozen": false,
        "history": "all", "members": {"alice": {"role": "owner", "since": 2}}, "bans": {}, "mutes": {},
        "head": 41, "head_hash": protocol::chain::Hash::ZERO, "ts": 5, "n": 30, "room_seq": 1,
    }))
    .unwrap()
}

#[test]
fn memory_is_bounded_in_two_steps() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    owner.sequencer.handle_pressure(Pressure::High);
    assert_eq!(owner.gets(&[send()]), ["3"]);
    owner.sequencer.handle_pressure(Pressure::Full);
    assert_eq!(owner.gets(&[send()]), ["unavailable"]);
    let mut cold = Owner::new(config(), start(500, None));
    cold.settle();
    cold.now = cold.now.plus_ms(60_000);
    cold.sequencer.handle_pressure(Pressure::High);
    assert_eq!(cold.gets(&[send()]), ["unavailable"]);
    assert!(cold.sequencer.poll_lookup().is_none());
}

#[test]
fn too_many_waiting_commands_are_refused_for_now() {
    let few = Config {
        pending_max: 2,
        ..config()
    };
    let mut owner = Owner::new(few, start(0, None));
    owner.makes_room();
    owner.asks(&[send(), send()]);
    let third = owner.asks(&[send()]);
    let (ticket, reply) = owner.sequencer.poll_reply().expect("an answer at once");
    assert_eq!(ticket, third);
    assert_eq!(words(&reply), ["unavailable"]);
    assert_eq!(owner.settle().len(), 1);
}

#[test]
fn a_log_that_takes_nothing_is_said_to_be_unavailable_and_comes_back() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let first = owner.asks(&[send()]);
    assert!(owner.sequencer.poll_publish(owner.now).is_some());
    owner
        .sequencer
        .handle_published(owner.now, Outcome::Unknown);
    owner.now = owner.now.plus_ms(1_500);
    let read = owner.sequencer.poll_read(owner.now).expect("the truth");
    owner
        .sequencer
        .handle_tail(owner.now, read.id, Some(Vec::new()));
    owner.sequencer.handle_tick(owner.now);
    let (ticket, reply) = owner.sequencer.poll_reply().expect("an answer");
    assert_eq!(ticket, first);
    assert_eq!(words(&reply), ["unavailable"]);
    assert!(!owner.sequencer.is_open(owner.now));
    owner.asks(&[send()]);
    let (_, reply) = owner.sequencer.poll_reply().expect("at once");
    assert_eq!(words(&reply), ["unavailable"]);
    // A record without events finds out when it works again.
    owner.now = owner.now.plus_ms(1_000);
    owner.settle();
    assert!(owner.sequencer.is_open(owner.now));
    assert_eq!(owner.gets(&[send()]), ["3"]);
}

#[test]
fn a_broken_chain_stops_its_room_and_no_other() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    owner.asks(&[send()]);
    let publish = owner.sequencer.poll_publish(owner.now).expect("an append");
    owner
        .sequencer
        .handle_published(owner.now, Outcome::Conflict);
    // Another owner wrote the same, but for a letter in `prev`.
    let at = publish.payload.find("\"prev\":\"").unwrap() + 8;
    let mut payload = publish.payload.replace(" me.1.", " other.1.");
    let at = at + payload.len() - publish.payload.len();
    let other = if payload.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    payload.replace_range(at..=at, other);
    let record = Record {
        position: publish.expected.next(),
        time: owner.now,
        payload: payload.into(),
    };
    owner.log.push(record);
    // The command is in the log all the same, but the next owner is to say so.
    let replies = owner.settle();
    assert_eq!(words(&replies[0].1), ["unavailable"]);
    let notices = owner.notices();
    assert!(matches!(notices[0], Notice::Poisoned { .. }), "{notices:?}");
    assert!(matches!(notices[1], Notice::Overtaken(_)), "{notices:?}");
    assert_eq!(owner.gets(&[send()]), ["unavailable"]);
}

#[test]
fn a_lost_log_is_told_from_an_old_one() {
    let mut lost = Owner::new(config(), start(10, Some(11)));
    let end = Stop::LogLost {
        end: StreamSeq(10),
        cursor: StreamSeq(11),
    };
    assert_eq!(lost.notices(), [Notice::Stopped(end)]);
    assert_eq!(lost.sequencer.poll_publish(lost.now), None);
    // Everything aged out: the stream is empty, its last sequence is what history has.
    let mut aged = start(10, Some(10));
    aged.log.first = StreamSeq(11);
    let mut aged = Owner::new(config(), aged);
    assert_eq!(aged.notices(), []);
    assert!(aged.sequencer.poll_publish(aged.now).is_some());
    let mut gap = start(10, Some(4));
    gap.log.first = StreamSeq(8);
    let mut gap = Owner::new(config(), gap);
    let (from, to) = (StreamSeq(5), StreamSeq(7));
    assert_eq!(gap.notices(), [Notice::Lost { from, to }]);
    let mut later = Owner::new(config(), start(0, None));
    later.makes_room();
    later.sequencer.handle_history(StreamSeq(99), StreamSeq(2));
    assert!(matches!(
        later.notices().as_slice(),
        [Notice::Stopped(Stop::LogLost { .. })]
    ));
    let ticket = later.asks(&[send()]);
    let (of, reply) = later.sequencer.poll_reply().expect("at once");
    assert_eq!(
        (of, words(&reply)),
        (ticket, vec!["unavailable".to_owned()])
    );
}

#[test]
fn an_idle_partition_renews_its_last_record() {
    let soon = Config {
        renew_after_ms: 10_000,
        ..config()
    };
    let mut owner = Owner::new(soon, start(0, None));
    owner.makes_room();
    let records = owner.log.len();
    owner.now = owner.now.plus_ms(9_999);
    owner.settle();
    assert_eq!(owner.log.len(), records);
    owner.now = owner.now.plus_ms(1);
    owner.settle();
    assert_eq!(owner.log.len(), records + 1);
    let last = owner.log.last().unwrap();
    assert!(last.payload.starts_with(b"natter1 epoch"));
}

#[test]
fn time_never_falls_within_a_partition() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.settle();
    owner.now = owner.now.plus_ms(10_000);
    owner.makes_room();
    owner.gets(&[send()]);
    owner.now = owner.now.plus_ms(-4_000);
    let ticket = owner.asks(&[send()]);
    let replies = owner.settle();
    let (_, reply) = replies.iter().find(|(of, _)| *of == ticket).unwrap();
    let CommandResult::Ok(accepted) = &reply.results[0] else {
        panic!("{reply:?}")
    };
    let ts = Some(T0.plus_ms(10_000));
    assert_eq!((accepted.seq, accepted.ts), (Seq(4), ts));
}

#[test]
fn a_room_goes_its_way_while_another_waits_for_history() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let old = json!({"cid": Cid::from_parts(5, [1; 10]), "op": "send", "text": "old"});
    // Everything is in the window, so even an old cid needs nobody.
    assert_eq!(owner.gets(&[old]), ["3"]);
    owner.sequencer.handle_history(StreamSeq(3), StreamSeq(3));
    owner.now = owner.now.plus_ms(1_000_000);
    owner.sequencer.handle_tick(owner.now);
    let old = json!({"cid": Cid::from_parts(6, [1; 10]), "op": "send", "text": "old"});
    let waiting = owner.asks(&[old]);
    assert!(owner.settle().is_empty());
    assert_eq!(owner.gets(&[send()]).len(), 1);
    assert_eq!(
        owner.sequencer.pending(),
        0,
        "history was down for {waiting:?}"
    );
}

#[test]
fn only_codes_of_the_protocol_are_told() {
    let mut owner = Owner::new(config(), start(0, None));
    owner.makes_room();
    let ahead = Cid::from_parts(1_800_000_030_001, [0; 10]);
    let rows = [
        (
            json!({"cid": ahead, "op": "send", "text": "a"}),
            ErrorCode::ClockSkew,
        ),
        (
            json!({"op": "create", "kind": "public"}),
            ErrorCode::BadRequest,
        ),
        (
            json!({"op": "send", "text": "a", "reply_to": 77}),
            ErrorCode::NotFound,
        ),
    ];
    for (command, code) in rows {
        assert_eq!(owner.gets(&[command]), [code.slug()]);
    }
}

#[test]
fn a_copy_from_below_the_window_asks_history() {
    let tiny = Config {
        dedup_age_ms: 1,
        dedup_commands_max: 1,
        ..config()
    };
    let mut owner = Owner::new(tiny, start(0, None));
    owner.makes_room();
    let old =
        json!({"cid": Cid::from_parts(1_800_000_000_000, [1; 10]), "op": "send", "text": "old"});
    assert_eq!(owner.gets(std::slice::from_ref(&old)), ["3"]);
    for _ in 0..5 {
        owner.gets(&[send()]);
    }
    let end = owner.sequencer.end();
    owner.sequencer.handle_history(end, end);
    owner.now = owner.now.plus_ms(2_000);
    owner.sequencer.handle_tick(owner.now);
    assert_eq!(owner.sequencer.load().commands, 0);
    let ticket = owner.asks(&[old]);
    assert!(owner.settle().is_empty());
    let ask = owner.sequencer.poll_lookup().expect("a question");
    let Lookup::Cids(keys) = &ask.lookup else {
        panic!("{ask:?}")
    };
    assert_eq!(keys.len(), 1);
    let first = protocol::request::Accepted::stored(Seq(3), T0);
    let answer = Answered::Cids(vec![Some(first)]);
    owner.sequencer.handle_answer(ask.id, Some((end, answer)));
    let replies = owner.settle();
    assert_eq!(
        (replies[0].0, words(&replies[0].1)),
        (ticket, vec!["3 again".to_owned()])
    );
}
