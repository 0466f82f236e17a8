//! Requests that are no good: each is answered or ended at once, as it was decided (docs/errors.md), and
//! nothing of it gets into an answer, a log or a subject.

use std::time::Duration;

use serde_json::{Value, json};
use tests::http::Request;
use tests::{Part, Stack, cid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer to a head comes at once; this is for a machine with much else to do.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

const KEY: &str = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "sec-websocket-version: 13\r\n";
const UPGRADE: &str = "upgrade: websocket\r\n";
const CONNECTION: &str = "connection: upgrade\r\n";
const HOST: &str = "host: chat.example\r\n";

/// Sends these bytes and returns the beginning of what comes back, up to the end of a head.
async fn answer(stack: &Stack, bytes: &[u8]) -> String {
    let address = stack.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it is accepted");
    // A server that has seen enough may end the connection before it has read all.
    drop(stream.write_all(bytes).await);
    let mut said = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while !said.windows(4).any(|it| it == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(count @ 1..) => said.extend_from_slice(&chunk[..count]),
                Ok(_) | Err(_) => break,
            }
        }
    };
    let read = tokio::time::timeout(ANSWER_WITHIN, reading).await;
    let text = String::from_utf8_lossy(bytes);
    assert!(
        read.is_ok(),
        "no answer to {:?}",
        &text[..text.len().min(200)]
    );
    String::from_utf8_lossy(&said).into_owned()
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    status.unwrap_or_else(|| panic!("no status in {answer:?}"))
}

/// A request with the headers of a good upgrade, but these replaced or added.
fn upgrade(line: &str, changes: &[(&str, &str)]) -> String {
    let good = [HOST, UPGRADE, CONNECTION, KEY, VERSION];
    let changed = |header: &str| {
        let name = header.split(':').next().expect("it has a name");
        changes.iter().find(|(changed, _)| *changed == name)
    };
    let headers: String = good
        .into_iter()
        .map(|header| changed(header).map_or(header, |(_, text)| text))
        .collect();
    let added: String = changes
        .iter()
        .filter(|(name, _)| !good.iter().any(|it| it.starts_with(&format!("{name}:"))))
        .map(|(_, text)| *text)
        .collect();
    format!("{line}\r\n{headers}{added}\r\n")
}

const GET: &str = "GET /v1/ws HTTP/1.1";

/// Upgrades, what is wrong with them, and the status of the answer.
fn upgrades() -> Vec<(&'static str, String, u16)> {
    let with = |name: &str, text: &str| upgrade(GET, &[(name, text)]);
    let twice = KEY.repeat(2);
    let many = "x-y: z\r\n".repeat(200);
    let long = format!("x-y: {}\r\n", "z".repeat(200_000));
    vec![
        ("a good one", upgrade(GET, &[]), 101),
        ("no key", with("sec-websocket-key", ""), 400),
        (
            "an empty key",
            with("sec-websocket-key", "sec-websocket-key: \r\n"),
            400,
        ),
        (
            "a short key",
            with("sec-websocket-key", "sec-websocket-key: abc\r\n"),
            400,
        ),
        (
            "a key that is not base64",
            with(
                "sec-websocket-key",
                "sec-websocket-key: !!!!!!!!!!!!!!!!!!!!!!!!\r\n",
            ),
            400,
        ),
        ("two keys", with("sec-websocket-key", &twice), 400),
        ("no version", with("sec-websocket-version", ""), 400),
        (
            "version 8",
            with("sec-websocket-version", "sec-websocket-version: 8\r\n"),
            426,
        ),
        (
            "two versions",
            with("sec-websocket-version", &VERSION.repeat(2)),
            400,
        ),
        ("no upgrade", with("upgrade", ""), 400),
        (
            "an upgrade to something else",
            with("upgrade", "upgrade: h2c\r\n"),
            400,
        ),
        ("no connection", with("connection", ""), 400),
        (
            "a connection that closes",
            with("connection", "connection: close\r\n"),
            400,
        ),
        (
            "a connection with another word",
            with("connection", "connection: keep-alive, Upgrade\r\n"),
            101,
        ),
        ("POST", upgrade("POST /v1/ws HTTP/1.1", &[]), 405),
        ("HEAD", upgrade("HEAD /v1/ws HTTP/1.1", &[]), 405),
        ("HTTP/1.0", upgrade("GET /v1/ws HTTP/1.0", &[]), 400),
        ("HTTP/2.0", upgrade("GET /v1/ws HTTP/2.0", &[]), 400),
        ("another path", upgrade("GET /v1/rooms HTTP/1.1", &[]), 404),
        (
            "a body",
            with("content-length", "content-length: 3\r\n") + "abc",
            400,
        ),
        (
            "a body in chunks",
            with("te", "transfer-encoding: chunked\r\n") + "0\r\n\r\n",
            400,
        ),
        ("no host", with("host", ""), 400),
        ("two hosts", with("host", &HOST.repeat(2)), 400),
        (
            "the own origin",
            with("origin", "origin: http://chat.example\r\n"),
            101,
        ),
        (
            "an origin that is empty",
            with("origin", "origin: \r\n"),
            403,
        ),
        (
            "an origin that cannot be read",
            with("origin", "origin: http://chat.example\u{e9}\r\n"),
            403,
        ),
        ("a file's origin", with("origin", "origin: null\r\n"), 403),
        (
            "the own origin, and another",
            with(
                "origin",
                "origin: http://chat.example\r\norigin: https://evil.example\r\n",
            ),
            403,
        ),
        (
            "the own origin and more",
            with("origin", "origin: http://chat.example.evil.example\r\n"),
            403,
        ),
        (
            "the own origin as a user",
            with("origin", "origin: http://chat.example@evil.example\r\n"),
            403,
        ),
        ("two hundred headers", with("x-y", &many), 431),
        ("a header of 200 kB", with("x-y", &long), 431),
    ]
}

/// Requests that two servers could read differently, so that one is hidden in another.
fn smuggled() -> Vec<(&'static str, String, u16)> {
    let post = |headers: &str, body: &str| {
        format!("POST /v1/dev/token HTTP/1.1\r\n{HOST}{headers}\r\n{body}")
    };
    vec![
        (
            "a length and chunks",
            post(
                "content-length: 3\r\ntransfer-encoding: chunked\r\n",
                "0\r\n\r\n",
            ),
            400,
        ),
        (
            "two lengths",
            post("content-length: 3\r\ncontent-length: 4\r\n", "abcd"),
            400,
        ),
        (
            "a length with a sign",
            post("content-length: +3\r\n", "abc"),
            400,
        ),
        (
            "a length below nothing",
            post("content-length: -3\r\n", "abc"),
            400,
        ),
        (
            "a length with many digits",
            post("content-length: 99999999999999999999\r\n", "a"),
            400,
        ),
        (
            "an unknown coding",
            post("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
            400,
        ),
        (
            "a coding before chunks",
            post("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            400,
        ),
        (
            "a chunk that is none",
            post("transfer-encoding: chunked\r\n", "zz\r\n\r\n"),
            400,
        ),
        (
            "a space before a colon",
            upgrade(GET, &[("x", "x-y : z\r\n")]),
            400,
        ),
        (
            "a header on two lines",
            upgrade(GET, &[("x", "x-y: z\r\n z\r\n")]),
            400,
        ),
        (
            "a carriage return in a header",
            upgrade(GET, &[("x", "x-y: z\rz\r\n")]),
            400,
        ),
        (
            "a NUL in a header",
            upgrade(GET, &[("x", "x-y: z\0z\r\n")]),
            400,
        ),
        (
            "a name with a bracket",
            upgrade(GET, &[("x", "x(y: z\r\n")]),
            400,
        ),
        ("no name", upgrade(GET, &[("x", ": z\r\n")]), 400),
        (
            "another protocol",
            "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(),
            400,
        ),
        ("nothing but NULs", "\0".repeat(100), 400),
        (
            "HTTP/2 without asking",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            400,
        ),
    ]
}

#[tokio::test]
async fn a_request_that_breaks_the_rules_is_answered_and_no_socket_comes_of_it() {
    let stack = Stack::builder().separate().start().await;
    for (what, request, expected) in [upgrades(), smuggled()].concat() {
        let said = answer(&stack, request.as_bytes()).await;
        assert_eq!(status(&said), expected, "{what}: {said}");
        if expected == 426 {
            assert!(
                said.to_ascii_lowercase().contains(VERSION.trim_end()),
                "{said}"
            );
        }
    }
    let mut alice = stack.user("alice").await;
    alice.does(json!({"op": "rooms"})).await;
    // What a stranger does is no error of ours: it would fill the log, and wake somebody.
    let log = std::fs::read_to_string(stack.data().join("log/gateway.log")).expect("it has a log");
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(
        log.contains("listening") && errors.is_empty(),
        "{errors:#?}"
    );
    assert!(stack.report(Part::Gateway).await.is_ok());
}

/// Texts that would make two lines of one, where lines mean something.
const BREAKS: &[&str] = &[
    "a\r\nx-injected: yes",
    "a\nx-injected: yes",
    "a\r\n\r\n<p>injected</p>",
    "a\u{2028}x-injected: yes",
    "a%0d%0ax-injected:%20yes",
    "a\r\nNatter-Trace: injected",
];

#[tokio::test]
async fn a_line_break_in_an_input_is_no_line_of_an_answer_or_of_the_brokers() {
    let stack = crate::settings::unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let local = async_nats::connect(stack.nats_url()).await.unwrap();
    let mut heard = local.subscribe(">").await.unwrap();
    local.flush().await.unwrap();
    let token = stack.tokens().token("alice");
    for text in BREAKS {
        // In everything that is text on the socket: it comes back as the same text, in JSON.
        let sent =
            json!({"op": "send", "room": room, "text": text, "cid": cid(), "meta": {"a": text}});
        alice.does(sent).await;
        bob.sees(&room, text).await;
        let why = json!({"op": "update", "room": room, "topic": text, "cid": cid()});
        alice.does(why).await;
        let mut hello = tests::Socket::open(stack.socket_url()).await;
        hello
            .says_hello(json!({"token": token, "app": text, "cur": text}))
            .await;
        // In what HTTP takes in a path or a query, escaped; and in a body.
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for path in [
            format!("/v1/rooms/{escaped}/events"),
            format!("/v1/rooms?cursor={escaped}"),
            format!("/v1/rooms/{room}/events?before={escaped}"),
            format!("/{escaped}"),
        ] {
            let answer = Request::get(stack.at(&path)).bearer(&token).send().await;
            assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
            is_clean(&answer.headers);
        }
        let post = Request::post(
            stack.at(&format!("/v1/rooms/{room}/messages")),
            &json!({"text": text, "more": text}),
        );
        let key = format!("\"{}\"", cid());
        let answer = post
            .bearer(&token)
            .header("idempotency-key", &key)
            .send()
            .await;
        answer.is_problem(400, "bad_request");
        is_clean(&answer.headers);
    }
    alice.sends(&room, "over").await;
    bob.sees(&room, "over").await;
    // The broker's messages have no header that was not ours.
    let (mut messages, mut over) = (0, false);
    while !over {
        let message =
            tokio::time::timeout(tests::PATIENCE, futures_util::StreamExt::next(&mut heard));
        let message = message
            .await
            .expect("the last one comes")
            .expect("it is heard");
        messages += 1;
        let headers = message.headers.iter().flat_map(|headers| headers.iter());
        for (name, values) in headers {
            let name = name.to_string();
            assert!(!name.to_lowercase().contains("injected"), "{name}");
            let injected = values
                .iter()
                .any(|value| value.as_str().contains("injected"));
            assert!(!injected, "{name}: {values:?}");
        }
        over = message.subject.starts_with("live.") && contains(&message.payload, b"\"over\"");
    }
    assert!(messages > 20, "only {messages} messages were heard");
}

fn contains(payload: &[u8], text: &[u8]) -> bool {
    payload.windows(text.len()).any(|it| it == text)
}

fn is_clean(headers: &[(String, String)]) {
    let injected =
        |(name, value): &&(String, String)| name.contains("injected") || value.contains("injected");
    let found: Vec<_> = headers.iter().filter(injected).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn two_answers_on_one_connection_are_not_mixed_up() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    let address = stack.url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it is accepted");
    // Two requests at once; the first has a body that would be a request itself.
    let inner = format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n");
    let first = format!(
        "POST /v1/rooms/r1/messages HTTP/1.1\r\n{HOST}authorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let second = format!(
        "GET /v1/rooms HTTP/1.1\r\n{HOST}authorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    stream
        .write_all((first + &second).as_bytes())
        .await
        .unwrap();
    let mut said = Vec::new();
    let read = tokio::time::timeout(ANSWER_WITHIN, stream.read_to_end(&mut said)).await;
    read.expect("in time").expect("it is read");
    let said = String::from_utf8_lossy(&said);
    let answers: Vec<&str> = said.matches("HTTP/1.1 ").collect();
    assert!(
        !said.contains("\r\nok\n"),
        "the body was taken for a request: {said}"
    );
    // The first is refused without its body, after which the connection may end.
    assert!(
        said.starts_with("HTTP/1.1 400") && answers.len() <= 2,
        "{said}"
    );
    if answers.len() == 2 {
        let list: Value = serde_json::from_str(said.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert!(list["rooms"].is_array(), "{said}");
    }
}
