//! Who says hello with what, and what becomes of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tests::{Claims, Closed, Socket, Stack, Tokens, now_s};

/// Tokens that are not good, and the codes of the answer and of the close.
fn bad_tokens(tokens: &Tokens) -> Vec<(&'static str, String, &'static str, u16)> {
    let with = |name: &str, value: Value| tokens.sign(&Claims::of("alice").with(name, value));
    let encoded = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let claims = Value::Object(Claims::of("alice").0);
    let good = tokens.token("alice");
    let (signed, signature) = good.rsplit_once('.').expect("a token has three parts");
    let header = |alg: &str| encoded(json!({"typ": "JWT", "alg": alg}));
    let unauthorized = |what, token| (what, token, "unauthorized", 4500);
    vec![
        unauthorized("wrong audience", with("aud", json!("another"))),
        unauthorized("no audience", with("aud", Value::Null)),
        unauthorized("wrong issuer", with("iss", json!("another"))),
        unauthorized("no issuer", with("iss", Value::Null)),
        unauthorized("no subject", with("sub", Value::Null)),
        unauthorized("empty subject", with("sub", json!(""))),
        unauthorized("no expiry", with("exp", Value::Null)),
        unauthorized("not yet valid", with("nbf", json!(now_s() + 600))),
        unauthorized(
            "another HMAC",
            tokens.sign_with(Algorithm::HS512, &Claims::of("alice")),
        ),
        unauthorized(
            "another key",
            Tokens::with_secret(b"0123456789abcdef0123456789abcdef").token("alice"),
        ),
        unauthorized(
            "algorithm none",
            format!("{}.{}.", header("none"), encoded(claims.clone())),
        ),
        unauthorized(
            "none with a signature",
            format!("{}.{}.{signature}", header("none"), encoded(claims.clone())),
        ),
        unauthorized(
            "a signature of something else",
            format!(
                "{}.{}.{signature}",
                header("HS256"),
                encoded(json!({"sub": "bob"}))
            ),
        ),
        unauthorized(
            "algorithm RS256",
            format!("{}.{}.{signature}", header("RS256"), encoded(claims)),
        ),
        unauthorized("no signature", format!("{signed}.")),
        unauthorized("no token", String::new()),
        unauthorized("no JWT", "x".repeat(5_000)),
        (
            "expired",
            with("exp", json!(now_s() - 60)),
            "token_expired",
            4100,
        ),
    ]
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_and_the_socket_closed() {
    let stack = Stack::start().await;
    for (what, token, code, close) in bad_tokens(&stack.tokens()) {
        let mut socket = Socket::open(stack.socket_url()).await;
        let refused = socket.asks(json!({"op": "hello", "token": token})).await;
        assert_eq!(refused.expect_err(what)["code"], code, "{what}");
        assert_eq!(socket.ends().await, Closed::With(close), "{what}");
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed_after_five_seconds() {
    let stack = Stack::start().await;
    let opened = tokio::time::Instant::now();
    let mut socket = Socket::open(stack.socket_url()).await;
    // A ping is no hello.
    socket
        .sends_message(tokio_tungstenite::tungstenite::Message::Ping("x".into()))
        .await;
    assert_eq!(socket.ends().await, Closed::With(4500));
    let waited = opened.elapsed();
    assert!((4..8).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test]
async fn who_begins_with_anything_but_hello_is_closed() {
    let stack = Stack::start().await;
    for line in [
        json!({"id": 1, "op": "rooms"}),
        json!({"op": "pong"}),
        json!({"id": 1, "op": "send", "room": "r", "text": "x", "cid": tests::cid()}),
        json!({"id": 1, "op": "teleport"}),
        json!(["hello"]),
        json!("hello"),
    ] {
        let mut socket = Socket::open(stack.socket_url()).await;
        socket.sends(&line).await;
        assert_eq!(socket.ends().await, Closed::With(4501), "{line}");
    }
}

#[tokio::test]
async fn a_token_is_refreshed_on_the_open_socket_or_the_socket_ends_with_it() {
    let stack = Stack::start().await;
    let short = |seconds: u64| {
        let claims = Claims::of("alice").with("exp", json!(now_s() + seconds));
        stack.tokens().sign(&claims)
    };
    let mut refreshed = Socket::open(stack.socket_url()).await;
    let greeting = refreshed.says_hello(json!({"token": short(4)})).await;
    let mut forgetful = Socket::open(stack.socket_url()).await;
    forgetful.says_hello(json!({"token": short(4)})).await;
    let ends = greeting.ok["token_exp"].as_u64().expect("a time");
    assert!(ends.abs_diff(now_s() * 1_000) < 6_000, "{greeting:?}");

    // The notice may come before `live` or after it.
    let mut lines = greeting.lines;
    let notice = loop {
        match lines.iter().find(|line| line["ev"] == "token") {
            Some(notice) => break notice["exp_in_s"].as_u64(),
            None => lines.push(refreshed.next().await.expect("the socket lives")),
        }
    };
    assert!(notice.is_some_and(|seconds| seconds <= 4), "{notice:?}");
    // A bad one is refused and costs nothing; somebody else's neither.
    for bad in ["nonsense".to_owned(), stack.tokens().token("bob")] {
        let refused = refreshed.asks(json!({"op": "token", "token": bad})).await;
        assert_eq!(refused.expect_err("not good")["code"], "unauthorized");
    }
    let token = stack.tokens().token("alice");
    refreshed
        .asks(json!({"op": "token", "token": token}))
        .await
        .expect("taken");

    assert_eq!(forgetful.ends().await, Closed::With(4100));
    refreshed
        .asks(json!({"op": "rooms"}))
        .await
        .expect("the socket lives on");
}

#[tokio::test]
async fn a_third_socket_of_one_device_replaces_the_oldest() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = Socket::open(stack.socket_url()).await;
        socket
            .says_hello(json!({"token": token, "dev": "phone"}))
            .await;
        sockets.push(socket);
    }
    assert_eq!(sockets.remove(0).ends().await, Closed::With(4004));
    for mut socket in sockets {
        socket
            .asks(json!({"op": "rooms"}))
            .await
            .expect("this one stays");
    }
    let mut tablet = Socket::open(stack.socket_url()).await;
    tablet
        .says_hello(json!({"token": token, "dev": "tablet"}))
        .await;
    assert!(
        tablet
            .next_within(Duration::from_millis(50))
            .await
            .is_none()
    );
}

#[tokio::test]
async fn a_user_has_as_many_sockets_as_the_limit_says() {
    let stack = Stack::start().await;
    let token = stack.tokens().token("alice");
    let mut sockets = Vec::new();
    for number in 0..32 {
        let mut socket = Socket::open(stack.socket_url()).await;
        socket
            .says_hello(json!({"token": token, "dev": format!("device{number}")}))
            .await;
        sockets.push(socket);
    }
    let mut one_more = Socket::open(stack.socket_url()).await;
    one_more
        .sends(&json!({"id": 1, "op": "hello", "token": token, "dev": "another"}))
        .await;
    assert_eq!(one_more.ends().await, Closed::With(4505));
    // Another user is not concerned, and a place that was left can be taken.
    stack.user("bob").await;
    sockets.pop().expect("there are 32").closes().await;
    tests::eventually(tests::PATIENCE, async || {
        let mut socket = Socket::open(stack.socket_url()).await;
        socket
            .sends(&json!({"id": 1, "op": "hello", "token": token, "dev": "another"}))
            .await;
        socket.next().await
    })
    .await;
}
