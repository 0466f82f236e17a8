//! Who guesses a room's id learns nothing: a room that is not there and one that is not for him answer
//! with the same words on every API, and take the same time.
//!
//! Ids of created rooms cannot be guessed, but those of direct and own rooms follow from their people.

use std::time::Duration;

use protocol::{RoomId, UserId};
use serde_json::{Value, json};
use tests::http::{Answer, Request};
use tests::{Socket, Stack, cid};
use tokio::time::Instant;

use crate::ids::commands_with_ids;

/// A room that nobody made.
const ABSENT: &str = "rAAAAAAAAAAAAAAAAAAAAAA";

/// Rooms that Eve may not see, and what they are.
struct Rooms {
    stack: Stack,
    forbidden: Vec<(&'static str, String)>,
    eve: Socket,
    token: String,
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("an id")
}

impl Rooms {
    async fn start() -> Self {
        let stack = crate::settings::unhurried().start().await;
        let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
        let private = alice
            .creates(json!({"kind": "private", "name": "secret", "members": ["bob"]}))
            .await;
        let direct = alice
            .creates(json!({"kind": "direct", "members": ["bob"]}))
            .await;
        assert_eq!(
            direct,
            RoomId::direct(&[user("alice"), user("bob")]).as_str()
        );
        for room in [&private, &direct] {
            bob.enters(room).await;
            alice.sends(room, "among us").await;
            bob.sees(room, "among us").await;
        }
        let own = RoomId::own(&user("alice")).as_str().to_owned();
        let token = stack.tokens().token("eve");
        let mut eve = Socket::open(stack.socket_url()).await;
        eve.says_hello(json!({"token": token})).await;
        Self {
            stack,
            forbidden: vec![
                ("a private room", private),
                ("a direct room", direct),
                ("somebody's own room", own),
            ],
            eve,
            token,
        }
    }

    /// What Eve is told on her socket; nothing of it may name the room.
    async fn asks(&mut self, command: &Value, room: &str) -> Value {
        let mut command = command.clone();
        command["room"] = json!(room);
        command["cid"] = json!(cid());
        match self.eve.asks(command).await {
            Ok(ok) => json!({"ok": ok}),
            Err(err) => json!({"err": err}),
        }
    }

    async fn gets(&self, request: Request) -> (u16, Vec<(String, String)>, String) {
        let answer: Answer = request.bearer(&self.token).send().await;
        let mut headers = answer.headers;
        headers.retain(|(name, _)| name != "date");
        headers.sort();
        (answer.status, headers, answer.body)
    }
}

/// Every command that names a room and could be carried out there. A mark is the user's own, whatever
/// room it names; it has a test of its own.
fn commands() -> Vec<Value> {
    let all = commands_with_ids().into_iter();
    let named = all.filter(|(command, field)| *field == "room" && command["op"] != "read");
    let mut commands: Vec<Value> = named.map(|(command, _)| command).collect();
    commands.extend([
        json!({"op": "history", "all": true, "after": 0}),
        json!({"op": "history", "around": 1, "limit": 1}),
        json!({"op": "send", "text": "x", "thread": 1}),
        json!({"op": "send", "text": "x", "reply_to": 1}),
        json!({"op": "send", "text": "x", "if_head": 1}),
        json!({"op": "update", "name": "x", "base": 1}),
        json!({"op": "invite", "user": "nobody-at-all"}),
        json!({"op": "kick", "user": "eve"}),
        json!({"op": "del", "user": "bob", "to": 1}),
    ]);
    commands
}

#[tokio::test]
async fn a_room_that_is_not_there_and_one_that_is_forbidden_answer_alike() {
    let mut rooms = Rooms::start().await;
    for command in commands() {
        let absent = rooms.asks(&command, ABSENT).await;
        let code = &absent["err"]["code"];
        assert_eq!(code, "not_found", "{command}: {absent}");
        assert!(!absent.to_string().contains(ABSENT), "{command}: {absent}");
        for (what, room) in rooms.forbidden.clone() {
            let forbidden = rooms.asks(&command, &room).await;
            assert_eq!(forbidden, absent, "{what}: {command}");
        }
    }
    // Over HTTP, with every header but the date.
    let stack = &rooms.stack;
    let read = |room: &str| Request::get(stack.at(&format!("/v1/rooms/{room}/events?limit=5")));
    let post = |room: &str| {
        let post = stack.at(&format!("/v1/rooms/{room}/messages"));
        Request::post(post, &json!({"text": "x"})).header("idempotency-key", &cid())
    };
    let (read_absent, post_absent) = (
        rooms.gets(read(ABSENT)).await,
        rooms.gets(post(ABSENT)).await,
    );
    assert_eq!((read_absent.0, post_absent.0), (404, 404));
    for (what, room) in &rooms.forbidden {
        assert_eq!(rooms.gets(read(room)).await, read_absent, "{what}");
        assert_eq!(rooms.gets(post(room)).await, post_absent, "{what}");
    }
    // A list of what one claims to hold brings nothing either.
    let mut have = serde_json::Map::new();
    for (_, room) in &rooms.forbidden {
        have.insert(room.clone(), json!(1));
    }
    have.insert(ABSENT.to_owned(), json!(1));
    let mut again = Socket::open(stack.socket_url()).await;
    let hello = json!({"token": rooms.token, "cur": "unknown.1", "have": have});
    let greeting = again.says_hello(hello).await;
    let told = serde_json::to_string(&greeting.lines).expect("JSON");
    for (what, room) in &rooms.forbidden {
        assert!(!told.contains(room.as_str()), "{what}: {told}");
    }
    assert!(
        !told.contains("among us") && !told.contains("secret"),
        "{told}"
    );
}

#[tokio::test]
async fn lists_and_counts_name_no_room_that_is_forbidden() {
    let mut rooms = Rooms::start().await;
    for ask in [
        json!({"op": "rooms"}),
        json!({"op": "discover"}),
        json!({"op": "discover", "q": "secret"}),
        json!({"op": "discover", "q": "s%"}),
        json!({"op": "unread"}),
    ] {
        let told = rooms
            .eve
            .asks(ask.clone())
            .await
            .expect("an answer")
            .to_string();
        for (what, room) in &rooms.forbidden {
            assert!(!told.contains(room.as_str()), "{what}: {ask}: {told}");
        }
        assert!(!told.contains("secret"), "{ask}: {told}");
    }
}

#[tokio::test]
async fn a_read_mark_tells_nothing_of_the_room_that_it_is_about() {
    let mut rooms = Rooms::start().await;
    let mut told = Vec::new();
    let all: Vec<String> = rooms
        .forbidden
        .iter()
        .map(|(_, room)| room.clone())
        .collect();
    for room in [ABSENT.to_owned()].into_iter().chain(all) {
        let mark = json!({"op": "read", "seq": 1});
        let mut answer = rooms.asks(&mark, &room).await;
        // Where and when it stands in the user's own room.
        let ok = answer["ok"].as_object_mut().expect("a mark is taken");
        assert!(ok.remove("seq").is_some() && ok.remove("ts").is_some());
        told.push(answer);
    }
    assert_eq!(told, vec![told[0].clone(); 4]);
}

/// Two commands on Eve's socket.
type Ask = (Value, String);

/// What is not found is said no earlier than this (docs/protocol.md).
const NOT_FOUND_AT: Duration = Duration::from_millis(25);

/// Times of two commands that are asked in turn, so that whatever else the machine does meets both.
async fn times(rooms: &mut Rooms, mut asks: impl FnMut(usize) -> [Ask; 2]) -> [Vec<Duration>; 2] {
    const EACH: usize = 70;
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..EACH {
        for ((command, room), times) in asks(number).iter().zip(&mut times) {
            let began = Instant::now();
            rooms.asks(command, room).await;
            times.push(began.elapsed());
        }
    }
    for times in &mut times {
        times.sort_unstable();
    }
    times
}

fn medians(times: &[Vec<Duration>; 2]) -> [Duration; 2] {
    [&times[0], &times[1]].map(|times| times[times.len() / 2])
}

/// Whether two medians differ by more than chance and the machine would have it. One look-up is more.
fn differ([one, other]: [Duration; 2]) -> bool {
    let noise = one.min(other) / 8 + Duration::from_micros(500);
    one.abs_diff(other) > noise
}

#[tokio::test]
async fn a_room_that_is_not_there_takes_as_long_as_one_that_is_forbidden() {
    let mut rooms = Rooms::start().await;
    let direct = rooms.forbidden[1].1.clone();
    for (name, command) in [
        ("history", json!({"op": "history"})),
        ("send", json!({"op": "send", "text": "x"})),
        ("join", json!({"op": "join"})),
    ] {
        let times = times(&mut rooms, |number| {
            // Each time another room, as somebody who guesses would ask.
            let guess = RoomId::direct(&[user("alice"), user(&format!("user{number}"))]);
            [guess.as_str(), direct.as_str()].map(|room| (command.clone(), room.to_owned()))
        });
        let times = times.await;
        let both = medians(&times);
        tests::figure(&format!("probe.{name}.absent_us"), both[0].as_micros());
        tests::figure(&format!("probe.{name}.forbidden_us"), both[1].as_micros());
        assert!(!differ(both), "{name}: {both:?}");
        // And that is no chance: none of them came before its time.
        let first = times.iter().filter_map(|times| times.first()).min();
        assert!(first >= Some(&NOT_FOUND_AT), "{name}: {first:?}");
    }
    // One look-up is found: what the gateway refuses by itself is quicker than what it asks for.
    let asks = [json!({"op": "teleport"}), json!({"op": "rooms"})];
    let found = times(&mut rooms, |_| {
        asks.clone().map(|ask| (ask, direct.clone()))
    });
    let found = medians(&found.await);
    tests::figure("probe.unasked_us", found[0].as_micros());
    tests::figure("probe.asked_us", found[1].as_micros());
    assert!(differ(found), "the measurement finds nothing: {found:?}");
}
