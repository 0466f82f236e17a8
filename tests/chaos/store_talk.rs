//! People who talk while the broker's store is hurt, and what each of them was told is stored.
//!
//! Each has a room and says one thing after the other, each until it is stored: so what a room must hold,
//! and in which order, is known exactly.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::context::{GetStreamError, GetStreamErrorKind};
use futures_util::StreamExt as _;
use protocol::envelope::Envelope;
use protocol::event::{EventBody, LogEvent};
use protocol::{RoomId, Seq};
use std::collections::BTreeMap;
use tests::{PATIENCE, Stack, StackBuilder, User, eventually, message};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Between two messages of one speaker, at least.
const BREATH: Duration = Duration::from_millis(10);

/// A rate that no test reaches.
const UNLIMITED: &str = "1000000";

/// A stack whose users may write as fast as they can, on a broker of the test's own.
pub(crate) fn stack_on(nats_url: &str) -> StackBuilder {
    Stack::builder()
        .separate()
        .env("NATTER_GATEWAY_USER_RATE", UNLIMITED)
        .env("NATTER_GATEWAY_USER_BURST", UNLIMITED)
        .env("NATTER_MESSAGES_RATE_LIMITS", "false")
        .argument("--nats-url")
        .argument(nats_url)
}

/// A message that is stored, as its sender was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) room: String,
    pub(crate) seq: u64,
    pub(crate) text: String,
}

/// Everybody who talks.
#[derive(Debug)]
pub(crate) struct Talk {
    stored: Arc<Mutex<Vec<Stored>>>,
    end: watch::Sender<bool>,
    speakers: Vec<JoinHandle<()>>,
    rooms: Vec<String>,
}

impl Talk {
    /// So many people begin to talk.
    pub(crate) async fn begins(stack: &Stack, people: usize) -> Self {
        Self::begins_at_length(stack, people, 0).await
    }

    /// The same, and each message is so many characters longer than it must be.
    pub(crate) async fn begins_at_length(stack: &Stack, people: usize, more: usize) -> Self {
        let stored = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = watch::channel(false);
        let (mut speakers, mut rooms) = (Vec::new(), Vec::new());
        for number in 0..people {
            let mut user = stack.user(&format!("speaker{number}")).await;
            let room = user.creates_room(&format!("room {number}")).await;
            rooms.push(room.clone());
            let speaker = Speaker {
                user,
                room,
                stored: Arc::clone(&stored),
                ended: ended.clone(),
                more: "x".repeat(more),
            };
            speakers.push(tokio::spawn(speaker.speaks()));
        }
        Self {
            stored,
            end,
            speakers,
            rooms,
        }
    }

    /// Everything that is stored so far, as far as anybody was told.
    pub(crate) fn stored(&self) -> Vec<Stored> {
        self.stored.lock().expect("nobody panicked").clone()
    }

    /// Waits until so many messages are stored.
    pub(crate) async fn has_stored(&self, count: usize) {
        eventually(PATIENCE * 3, async || {
            assert!(
                !self.speakers.iter().any(JoinHandle::is_finished),
                "a speaker has failed"
            );
            match self.stored().len() {
                stored if stored >= count => Ok(()),
                stored => Err(format!("{stored} of {count}")),
            }
        })
        .await;
    }

    /// Waits until everybody has something stored that was not before.
    pub(crate) async fn goes_on(&self) {
        let count = |room: &String| {
            let stored = self.stored.lock().expect("nobody panicked");
            stored.iter().filter(|it| it.room == *room).count()
        };
        let before: Vec<usize> = self.rooms.iter().map(count).collect();
        eventually(PATIENCE * 3, async || {
            let now = self.rooms.iter().map(count);
            let silent = before
                .iter()
                .zip(now)
                .filter(|(before, now)| now <= *before);
            match silent.count() {
                0 => Ok(()),
                silent => Err(format!("{silent} are not heard")),
            }
        })
        .await;
    }

    /// Nobody says anything more, stored or not.
    pub(crate) fn breaks_off(self) -> Vec<Stored> {
        for speaker in &self.speakers {
            speaker.abort();
        }
        self.stored()
    }

    /// All end, and each room must hold just what was said in it, once and in order; how many there are.
    pub(crate) async fn ends_kept(self, stack: &Stack) -> usize {
        self.end.send_replace(true);
        for speaker in self.speakers {
            speaker.await.expect("no speaker fails");
        }
        let stored = self.stored.lock().expect("nobody panicked").clone();
        let mut reader = stack.user("reader").await;
        for room in &self.rooms {
            let archive = reader.archive(room).await;
            let messages = archive.iter().filter(|event| event["ev"] == "msg");
            let found: Vec<Stored> = messages
                .map(|event| Stored {
                    room: room.clone(),
                    seq: event["seq"].as_u64().expect("a number"),
                    text: event["text"].as_str().expect("a text").to_owned(),
                })
                .collect();
            let said: Vec<Stored> = stored
                .iter()
                .filter(|it| it.room == *room)
                .cloned()
                .collect();
            assert_eq!(found, said, "{room}");
            let seqs: Vec<u64> = archive.iter().filter_map(|it| it["seq"].as_u64()).collect();
            let dense: Vec<u64> = (1..).take(seqs.len()).collect();
            assert_eq!(seqs, dense, "{room}");
        }
        stored.len()
    }
}

struct Speaker {
    user: User,
    room: String,
    stored: Arc<Mutex<Vec<Stored>>>,
    ended: watch::Receiver<bool>,
    more: String,
}

impl Speaker {
    async fn speaks(mut self) {
        let mut number = 0;
        // No faster than a debug build's history can follow: who comes must not wait for it.
        let mut pace = tokio::time::interval(BREATH);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*self.ended.borrow() {
            pace.tick().await;
            let text = format!("message {number} {}", self.more);
            let ok = self.user.insists(message(&self.room, &text)).await;
            let ok = ok.unwrap_or_else(|err| panic!("message {number} is refused: {err}"));
            let seq = ok["seq"].as_u64().expect("a number");
            let room = self.room.clone();
            let now = Stored { room, seq, text };
            self.stored.lock().expect("nobody panicked").push(now);
            number += 1;
        }
    }
}

/// The messages that the log of a broker holds, by room and seq; also the position of its last record.
/// There may be no log any more.
pub(crate) async fn messages_in_log(nats_url: &str) -> (BTreeMap<(RoomId, Seq), String>, u64) {
    let client = async_nats::connect(nats_url).await.expect("it is there");
    let jetstream = async_nats::jetstream::new(client);
    let stream = eventually(PATIENCE, async || {
        match jetstream.get_stream("NATTER_LOG").await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await;
    let Some(mut stream) = stream else {
        return (BTreeMap::new(), 0);
    };
    let last = stream.info().await.expect("it answers").state.last_sequence;
    let mut found = BTreeMap::new();
    if last == 0 {
        return (found, 0);
    }
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::All,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await;
    let records = consumer.expect("it can be read").messages().await;
    let mut records = records.expect("it can be read");
    loop {
        let record = tokio::time::timeout(PATIENCE, records.next()).await;
        let record = record.expect("there are more").expect("there are more");
        let record = record.expect("it can be read");
        let envelope = Envelope::parse(&record.payload).expect("it is an envelope");
        for line in envelope.lines() {
            let (room, line) = line.expect("it is of a room");
            let logged = LogEvent::parse(line).expect("it is an event");
            if let EventBody::Msg(message) = logged.event.body {
                let room = RoomId::parse(room).expect("it is an id");
                let twice = found.insert((room, logged.event.seq), message.text);
                assert_eq!(twice, None, "a number is used twice");
            }
        }
        if record.info().expect("it has a place").stream_sequence >= last {
            return (found, last);
        }
    }
}

fn is_absent(error: &GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    }
}

/// Those that are not in the log as they were stored.
pub(crate) fn lost(stored: &[Stored], log: &BTreeMap<(RoomId, Seq), String>) -> Vec<Stored> {
    let is_there = |it: &&Stored| {
        let room = RoomId::parse(&it.room).expect("it is an id");
        log.get(&(room, Seq(it.seq))) == Some(&it.text)
    };
    stored.iter().filter(|it| !is_there(it)).cloned().collect()
}
