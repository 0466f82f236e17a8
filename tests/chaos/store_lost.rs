//! The broker's store is lost: everything refuses and says why, and `natter reseed` goes on from the
//! archive without using a number again.

use protocol::RoomId;
use serde_json::{Value, json};
use tests::program::{Said, natter, run};
use tests::{PATIENCE, Part, Report, Socket, Stack, User, eventually, message};

/// Numbers that a room leaves out.
const SKIPPED: u64 = 10_000;
/// What an operator must read.
const REMEDY: &str = "natter reseed";

/// Removes all that the broker has stored, and kills it; it comes back with an empty store.
async fn loses_its_store(stack: &Stack) {
    let store = stack.data().join("nats/store");
    // What it does with removed files is lost with them.
    std::fs::remove_dir_all(&store).expect("the broker's store is there");
    stack.kills(Part::NatsServer).await;
    let url = stack.nats_url();
    eventually(PATIENCE, async || async_nats::connect(url).await).await;
}

async fn reseed(stack: &Stack) -> Said {
    let data = stack.data().display().to_string();
    run(stack.natter(&["reseed", "--data", &data])).await
}

async fn verify(stack: &Stack, room: &str) -> Said {
    let data = stack.data().display().to_string();
    run(stack.natter(&["verify", room, "--data", &data])).await
}

/// Whether it is not ready, and its report says this.
fn refuses(report: &Report, why: &str) -> bool {
    !report.ready && report.body.to_string().contains(why)
}

/// Waits until writes are put off, and nothing worse.
async fn is_put_off(user: &mut User, command: &Value) {
    eventually(PATIENCE, async || {
        let err = user.asks(command.clone()).await;
        let err = err.expect_err("nothing can be stored");
        assert_eq!(err["temp"], true, "{err}");
        // Until it is found out that nothing is stored, the outcome is unknown.
        if err["code"] == "unavailable" && err["retry_after_ms"].is_u64() {
            Ok(())
        } else {
            Err(err)
        }
    })
    .await;
}

/// Says something, as a command that can be said again.
async fn says(user: &mut User, room: &str, text: &str) -> (Value, u64) {
    let command = message(room, text);
    let ok = user.insists(command.clone()).await.expect("it is stored");
    (command, ok["seq"].as_u64().expect("a number"))
}

/// Of every event of a room its number, and checks that only a `void` leaves any out.
fn check_dense(archive: &[Value]) -> u64 {
    let mut last = 0;
    for event in archive {
        let seq = event["seq"].as_u64().expect("a number");
        let first = event["from"].as_u64().filter(|_| event["ev"] == "void");
        assert_eq!(first.unwrap_or(seq), last + 1, "behind {last}: {event}");
        last = seq;
    }
    last
}

#[tokio::test]
async fn a_lost_store_is_told_and_the_archive_goes_on_in_a_new_log() {
    let stack = Stack::builder().separate().start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    let mut kept = Vec::new();
    for number in 0..5 {
        kept.push(says(&mut alice, &room, &format!("kept {number}")).await);
    }
    let archived = check_dense(&alice.archive(&room).await);
    let nothing = reseed(&stack).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.err.contains("nothing is lost"), "{nothing:?}");

    // What history never gets to see.
    stack.freezes(Part::History).await;
    let mut lost = Vec::new();
    for number in 0..3 {
        lost.push(says(&mut alice, &room, &format!("lost {number}")).await);
    }
    bob.sees(&room, "lost 2").await;
    let last_seen = bob.rooms[&room].last;
    assert_eq!(last_seen, archived + 3);
    let old_cursor = bob.cursor.clone();
    loses_its_store(&stack).await;
    // What has reached it already is lost too.
    stack.kills(Part::History).await;

    for part in [Part::Messages, Part::History] {
        let what = "not ready for want of its log";
        stack.reports(part, what, |it| refuses(it, REMEDY)).await;
    }
    is_put_off(&mut alice, &message(&room, "into the void")).await;
    // Begun anew, it makes a log, which must not pass for the old one.
    stack.kills(Part::Messages).await;
    for part in [Part::Gateway, Part::Messages, Part::History] {
        let what = "not ready beside another log";
        stack.reports(part, what, |it| refuses(it, REMEDY)).await;
    }

    let said = reseed(&stack).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    stack.is_ready().await;
    let again = reseed(&stack).await;
    assert!(again.err.contains("nothing is lost"), "{again:?}");

    // Who saw what is lost is told so: by what is dirty below, and by the room's state.
    let skip = resumes(&stack, "bob", (&room, last_seen), old_cursor.as_deref()).await;
    assert_eq!(skip["from"], last_seen + 1, "{skip}");
    assert_eq!(skip["to"], archived + SKIPPED, "{skip}");
    assert_eq!(skip["dirty"], json!([[archived + 1, last_seen]]), "{skip}");

    alice.comes_back().await;
    bob.comes_back().await;
    assert_eq!(
        (&alice.hello["resumed"], &bob.hello["resumed"]),
        (&json!(false), &json!(false))
    );
    let (_, seq) = says(&mut alice, &room, "after").await;
    assert_eq!(seq, archived + SKIPPED + 1);
    bob.sees(&room, "after").await;
    // Copies of what the archive has are found; what was lost can be said again, with a new number.
    let (copy, first) = &kept[1];
    let ok = alice.insists(copy.clone()).await.expect("a repeat");
    assert_eq!((&ok["dup"], &ok["seq"]), (&json!(true), &json!(first)));
    let (copy, _) = &lost[1];
    let ok = alice.insists(copy.clone()).await.expect("it is stored");
    assert_eq!((&ok["dup"], &ok["seq"]), (&Value::Null, &json!(seq + 1)));

    let archive = alice.archive(&room).await;
    assert_eq!(check_dense(&archive), seq + 1);
    let void = archive.iter().find(|event| event["ev"] == "void");
    assert_eq!(void.expect("it is told")["from"], archived + 1);
    let texts: Vec<&str> = archive
        .iter()
        .filter_map(|it| it["text"].as_str())
        .collect();
    assert_eq!(
        texts,
        [
            "kept 0", "kept 1", "kept 2", "kept 3", "kept 4", "after", "lost 1"
        ]
    );
    let proven = verify(&stack, &room).await;
    assert!(proven.out.contains("proven "), "{proven:?}");
    assert_eq!(proven.code, Some(0), "{proven:?}");
}

/// The `skip` that a client gets which holds a room up to `last` and has a cursor of another log.
async fn resumes(
    stack: &Stack,
    name: &str,
    (room, last): (&str, u64),
    cursor: Option<&str>,
) -> Value {
    let mut socket = Socket::open(stack.socket_url()).await;
    let hello = json!({
        "token": stack.tokens().token(name), "dev": "another", "cur": cursor,
        "have": {room: last}, "win": {"rooms": 10, "tl": 20},
    });
    let greeting = socket.says_hello(hello).await;
    assert_eq!(greeting.ok["resumed"], false, "{}", greeting.ok);
    let mut lines = greeting.lines.into_iter();
    let skip = lines.find(|line| line["ev"] == "skip" && line["room"] == room);
    skip.expect("the room is skipped to its head")
}

#[tokio::test]
async fn beside_an_empty_log_nobody_is_refused_for_good_until_history_has_spoken() {
    let stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let (copy, first) = says(&mut alice, &room, "before").await;
    let archived = check_dense(&alice.archive(&room).await);

    stack.freezes(Part::History).await;
    loses_its_store(&stack).await;
    // It makes an empty log, and nobody can say that there was another.
    stack.kills(Part::Messages).await;
    let unproven = "the log is empty";
    stack
        .reports(Part::Messages, "unsure", |it| refuses(it, unproven))
        .await;
    // The gateway begins anew too, and cannot without history.
    alice.is_closed().await;
    let mut socket = Socket::open(stack.socket_url()).await;
    let hello = json!({"op": "hello", "token": stack.tokens().token("alice")});
    let err = socket.asks(hello).await.expect_err("nothing is known");
    assert_eq!(err["code"], "unavailable", "{err}");
    // Who asks past it finds nobody who would take a command.
    let number = RoomId::parse(&room)
        .expect("it is an id")
        .partition()
        .number();
    let client = async_nats::connect(stack.nats_url())
        .await
        .expect("it is there");
    let asked = client
        .request(format!("cmd.{number}.u.alice.send.{room}"), "{}".into())
        .await;
    let kind = asked.expect_err("nobody owns a partition").kind();
    assert_eq!(kind, async_nats::RequestErrorKind::NoResponders);
    assert_eq!(records(&stack).await, 0, "nothing was stored");

    stack.thaws(Part::History);
    for part in [Part::Messages, Part::History] {
        let what = "not ready beside another log";
        stack.reports(part, what, |it| refuses(it, REMEDY)).await;
    }
    assert_eq!(records(&stack).await, 0, "nothing was stored");
    let said = reseed(&stack).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    stack.is_ready().await;
    alice.comes_back().await;
    let ok = alice.insists(copy).await.expect("a repeat");
    assert_eq!((&ok["dup"], &ok["seq"]), (&json!(true), &json!(first)));
    let (_, seq) = says(&mut alice, &room, "after").await;
    assert_eq!(seq, archived + SKIPPED + 1);
    check_dense(&alice.archive(&room).await);
}

/// How many records the log has.
async fn records(stack: &Stack) -> u64 {
    let client = async_nats::connect(stack.nats_url())
        .await
        .expect("it is there");
    let stream = async_nats::jetstream::new(client);
    let stream = stream
        .get_stream("NATTER_LOG")
        .await
        .expect("there is a log");
    stream.cached_info().state.messages
}

#[tokio::test]
async fn natter_dev_that_finds_its_store_lost_waits_for_a_reseed() {
    let mut stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    says(&mut alice, &room, "before").await;
    let archived = check_dense(&alice.archive(&room).await);
    stack.stops().await;
    std::fs::remove_dir_all(stack.data().join("nats/store")).expect("the broker's store is there");
    let data = stack.data().display().to_string();
    // It is ready only when history follows the log, and that is only when somebody has decided.
    let decides = async {
        eventually(PATIENCE, async || {
            let said = run(natter(&["reseed", "--data", &data])).await;
            if said.code == Some(0) {
                Ok(())
            } else {
                Err(said)
            }
        })
        .await;
    };
    tokio::join!(stack.starts_again(), decides);
    let mut alice = stack.user("alice").await;
    let (_, seq) = says(&mut alice, &room, "after").await;
    assert_eq!(seq, archived + SKIPPED + 1);
    check_dense(&alice.archive(&room).await);
}
