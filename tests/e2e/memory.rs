//! What stalled, hostile and idle sockets cost the gateway in memory, and that nobody else pays for it.
//!
//! Memory is the peak that the kernel has seen of the gateway's process, above what it had before.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tests::http::Request;
use tests::{Closed, PATIENCE, Part, Socket, Stack, User, either, eventually, figure, message};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::frames::frame;
use crate::settings::unhurried;

const KIB: u64 = 1024;
/// Members of a room: as many as can be named when it is made.
const ROOM: usize = 100;
/// The bound of one socket: its queue, and its part of the connection.
const STALLED_KIB: u64 = 256 + 64;
/// The same for who asks for pages and takes none: those are of one socket alone, where a talk is shared
/// by all, so what the allocator adds and what is on its way to the queue counts too.
const GREEDY_KIB: u64 = 512;
const FREED_WITHIN: Duration = Duration::from_secs(15);
/// More than queue and buffers of both sides hold is said within so many messages of 32 kB.
const LOUD_MESSAGES: usize = 100;

/// A gateway of its own whose memory of the log is small enough not to be mistaken for that of sockets.
async fn lean() -> Stack {
    let stack = unhurried()
        .separate()
        .env("NATTER_GATEWAY_RING_BYTES", "1048576")
        .env("NATTER_GATEWAY_CONNECTIONS_MAX", "10000");
    stack.start().await
}

/// A figure of `/proc/PID/status`, in KiB.
fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.expect("Linux says it").parse().expect("a number")
}

/// How far the gateway's memory rises from now on.
struct Rise {
    pid: u32,
    before: u64,
}

impl Rise {
    fn begin(stack: &Stack) -> Self {
        let pid = stack.pid(Part::Gateway);
        // The kernel's word for: forget the peak so far.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the gateway is ours");
        let before = status_kib(pid, "VmRSS:");
        Self { pid, before }
    }

    fn peak_kib(&self) -> u64 {
        status_kib(self.pid, "VmHWM:").saturating_sub(self.before)
    }

    fn now_kib(&self) -> u64 {
        status_kib(self.pid, "VmRSS:").saturating_sub(self.before)
    }
}

/// A metric of the gateway, all labels together.
async fn metric(stack: &Stack, name: &str) -> u64 {
    let url = format!("{}/metrics", stack.ops_url(Part::Gateway));
    let text = Request::get(url).send().await.body;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let ours = lines.filter(|line| line.split(['{', ' ']).next() == Some(name));
    ours.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

/// Reads a room's messages until one says `over`, and each of them once and in order; every one is
/// counted in `seen`.
async fn follows(mut socket: Socket, room: String, mut last: u64, seen: Arc<Semaphore>) {
    loop {
        let line = socket.next().await.expect("who reads is not closed");
        match line["ev"].as_str() {
            Some("msg") if line["room"] == room.as_str() => {
                last += 1;
                assert_eq!(line["seq"], last, "lost, repeated or out of order");
                seen.add_permits(1);
                if line["text"] == "over" {
                    return;
                }
            }
            Some("ping") => socket.sends(&json!({"op": "pong"})).await,
            Some("skip" | "lagged") => panic!("who reads is not slow: {line}"),
            _ => {}
        }
    }
}

async fn reads_until(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) {
    while !wanted(&socket.next().await.expect("it stays open")) {}
}

/// Rooms full of sockets, of which some read and the others have stopped to.
struct Crowd {
    alice: User,
    rooms: Vec<String>,
    readers: Vec<JoinHandle<()>>,
    seen: Arc<Semaphore>,
    stalled: Vec<Socket>,
}

impl Crowd {
    async fn gathers(stack: &Stack, sockets: usize, stalled: usize) -> Self {
        let mut crowd = Self {
            alice: stack.user("alice").await,
            rooms: Vec::new(),
            readers: Vec::new(),
            seen: Arc::new(Semaphore::new(0)),
            stalled: Vec::new(),
        };
        for first in (0..sockets).step_by(ROOM) {
            crowd
                .fills_a_room(stack, first, stalled * ROOM / sockets)
                .await;
        }
        crowd
    }

    async fn fills_a_room(&mut self, stack: &Stack, first: usize, stalled: usize) {
        let names: Vec<String> = (first..first + ROOM).map(|n| format!("user{n}")).collect();
        let mut sockets = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let url = stack.socket_url();
            let mut socket = if index < stalled {
                Socket::open_narrow(url).await
            } else {
                Socket::open(url).await
            };
            let token = stack.tokens().token(name);
            socket.says_hello(json!({"token": token})).await;
            sockets.push(socket);
        }
        let create = json!({"kind": "private", "name": "loud", "members": names});
        let room = self.alice.creates(create).await;
        // What came before the state is in the state.
        for socket in &mut sockets {
            reads_until(socket, |line| {
                line["ev"] == "state" && line["room"] == room.as_str()
            })
            .await;
        }
        let begun = self.alice.sends(&room, "begin").await;
        for (index, mut socket) in sockets.into_iter().enumerate() {
            reads_until(&mut socket, |line| line["text"] == "begin").await;
            if index < stalled {
                self.stalled.push(socket);
            } else {
                let seen = Arc::clone(&self.seen);
                let follow = follows(socket, room.clone(), begun, seen);
                self.readers.push(tokio::spawn(follow));
            }
        }
        self.rooms.push(room);
    }

    /// Says it in every room, and waits until every reader has it: the readers are never far behind.
    async fn hears(&mut self, text: &str) {
        for room in &self.rooms {
            self.alice.does(message(room, text)).await;
        }
        let readers = u32::try_from(self.readers.len()).expect("few");
        let heard = tokio::time::timeout(PATIENCE, self.seen.acquire_many(readers)).await;
        heard
            .expect("every reader hears it")
            .expect("open")
            .forget();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_cost_a_bound_are_freed_and_others_lose_nothing() {
    let (sockets, stalled) = either((200, 50), (2_000, 1_000));
    let stack = lean().await;
    let mut crowd = Crowd::gathers(&stack, sockets, stalled).await;
    let loud = "\u{1f600}".repeat(7_900);
    let rise = Rise::begin(&stack);
    let mut said = 0;
    while metric(&stack, "natter_gateway_lagged_total").await < stalled as u64 {
        assert!(said < LOUD_MESSAGES, "the stalled ones are not noticed");
        crowd.hears(&loud).await;
        said += 1;
    }
    // Every one has taken nothing for a while already.
    let full = Instant::now();
    let left = (sockets - stalled + 1) as u64;
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while metric(&stack, "natter_gateway_sockets").await > left {
        let waited = full.elapsed();
        assert!(
            waited < FREED_WITHIN,
            "they are still there after {waited:?}"
        );
        pace.tick().await;
        crowd.hears("the talk goes on").await;
    }
    let (freed, peak) = (full.elapsed(), rise.peak_kib());
    crowd.hears("over").await;
    for reader in crowd.readers {
        reader.await.expect("a reader that lost nothing");
    }
    figure("stalled.sockets", format!("{stalled} of {sockets}"));
    figure("stalled.freed_s", freed.as_secs_f64());
    figure("stalled.peak_kib_each", peak / stalled as u64);
    assert!(peak <= stalled as u64 * STALLED_KIB, "{peak} KiB");
    for mut socket in crowd.stalled {
        assert_eq!(socket.ends().await, Closed::Abruptly);
    }
    figure("stalled.left_kib_each", rise.now_kib() / stalled as u64);
}

/// Reads that one socket asks for and does not take.
const ASKED: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_that_asked_for_pages_cost_a_bound_too() {
    let sockets = either(20, 400);
    let stack = lean().await;
    let mut alice = stack.user("alice").await;
    let members: Vec<String> = (0..20).map(|number| format!("eve{number}")).collect();
    for name in &members {
        // Who was never here cannot be made a member.
        drop(stack.user(name).await);
    }
    let create = json!({"kind": "public", "name": "long", "members": members});
    let room = alice.creates(create).await;
    for _ in 0..60 {
        alice.does(message(&room, &"\u{1f600}".repeat(7_900))).await;
    }
    let mut greedy = Vec::new();
    for number in 0..sockets {
        let mut socket = Socket::open_narrow(stack.socket_url()).await;
        let token = stack.tokens().token(&members[number % members.len()]);
        socket.says_hello(json!({"token": token})).await;
        greedy.push(socket);
    }
    let rise = Rise::begin(&stack);
    let ask = json!({"op": "history", "room": room, "limit": 100});
    for socket in &mut greedy {
        let asks: Vec<Value> = (0..ASKED)
            .map(|id| {
                let mut ask = ask.clone();
                ask["id"] = json!(1_000 + id);
                ask
            })
            .collect();
        socket.sends_batch(&asks).await;
    }
    eventually(Duration::from_secs(40), async || {
        match metric(&stack, "natter_gateway_sockets").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let peak = rise.peak_kib();
    figure("greedy.peak_kib_each", peak / sockets as u64);
    assert!(peak <= sockets as u64 * GREEDY_KIB, "{peak} KiB");
}

/// Declares a frame of this length and streams it for as long as the gateway takes it.
async fn streams(
    url: String,
    token: Option<String>,
    declared: u64,
    bytes: usize,
) -> (Closed, usize) {
    let mut socket = Socket::open(&url).await;
    if let Some(token) = token {
        socket.says_hello(json!({"token": token})).await;
    }
    socket.sends_bytes(&frame(0x81, declared, b"")).await;
    let (chunk, mut sent) = (vec![b' '; 64 * 1024], 0);
    while sent < bytes {
        if let Some(Err(closed)) = socket.next_within(Duration::ZERO).await {
            return (closed, sent);
        }
        socket.sends_bytes(&chunk).await;
        sent += chunk.len();
    }
    (socket.ends().await, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_frames_are_not_buffered() {
    let sockets = either(50, 1_000);
    let stack = lean().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    let rise = Rise::begin(&stack);
    let mut streaming = JoinSet::new();
    for number in 0..sockets {
        let declared = [1 << 40, 1 << 30, u64::MAX >> 1, 64 * KIB + 1][number % 4];
        let token = (number % 2 == 0).then(|| stack.tokens().token(&format!("eve{number}")));
        let url = stack.socket_url().to_owned();
        streaming.spawn(streams(url, token, declared, 16 << 20));
    }
    let (mut told, mut sent) = (0, 0);
    while let Some(ended) = streaming.join_next().await {
        let (closed, bytes) = ended.expect("it ends");
        assert!(
            matches!(closed, Closed::With(1009) | Closed::Abruptly),
            "{closed:?}"
        );
        told += usize::from(closed == Closed::With(1009));
        sent += bytes;
    }
    let peak = rise.peak_kib();
    figure("oversized.sockets", sockets);
    figure("oversized.peak_kib", peak);
    figure("oversized.told", told);
    figure("oversized.sent_kib", sent / 1024);
    assert!(peak <= 8 * KIB, "{peak} KiB");
    alice.sends(&room, "undisturbed").await;
    eventually(PATIENCE, async || {
        match metric(&stack, "natter_gateway_sockets").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_gateway_refuses_one_more_socket_until_there_is_room() {
    let stack = Stack::builder()
        .env("NATTER_GATEWAY_CONNECTIONS_MAX", "3")
        .start()
        .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Socket::open(stack.socket_url()).await);
    }
    let refused = Socket::open_with(stack.socket_url(), &[]).await;
    assert_eq!(refused.err(), Some(503));
    let page = Request::get(stack.at("/healthz")).send().await;
    assert_eq!(page.status, 200, "HTTP has connections of its own");
    open.pop().expect("three are open").closes().await;
    eventually(PATIENCE, async || {
        let again = Socket::open_with(stack.socket_url(), &[]).await;
        again.map(drop).map_err(|status| format!("still {status}"))
    })
    .await;
}
