//! Hello, lines, batches, replies, rates, and the clocks.

use super::world::{Client, World, answer, snapshots};
use crate::session::outside::{Action, Outcome, Settled, Verdict};
use protocol::error::CloseCode;
use protocol::query::{Query, ReadCounts};
use protocol::request::{Accepted, CommandResult};
use protocol::{ErrorCode, Refusal, RoomId, Seq, StreamSeq, Timestamp, UserId};
use serde_json::json;

const HELLO: &str = r#"{"id":1,"op":"hello","token":"good:alice"}"#;

fn cid(n: u64) -> String {
    protocol::Cid::from_parts(n, [0; 10]).to_string()
}

fn send(id: u64, room: &str) -> String {
    format!(
        r#"{{"id":{id},"op":"send","room":"{room}","cid":"{}","text":"hi"}}"#,
        cid(id)
    )
}

fn own() -> String {
    RoomId::own(&UserId::parse("alice").unwrap()).to_string()
}

fn stored(seq: u64) -> Settled {
    let accepted = Accepted::stored(Seq(seq), Timestamp(7));
    Settled {
        result: CommandResult::Ok(accepted),
        counts: None,
    }
}

fn batches(actions: Vec<Action>) -> Vec<(u64, String, usize)> {
    actions
        .into_iter()
        .map(|action| match action {
            Action::Send {
                ticket,
                room,
                commands,
            } => (ticket, room.to_string(), commands.len()),
            other => panic!("a batch, not {other:?}"),
        })
        .collect()
}

#[test]
fn another_first_frame_than_hello_closes_4501() {
    for (line, reply) in [
        (send(1, "r1"), None),
        (r#"{"op":"pong"}"#.to_owned(), None),
        ("nonsense".to_owned(), Some("err null bad_request")),
        (
            r#"{"id":4,"op":"teleport"}"#.to_owned(),
            Some("err 4 unsupported"),
        ),
    ] {
        let mut client = Client::connects(&World::new());
        client.says(&line);
        assert_eq!(
            client.session.closing(),
            Some(CloseCode::ProtocolError),
            "{line}"
        );
        assert_eq!(
            client.hears_short().first().map(String::as_str),
            reply,
            "{line}"
        );
    }
}

#[test]
fn a_malformed_hello_is_answered_and_may_be_said_again() {
    let mut client = Client::connects(&World::new());
    client.says(r#"{"id":1,"op":"hello","token":"good:alice","dev":"a.b"}"#);
    assert_eq!(
        (client.hears_short(), client.session.closing()),
        (vec!["err 1 bad_request".to_owned()], None)
    );
    client.says(HELLO);
    assert!(matches!(client.question().1, Query::Snapshots { .. }));
}

#[test]
fn a_bad_token_is_answered_and_closes() {
    for (token, reply, code) in [
        ("nonsense", "err 1 unauthorized", CloseCode::AuthFailed),
        ("old:alice", "err 1 token_expired", CloseCode::TokenExpired),
    ] {
        let mut client = Client::connects(&World::new());
        client.says(&HELLO.replace("good:alice", token));
        assert_eq!(client.hears_short(), [reply]);
        assert_eq!(client.session.closing(), Some(code));
    }
    let world = World::new();
    world.admits.set(Err(CloseCode::TooManyConnections));
    let mut client = Client::connects(&world);
    client.says(HELLO);
    assert_eq!(
        client.session.closing(),
        Some(CloseCode::TooManyConnections)
    );
}

#[test]
fn a_first_hello_makes_the_own_room_and_then_tells_every_room() {
    let mut client = Client::connects(&World::new());
    client.says(&HELLO.replace('}', r#","win":{"rooms":7,"tl":500}}"#));
    let unknown = json!({"known":false,"rooms":[]});
    let query = client.history_answers(10, &unknown);
    let Query::Snapshots {
        window_rooms,
        window_timeline,
        rooms,
        ..
    } = query
    else {
        panic!()
    };
    assert_eq!(
        (window_rooms, window_timeline, rooms),
        (7, 50, None),
        "a wish is clamped"
    );
    let actions = client.asks();
    let [Action::Introduce { ticket }] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    client.outcome(*ticket, Outcome::Introduced(Ok(StreamSeq(12))));
    let (ticket, query, min_seq) = client.question();
    assert!(matches!(query, Query::Snapshots { .. }));
    assert_eq!(
        min_seq,
        StreamSeq(12),
        "history must have seen the new room"
    );
    let own = own();
    client.outcome(ticket, answer(10, &snapshots(&[&own, "r1", "r2"], 4)));
    let frames = client.hears();
    assert_eq!(frames[0]["ok"]["self"], own.as_str());
    assert_eq!(
        (&frames[0]["ok"]["rooms"], &frames[0]["ok"]["resumed"]),
        (&json!(2), &json!(false))
    );
    let short: Vec<_> = frames[1..].iter().map(super::world::short).collect();
    assert_eq!(
        short,
        [
            format!("state {own} at 4"),
            "state r1 at 4".into(),
            "state r2 at 4".into(),
            "live".into()
        ]
    );
    assert_eq!(frames[4]["cur"], "log1.10");
}

#[test]
fn without_history_or_log_a_hello_is_put_off_and_the_socket_stays() {
    let world = World::without_log(9);
    let mut client = Client::connects(&world);
    client.says(HELLO);
    let frames = client.hears();
    assert_eq!(frames[0]["err"]["code"], "unavailable");
    assert!(frames[0]["err"]["retry_after_ms"].is_u64());
    client.says(&send(2, "r1"));
    assert_eq!(client.hears_short(), ["err 2 unavailable"]);
    world.start();
    client.says(HELLO);
    client.history_is_away();
    assert_eq!(
        (client.hears_short(), client.session.closing()),
        (vec!["err 1 unavailable".to_owned()], None)
    );
    client.says(HELLO);
    client.history_answers(10, &snapshots(&["r1"], 1));
    assert_eq!(client.hears_short(), ["ok 1", "state r1 at 1", "live"]);
    client.says(HELLO);
    assert_eq!(client.hears_short(), ["err 1 bad_request"]);
}

#[test]
fn the_writes_of_one_message_are_one_batch_per_room_in_order() {
    let mut client = Client::is_in(&World::new(), &["r1", "r2"]);
    client.says(&[send(2, "r1"), send(3, "r2"), String::new(), send(4, "r1")].join("\n"));
    let sent = batches(client.asks());
    assert_eq!(
        sent.iter()
            .map(|(_, room, n)| (room.as_str(), *n))
            .collect::<Vec<_>>(),
        [("r1", 2), ("r2", 1)]
    );
    client.outcome(sent[1].0, Outcome::Sent(Ok(vec![stored(9)])));
    let refused = Settled {
        result: CommandResult::Err(Refusal::plain(ErrorCode::Muted)),
        counts: None,
    };
    client.outcome(sent[0].0, Outcome::Sent(Ok(vec![stored(5), refused])));
    let frames = client.hears();
    assert_eq!(frames[0], json!({"id":3,"ok":{"seq":9,"ts":7}}));
    assert_eq!(frames[1], json!({"id":2,"ok":{"seq":5,"ts":7}}));
    assert_eq!(
        (&frames[2]["id"], &frames[2]["err"]["code"]),
        (&json!(4), &json!("muted"))
    );
}

#[test]
fn after_a_temporary_error_the_rest_of_the_batch_gets_the_same() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1", "r2"]);
    // Verdicts are taken from the end: the second line waits.
    *world.verdicts.borrow_mut() = vec![Verdict::Go, Verdict::Go, Verdict::Wait(70), Verdict::Go];
    client.says(&[send(2, "r1"), send(3, "r1"), send(4, "r1"), send(5, "r2")].join("\n"));
    let sent = batches(client.asks());
    assert_eq!(
        sent.iter()
            .map(|(_, room, n)| (room.as_str(), *n))
            .collect::<Vec<_>>(),
        [("r1", 1), ("r2", 1)]
    );
    let frames = client.hears();
    assert_eq!(frames.len(), 2);
    for (frame, id) in frames.iter().zip([3, 4]) {
        assert_eq!(frame["id"], id);
        assert_eq!(
            (&frame["err"]["code"], &frame["err"]["retry_after_ms"]),
            (&json!("rate_limited"), &json!(70))
        );
    }
    assert_eq!(
        client.session.closing(),
        None,
        "limits are answered, not punished"
    );
}

#[test]
fn ten_times_the_rate_closes_4005() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1"]);
    world.verdicts.borrow_mut().push(Verdict::Abuse);
    client.says(&send(2, "r1"));
    assert_eq!(client.session.closing(), Some(CloseCode::Overload));
}

#[test]
fn a_bad_command_is_answered_alone_and_the_others_of_its_message_go_on() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    let long = "x".repeat(8_001);
    let lines = [
        "[]".to_owned(),
        r#"{"id":2,"op":"send","room":"r1","text":"x"}"#.to_owned(),
        format!(
            r#"{{"id":3,"op":"send","room":"r1","cid":"{}","text":"{long}"}}"#,
            cid(3)
        ),
        format!(
            r#"{{"id":4,"op":"send","room":"r.1","cid":"{}","text":"x"}}"#,
            cid(4)
        ),
        format!(
            r#"{{"id":5,"op":"create","kind":"self","cid":"{}"}}"#,
            cid(5)
        ),
        format!(r#"{{"id":6,"op":"send","cid":"{}","text":"x"}}"#, cid(6)),
        r#"{"id":7,"op":"typing","room":"r1"}"#.to_owned(),
        send(8, "r1"),
    ];
    client.says(&lines.join("\n"));
    assert_eq!(batches(client.asks()).len(), 1);
    assert_eq!(
        client.hears_short(),
        [
            "err null bad_request",
            "err 2 bad_request",
            "err 3 too_large",
            "err 4 bad_request",
            "err 5 bad_request",
            "err 6 bad_request",
            "err 7 unsupported"
        ]
    );
}

#[test]
fn a_message_holds_at_most_64_commands() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    let lines: Vec<_> = (2..68).map(|id| send(id, "r1")).collect();
    client.says(&lines.join("\n"));
    assert_eq!(batches(client.asks())[0].2, 64);
    assert_eq!(
        client.hears_short(),
        ["err 66 too_large", "err 67 too_large"]
    );
}

#[test]
fn a_command_without_id_gets_no_reply() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    client.says(&send(2, "r1").replace(r#""id":2,"#, ""));
    let sent = batches(client.asks());
    client.outcome(sent[0].0, Outcome::Sent(Ok(vec![stored(5)])));
    assert!(client.hears().is_empty());
}

#[test]
fn commands_in_flight_are_bounded_and_reads_wait_their_turn() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    let read = |id| format!(r#"{{"id":{id},"op":"history","room":"r1"}}"#);
    for id in 2..258 {
        client.says(&read(id));
    }
    client.says(&read(999));
    assert_eq!(client.hears_short(), ["err 999 rate_limited"]);
    let mut asked = client.asks();
    assert_eq!(asked.len(), 4, "history works on four at once");
    let Some(Action::Ask {
        ticket, min_seq, ..
    }) = asked.pop()
    else {
        panic!()
    };
    assert_eq!(min_seq, StreamSeq(10));
    client.outcome(ticket, answer(10, &json!({"events":[]})));
    assert_eq!(client.hears(), [json!({"id":5,"ok":{"events":[]}})]);
    assert_eq!(client.asks().len(), 1);
}

#[test]
fn a_read_mark_goes_to_the_own_room_and_its_reply_carries_the_counts() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    client.says(&format!(
        r#"{{"id":2,"op":"read","room":"r1","seq":7,"read_n":99,"cid":"{}"}}"#,
        cid(2)
    ));
    let actions = client.asks();
    let [
        Action::Send {
            ticket,
            room,
            commands,
        },
    ] = actions.as_slice()
    else {
        panic!("{actions:?}")
    };
    assert_eq!(room.as_str(), own());
    let protocol::command::Write::Read(read) = &commands[0].write else {
        panic!()
    };
    assert_eq!(read.read_n, None, "only a gateway says it");
    let counts = Some(ReadCounts {
        read_n: 6,
        unread: 2,
        mentions: 1,
    });
    client.outcome(
        *ticket,
        Outcome::Sent(Ok(vec![Settled {
            counts,
            ..stored(3)
        }])),
    );
    assert_eq!(
        client.hears(),
        [json!({"id":2,"ok":{"seq":3,"ts":7,"read_n":6,"unread":2,"mentions":1}})]
    );
}

#[test]
fn a_token_is_refreshed_in_band_by_its_own_user_only() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    client.says(r#"{"id":2,"op":"token","token":"good:eve"}"#);
    client.says(r#"{"id":3,"op":"token","token":"old:alice"}"#);
    client.says(r#"{"id":4,"op":"token","token":"good:alice"}"#);
    assert_eq!(
        client.hears_short(),
        ["err 2 unauthorized", "err 3 token_expired", "ok 4"]
    );
    assert_eq!(client.session.closing(), None);
}

#[test]
fn pings_carry_the_cursor_and_silence_closes() {
    let world = World::new();
    let mut client = Client::is_in(&world, &["r1"]);
    client.waits_until(26_000);
    let frames = client.hears();
    assert_eq!(
        (&frames[0]["ev"], &frames[0]["cur"]),
        (&json!("ping"), &json!("log1.10"))
    );
    client.says(r#"{"op":"pong"}"#);
    client.waits_until(85_900);
    assert_eq!(client.session.closing(), None);
    client.waits_until(90_000);
    assert_eq!(client.session.closing(), Some(CloseCode::HeartbeatTimeout));
}

#[test]
fn a_gateway_that_stops_says_so_to_those_who_are_in() {
    let mut client = Client::is_in(&World::new(), &["r1"]);
    client.session.handle_goaway(20_000);
    assert_eq!(
        client.hears(),
        [json!({"ev":"goaway","within_ms":[0,20000],"why":"upgrade"})]
    );
    let mut stranger = Client::connects(&World::new());
    stranger.session.handle_goaway(20_000);
    assert!(stranger.hears().is_empty());
}
