//! A reader that takes nothing for a while is not waited for, and loses nothing.

use serde_json::json;
use tests::{Socket, message};

use crate::settings::unhurried;

/// More than a socket's queue and the system's buffers of both sides hold together.
const MESSAGES: u64 = 300;

#[tokio::test]
async fn a_slow_reader_is_told_that_it_lags_and_catches_up() {
    let stack = unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let mut carol = Socket::open_narrow(stack.socket_url()).await;
    carol
        .says_hello(json!({"token": stack.tokens().token("carol")}))
        .await;
    let room = alice
        .creates(json!({"kind": "public", "name": "big", "members": ["bob", "carol"]}))
        .await;
    bob.enters(&room).await;
    // Carol reads nothing while 9 MB go by; Bob reads everything, undisturbed.
    let text = |number: u64| format!("{number} {}", "\u{1f600}".repeat(7_900));
    for number in 0..MESSAGES {
        alice.does(message(&room, &text(number))).await;
        bob.has_reached(&room, 5 + number).await;
    }
    assert_eq!(bob.texts(&room).len() as u64, MESSAGES);
    let (mut last, mut lagged) = (4, false);
    while last < 4 + MESSAGES {
        let line = carol.next().await.expect("a slow reader is not closed");
        match line["ev"].as_str() {
            Some("lagged") => lagged = true,
            Some("ping") => carol.sends(&json!({"op": "pong"})).await,
            // A skip may stand for what was too much.
            Some("skip") => {
                assert!(
                    lagged && line["from"].as_u64() == Some(last + 1),
                    "{}",
                    line["from"]
                );
                last = line["to"].as_u64().expect("a seq");
            }
            Some("msg") if line["seq"].as_u64() > Some(last) => {
                assert_eq!(line["seq"], last + 1);
                last += 1;
            }
            _ => {}
        }
    }
    assert!(lagged, "the queue was not bounded");
    alice.sends(&room, "live again").await;
    loop {
        let line = carol.next().await.expect("live");
        if line["text"] == "live again" {
            break;
        }
    }
}
