//! The same things over plain HTTP: rooms, pages with validators, and a message that is posted once.

use serde_json::json;
use tests::http::Request;
use tests::{Claims, Stack, cid};

#[tokio::test]
async fn a_page_that_has_not_changed_is_not_sent_again() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "hello").await;
    let token = stack.tokens().token("alice");
    let page = Request::get(stack.at(&format!("/v1/rooms/{room}/events?limit=10"))).bearer(&token);
    let first = page.send().await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json()["events"][2]["text"], "hello");
    let tag = first
        .header("etag")
        .expect("a page has a validator")
        .to_owned();
    let known = page.clone().header("if-none-match", &tag);
    let same = known.send().await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));
    alice.sends(&room, "news").await;
    let changed = known.send().await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), Some(tag.as_str()));
    // An edit of an old message changes the page too.
    let tag = changed.header("etag").expect("a validator").to_owned();
    alice.edits(&room, 3, 1, "hello!").await;
    assert_eq!(
        page.clone()
            .header("if-none-match", &tag)
            .send()
            .await
            .status,
        200
    );
    let dense = stack.at(&format!("/v1/rooms/{room}/events?all=true&after=3"));
    let dense = Request::get(dense).bearer(&token).send().await.json();
    assert_eq!(
        (&dense["events"][0]["seq"], &dense["head"]),
        (&json!(4), &json!(5))
    );

    let rooms = Request::get(stack.at("/v1/rooms"))
        .bearer(&token)
        .send()
        .await
        .json();
    let rooms = rooms["rooms"].as_array().expect("a list").clone();
    assert!(
        rooms
            .iter()
            .any(|it| it["room"] == room && it["name"] == "ops"),
        "{rooms:?}"
    );
}

#[tokio::test]
async fn a_message_posted_again_with_its_key_is_the_same_message() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.enters(&room).await;
    let token = stack.tokens().token("alice");
    let key = cid();
    let post = Request::post(
        stack.at(&format!("/v1/rooms/{room}/messages")),
        &json!({"text": "by post"}),
    )
    .bearer(&token)
    .header("idempotency-key", &key);
    let first = post.send().await;
    let again = post.send().await;
    assert!((200..300).contains(&first.status), "{first:?}");
    assert_eq!(first.json()["seq"], again.json()["seq"]);
    assert_eq!(again.json()["dup"], true);
    let seen = alice.sees(&room, "by post").await;
    assert_eq!(
        (&seen["seq"], &seen["cid"]),
        (&first.json()["seq"], &json!(key))
    );
    // The key is the cid, so the socket's copy is the same one.
    let copy = json!({"op": "send", "room": room, "text": "by post", "cid": key});
    assert_eq!(alice.does(copy).await["dup"], true);
    assert_eq!(alice.texts(&room), ["by post"]);
}

#[tokio::test]
async fn what_is_refused_is_a_problem_with_the_protocols_code() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let secret = alice
        .creates(json!({"kind": "private", "name": "secret"}))
        .await;
    let (token, eve) = (stack.tokens().token("alice"), stack.tokens().token("eve"));
    stack.user("eve").await;
    let events = |room: &str, query: &str| {
        Request::get(stack.at(&format!("/v1/rooms/{room}/events{query}")))
    };
    let messages = stack.at(&format!("/v1/rooms/{room}/messages"));
    let post = |body: &serde_json::Value| Request::post(messages.clone(), body);
    let expired = stack
        .tokens()
        .sign(&Claims::of("alice").with("exp", json!(tests::now_s() - 60)));
    let key = || ("idempotency-key", cid());
    let with_key = |request: Request| request.header(key().0, &key().1);
    let hi = json!({"text": "hi"});
    let long = json!({"text": "x".repeat(8_001)});
    let cases = [
        (events(&room, ""), 401, "unauthorized"),
        (events(&room, "").bearer("nonsense"), 401, "unauthorized"),
        (events(&room, "").bearer(&expired), 401, "token_expired"),
        (events(&secret, "").bearer(&eve), 404, "not_found"),
        (events("rAbsent", "").bearer(&eve), 404, "not_found"),
        (events("r.x", "").bearer(&token), 400, "bad_request"),
        (events("%2A", "").bearer(&token), 400, "bad_request"),
        (events("%3E", "").bearer(&token), 400, "bad_request"),
        (events("r%00", "").bearer(&token), 400, "bad_request"),
        (events("e%CC%81", "").bearer(&token), 400, "bad_request"),
        (events("%E2%80%AEr", "").bearer(&token), 400, "bad_request"),
        (
            events(&"x".repeat(5_000), "").bearer(&token),
            400,
            "bad_request",
        ),
        (
            events(&room, "?limit=many").bearer(&token),
            400,
            "bad_request",
        ),
        (
            events(&room, "?before=-1").bearer(&token),
            400,
            "bad_request",
        ),
        (
            events(&room, "?before=1&after=2").bearer(&token),
            400,
            "bad_request",
        ),
        (post(&hi).bearer(&token), 400, "bad_request"),
        (
            post(&hi)
                .bearer(&token)
                .header("idempotency-key", "not-a-cid"),
            400,
            "bad_request",
        ),
        (
            with_key(post(&json!({"text": 5}))).bearer(&token),
            400,
            "bad_request",
        ),
        (
            with_key(post(&json!(["hi"]))).bearer(&token),
            400,
            "bad_request",
        ),
        (
            with_key(post(&json!({}))).bearer(&token),
            400,
            "bad_request",
        ),
        (with_key(post(&long)).bearer(&token), 413, "too_large"),
        (with_key(post(&hi)).bearer(&eve), 403, "not_member"),
        (with_key(post(&hi)), 401, "unauthorized"),
        (
            with_key(Request::post_bytes(messages.clone(), b"{".to_vec())).bearer(&token),
            400,
            "bad_request",
        ),
        (
            with_key(Request::post_bytes(messages.clone(), b"\xff".to_vec())).bearer(&token),
            400,
            "bad_request",
        ),
        (
            with_key(Request::post_bytes(messages.clone(), vec![b' '; 200_000])).bearer(&token),
            413,
            "too_large",
        ),
    ];
    for (request, status, code) in cases {
        let answer = request.send().await;
        let shown = format!("{request:?}");
        assert_eq!(
            answer.status,
            status,
            "{answer:?} to {}",
            shown.chars().take(200).collect::<String>()
        );
        answer.is_problem(status, code);
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
async fn a_development_token_is_given_to_anybody_here() {
    let stack = Stack::start().await;
    let ask = json!({"user": "dora", "name": "Dora", "roles": []});
    let answer = Request::post(stack.at("/v1/dev/token"), &ask).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let dora = tests::User::connect(stack.socket_url(), "dora", &token).await;
    assert_eq!(dora.hello["user"], "dora");
}
