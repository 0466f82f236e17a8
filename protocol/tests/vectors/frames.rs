//! What a server sends: replies, frames around events, pages and lists, errors and closes.

use crate::{SEQ, Sample, TS, alice, bob, cases, check, cid, room, sample};
use protocol::chain::Hash;
use protocol::error::{CloseCode, close_means_retry};
use protocol::event::{
    Event, EventBody, HistoryScope, MemberChange, Message, Role, RoomKind, SeqRange,
};
use protocol::frame::listing::{
    Ban, BanList, Member, MemberList, PublicRoom, PublicRoomList, Revision, RevisionList, RoomList,
    ThreadPage, UnreadList, UnreadRoom,
};
use protocol::frame::server::{ServerEvent, reply_err, reply_ok};
use protocol::frame::{
    Gone, HelloOk, Page, RoomSnapshot, ServerFrame, Skip, ThreadSummary, TimelineEntry,
};
use protocol::limits::ClientLimits;
use protocol::request::Accepted;
use protocol::{ConnId, ErrorCode, Refusal, RoomId, Seq, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn entries() -> Vec<TimelineEntry> {
    let event = |seq, body| Event {
        room: room(),
        seq: Seq(seq),
        ts: TS,
        by: bob(),
        cid: cid(),
        body,
    };
    let said = |text: &str, n, thread, tn| {
        EventBody::Msg(Message {
            text: text.to_owned(),
            n,
            thread,
            tn,
            ..Message::default()
        })
    };
    let plain = TimelineEntry::plain;
    let joined = EventBody::Member {
        user: bob(),
        change: MemberChange::Joined,
        role: None,
        until: None,
        why: None,
    };
    let root = plain(event(48_205, said("root", Some(40_101), None, None)));
    let edited = plain(event(
        48_207,
        said("second thought", Some(40_102), None, None),
    ));
    let removed = plain(event(48_209, said("", Some(40_103), None, None)));
    vec![
        plain(event(48_204, joined)),
        TimelineEntry {
            summary: Some(ThreadSummary {
                count: 2,
                last: Seq(48_208),
            }),
            ..root
        },
        TimelineEntry {
            rev: Some(2),
            edited: Some(TS),
            ..edited
        },
        plain(event(
            48_208,
            said("reply", None, Some(Seq(48_205)), Some(2)),
        )),
        TimelineEntry {
            deleted: true,
            ..removed
        },
        plain(event(48_212, said("looking", Some(40_104), None, None))),
    ]
}

fn snapshot(tl: bool) -> RoomSnapshot {
    RoomSnapshot {
        room: room(),
        kind: RoomKind::Private,
        name: "ops".to_owned(),
        topic: String::new(),
        role: Some(Role::Member),
        members: 7,
        head: SEQ,
        head_hash: Hash([0xa5; 32]),
        read: Seq(48_190),
        read_n: 40_088,
        join_n: 3,
        unread: 19,
        mentions: 1,
        frozen: false,
        slow_s: 0,
        history: HistoryScope::All,
        room_seq: Seq(1),
        at: SEQ,
        tl: tl.then(entries),
    }
}

fn own() -> RoomSnapshot {
    RoomSnapshot {
        room: RoomId::own(&alice()),
        kind: RoomKind::Own,
        name: String::new(),
        role: Some(Role::Owner),
        members: 1,
        ..snapshot(false)
    }
}

fn server_events() -> Vec<Sample<ServerEvent>> {
    let skip = Skip {
        from: Seq(48_000),
        to: SEQ,
        dirty: vec![
            SeqRange(Seq(47_870), Seq(47_870)),
            SeqRange(Seq(47_990), Seq(47_999)),
        ],
        state: snapshot(true),
    };
    let public = RoomSnapshot {
        kind: RoomKind::Public,
        role: None,
        ..snapshot(false)
    };
    vec![
        sample("state of the own room", ServerEvent::State(Box::new(own()))),
        sample("state", ServerEvent::State(Box::new(snapshot(true)))),
        sample(
            "state for one who only reads",
            ServerEvent::State(Box::new(public)),
        ),
        sample("skip", ServerEvent::Skip(Box::new(skip))),
        sample(
            "live",
            ServerEvent::Live {
                cur: "k7.42".to_owned(),
            },
        ),
        sample(
            "ping",
            ServerEvent::Ping {
                cur: Some("k7.42".to_owned()),
                now: TS,
            },
        ),
        sample(
            "ping while lagged",
            ServerEvent::Ping { cur: None, now: TS },
        ),
        sample(
            "goaway",
            ServerEvent::Goaway {
                within_ms: [0, 20_000],
                why: "upgrade".to_owned(),
            },
        ),
        sample("lagged", ServerEvent::Lagged {}),
        sample("token", ServerEvent::Token { exp_in_s: 120 }),
        sample("gone", ServerEvent::Gone(Gone { room: room() })),
    ]
}

#[test]
fn server_frames() {
    let about = "Frames of the server around durable events.";
    check(
        ("server-frames.json", about),
        &server_events(),
        |event| serde_json::to_value(event).unwrap(),
        |json| match ServerFrame::parse(&json.to_string()).unwrap() {
            ServerFrame::Event(event) => event,
            other => panic!("{other:?}"),
        },
    );
}

/// A reply with its typed content.
fn ok<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Sample<ServerFrame> {
    let value = serde_json::to_value(value).unwrap();
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(
        serde_json::to_value(typed).unwrap(),
        value,
        "{name} survives its type"
    );
    sample(
        name,
        ServerFrame::Reply {
            id: Some(3),
            result: Ok(value),
        },
    )
}

fn err(name: &'static str, id: Option<u64>, refusal: Refusal) -> Sample<ServerFrame> {
    sample(
        name,
        ServerFrame::Reply {
            id,
            result: Err(refusal),
        },
    )
}

fn replies() -> Vec<Sample<ServerFrame>> {
    let hello = HelloOk {
        user: alice(),
        own: RoomId::own(&alice()),
        conn: ConnId::parse("k7Zq").unwrap(),
        now: TS,
        ping_ms: 25_000,
        limits: ClientLimits::default(),
        resumed: false,
        rooms: Some(212),
        token_exp: Timestamp(1_795_373_600_000),
    };
    let stored = || Accepted::stored(SEQ, TS);
    let mut skew = Refusal::plain(ErrorCode::ClockSkew);
    skew.now = Some(TS);
    let mut conflict = Refusal::plain(ErrorCode::Conflict);
    conflict.head = Some(SEQ);
    let limited = Refusal::plain(ErrorCode::RateLimited).after_ms(200);
    vec![
        ok("hello", &hello),
        ok(
            "hello, resumed",
            &HelloOk {
                resumed: true,
                rooms: None,
                ..hello.clone()
            },
        ),
        ok("stored", &stored()),
        ok(
            "stored before",
            &Accepted {
                dup: true,
                ..stored()
            },
        ),
        ok("nothing to change", &Accepted::noop(SEQ)),
        ok(
            "created",
            &Accepted {
                room: Some(room()),
                ..stored()
            },
        ),
        ok(
            "edited",
            &Accepted {
                rev: Some(2),
                won: Some(true),
                ..stored()
            },
        ),
        err("refused", Some(4), Refusal::plain(ErrorCode::NotMember)),
        err("refused for now", Some(4), limited),
        err("refused with the clock", Some(4), skew),
        err("refused with the head", Some(4), conflict),
        err("unreadable", None, Refusal::plain(ErrorCode::BadRequest)),
    ]
}

fn lists() -> Vec<Sample<ServerFrame>> {
    let next = || Some("b3BhcXVl".to_owned());
    let public = PublicRoom {
        room: room(),
        name: "ops".to_owned(),
        topic: String::new(),
        members: 7,
        head: SEQ,
        role: None,
    };
    let ban = Ban {
        user: bob(),
        since: SEQ,
        until: Some(TS),
        by: alice(),
        ts: TS,
        why: Some("spam".to_owned()),
    };
    let revision = |rev, won| Revision {
        rev,
        seq: SEQ,
        ts: TS,
        by: bob(),
        text: "x".to_owned(),
        mentions: vec![],
        won,
    };
    let unread = UnreadRoom {
        room: room(),
        head: SEQ,
        read: Seq(48_190),
        read_n: 40_088,
        unread: 19,
        mentions: 1,
    };
    vec![
        ok(
            "history",
            &Page {
                events: entries(),
                at: SEQ,
                more: true,
                head: SEQ,
            },
        ),
        ok(
            "thread",
            &ThreadPage {
                events: entries(),
                at: SEQ,
                more: false,
            },
        ),
        ok(
            "rooms",
            &RoomList {
                rooms: vec![snapshot(false)],
                next: next(),
            },
        ),
        ok(
            "discover",
            &PublicRoomList {
                rooms: vec![public],
                next: None,
            },
        ),
        ok(
            "members",
            &MemberList {
                members: vec![Member {
                    user: bob(),
                    role: Role::Mod,
                    since: Seq(2),
                }],
                next: next(),
            },
        ),
        ok(
            "bans",
            &BanList {
                bans: vec![ban],
                next: None,
            },
        ),
        ok(
            "revisions",
            &RevisionList {
                revisions: vec![revision(1, true), revision(2, false)],
                next: None,
            },
        ),
        ok(
            "unread",
            &UnreadList {
                rooms: vec![unread],
            },
        ),
    ]
}

#[test]
fn replies_of_a_server() {
    let about = "Replies. What stands in `ok` depends on the command that is answered; the name of the case tells it.";
    let samples: Vec<_> = [replies(), lists()].into_iter().flatten().collect();
    let encode = |frame: &ServerFrame| {
        let line = match frame {
            ServerFrame::Reply {
                id: Some(id),
                result: Ok(ok),
            } => reply_ok(*id, ok),
            ServerFrame::Reply {
                id,
                result: Err(refusal),
            } => reply_err(*id, refusal),
            other => panic!("{other:?}"),
        };
        serde_json::from_str(&line).unwrap()
    };
    let decode = |json: &Value| ServerFrame::parse(&json.to_string()).unwrap();
    check(("replies.json", about), &samples, encode, decode);
}

#[test]
fn lines_to_ignore() {
    let made = || {
        [
            r#"{"ev":"confetti"}"#,
            r#"{"ev":"typing","room":"r","by":["bob"]}"#,
            r#"{"ev":"user","user":"bob","name":"Bob"}"#,
        ]
        .map(|line| json!({ "line": line }))
        .to_vec()
    };
    let about = "Events without a seq that a client of this version ignores.";
    for case in cases("ignored.json", about, made()) {
        let parsed = ServerFrame::parse(case["line"].as_str().unwrap()).unwrap();
        assert_eq!(parsed, ServerFrame::Unknown, "{case}");
    }
}

#[test]
fn error_codes() {
    let made = || -> Vec<Value> {
        ErrorCode::ALL
            .iter()
            .map(|code| {
                json!({ "code": code, "http_status": code.http_status(), "temporary": code.is_temporary(),
                        "meaning": code.meaning(), "remedy": code.remedy() })
            })
            .collect()
    };
    let about = "Every code a client can see, in the order of the protocol.";
    assert_eq!(cases("error-codes.json", about, made()), made());
    for case in made() {
        let code: ErrorCode = serde_json::from_value(case["code"].clone()).unwrap();
        assert_eq!(case["code"], code.slug());
    }
}

#[test]
fn close_codes() {
    use CloseCode as C;
    let all = [
        C::Normal,
        C::Protocol,
        C::BadUtf8,
        C::TooLarge,
        C::Restart,
        C::GoingAway,
        C::HeartbeatTimeout,
        C::LagUnrecoverable,
        C::Internal,
        C::Replaced,
        C::Overload,
        C::TokenExpired,
        C::AuthFailed,
        C::ProtocolError,
        C::VersionUnsupported,
        C::AccountSuspended,
        C::SessionRevoked,
        C::TooManyConnections,
        C::OriginRefused,
    ];
    let made = || -> Vec<Value> {
        let named = all.map(|code| {
            json!({ "code": code.number(), "reason": code.reason(), "retry": close_means_retry(code.number()) })
        });
        let others = [1001_u16, 1006, 1011, 4099, 4499, 4999]
            .map(|code| json!({ "code": code, "retry": close_means_retry(code) }));
        named.into_iter().chain(others).collect()
    };
    let about = "Close codes and whether a client that gets one connects again by itself; those without a reason are not ours.";
    assert_eq!(cases("close-codes.json", about, made()), made());
}
