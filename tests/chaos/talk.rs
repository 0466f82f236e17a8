//! People who talk all the time, one in each partition, and note how long every answer took.
//!
//! Each sends the next message only when the one before is stored, and a refused one again until it is:
//! so what a room must hold is known exactly. Times are those of a client: from the first attempt of a
//! command to its acknowledgement, however often it had to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use protocol::{Cid, Partition, RoomId, UserId};
use serde_json::{Value, json};
use tests::{PATIENCE, Socket, Stack, eventually, message};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between two attempts to come in.
const PAUSE: Duration = Duration::from_millis(100);
/// A command that is not stored by then fails the test.
const GIVES_UP: Duration = Duration::from_secs(30);

/// One command, as its sender saw it.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) partition: u8,
    pub(crate) sent: Instant,
    pub(crate) acked: Instant,
    /// Codes of temporary refusals on the way, and `closed` for each socket that ended.
    pub(crate) errors: Vec<String>,
}

impl Told {
    /// How long the sender waited for this one after `since`.
    pub(crate) fn waited_since(&self, since: Instant) -> Duration {
        self.acked.saturating_duration_since(self.sent.max(since))
    }
}

/// What all have noted so far.
#[derive(Debug, Default)]
struct Notes {
    told: Vec<Told>,
    /// Of each room how many messages are stored.
    stored: BTreeMap<String, usize>,
}

/// Everybody who talks.
#[derive(Debug)]
pub(crate) struct Choir {
    notes: Arc<Mutex<Notes>>,
    end: watch::Sender<bool>,
    voices: Vec<JoinHandle<()>>,
    socket_url: String,
    token: String,
}

impl Choir {
    /// One speaker in a room of each partition, with so long a time between two messages.
    pub(crate) async fn sings(stack: &Stack, socket_url: &str, pace: Duration) -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let (end, ended) = watch::channel(false);
        // Sockets of one user are bounded: each voice is a user of its own.
        let voices = Partition::all().map(|partition| {
            let name = format!("speaker{}", partition.number());
            let voice = Voice {
                url: socket_url.to_owned(),
                token: stack.tokens().token(&name),
                partition,
                room: String::new(),
                notes: Arc::clone(&notes),
                ended: ended.clone(),
                asked: 1,
                pace,
            };
            tokio::spawn(voice.sings(name))
        });
        let voices = voices.collect();
        let choir = Self {
            notes,
            end,
            voices,
            socket_url: socket_url.to_owned(),
            token: stack.tokens().token("reader"),
        };
        choir.all_told_after(Instant::now()).await;
        choir
    }

    /// What was told from `since` on.
    pub(crate) fn told_since(&self, since: Instant) -> Vec<Told> {
        let notes = self.notes.lock().expect("nobody panicked");
        let told = notes.told.iter().filter(|told| told.acked >= since);
        told.cloned().collect()
    }

    /// Waits until every partition has stored a message that was first sent after `since`.
    pub(crate) async fn all_told_after(&self, since: Instant) {
        eventually(GIVES_UP, async || {
            assert!(
                !self.voices.iter().any(JoinHandle::is_finished),
                "a speaker has failed"
            );
            let told = self.told_since(since);
            let fresh = told.iter().filter(|told| told.sent >= since);
            let partitions: BTreeSet<u8> = fresh.map(|told| told.partition).collect();
            let silent = Partition::all().filter(|it| !partitions.contains(&it.number()));
            match silent.map(Partition::number).collect::<Vec<_>>() {
                silent if silent.is_empty() => Ok(()),
                silent => Err(silent),
            }
        })
        .await;
    }

    /// Ends, and checks that each room holds just what was said in it, once and in order.
    pub(crate) async fn falls_silent(self) {
        self.end.send_replace(true);
        for voice in self.voices {
            voice.await.expect("no speaker fails");
        }
        let stored = self.notes.lock().expect("nobody panicked").stored.clone();
        let rooms: Vec<(String, usize)> = stored.into_iter().collect();
        // A few at once, or they wait for each other longer than a client would.
        for rooms in rooms.chunks(8) {
            join_all(
                rooms
                    .iter()
                    .map(|(room, count)| holds(&self.socket_url, &self.token, room, *count)),
            )
            .await;
        }
    }
}

/// Checks that the archive of a room has the messages `0..count`, once and in order.
async fn holds(url: &str, token: &str, room: &str, count: usize) {
    let mut user = tests::User::connect(url, "reader", token).await;
    let archive = user.archive(room).await;
    let texts = archive.iter().filter(|event| event["ev"] == "msg");
    let texts: Vec<&str> = texts.filter_map(|event| event["text"].as_str()).collect();
    let said: Vec<String> = (0..count).map(text).collect();
    assert_eq!(texts, said, "of {room}");
    let seqs: Vec<u64> = archive
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    let dense: Vec<u64> = (1..).take(seqs.len()).collect();
    assert_eq!(seqs, dense, "of {room}");
}

fn text(number: usize) -> String {
    format!("message {number}")
}

/// One speaker.
struct Voice {
    url: String,
    token: String,
    partition: Partition,
    room: String,
    notes: Arc<Mutex<Notes>>,
    ended: watch::Receiver<bool>,
    asked: u64,
    pace: Duration,
}

impl Voice {
    async fn sings(mut self, name: String) {
        let mut socket = self.enters().await;
        let author = UserId::parse(&name).expect("it is a name");
        let (cid, room) = in_partition(&author, self.partition);
        let create =
            json!({"op": "create", "kind": "public", "name": "choir", "cid": cid.to_string()});
        self.insists(&mut socket, create).await;
        self.room = room.as_str().to_owned();
        let mut number = 0;
        // Not all at the same moment.
        let step = self.pace.mul_f64(f64::from(self.partition.number()) / 64.0);
        let mut next = Instant::now() + step;
        while !*self.ended.borrow() {
            tokio::time::sleep_until(next).await;
            next = next.max(Instant::now() - self.pace) + self.pace;
            let sent = Instant::now();
            let errors = self
                .insists(&mut socket, message(&self.room, &text(number)))
                .await;
            number += 1;
            let told = Told {
                partition: self.partition.number(),
                sent,
                acked: Instant::now(),
                errors,
            };
            let mut notes = self.notes.lock().expect("nobody panicked");
            notes.told.push(told);
            notes.stored.insert(self.room.clone(), number);
        }
    }

    /// A live socket, however often it must be tried.
    async fn enters(&self) -> Socket {
        let since = Instant::now();
        loop {
            match self.tries_to_enter().await {
                Ok(socket) => return socket,
                Err(why) => assert!(since.elapsed() < GIVES_UP, "cannot come in: {why}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tries_to_enter(&self) -> Result<Socket, String> {
        let headers = [("sec-websocket-protocol", "natter.v1.json")];
        let socket = Socket::open_with(&self.url, &headers).await;
        let mut socket = socket.map_err(|status| format!("refused with {status}"))?;
        let hello = json!({"id": 1, "op": "hello", "token": self.token, "dev": "voice"});
        socket.sends(&hello).await;
        loop {
            let line = socket.next().await.map_err(|end| format!("{end:?}"))?;
            if line["ev"] == "live" {
                return Ok(socket);
            }
            if line["err"].is_object() {
                return Err(line.to_string());
            }
        }
    }

    /// Sends a command until it is stored; what went wrong before.
    async fn insists(&mut self, socket: &mut Socket, mut command: Value) -> Vec<String> {
        let (mut errors, since) = (Vec::new(), Instant::now());
        while since.elapsed() < GIVES_UP {
            self.asked += 1;
            command["id"] = json!(self.asked);
            socket.sends(&command).await;
            match reply(socket, self.asked).await {
                Some(Ok(_)) => return errors,
                Some(Err(refused)) => {
                    assert!(refused["temp"] == true, "{command} is refused: {refused}");
                    errors.push(refused["code"].as_str().unwrap_or("none").to_owned());
                    let wait = refused["retry_after_ms"].as_u64().unwrap_or(100);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                None => {
                    errors.push("closed".to_owned());
                    *socket = self.enters().await;
                }
            }
        }
        panic!("{command} is not stored: {errors:?}")
    }
}

/// The reply to a command; none if the socket ends before.
async fn reply(socket: &mut Socket, id: u64) -> Option<Result<Value, Value>> {
    loop {
        let mut line = socket.next_within(PATIENCE).await?.ok()?;
        if line["ev"] == "ping" {
            socket.sends(&json!({"op": "pong"})).await;
        }
        if line["id"] == id {
            return Some(match line.get_mut("ok") {
                Some(ok) => Ok(ok.take()),
                None => Err(line["err"].take()),
            });
        }
    }
}

/// A command's identity that makes a room of this partition.
pub(crate) fn in_partition(author: &UserId, partition: Partition) -> (Cid, RoomId) {
    loop {
        let cid = Cid::parse(&tests::cid()).expect("it is one");
        let room = RoomId::created(author, cid);
        if room.partition() == partition {
            return (cid, room);
        }
    }
}
