//! A reply subject is input: whoever names the log, the broker's own API or somebody's commands as the
//! place for an answer gets none, and nothing is published there.

use async_nats::{Client, ConnectOptions};
use futures_util::StreamExt as _;
use protocol::RoomId;
use protocol::subject::rights::inbox_of;
use serde_json::{Value, json};
use tests::{PATIENCE, Stack, cid};

/// Where no answer may go. The broker itself takes no message that wants its answer at `$JS.ACK.>`.
const PLACES: &[&str] = &[
    "log.3",
    "log.*",
    "live.3",
    "wm.intruder",
    "own.3",
    "hint.3",
    "cmd.3.u.bob.send.r1",
    "cmd.3.m.bob.ban.r1",
    "svc.history.records",
    "$JS.API.STREAM.INFO.NATTER_LOG",
    "$JS.API.STREAM.PURGE.NATTER_LOG",
    "$JS.API.STREAM.UPDATE.NATTER_LOG",
    "$JS.API.STREAM.DELETE.KV_NATTER_LEASE",
    "$JS.API.CONSUMER.CREATE.NATTER_LOG",
    "$KV.NATTER_LEASE.p.3",
    "$SYS.REQ.SERVER.PING",
    "$SRV.PING",
    "_INBOX",
    "_INBOX.*",
    "_INBOX.>",
    "_INBOX.a.>",
    "_inbox.a",
    "INBOX.a",
    "x",
];

/// A connection with the rights of the gateway.
pub(crate) async fn as_gateway(stack: &Stack) -> Client {
    let password = stack.broker_password("gateway");
    ConnectOptions::with_user_and_password("gateway".to_owned(), password)
        .custom_inbox_prefix(inbox_of("gateway"))
        .connect(stack.nats_url())
        .await
        .unwrap()
}

fn send(text: &str) -> Vec<u8> {
    let deadline = tests::now_s() * 1_000 + 10_000;
    let send = json!({"op": "send", "text": text, "cid": cid()});
    json!({"deadline": deadline, "commands": [send]})
        .to_string()
        .into_bytes()
}

fn question() -> Vec<u8> {
    let deadline = tests::now_s() * 1_000 + 10_000;
    json!({"deadline": deadline, "query": {"q": "position"}})
        .to_string()
        .into_bytes()
}

/// The subjects of everything published until this says that it is over.
async fn hears(heard: &mut async_nats::Subscriber, over: &str) -> Vec<String> {
    let mut subjects = Vec::new();
    loop {
        let message = tokio::time::timeout(PATIENCE, heard.next()).await;
        let message = message.expect("in time").expect("the client lives");
        if message.subject.as_str() == over {
            return subjects;
        }
        subjects.push(message.subject.to_string());
    }
}

#[tokio::test]
async fn no_answer_goes_where_only_a_service_may_publish() {
    let stack = crate::settings::unhurried().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let partition = RoomId::parse(&room).unwrap().partition();
    let local = async_nats::connect(stack.nats_url()).await.unwrap();
    // The operator's user may ask everybody.
    let asks = [
        (&local, format!("cmd.{partition}.u.alice.send.{room}"), 0),
        (&local, format!("own.{partition}"), 1),
        (&local, "svc.history.position".to_owned(), 2),
    ];
    let mut heard = local.subscribe(">").await.unwrap();
    local.flush().await.unwrap();
    for place in PLACES {
        for (client, subject, kind) in &asks {
            let body = match kind {
                0 => send(place),
                1 => Vec::new(),
                _ => question(),
            };
            // What is wrong is answered by another part of the code.
            for body in [body, b"{".to_vec()] {
                let asked = client.publish_with_reply(subject.clone(), *place, body.into());
                asked.await.unwrap();
            }
        }
    }
    // Behind all of these, in the same order: answers that do go where they should.
    for (client, subject, kind) in &asks {
        let body = match kind {
            0 => send("last"),
            1 => Vec::new(),
            _ => question(),
        };
        let inbox = format!("_INBOX.last.{kind}");
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        client
            .publish_with_reply(subject.clone(), inbox, body.into())
            .await
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await;
        let answer = answer
            .unwrap_or_else(|_| panic!("no answer on {subject}"))
            .unwrap();
        assert!(!answer.payload.is_empty(), "{subject}");
    }
    bob.sees(&room, "last").await;
    local.publish("over.and.out", "".into()).await.unwrap();
    let subjects = hears(&mut heard, "over.and.out").await;
    // What was asked was heard, so answers would have been.
    assert!(subjects.iter().filter(|it| it.starts_with("own.")).count() > PLACES.len());
    for subject in &subjects {
        let asked = asks.iter().any(|(_, asked, _)| asked == subject);
        assert!(asked || !PLACES.contains(&subject.as_str()), "{subject}");
    }
    // A command whose answer has no place to go is a command all the same, and nothing else is.
    let archive = alice.archive(&room).await;
    let texts = archive.iter().filter(|event| event["ev"] == "msg").count();
    assert_eq!((texts, archive.len()), (PLACES.len() + 1, PLACES.len() + 4));
}

#[tokio::test]
async fn a_gateway_cannot_have_the_log_written_by_an_answer() {
    let stack = crate::settings::unhurried().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let partition = RoomId::parse(&room).unwrap().partition();
    let local = async_nats::connect(stack.nats_url()).await.unwrap();
    let log = async_nats::jetstream::new(local);
    let mut log = log.get_stream("NATTER_LOG").await.unwrap();
    let gateway = as_gateway(&stack).await;
    // A partition that the command itself writes nothing to.
    let other = format!("log.{}", (partition.number() + 1) % 64);
    let before = log.info().await.unwrap().state.last_sequence;
    for _ in 0..20 {
        gateway
            .publish_with_reply(
                format!("cmd.{partition}.u.alice.send.{room}"),
                other.clone(),
                "no batch of commands".into(),
            )
            .await
            .unwrap();
    }
    let answer = gateway
        .request(
            format!("cmd.{partition}.u.alice.send.{room}"),
            send("last").into(),
        )
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer["results"][0]["ok"]["seq"], 3, "{answer}");
    // One record came of it all.
    assert_eq!(log.info().await.unwrap().state.last_sequence, before + 1);
}
