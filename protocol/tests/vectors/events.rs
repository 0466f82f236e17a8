//! Durable events: as clients see them, and as the log chains them.

use crate::{SEQ, Sample, TS, alice, assert_covers, bob, cases, check, cid, object, room, sample};
use protocol::chain::{Hash, Salt, hash_line, seal};
use protocol::event::{
    Event, EventBody, HistoryScope, KNOWN, LogEvent, MemberChange, Mention, Message, Role,
    RoomChanges, RoomKind, SeqRange,
};
use protocol::{RoomId, Seq};
use serde_json::{Value, json};

fn event(name: &'static str, body: EventBody) -> Sample<Event> {
    let event = Event {
        room: room(),
        seq: SEQ,
        ts: TS,
        by: alice(),
        cid: cid(),
        body,
    };
    sample(name, event)
}

fn member(change: MemberChange, role: Option<Role>, why: Option<&str>) -> EventBody {
    let until = matches!(change, MemberChange::Banned | MemberChange::Muted).then_some(TS);
    EventBody::Member {
        user: bob(),
        change,
        role,
        until,
        why: why.map(str::to_owned),
    }
}

fn rooms() -> Vec<Sample<Event>> {
    let name = |name: &str| RoomChanges {
        name: Some(name.to_owned()),
        ..RoomChanges::default()
    };
    let all = RoomChanges {
        topic: Some("été".to_owned()),
        slow_s: Some(0),
        frozen: Some(false),
        history: Some(HistoryScope::Joined),
        ..name("ops")
    };
    let made = |kind, changes| EventBody::Room {
        kind: Some(kind),
        changes,
    };
    vec![
        event("room made", made(RoomKind::Public, name("ops"))),
        event(
            "direct room made",
            made(RoomKind::Direct, RoomChanges::default()),
        ),
        event("own room made", made(RoomKind::Own, RoomChanges::default())),
        event(
            "room changed",
            EventBody::Room {
                kind: None,
                changes: all,
            },
        ),
        event("joined", member(MemberChange::Joined, None, None)),
        event(
            "added",
            member(MemberChange::Added, Some(Role::Owner), None),
        ),
        event("left", member(MemberChange::Left, None, None)),
        event("kicked", member(MemberChange::Kicked, None, Some("spam"))),
        event("banned", member(MemberChange::Banned, None, Some("spam"))),
        event("unbanned", member(MemberChange::Unbanned, None, None)),
        event("muted", member(MemberChange::Muted, None, None)),
        event("unmuted", member(MemberChange::Unmuted, None, None)),
        event(
            "role",
            EventBody::Role {
                user: bob(),
                role: Role::Mod,
            },
        ),
    ]
}

fn messages() -> Vec<Sample<Event>> {
    let full = Message {
        text: "@bob 👀 \u{0} \"x\"\n\u{2028}".to_owned(),
        reply_to: Some(Seq(48_000)),
        thread: None,
        mentions: vec![Mention::User(bob()), Mention::Room, Mention::Here],
        meta: Some(object(json!({"z": 1, "a": {"y": [1.5, null], "b": "é"}}))),
        n: Some(40_110),
        tn: None,
    };
    let reply = Message {
        text: "in a thread".to_owned(),
        thread: Some(Seq(48_000)),
        tn: Some(3),
        ..Message::default()
    };
    let plain = Message {
        text: "looking".to_owned(),
        n: Some(1),
        ..Message::default()
    };
    let edit = |won, mentions| EventBody::Edit {
        on: Seq(48_000),
        rev: 2,
        text: "rolled back 1.9".to_owned(),
        mentions,
        won,
        eff: TS,
    };
    let ranges = vec![
        SeqRange(Seq(48_100), Seq(48_130)),
        SeqRange(Seq(48_140), Seq(48_140)),
    ];
    let del = |on, user, to, why: Option<&str>| EventBody::Del {
        on,
        user,
        to,
        why: why.map(str::to_owned),
    };
    let read = |read_n, epoch, back| EventBody::Read {
        target: room(),
        mark: SEQ,
        read_n,
        epoch,
        back,
    };
    let unknown = json!({"ev": "poll", "q": "tea?", "options": ["yes", {"text": "no"}]});
    vec![
        event("msg", EventBody::Msg(plain)),
        event("msg with everything", EventBody::Msg(full)),
        event("msg in a thread", EventBody::Msg(reply)),
        event("edit", edit(true, vec![Mention::Room])),
        event("edit that lost", edit(false, vec![])),
        event("del of ranges", del(ranges, None, None, Some("spam"))),
        event(
            "del of a user",
            del(vec![], Some(bob()), Some(Seq(48_200)), None),
        ),
        event("read", read(Some(40_110), 0, false)),
        event("read back", read(None, 2, true)),
        event("void", EventBody::Void { from: Seq(38_214) }),
        event(
            "an event of a later version",
            EventBody::Unknown(object(unknown)),
        ),
    ]
}

#[test]
fn events() {
    let (file, about) = ("events.json", "Durable events as clients get them.");
    let samples: Vec<_> = [rooms(), messages()].into_iter().flatten().collect();
    check(
        (file, about),
        &samples,
        |event| serde_json::to_value(event).unwrap(),
        |json| serde_json::from_value(json.clone()).unwrap(),
    );
    let kinds = samples
        .iter()
        .map(|sample| sample.value.body.kind().to_owned())
        .collect();
    assert_covers(file, kinds, KNOWN);
}

/// A chain over every kind of event: each names the hash of the one before.
fn chain() -> Vec<LogEvent> {
    let mut prev = Hash::ZERO;
    let bodies = [rooms(), messages()].into_iter().flatten();
    let mut seq = Seq(0);
    bodies
        .map(|Sample { value, .. }| {
            seq = seq.next();
            let salt = Salt::derive(&[7; 32], seq.0);
            let event = LogEvent {
                prev,
                salt,
                event: Event { seq, ..value },
            };
            prev = seal(&event).hash;
            event
        })
        .collect()
}

#[test]
fn hash_chain() {
    let chain = chain();
    let made = chain.iter().map(|event| {
        let sealed = seal(event);
        json!({ "line": sealed.line, "hash": sealed.hash })
    });
    let about = "A chain of log lines and their hashes. `prev` is the hash of the line before, 32 zero bytes at first. \
        hash = SHA-256('natter.event.1\\n' + header), header = the line without content fields and salt but with \
        commit = base64url(SHA-256(salt text + '\\n' + content)), content = the content fields; both as JSON with \
        keys sorted by bytes and no spaces. Content fields: text meta why name topic mentions emoji avatar draft status. \
        A line whose content was erased holds `commit` in place of content and salt and has the same hash.";
    let cases = cases("hash-chain.json", about, made.collect::<Vec<_>>());
    assert_eq!(cases.len(), chain.len());
    let mut prev = Hash::ZERO;
    for (case, event) in cases.iter().zip(&chain) {
        let line = case["line"].as_str().unwrap();
        let hash = Hash::parse(case["hash"].as_str().unwrap()).unwrap();
        assert_eq!(LogEvent::parse(line).unwrap(), *event);
        assert_eq!(seal(event).line, line, "canonical JSON");
        assert_eq!(hash_line(line).unwrap(), hash);
        assert_eq!(event.prev, prev);
        prev = hash;
    }
}

#[test]
fn room_ids() {
    let users = |names: &[&str]| {
        names
            .iter()
            .map(|n| protocol::UserId::parse(n).unwrap())
            .collect::<Vec<_>>()
    };
    let entry = |how: Value, id: RoomId| json!({ "how": how, "room": id, "partition": id.partition().number() });
    let direct = |names: &[&str]| entry(json!({ "direct": names }), RoomId::direct(&users(names)));
    let created = |author: &str| {
        let user = &users(&[author])[0];
        entry(
            json!({ "created": { "author": author, "cid": cid() } }),
            RoomId::created(user, cid()),
        )
    };
    let own = |user: &str| entry(json!({ "own": user }), RoomId::own(&users(&[user])[0]));
    let given = |id: &str| entry(json!({ "given": id }), RoomId::parse(id).unwrap());
    let made = || {
        vec![
            direct(&["alice", "bob"]),
            direct(&["bob", "alice", "bob"]),
            direct(&["a", "B", "_", "-", "9"]),
            created("alice"),
            created("u_0123456789abcdefghijkl"),
            own("alice"),
            own("bob"),
            given("a"),
            given("foobar"),
            given("control"),
        ]
    };
    let about = "Derived room ids and partitions. direct = 'd' + base64url(SHA-256(sorted distinct ids joined by '\\n'))[..22]; \
        created = 'r' + the same of author + '\\n' + cid; own = 's_' + the same of the user id. \
        partition = FNV-1a-32(id) % 64.";
    assert_eq!(cases("room-ids.json", about, made()), made());
}
