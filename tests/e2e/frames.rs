//! Frames that break the rules of WebSocket or of size end their own socket and no other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tests::{Closed, Socket, Stack, message};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

const LIMIT: usize = 64 * 1024;

/// A masked frame as a client sends it. A mask of zeros leaves the bytes as they are.
pub(crate) fn frame(first: u8, declared: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match declared {
        0..=125 => bytes.push(0x80 | u8::try_from(declared).expect("below 126")),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(
                u16::try_from(declared)
                    .expect("matched above")
                    .to_be_bytes(),
            );
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(declared.to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// Bytes that must end a socket, and how.
fn offences() -> Vec<(&'static str, Vec<u8>, u16)> {
    let (text, binary, more) = (0x81, 0x82, 0x01);
    let fragments = [
        frame(more, 40_000, &[b' '; 40_000]),
        frame(0x80, 40_000, &[b' '; 40_000]),
    ];
    vec![
        (
            "a frame one byte over the limit",
            frame(text, LIMIT as u64 + 1, &vec![b' '; LIMIT + 1]),
            1009,
        ),
        (
            "a frame that only declares a gigabyte",
            frame(text, 1 << 30, b"{"),
            1009,
        ),
        (
            "a frame that declares a tebibyte",
            frame(text, 1 << 40, b"{"),
            1009,
        ),
        (
            "a frame that declares more than there is",
            frame(text, u64::MAX >> 1, b"{"),
            1009,
        ),
        (
            "a length with the bit that must not be set",
            frame(text, 1 << 63, b"{"),
            1009,
        ),
        (
            "a length with all bits set",
            frame(text, u64::MAX, b"{"),
            1009,
        ),
        (
            "fragments that are too large together",
            fragments.concat(),
            1009,
        ),
        (
            "text that is not UTF-8",
            frame(text, 4, b"\"\xff\xfe\""),
            1007,
        ),
        (
            "text with a surrogate",
            frame(text, 5, b"\"\xed\xa0\x80\""),
            1007,
        ),
        ("an unmasked frame", vec![0x81, 2, b'{', b'}'], 1002),
        ("a reserved opcode", frame(0x83, 1, b"x"), 1002),
        ("a reserved bit", frame(0xc1, 2, b"{}"), 1002),
        ("a fragmented ping", frame(0x09, 1, b"x"), 1002),
        ("a ping of 126 bytes", frame(0x89, 126, &[b'x'; 126]), 1002),
        (
            "a ping that declares a tebibyte",
            frame(0x89, 1 << 40, b"x"),
            1002,
        ),
        ("a continuation of nothing", frame(0x80, 2, b"{}"), 1002),
        (
            "a message inside another",
            [frame(more, 1, b"{"), frame(text, 2, b"{}")].concat(),
            1002,
        ),
        (
            "a fragment that is not UTF-8, before its message ends",
            frame(more, 2, b"\xff{"),
            1007,
        ),
        ("half a close code", frame(0x88, 1, b"\x03"), 1002),
        (
            "a close code that may not be sent",
            frame(0x88, 2, &1005_u16.to_be_bytes()),
            1002,
        ),
        (
            "a binary frame of nonsense",
            frame(binary, 70_000, &vec![0; 70_000]),
            1009,
        ),
    ]
}

#[tokio::test]
async fn a_frame_that_breaks_the_rules_ends_its_own_socket_and_no_other() {
    let stack = Stack::start().await;
    let mut bob = stack.user("bob").await;
    let room = bob.creates_room("ops").await;
    let token = stack.tokens().token("eve");
    for greeted in [true, false] {
        for (what, bytes, code) in offences() {
            let mut socket = Socket::open(stack.socket_url()).await;
            if greeted {
                socket.says_hello(json!({"token": token})).await;
            }
            socket.sends_bytes(&bytes).await;
            let closed = socket.ends().await;
            assert_eq!(closed, Closed::With(code), "{what} (greeted: {greeted})");
        }
    }
    bob.sends(&room, "undisturbed").await;
    bob.sees(&room, "undisturbed").await;
}

#[tokio::test]
async fn a_frame_of_exactly_the_limit_is_taken_whole_or_in_fragments() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let padded = |text: &str| {
        let mut send = message(&room, text);
        send["id"] = json!(1_000_000);
        let line = send.to_string();
        format!("{line}{}", " ".repeat(LIMIT - line.len()))
    };
    alice
        .socket()
        .sends_message(Message::text(padded("whole")))
        .await;
    alice.sees(&room, "whole").await;
    let bytes = padded("in fragments").into_bytes();
    let chunks: Vec<&[u8]> = bytes.chunks(10_000).collect();
    for (index, chunk) in chunks.iter().enumerate() {
        let kind = if index == 0 {
            Data::Text
        } else {
            Data::Continue
        };
        let last = index == chunks.len() - 1;
        let fragment = Frame::message(chunk.to_vec(), OpCode::Data(kind), last);
        alice.socket().sends_message(Message::Frame(fragment)).await;
        // Control frames may stand between fragments.
        alice
            .socket()
            .sends_message(Message::Ping("between".into()))
            .await;
    }
    alice.sees(&room, "in fragments").await;
}

#[tokio::test]
async fn a_binary_message_is_not_taken_for_a_command() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let mut socket = Socket::open(stack.socket_url()).await;
    socket
        .says_hello(json!({"token": stack.tokens().token("alice")}))
        .await;
    socket
        .sends_message(Message::binary(message(&room, "in binary").to_string()))
        .await;
    // Either the socket ends, or nothing comes of it.
    socket.sends(&json!({"id": 1, "op": "unread"})).await;
    while let Ok(line) = socket.next().await {
        if line["id"] == 1 {
            break;
        }
    }
    assert!(
        alice
            .archive(&room)
            .await
            .iter()
            .all(|event| event["ev"] != "msg")
    );
}

#[tokio::test]
async fn the_upgrade_takes_natters_subprotocol_and_none() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    for headers in [
        &[][..],
        &[("sec-websocket-protocol", "natter.v1.json")],
        &[("sec-websocket-protocol", "x, natter.v1.json")],
    ] {
        let mut socket = Socket::open_with(stack.socket_url(), headers)
            .await
            .expect("taken");
        socket.says_hello(json!({"token": token})).await;
    }
    // A token in a URL is worth nothing.
    let url = format!("{}?token={token}", stack.socket_url());
    let mut socket = Socket::open(&url).await;
    socket.sends(&json!({"id": 1, "op": "rooms"})).await;
    assert_eq!(socket.ends().await, Closed::With(4501));
    // What is no upgrade, or not of this protocol's version, is no socket.
    let address = stack.at("/v1/ws");
    assert!(
        tests::http::Request::get(address.clone())
            .send()
            .await
            .status
            >= 400
    );
    let key = STANDARD.encode([7; 16]);
    let old = tests::http::Request::get(address)
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-key", &key)
        .header("sec-websocket-version", "8");
    assert!(old.send().await.status >= 400);
}

#[tokio::test]
async fn a_page_of_another_site_gets_no_socket() {
    let stack = Stack::builder()
        .env("NATTER_GATEWAY_ORIGINS", "https://chat.example")
        .start()
        .await;
    let token = stack.tokens().token("alice");
    let own = stack.url().to_owned();
    for origin in ["https://chat.example", own.as_str()] {
        let mut socket = Socket::open_with(stack.socket_url(), &[("origin", origin)])
            .await
            .expect("allowed");
        socket.says_hello(json!({"token": token})).await;
    }
    for origin in [
        "https://evil.example",
        "https://chat.example.evil.example",
        "http://chat.example",
        "null",
    ] {
        match Socket::open_with(stack.socket_url(), &[("origin", origin)]).await {
            Err(status) => assert_eq!(status, 403, "{origin}"),
            Ok(mut socket) => assert_eq!(socket.ends().await, Closed::With(4507), "{origin}"),
        }
    }
}
