//! More of something than anybody needs, or slower than anybody is: the process lives, its memory does
//! not grow, and others are served meanwhile.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tests::http::Request;
use tests::{Closed, Part, Socket, Stack, User, message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::frames::frame;

/// What a flood may make the process grow by.
const GROWTH_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The gateway has patience with the head or body of a request for 10 s, and then parts with it in 5.
const REQUEST_ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What one socket of a flood sends.
const FLOOD_BYTES: usize = 2 * 1024 * 1024;
/// A request for a socket, as it stands on the line.
const UPGRADE: &str = "GET /v1/ws HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Memory of a process that is really there.
fn resident(stack: &Stack) -> u64 {
    let pid = stack.pid(Part::Gateway);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.expect("every process has it").trim().split(' ').next();
    kilobytes
        .and_then(|it| it.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

/// Two people who talk while others misbehave, and what the process weighed before.
struct Calm {
    stack: Stack,
    alice: User,
    bob: User,
    room: String,
    weighed: u64,
}

impl Calm {
    async fn start() -> Self {
        let stack = crate::settings::unhurried().separate().start().await;
        let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
        let room = alice.creates_room("ops").await;
        bob.joins(&room).await;
        // What a process needs once it shall not count as growth.
        for number in 0..20 {
            alice.does(message(&room, &format!("warm {number}"))).await;
        }
        bob.sees(&room, "warm 19").await;
        let weighed = resident(&stack);
        let mut calm = Self {
            stack,
            alice,
            bob,
            room,
            weighed,
        };
        calm.is_served("before").await;
        calm
    }

    /// A message is stored and seen, and HTTP answers.
    async fn is_served(&mut self, when: &str) {
        self.alice.sends(&self.room, when).await;
        self.bob.sees(&self.room, when).await;
        let token = self.stack.tokens().token("alice");
        let rooms = Request::get(self.stack.at("/v1/rooms")).bearer(&token);
        assert_eq!(rooms.send().await.status, 200, "{when}");
    }

    /// Others are served while this goes on, and the process has not grown by it.
    async fn goes_on_during(&mut self, what: &str, nuisance: impl Future<Output = ()>) {
        tokio::pin!(nuisance);
        let mut number = 0;
        loop {
            let round = format!("{what} {number}");
            tokio::select! {
                biased;
                () = &mut nuisance => break,
                () = self.is_served(&round) => number += 1,
            }
        }
        self.is_served(&format!("after {what}")).await;
        let grown = resident(&self.stack).saturating_sub(self.weighed);
        tests::figure(
            &format!("hostile.{}.grown_bytes", what.replace(' ', "_")),
            grown,
        );
        assert!(grown <= GROWTH_BYTES_MAX, "{what}: grown by {grown} bytes");
    }
}

/// An open socket of Eve's, live.
async fn eves(stack: &Stack, number: usize) -> Socket {
    let mut socket = Socket::open(stack.socket_url()).await;
    let token = stack.tokens().token(&format!("eve{}", number / 30));
    socket.says_hello(json!({"token": token})).await;
    socket
}

/// The end of a flood; what it is answered with shows that all before it was read.
const LAST: &[u8] = b"the last ping";

/// Opens a socket past any library and says hello, sends the same bytes again and again while it reads
/// whatever comes, and waits until its last ping is answered or the server has ended the socket.
async fn floods(address: &str, token: &str, begins: &[u8], bytes: &[u8]) {
    let stream = TcpStream::connect(address).await.expect("it is accepted");
    let (mut reader, mut writer) = stream.into_split();
    let hello = json!({"op": "hello", "token": token}).to_string();
    let writing = async {
        let hello = frame(0x81, hello.len() as u64, hello.as_bytes());
        for bytes in [UPGRADE.as_bytes(), &hello, begins] {
            writer.write_all(bytes).await?;
        }
        for _ in 0..FLOOD_BYTES / bytes.len() {
            writer.write_all(bytes).await?;
        }
        let last = frame(0x89, LAST.len() as u64, LAST);
        writer.write_all(&last).await
    };
    let reading = async {
        let (mut kept, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            kept.extend_from_slice(&chunk[..count]);
            if kept.windows(LAST.len()).any(|it| it == LAST) {
                return;
            }
            kept.drain(..kept.len().saturating_sub(LAST.len()));
        }
    };
    // A server that ends the socket ends both.
    let (_, ()) = tokio::join!(writing, reading);
}

#[tokio::test]
async fn a_flood_of_pings_or_of_fragments_is_borne() {
    let mut calm = Calm::start().await;
    let address = calm.stack.url().trim_start_matches("http://").to_owned();
    let token = calm.stack.tokens().token("eve");
    let kinds = [
        (Vec::new(), frame(0x89, 125, &[b'x'; 125]).repeat(500)),
        (Vec::new(), frame(0x8a, 0, b"").repeat(5_000)),
        // A message that never ends, of fragments with nothing in them.
        (frame(0x01, 0, b""), frame(0x00, 0, b"").repeat(5_000)),
    ];
    let nuisance = join_all((0..12).map(|number| {
        let (begins, bytes) = &kinds[number % kinds.len()];
        floods(&address, &token, begins, bytes)
    }));
    calm.goes_on_during("floods", async { drop(nuisance.await) })
        .await;
    // A message of fragments may end at last, and is answered then.
    let mut patient = eves(&calm.stack, 100).await;
    let line = br#"{"id":9,"op":"unread"}"#;
    let (begins, fragments) = &kinds[2];
    patient.sends_bytes(begins).await;
    patient.sends_bytes(fragments).await;
    patient
        .sends_bytes(&frame(0x80, line.len() as u64, line))
        .await;
    while patient.next().await.expect("it lives")["id"] != 9 {}
}

#[tokio::test]
async fn pings_of_a_peer_that_reads_nothing_cost_a_bounded_queue() {
    let mut calm = Calm::start().await;
    let mut narrow = Vec::new();
    for number in 0..8 {
        let mut socket = Socket::open_narrow(calm.stack.socket_url()).await;
        let token = calm.stack.tokens().token(&format!("eve{number}"));
        socket.says_hello(json!({"token": token})).await;
        narrow.push(socket);
    }
    let pings = frame(0x89, 125, &[b'x'; 125]).repeat(500);
    let nuisance = join_all(narrow.iter_mut().map(async |socket| {
        // Until the server reads no more: what it would have to answer has no place to go.
        for _ in 0..400 {
            let sent = tokio::time::timeout(Duration::from_secs(2), socket.sends_bytes(&pings));
            if sent.await.is_err() {
                break;
            }
        }
    }));
    calm.goes_on_during("unread pongs", async { drop(nuisance.await) })
        .await;
}

#[tokio::test]
async fn oversized_frames_cost_nothing_be_it_a_tebibyte_or_more() {
    let mut calm = Calm::start().await;
    let mut sockets = Vec::new();
    for number in 0..tests::either(50, 1_000) {
        sockets.push(eves(&calm.stack, number).await);
    }
    let declared = [1 << 40, 1 << 63, u64::MAX, (1 << 16) + 1];
    let nuisance = join_all(sockets.iter_mut().enumerate().map(|(number, socket)| {
        // Text, the end of a message that was begun, and binary.
        let (begins, first) = [(false, 0x81), (true, 0x80), (false, 0x82)][number % 3];
        let header = frame(first, declared[number % declared.len()], b"");
        async move {
            if begins {
                socket.sends_bytes(&frame(0x01, 1, b"{")).await;
            }
            socket.sends_bytes(&header).await;
            // Much of it, as if it were meant; the server may end it at any byte.
            for _ in 0..32 {
                socket.sends_bytes(&[b' '; 64 * 1024]).await;
            }
            let closed = socket.ends().await;
            assert_eq!(closed, Closed::With(1009), "{number}");
        }
    }));
    calm.goes_on_during("oversized frames", async { drop(nuisance.await) })
        .await;
}

/// Sends bytes one after the other, as slowly as a patient attacker would, and never ends; returns what
/// the server says until it ends the connection, which it must.
async fn drips(address: &str, at_once: &str, slowly: &str) -> String {
    let stream = TcpStream::connect(address).await.expect("it is accepted");
    let (mut reader, mut writer) = stream.into_split();
    writer
        .write_all(at_once.as_bytes())
        .await
        .expect("it reads");
    let dripping = async {
        for byte in slowly.bytes().cycle() {
            if slowly.is_empty() || writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut said = Vec::new();
    let reading = async {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut chunk).await {
            said.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::select! {
        () = reading => {}
        () = dripping => {}
        () = tokio::time::sleep(REQUEST_ENDS_WITHIN) => panic!("{at_once:?} is still open"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Requests that never become whole, and how the answer to each begins.
fn unfinished(token: &str) -> Vec<(String, &'static str, &'static str)> {
    let bearer = format!("authorization: Bearer {token}\r\n");
    let post = |path: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: 60000\r\n\r\n")
    };
    let key = format!("{bearer}idempotency-key: {}\r\n", tests::cid());
    let timed_out = "HTTP/1.1 408";
    vec![
        (String::new(), "", timed_out),
        (String::new(), "x", timed_out),
        (
            "GET /v1/rooms HTTP/1.1\r\n".to_owned(),
            "x-y: z\r\n",
            timed_out,
        ),
        (
            "GET /v1/ws HTTP/1.1\r\nupgrade: websocket\r\nx: ".to_owned(),
            "y",
            timed_out,
        ),
        (post("/v1/rooms/r1/messages", &key), "", "HTTP/1.1 400"),
        (post("/v1/rooms/r1/messages", &key), " ", "HTTP/1.1 400"),
        (post("/v1/dev/token", ""), " ", "HTTP/1.1 400"),
        // Who has not said who he is is not waited for.
        (post("/v1/rooms/r1/messages", ""), " ", "HTTP/1.1 401"),
    ]
}

#[tokio::test]
async fn a_request_that_never_becomes_whole_is_cut_off() {
    let mut calm = Calm::start().await;
    let address = calm.stack.url().trim_start_matches("http://").to_owned();
    let requests = unfinished(&calm.stack.tokens().token("eve"));
    let nuisance = join_all(requests.iter().map(async |(at_once, slowly, answer)| {
        let said = drips(&address, at_once, slowly).await;
        assert!(said.starts_with(answer), "{at_once:?}: {said:?}");
    }));
    calm.goes_on_during("slow requests", async { drop(nuisance.await) })
        .await;
}

#[tokio::test]
async fn a_hello_that_comes_byte_by_byte_comes_too_late() {
    let mut calm = Calm::start().await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(Socket::open(calm.stack.socket_url()).await);
    }
    let hello = json!({"id": 1, "op": "hello", "token": calm.stack.tokens().token("eve")});
    let hello = frame(
        0x81,
        hello.to_string().len() as u64,
        hello.to_string().as_bytes(),
    );
    let nuisance = join_all(sockets.iter_mut().map(async |socket| {
        for byte in &hello {
            socket.sends_bytes(&[*byte]).await;
            let closed = socket.next_within(Duration::from_millis(100)).await;
            if let Some(closed) = closed {
                assert_eq!(closed, Err(Closed::With(4500)));
                return;
            }
        }
        panic!("a hello was taken after more than ten seconds");
    }));
    calm.goes_on_during("slow hellos", async { drop(nuisance.await) })
        .await;
}

#[tokio::test]
async fn a_flood_of_connections_keeps_nobody_out() {
    const CONNECTIONS: usize = 400;
    let mut calm = Calm::start().await;
    let address = calm.stack.url().trim_start_matches("http://").to_owned();
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&address).await.expect("it is accepted");
        // Some say nothing, some begin, some ask for a socket and then say nothing.
        let said: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nhost:",
            _ => UPGRADE.as_bytes(),
        };
        stream.write_all(said).await.expect("it reads");
        held.push(stream);
    }
    calm.is_served("while they are held").await;
    // Somebody who comes anew is let in too.
    let mut carol = calm.stack.user("carol").await;
    carol.does(json!({"op": "rooms"})).await;
    // All of them are ended by the server, in time.
    let ended = join_all(held.into_iter().map(async |mut stream| {
        let mut chunk = [0; 4096];
        while let Ok(1..) = stream.read(&mut chunk).await {}
    }));
    let ended = async {
        let ended = tokio::time::timeout(REQUEST_ENDS_WITHIN, ended).await;
        assert!(ended.is_ok(), "some connections are still open");
    };
    calm.goes_on_during("silent connections", ended).await;
}
