//! The same texts that are no ids on every other API: HTTP reads, the message POST, development tokens,
//! the broker. None of them becomes part of a subject or of a query.

use futures_util::StreamExt as _;
use protocol::subject::rights::inbox_of;
use protocol::{Partition, RoomId};
use serde_json::{Value, json};
use sqlx::Connection as _;
use tests::http::Request;
use tests::{PATIENCE, Stack, cid, eventually};
use tokio::task::JoinHandle;

use crate::hostile_replies::as_gateway;
use crate::ids::hostile_texts;

/// Stands in every text of the corpus that is long enough.
const MARK: &str = "mal1c3";
/// A valid id with the mark: what looks for it must find it.
const MARKED: &str = "mal1c3valid";
/// Ends a listening spy.
const OVER: &str = "over";

/// Every byte but letters and digits as `%XX`.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Listens to every subject of the broker until it is told that it is over.
async fn spy(stack: &Stack) -> JoinHandle<Vec<String>> {
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    let mut heard = client.subscribe(">").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        // The client lives as long as it is listened to.
        let _client = client;
        let mut subjects = Vec::new();
        while let Some(message) = heard.next().await {
            if message.subject.as_str() == OVER {
                break;
            }
            subjects.push(message.subject.to_string());
        }
        subjects
    })
}

async fn heard(stack: &Stack, spy: JoinHandle<Vec<String>>) -> Vec<String> {
    let client = async_nats::connect(stack.nats_url()).await.unwrap();
    client.publish(OVER, "".into()).await.unwrap();
    client.flush().await.unwrap();
    let subjects = tokio::time::timeout(PATIENCE, spy).await;
    subjects.expect("in time").expect("the spy does not fail")
}

/// Makes the database write down every statement with its parameters.
async fn writes_queries_down(stack: &Stack) {
    let mut database = sqlx::PgConnection::connect(stack.database_url())
        .await
        .unwrap();
    for statement in [
        "alter system set log_statement = 'all'",
        "alter system set log_parameter_max_length = -1",
        "select pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
}

fn database_log(stack: &Stack) -> String {
    let bytes = std::fs::read(stack.data().join("log/postgres.log")).expect("it has a log");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until a marked id of a valid question stands in the database's log: then others would too.
async fn queries_are_written_down(stack: &Stack, token: &str) {
    let address = stack.at(&format!("/v1/rooms/{MARKED}/events"));
    eventually(PATIENCE, async || {
        let answer = Request::get(&address).bearer(token).send().await;
        answer.is_problem(404, "not_found");
        let log = database_log(stack);
        if log.contains(MARKED) {
            Ok(())
        } else {
            Err("no query in the database's log")
        }
    })
    .await;
}

/// What HTTP takes an id in: path, header, body.
async fn over_http(stack: &Stack, token: &str, room: &str) {
    for id in hostile_texts() {
        let path = format!("/v1/rooms/{}/", escaped(&id));
        let read = Request::get(stack.at(&format!("{path}events")));
        let post = Request::post(stack.at(&format!("{path}messages")), &json!({"text": "x"}));
        let post = post.header("idempotency-key", &cid());
        for request in [read, post] {
            let answer = request.bearer(token).send().await;
            // With nothing in its place the path is another one.
            let (status, code) = if id.is_empty() {
                (404, "not_found")
            } else {
                (400, "bad_request")
            };
            assert_eq!(answer.status, status, "{id:?}: {answer:?}");
            answer.is_problem(status, code);
        }
        let messages = stack.at(&format!("/v1/rooms/{room}/messages"));
        let mention = Request::post(&messages, &json!({"text": "x", "mentions": [id]}));
        let mention = mention.header("idempotency-key", &cid()).bearer(token);
        mention.send().await.is_problem(400, "bad_request");
        // What cannot stand in a header ends the header: that is no request at all.
        if !id.contains(['\r', '\n', '\0']) {
            let key = Request::post(&messages, &json!({"text": "x"}));
            let key = key.header("idempotency-key", &id).bearer(token);
            let answer = key.send().await;
            assert_eq!(answer.status, 400, "{id:?}: {answer:?}");
        }
        // As they stand, without escapes: refused by the grammar of HTTP, of paths or of ids.
        if !id.contains(['\r', '\n', ' ', '?', '#']) {
            let raw = Request::get(stack.at(&format!("/v1/rooms/{id}/events")));
            let answer = raw.bearer(token).send().await;
            assert!(matches!(answer.status, 400 | 404), "{id:?}: {answer:?}");
        }
    }
}

/// A development token may be for any subject; who it is for is an id all the same.
async fn over_development_tokens(stack: &Stack) {
    for id in hostile_texts() {
        let ask = Request::post(stack.at("/v1/dev/token"), &json!({"user": id}));
        let answer = ask.send().await;
        if id.is_empty() || id.len() > 256 {
            answer.is_problem(400, "bad_request");
            continue;
        }
        let token = answer.json()["token"].as_str().expect("a token").to_owned();
        let user = tests::User::connect(stack.socket_url(), &id, &token).await;
        let name = user.hello["user"].as_str().expect("an id");
        assert!(name.starts_with("u_") && name.len() == 24, "{name}");
    }
}

async fn over_sockets(stack: &Stack) {
    let mut alice = stack.user("alice").await;
    for id in hostile_texts() {
        for command in [
            json!({"op": "history", "room": id}),
            json!({"op": "send", "room": id, "text": "x", "cid": cid()}),
            json!({"op": "invite", "room": MARKED, "user": id, "cid": cid()}),
        ] {
            alice.is_refused(command, "bad_request").await;
        }
    }
}

#[tokio::test]
async fn no_hostile_id_becomes_part_of_a_subject_or_of_a_query() {
    let stack = crate::settings::unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let token = stack.tokens().token("alice");
    writes_queries_down(&stack).await;
    queries_are_written_down(&stack, &token).await;
    let spy = spy(&stack).await;

    over_http(&stack, &token, &room).await;
    over_development_tokens(&stack).await;
    over_sockets(&stack).await;
    // The last of all, so that both spies have seen everything before it.
    alice.sends(&room, "over").await;
    alice.archive(&room).await;

    let subjects = heard(&stack, spy).await;
    assert!(subjects.iter().any(|it| it.starts_with("cmd.")));
    for subject in &subjects {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte);
        assert!(subject.bytes().all(plain), "{subject:?}");
        assert!(!subject.contains(MARK), "{subject:?}");
    }
    let log = database_log(&stack);
    let marked = |line: &&str| line.contains(MARK) && !line.contains(MARKED);
    let queries: Vec<&str> = log.lines().filter(marked).collect();
    assert!(queries.is_empty(), "{queries:#?}");
    assert_eq!(alice.archive(&room).await.len(), 3);
}

/// A batch with one message.
fn batch(deadline_ms: u64) -> Value {
    let send = json!({"op": "send", "text": "x", "cid": cid()});
    json!({"deadline": deadline_ms, "commands": [send]})
}

fn soon() -> u64 {
    tests::now_s() * 1_000 + 10_000
}

#[tokio::test]
async fn an_owner_refuses_a_subject_that_is_none_of_a_command() {
    let stack = crate::settings::unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let partition = RoomId::parse(&room).unwrap().partition();
    let gateway = as_gateway(&stack).await;
    let inbox = format!("{}.hostile", inbox_of("gateway"));
    let mut answers = gateway.subscribe(format!("{inbox}.*")).await.unwrap();
    let ask = async |subject: String, number: usize| {
        let inbox = format!("{inbox}.{number}");
        let body = batch(soon()).to_string().into();
        gateway.publish_with_reply(subject, inbox, body).await
    };
    let mut asked = 0;
    for id in hostile_texts() {
        // What ends a token of the broker's protocol never arrives as one; and neither does a control
        // line of over 4 KiB.
        let fits = |c: char| !c.is_whitespace() && !c.is_control();
        if !id.chars().all(fits) || id.len() > 1_000 {
            continue;
        }
        for subject in [
            format!("cmd.{partition}.u.{id}.send.{room}"),
            format!("cmd.{partition}.u.alice.send.{id}"),
        ] {
            // The client itself refuses an empty token.
            asked += usize::from(ask(subject, asked + 1).await.is_ok());
        }
    }
    // All go to the same owner, in order; so this one is answered last.
    ask(format!("cmd.{partition}.u.alice.send.{room}"), 0)
        .await
        .unwrap();
    let mut refused = 0;
    loop {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        let answer = answer.expect("an answer").expect("the client lives");
        let body: Value = serde_json::from_slice(&answer.payload).unwrap();
        if answer.subject.as_str() == format!("{inbox}.0") {
            assert_eq!(body["results"][0]["ok"]["seq"], 3, "{body}");
            break;
        }
        let code = &body["results"][0]["err"]["code"];
        assert_eq!(code, "bad_request", "{}: {body}", answer.subject);
        refused += 1;
    }
    assert!(refused > 60, "only {refused} of {asked} reached the owner");
    alice.has_reached(&room, 3).await;
    assert_eq!(alice.archive(&room).await.len(), 3);
}

#[tokio::test]
async fn a_command_on_the_subject_of_another_partition_is_not_carried_out() {
    let stack = crate::settings::unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let partition = RoomId::parse(&room).unwrap().partition();
    let gateway = as_gateway(&stack).await;
    let ask = async |partition: Partition| {
        let subject = format!("cmd.{partition}.u.alice.send.{room}");
        let ask = gateway.request(subject, batch(soon()).to_string().into());
        let answer = tokio::time::timeout(PATIENCE, ask).await.expect("an end");
        let answer = answer.expect("an owner answers");
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let right = ask(partition).await;
    assert_eq!(right["results"][0]["ok"]["seq"], 3, "{right}");
    let others = Partition::all().filter(|other| *other != partition);
    for other in others.step_by(9) {
        let wrong = ask(other).await;
        let code = &wrong["results"][0]["err"]["code"];
        assert_eq!(code, "bad_request", "{other}: {wrong}");
    }
    alice.has_reached(&room, 3).await;
    assert_eq!(alice.archive(&room).await.len(), 3);
}

/// Past any client library: what it would refuse to send.
#[tokio::test]
async fn an_owner_refuses_what_no_client_library_would_send() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stack = crate::settings::unhurried().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let partition = RoomId::parse(&room).unwrap().partition();
    let password = stack.broker_password("gateway");
    let address = stack.nats_url().trim_start_matches("nats://");
    let mut raw = tokio::net::TcpStream::connect(address).await.unwrap();
    let connect = json!({"user": "gateway", "pass": password, "verbose": false, "protocol": 1});
    let body = batch(soon()).to_string();
    let mut bytes = format!("CONNECT {connect}\r\n").into_bytes();
    // A NUL and a mark of direction are taken literally by the broker; the owner must refuse them.
    for actor in ["a\0b", "\u{202e}abc", "*", ">"] {
        let subject = format!("cmd.{partition}.u.{actor}.send.{room}");
        bytes.extend(format!("PUB {subject} {}\r\n{body}\r\n", body.len()).bytes());
    }
    bytes.extend(b"PING\r\n");
    raw.write_all(&bytes).await.unwrap();
    let mut said = Vec::new();
    let answered = async {
        // The broker pings too, so this need not be the last word.
        while !String::from_utf8_lossy(&said).contains("PONG\r\n") {
            let mut chunk = [0; 4096];
            let count = raw.read(&mut chunk).await.unwrap();
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .expect("an answer");
    // What the owner did with them it has done before this one.
    alice.sends(&room, "after").await;
    assert_eq!(alice.archive(&room).await.len(), 3);
}
