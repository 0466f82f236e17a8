//! What crosses the broker: subjects, envelopes, requests; and the ids that stand in them.

use crate::{SEQ, TS, alice, bob, cases, check, cid, room, sample};
use protocol::command::{Send, Write, WriteCommand};
use protocol::cursor::Cursor;
use protocol::envelope::{Envelope, EnvelopeBuilder, EnvelopeId, EnvelopeKind, epoch_record};
use protocol::request::{Accepted, CommandReply, CommandRequest, CommandResult};
use protocol::subject::{Door, Partition, Subject};
use protocol::{Cid, ErrorCode, InstanceId, Refusal, RoomId, UserId};
use serde_json::{Value, json};

fn subjects() -> Vec<Subject> {
    let partition = Partition::of(&room());
    let instance = InstanceId::parse("7kq2").unwrap();
    let command = |door, verb: &str| Subject::Command {
        partition,
        door,
        actor: alice(),
        verb: verb.to_owned(),
        room: room(),
    };
    vec![
        command(Door::User, "send"),
        command(Door::User, "batch"),
        command(Door::Moderator, "ban"),
        command(Door::Bot, "send"),
        Subject::Commands(partition),
        Subject::Log(partition),
        Subject::Logs,
        Subject::Live(partition),
        Subject::Lives,
        Subject::Beacon(instance),
        Subject::Beacons,
        Subject::Own(partition),
        Subject::Hint(partition),
        Subject::Hints,
        Subject::History("history".to_owned()),
    ]
}

/// A subject as words, for those who cannot read Rust.
fn told(subject: &Subject) -> Value {
    match subject {
        Subject::Command {
            partition,
            door,
            actor,
            verb,
            room,
        } => {
            let door = match door {
                Door::User => "user",
                Door::Moderator => "moderator",
                Door::Bot => "bot",
            };
            json!({ "command": { "partition": partition.number(), "door": door, "actor": actor,
                                 "verb": verb, "room": room } })
        }
        Subject::Commands(p) => json!({ "commands": p.number() }),
        Subject::Log(p) => json!({ "log": p.number() }),
        Subject::Logs => json!("logs"),
        Subject::Live(p) => json!({ "live": p.number() }),
        Subject::Lives => json!("lives"),
        Subject::Beacon(instance) => json!({ "beacon": instance }),
        Subject::Beacons => json!("beacons"),
        Subject::Own(p) => json!({ "own": p.number() }),
        Subject::Hint(p) => json!({ "hint": p.number() }),
        Subject::Hints => json!("hints"),
        Subject::History(verb) => json!({ "history": verb }),
    }
}

#[test]
fn subject_grammar() {
    let bad = [
        "",
        "log",
        "log.64",
        "log.07",
        "log.+7",
        "log.7.8",
        "cmd.1.x.a.send.r",
        "cmd.1.u.a.b.c.d",
        "cmd.1.u.a..r",
        "cmd.64.>",
        "live.>",
        "wm.",
        "own.*",
        "hint.>",
        "svc.history",
        "svc.history.",
        "_INBOX.x",
        "$JS.API.INFO",
    ];
    let made = || -> Vec<Value> {
        let good = subjects()
            .into_iter()
            .map(|s| json!({ "subject": s.to_string(), "means": told(&s) }));
        good.chain(bad.map(|subject| json!({ "subject": subject, "means": null })))
            .collect()
    };
    let about = "The subjects of natter and what they mean; null: none of ours.";
    let cases = cases("subjects.json", about, made());
    assert_eq!(cases, made());
    for case in cases {
        let parsed = Subject::parse(case["subject"].as_str().unwrap());
        assert_eq!(parsed.as_ref().map_or(Value::Null, told), case["means"]);
        if let Ok(subject) = parsed {
            assert_eq!(case["subject"], subject.to_string());
        }
    }
}

fn envelope(payload: &str) -> Value {
    match Envelope::parse(payload.as_bytes()) {
        Err(error) => json!({ "payload": payload, "error": error.to_string() }),
        Ok(envelope) => {
            let lines: Result<Vec<_>, _> = envelope.lines().collect();
            let EnvelopeId {
                instance,
                epoch,
                counter,
            } = &envelope.id;
            let kind = match envelope.kind {
                EnvelopeKind::Events => "events",
                EnvelopeKind::Epoch => "epoch",
            };
            json!({
                "payload": payload,
                "kind": kind,
                "id": { "instance": instance, "epoch": epoch, "counter": counter },
                "rooms": envelope.rooms,
                "lines": lines.map_or_else(|error| json!({ "error": error.to_string() }), |l| json!(l)),
            })
        }
    }
}

#[test]
fn envelopes() {
    let id = |counter| EnvelopeId {
        instance: InstanceId::parse("7kq2").unwrap(),
        epoch: 12,
        counter,
    };
    let (one, two) = (
        RoomId::parse("rQ9").unwrap(),
        RoomId::parse("rBig").unwrap(),
    );
    let mut builder = EnvelopeBuilder::default();
    builder.push(&one, r#"{"seq":1}"#);
    builder.push(&two, r#"{"seq":7,"text":"a b"}"#);
    builder.push(&one, r#"{"seq":2}"#);
    let good = builder.finish(&id(480));
    assert_eq!(
        good,
        "natter1 events 7kq2.12.480 rQ9 rBig\n0 {\"seq\":1}\n1 {\"seq\":7,\"text\":\"a b\"}\n0 {\"seq\":2}\n"
    );
    let epoch = epoch_record(&id(0));
    let payloads = [
        good.as_str(),
        epoch.as_str(),
        "natter1 events 7kq2.12.481 rQ9",
        "natter1 events 7kq2.12.481 rQ9\n1 {}\n",
        "natter1 events 7kq2.12.481 rQ9\n{}\n",
        "natter1 events 7kq2.12.481 rQ9\nx {}\n",
        "",
        "natter2 events 7kq2.12.481 rQ9\n",
        "natter1 other 7kq2.12.481 rQ9\n",
        "natter1 events 7kq2.12\n",
        "natter1 events 7kq2.12.481.1 rQ9\n",
        "natter1 events 7kq2.12.481 r*\n",
        "natter1 events 7kq2.12.481 rQ9  rBig\n",
    ];
    let made = || payloads.map(envelope).to_vec();
    let about = "Payloads of log records and what is in them: rooms first, then lines of (index of the room, JSON).";
    assert_eq!(cases("envelopes.json", about, made()), made());
}

#[test]
fn requests() {
    let command = WriteCommand {
        cid: cid(),
        write: Write::Send(Send {
            text: "hi".to_owned(),
            ..Send::default()
        }),
    };
    let request = CommandRequest {
        deadline: TS,
        guest: false,
        commands: vec![command],
    };
    let results = vec![
        CommandResult::Ok(Accepted::stored(SEQ, TS)),
        CommandResult::Err(Refusal::plain(ErrorCode::Unavailable)),
    ];
    let about = "Bodies of requests on cmd.> and of their answers.";
    let samples = [
        sample("request", (Some(request), None)),
        sample(
            "reply",
            (
                None,
                Some(CommandReply {
                    results,
                    position: protocol::StreamSeq(71),
                }),
            ),
        ),
    ];
    check(
        ("requests.json", about),
        &samples,
        |(request, reply)| match (request, reply) {
            (Some(request), _) => serde_json::to_value(request).unwrap(),
            (None, reply) => serde_json::to_value(reply).unwrap(),
        },
        |json| match json.get("commands") {
            Some(_) => (Some(serde_json::from_value(json.clone()).unwrap()), None),
            None => (None, Some(serde_json::from_value(json.clone()).unwrap())),
        },
    );
}

#[test]
fn ids_and_cursors() {
    let long = ["a".repeat(64), "a".repeat(65)];
    let ids = [
        "a",
        "A-Z_09",
        "",
        "a.b",
        "*",
        ">",
        "a b",
        "a\u{0}",
        "é",
        "e\u{301}",
        "\u{202e}a",
        "a\n",
        &long[0],
        &long[1],
    ];
    let cids = [
        "01a2046c-fcbb-7abc-8def-0123456789ab",
        "00000000-0000-7000-8000-000000000000",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "01a2046cfcbb7abc8def0123456789ab",
        "01a2046c-fcbb-4abc-8def-0123456789ab",
        "01a2046c-fcbb-7abc-0def-0123456789ab",
        "x",
    ];
    let cursors = [
        "k7.42", "k7.0", "k7", "k7.", ".42", "k7.-1", "k7.+1", "k7.42.1", "k 7.42",
    ];
    let users = [
        ("https://id.example", "auth0|5f", true),
        ("https://id.example", "alice", true),
        ("https://other.example", "alice", false),
    ];
    let made = || -> Vec<Value> {
        let ids = ids.map(|id| json!({ "id": id, "valid": RoomId::parse(id).is_ok() }));
        let cids =
            cids.map(|cid| json!({ "cid": cid, "time": Cid::parse(cid).ok().map(Cid::time) }));
        let cursors = cursors.map(|cursor| {
            let parsed = Cursor::parse(cursor).ok();
            json!({ "cursor": cursor, "position": parsed.map(|c| c.position) })
        });
        let users = users.map(|(iss, sub, configured)| {
            json!({ "iss": iss, "sub": sub, "configured": configured,
                    "user": UserId::from_claims(iss, sub, configured) })
        });
        ids.into_iter()
            .chain(cids)
            .chain(cursors)
            .chain(users)
            .collect()
    };
    let about = "The grammar of ids, cids (UUIDs of version 7, with their time in ms) and cursors (opaque to clients), \
        and user ids made of a token's claims: `sub` where it fits and the issuer is the configured one, else \
        'u_' + base64url(SHA-256(iss + '\\n' + sub))[..22]. null: not one.";
    assert_eq!(cases("ids.json", about, made()), made());
    assert!(UserId::from_claims("x", bob().as_str(), true) == bob());
}
