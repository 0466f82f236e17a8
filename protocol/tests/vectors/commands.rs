//! What a client sends, and which lines are refused before anything else looks at them.

use crate::{SEQ, Sample, TS, assert_covers, bob, cases, check, cid, object, room, sample};
use protocol::command::{Create, DeleteTarget, Read, Send, WRITE_OPS, Write, WriteCommand};
use protocol::event::{HistoryScope, Mention, Role, RoomChanges, RoomKind, SeqRange};
use protocol::frame::{ClientFrame, ClientOp, Hello, Window, parse_line};
use protocol::query::{READ_OPS, ReadCommand};
use protocol::{DeviceId, ErrorCode, Seq};
use serde_json::{Value, json};

fn write(id: u64, named: bool, write: Write) -> ClientFrame {
    let command = Box::new(WriteCommand { cid: cid(), write });
    ClientFrame {
        id: Some(id),
        op: ClientOp::Write {
            room: named.then(room),
            command,
        },
    }
}

fn read(id: u64, read: ReadCommand) -> ClientFrame {
    ClientFrame {
        id: Some(id),
        op: ClientOp::Read(read),
    }
}

fn hello(hello: Hello) -> ClientFrame {
    ClientFrame {
        id: Some(1),
        op: ClientOp::Hello(Box::new(hello)),
    }
}

fn sockets() -> Vec<Sample<ClientFrame>> {
    let token = "eyJ.e30.c2ln".to_owned();
    let dev = DeviceId::parse("d9fJ2kQx7Lm").ok();
    vec![
        sample(
            "hello, the least",
            hello(Hello {
                token: token.clone(),
                ..Hello::default()
            }),
        ),
        sample(
            "hello, first time",
            hello(Hello {
                token: token.clone(),
                app: Some("web/1.0".to_owned()),
                dev: dev.clone(),
                win: Some(Window { rooms: 50, tl: 20 }),
                ..Hello::default()
            }),
        ),
        sample(
            "hello, again",
            hello(Hello {
                token: token.clone(),
                dev,
                cur: Some("k7.42".to_owned()),
                have: [(room(), SEQ)].into(),
                ..Hello::default()
            }),
        ),
        sample(
            "token",
            ClientFrame {
                id: Some(9),
                op: ClientOp::Token { token },
            },
        ),
        sample(
            "pong",
            ClientFrame {
                id: None,
                op: ClientOp::Pong,
            },
        ),
    ]
}

fn rooms() -> Vec<Sample<ClientFrame>> {
    let create = |kind, name: Option<&str>, members| Create {
        kind,
        name: name.map(str::to_owned),
        topic: None,
        members,
        history: None,
    };
    let private = Create {
        topic: Some("on call".to_owned()),
        history: Some(HistoryScope::Joined),
        ..create(RoomKind::Private, Some("ops"), vec![bob()])
    };
    let changes = RoomChanges {
        name: Some("ops".to_owned()),
        topic: Some(String::new()),
        slow_s: Some(10),
        frozen: Some(true),
        history: Some(HistoryScope::All),
    };
    let topic = RoomChanges {
        topic: Some("quiet".to_owned()),
        ..RoomChanges::default()
    };
    let why = || Some("spam".to_owned());
    vec![
        sample(
            "create public",
            write(
                2,
                false,
                Write::Create(create(RoomKind::Public, Some("été"), vec![])),
            ),
        ),
        sample("create private", write(2, false, Write::Create(private))),
        sample(
            "create direct",
            write(
                2,
                false,
                Write::Create(create(RoomKind::Direct, None, vec![bob()])),
            ),
        ),
        sample(
            "update everything",
            write(
                3,
                true,
                Write::Update {
                    changes,
                    base: Some(Seq(1)),
                },
            ),
        ),
        sample(
            "update one",
            write(
                3,
                true,
                Write::Update {
                    changes: topic,
                    base: None,
                },
            ),
        ),
        sample("join", write(4, true, Write::Join {})),
        sample("leave", write(5, true, Write::Leave {})),
        sample("invite", write(6, true, Write::Invite { user: bob() })),
        sample(
            "kick",
            write(
                7,
                true,
                Write::Kick {
                    user: bob(),
                    why: why(),
                    seen: Some(SEQ),
                },
            ),
        ),
        sample(
            "ban for ever",
            write(
                8,
                true,
                Write::Ban {
                    user: bob(),
                    why: None,
                    until: None,
                },
            ),
        ),
        sample(
            "ban until",
            write(
                8,
                true,
                Write::Ban {
                    user: bob(),
                    why: why(),
                    until: Some(TS),
                },
            ),
        ),
        sample(
            "unban",
            write(
                9,
                true,
                Write::Unban {
                    user: bob(),
                    seen: Some(SEQ),
                },
            ),
        ),
        sample(
            "role",
            write(
                10,
                true,
                Write::Role {
                    user: bob(),
                    role: Role::Mod,
                },
            ),
        ),
    ]
}

fn messages() -> Vec<Sample<ClientFrame>> {
    let plain = Send {
        text: "looking 👀 \u{0} \"x\"\n".to_owned(),
        ..Send::default()
    };
    let full = Send {
        text: "@bob see above".to_owned(),
        reply_to: Some(SEQ),
        thread: Some(Seq(48_000)),
        mentions: vec![Mention::User(bob()), Mention::Room, Mention::Here],
        meta: Some(object(
            json!({"client": {"draft": 3}, "tags": ["a", null, true, 1.5]}),
        )),
        if_head: Some(Seq(48_213)),
    };
    let edit = Write::Edit {
        on: SEQ,
        base: 1,
        text: "fixed".to_owned(),
        mentions: vec![Mention::User(bob())],
    };
    let ranges = DeleteTarget::Ranges(vec![SeqRange(Seq(1), Seq(3)), SeqRange(Seq(7), Seq(7))]);
    let del = |on, user, to, why: Option<&str>| Write::Del {
        on,
        user,
        to,
        why: why.map(str::to_owned),
    };
    let mark = |back| {
        Write::Read(Read {
            target: room(),
            seq: SEQ,
            back,
            read_n: None,
        })
    };
    vec![
        sample("send", write(11, true, Write::Send(plain))),
        sample("send with everything", write(12, true, Write::Send(full))),
        sample("edit", write(13, true, edit)),
        sample(
            "del one",
            write(
                14,
                true,
                del(Some(DeleteTarget::One(SEQ)), None, None, None),
            ),
        ),
        sample(
            "del ranges",
            write(15, true, del(Some(ranges), None, None, Some("spam"))),
        ),
        sample(
            "del of a user",
            write(16, true, del(None, Some(bob()), Some(SEQ), None)),
        ),
        sample("read", write(17, true, mark(false))),
        sample("read back", write(18, true, mark(true))),
    ]
}

fn reads() -> Vec<Sample<ClientFrame>> {
    let history = |before, after, around, all| ReadCommand::History {
        room: room(),
        before,
        after,
        around,
        limit: Some(100),
        all,
    };
    let cursor = || Some("b3BhcXVl".to_owned());
    vec![
        sample(
            "history before",
            read(20, history(Some(SEQ), None, None, false)),
        ),
        sample(
            "history around",
            read(21, history(None, None, Some(SEQ), false)),
        ),
        sample(
            "history of a hole",
            read(22, history(None, Some(SEQ), None, true)),
        ),
        sample(
            "thread",
            read(
                23,
                ReadCommand::Thread {
                    room: room(),
                    root: SEQ,
                    before: None,
                    after: Some(Seq(48_300)),
                    limit: None,
                },
            ),
        ),
        sample(
            "rooms",
            read(
                24,
                ReadCommand::Rooms {
                    cursor: cursor(),
                    limit: Some(10),
                },
            ),
        ),
        sample(
            "discover",
            read(
                25,
                ReadCommand::Discover {
                    q: Some("op".to_owned()),
                    cursor: None,
                    limit: None,
                },
            ),
        ),
        sample(
            "members",
            read(
                26,
                ReadCommand::Members {
                    room: room(),
                    cursor: cursor(),
                    limit: None,
                },
            ),
        ),
        sample(
            "bans",
            read(
                27,
                ReadCommand::Bans {
                    room: room(),
                    cursor: None,
                    limit: Some(1),
                },
            ),
        ),
        sample(
            "revisions",
            read(
                28,
                ReadCommand::Revisions {
                    room: room(),
                    on: SEQ,
                    cursor: None,
                    limit: None,
                },
            ),
        ),
        sample("unread", read(29, ReadCommand::Unread {})),
    ]
}

#[test]
fn commands() {
    let file = "commands.json";
    let about =
        "Lines that a client sends. `read` names its room in `room`, as every command does.";
    let samples: Vec<_> = [sockets(), rooms(), messages(), reads()]
        .into_iter()
        .flatten()
        .collect();
    let encode = |frame: &ClientFrame| serde_json::from_str(&frame.to_line()).unwrap();
    check((file, about), &samples, encode, |json| {
        parse_line(&json.to_string()).unwrap()
    });
    let ops: Vec<String> = samples
        .iter()
        .map(|s| encode(&s.value)["op"].as_str().unwrap().to_owned())
        .collect();
    assert_covers(file, ops.clone(), WRITE_OPS);
    assert_covers(file, ops.clone(), READ_OPS);
    assert_covers(file, ops, &["hello", "token", "pong"]);
}

/// What a case of `bad-lines.json` is answered.
fn answer(line: &str) -> Value {
    let bad = parse_line(line).unwrap_err();
    json!({ "line": line, "id": bad.id, "code": bad.refusal.code })
}

#[test]
fn bad_lines() {
    let send = |field: &str| {
        format!(
            r#"{{"id":7,"op":"send","room":"r1","cid":"{}","text":"x"{field}}}"#,
            cid()
        )
    };
    let with_room = |id: &str| {
        let room = serde_json::to_string(id).unwrap();
        format!(r#"{{"id":7,"op":"join","room":{room},"cid":"{}"}}"#, cid())
    };
    let mut lines: Vec<String> = [
        "",
        "x",
        "null",
        "[]",
        "7",
        r#"{"op":"send""#,
        "{}",
        r#"{"id":7}"#,
        r#"{"id":7,"op":5}"#,
        r#"{"id":7,"op":null}"#,
        r#"{"id":0,"op":"pong"}"#,
        r#"{"id":-1,"op":"pong"}"#,
        r#"{"id":1.5,"op":"pong"}"#,
        r#"{"id":"7","op":"pong"}"#,
        r#"{"id":7,"op":"teleport"}"#,
        r#"{"id":7,"op":"react"}"#,
        r#"{"id":7,"op":"SEND"}"#,
        r#"{"id":7,"op":"hello"}"#,
        r#"{"id":7,"op":"hello","token":5}"#,
        r#"{"id":7,"op":"token"}"#,
        r#"{"id":7,"op":"send","room":"r1","text":"x"}"#,
        r#"{"id":7,"op":"send","room":"r1","cid":"x","text":"x"}"#,
        r#"{"id":7,"op":"send","room":"r1","cid":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","text":"x"}"#,
        r#"{"id":7,"op":"history"}"#,
        r#"{"id":7,"op":"history","room":"r1","before":-1}"#,
        r#"{"id":7,"op":"history","room":"r1","all":"yes"}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    lines.extend(
        [
            r#","text":5"#,
            r#","mentions":["a b"]"#,
            r#","meta":[]"#,
            r#","reply_to":"1""#,
        ]
        .map(|f| {
            send(f).replacen(
                r#","text":"x""#,
                if f.contains("text") {
                    ""
                } else {
                    r#","text":"x""#
                },
                1,
            )
        }),
    );
    let long = "a".repeat(65);
    lines.extend(
        [
            "",
            "r.1",
            "*",
            ">",
            "r 1",
            "r\u{0}",
            "é",
            "e\u{301}",
            "\u{202e}r",
            long.as_str(),
        ]
        .map(with_room),
    );
    let made: Vec<Value> = lines.iter().map(|line| answer(line)).collect();
    let about = "Lines that are refused, with the id and the code of the answer; without a readable id there is none.";
    let cases = cases("bad-lines.json", about, made);
    assert_eq!(cases.len(), lines.len());
    for (case, line) in cases.iter().zip(&lines) {
        assert_eq!(case["line"], **line);
        assert_eq!(answer(line), *case);
    }
    let unsupported: Vec<_> = cases
        .iter()
        .filter(|case| case["code"] == ErrorCode::Unsupported.slug())
        .collect();
    assert_eq!(unsupported.len(), 3, "everything else is bad_request");
}
