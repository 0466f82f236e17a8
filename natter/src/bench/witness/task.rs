//! The shell of one who watches: connects again and again, cuts its own socket without a word when told
//! to, reads slowly if it shall, and hands every line to [`Track`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use protocol::frame::{ClientFrame, ClientOp, HelloOk};
use protocol::limits::SILENCE_MAX_MS;
use protocol::{ErrorCode, Refusal};
use rand::RngExt as _;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::work::{Work, wait_of};
use super::{Manner, Shared, Want, lock};
use crate::bench::place::Place;
use crate::bench::prints::Prints;
use crate::bench::progress::Progress;
use crate::bench::track::{Track, Word};
use crate::bench::wire::{self, Socket};

/// From the first byte to `hello`'s answer.
const GREETING_MAX: Duration = Duration::from_secs(15);
/// Before a new attempt; a run shall not wait for those who watch.
const RETRY_MS: std::ops::Range<u64> = 100..600;
/// Between two looks at what is due by time.
const TICK: Duration = Duration::from_millis(100);
/// A question or command without an answer: the socket is given up.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Before history is asked again for what it did not have.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How long one who reads slowly looks away; far below what gets a socket closed.
const LOOK_AWAY_MS: std::ops::Range<u64> = 50..400;
/// What runs behind the handle.
pub(super) struct Task {
    track: Track,
    manner: Manner,
    place: Place,
    prints: Arc<Prints>,
    progress: Arc<Progress>,
    shared: Arc<Mutex<Shared>>,
    wanted: mpsc::Receiver<Want>,
    hurried: watch::Receiver<bool>,
    work: Work,
    /// The id of the question for a hole, and when it was asked.
    reading: Option<(u64, Instant)>,
    ask_at: Instant,
    next_id: u64,
    /// Whether the last token was refused as expired, or soon will be.
    fresh_token: bool,
    attempts: usize,
}

/// Why a socket is over.
enum End {
    Lost,
    /// Nobody holds the handle any more.
    Done,
    /// It may never come back.
    Stopped(String),
}

impl Task {
    pub(super) fn new(
        place: Place,
        manner: Manner,
        (prints, progress): (Arc<Prints>, Arc<Progress>),
        shared: Arc<Mutex<Shared>>,
        (wanted, hurried): (mpsc::Receiver<Want>, watch::Receiver<bool>),
    ) -> Self {
        Self {
            track: Track::new(wire::device(), manner == Manner::Eager),
            manner,
            place,
            prints,
            progress,
            shared,
            wanted,
            hurried,
            work: Work::default(),
            reading: None,
            ask_at: Instant::now(),
            // The first is that of `hello`.
            next_id: 2,
            fresh_token: false,
            attempts: 0,
        }
    }

    /// Runs until nobody holds the handle any more.
    pub(super) async fn run(mut self) {
        loop {
            let end = self.connect().await;
            self.reading = None;
            self.work.handle_lost();
            lock(&self.shared).known.is_live = false;
            match end {
                End::Lost => {
                    self.progress.lost_connection();
                    let wait = rand::rng().random_range(RETRY_MS);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                End::Done => return,
                End::Stopped(why) => {
                    lock(&self.shared).known.stopped = Some(why);
                    return;
                }
            }
        }
    }

    async fn connect(&mut self) -> End {
        let narrow = self.manner == Manner::Slow;
        self.attempts += 1;
        let opened = timeout(
            GREETING_MAX,
            wire::open(&self.place, (self.attempts, narrow), self.fresh_token),
        )
        .await;
        let Ok(Ok((mut socket, token))) = opened else {
            return End::Lost;
        };
        let hello = {
            let mut shared = lock(&self.shared);
            shared.known.connections += 1;
            self.track.hello(token, &self.place.app, &mut shared.tape)
        };
        let frame = ClientFrame {
            id: Some(1),
            op: ClientOp::Hello(Box::new(hello)),
        };
        if !wire::send(&mut socket, frame.to_line()).await {
            return End::Lost;
        }
        self.carry(socket).await
    }

    async fn carry(&mut self, mut socket: Socket) -> End {
        let mut heard = Instant::now();
        let mut leave_at: Option<Instant> = None;
        let mut tick = tokio::time::interval(TICK);
        let silence = Duration::from_millis(SILENCE_MAX_MS.unsigned_abs());
        loop {
            if self.manner == Manner::Slow && !*self.hurried.borrow() {
                let away = Duration::from_millis(rand::rng().random_range(LOOK_AWAY_MS));
                tokio::select! {
                    () = tokio::time::sleep(away) => {}
                    _ = self.hurried.changed() => {}
                }
            }
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    let text = match wire::text(message) {
                        wire::Heard::Text(text) => text,
                        wire::Heard::Nothing => continue,
                        wire::Heard::Closed(code) => return closed(code),
                    };
                    match self.hear(&text, &mut socket).await {
                        Ok(None) => {}
                        Ok(Some(within)) => leave_at = Some(Instant::now() + within),
                        Err(end) => return end,
                    }
                }
                want = self.wanted.recv() => match want {
                    Some(Want::Cut) => return End::Lost,
                    Some(want) => self.work.push(want, wire::now()),
                    None => return End::Done,
                },
                _ = tick.tick() => {}
            }
            if !self.speak(&mut socket).await || heard.elapsed() > silence || self.is_overdue() {
                return End::Lost;
            }
            if leave_at.is_some_and(|at| at <= Instant::now()) {
                return End::Lost;
            }
        }
    }

    /// Takes a text; how soon to move, if the server asks for it.
    async fn hear(&mut self, text: &str, socket: &mut Socket) -> Result<Option<Duration>, End> {
        let mut words = Vec::new();
        {
            let mut shared = lock(&self.shared);
            let before = self.track.tally.events;
            for line in text.split('\n').filter(|line| !line.is_empty()) {
                words.extend(self.track.take(line, &self.prints, &mut shared.tape));
            }
            self.progress.delivered(self.track.tally.events - before);
            self.show(&mut shared);
        }
        let mut move_within = None;
        for word in words {
            match word {
                Word::Reply(1, result) => self.greeted(result)?,
                Word::Reply(id, result) => self.answered(id, result),
                Word::Live => lock(&self.shared).known.is_live = true,
                Word::Ping => {
                    let pong = ClientFrame {
                        id: None,
                        op: ClientOp::Pong,
                    };
                    if !wire::send(socket, pong.to_line()).await {
                        return Err(End::Lost);
                    }
                }
                Word::Goaway(within_ms) => {
                    let wait = rand::rng().random_range(0..=within_ms);
                    move_within = Some(Duration::from_millis(wait));
                }
                // A new socket has a new token.
                Word::Token => {
                    self.fresh_token = true;
                    move_within = Some(Duration::from_secs(1));
                }
                Word::Lagged => {}
            }
        }
        Ok(move_within)
    }

    fn show(&self, shared: &mut Shared) {
        shared.known.tally = self.track.tally;
        let Shared { tape, lasts, .. } = shared;
        for room in tape.keys() {
            match self.track.last(room) {
                Some(last) => match lasts.get_mut(room) {
                    Some(known) => *known = last,
                    None => drop(lasts.insert(room.clone(), last)),
                },
                None => drop(lasts.remove(room)),
            }
        }
    }

    fn greeted(&mut self, result: Result<Value, Refusal>) -> Result<(), End> {
        match result {
            Ok(ok) => {
                let Ok(hello) = serde_json::from_value::<HelloOk>(ok) else {
                    return Err(End::Lost);
                };
                self.fresh_token = false;
                self.work.set_server_time(hello.now, wire::now());
                lock(&self.shared).known.user = Some(hello.user);
                Ok(())
            }
            Err(refusal) if refusal.temp || refusal.code == ErrorCode::TokenExpired => {
                self.fresh_token |= refusal.code == ErrorCode::TokenExpired;
                Err(End::Lost)
            }
            Err(refusal) => Err(End::Stopped(format!("hello is refused: {}", refusal.msg))),
        }
    }

    /// Sends what is due; false if the socket is broken.
    async fn speak(&mut self, socket: &mut Socket) -> bool {
        let now = Instant::now();
        if !lock(&self.shared).known.is_live {
            return true;
        }
        if let Some(line) = self.work.poll_line(self.next_id, now) {
            self.next_id += 1;
            if !wire::send(socket, line).await {
                return false;
            }
        }
        if self.reading.is_none()
            && self.ask_at <= now
            && let Some((_, read)) = self.track.hole()
        {
            let id = self.next_id;
            self.next_id += 1;
            self.reading = Some((id, now));
            let frame = ClientFrame {
                id: Some(id),
                op: ClientOp::Read(read),
            };
            return wire::send(socket, frame.to_line()).await;
        }
        true
    }

    fn is_overdue(&self) -> bool {
        let reading = self.reading.map(|(_, at)| at);
        [self.work.waits_since(), reading]
            .into_iter()
            .flatten()
            .any(|at| at.elapsed() > ANSWER_MAX)
    }

    fn answered(&mut self, id: u64, result: Result<Value, Refusal>) {
        if self.reading.is_some_and(|(reading, _)| reading == id) {
            self.reading = None;
            let mut shared = lock(&self.shared);
            match result {
                Ok(page) => {
                    let before = self.track.tally.events;
                    if !self.track.fill(&page, &self.prints, &mut shared.tape) {
                        self.ask_at = Instant::now() + ASK_AGAIN;
                    }
                    self.progress.delivered(self.track.tally.events - before);
                }
                Err(refusal) if refusal.temp => self.ask_at = Instant::now() + wait_of(&refusal),
                Err(_) => self.track.give_up_hole(&mut shared.tape),
            }
            self.show(&mut shared);
            return;
        }
        if self.work.handle_reply(id, result) {
            self.progress.moved();
        }
    }
}

fn closed(code: Option<u16>) -> End {
    match code {
        Some(code) if !protocol::error::close_means_retry(code) => {
            End::Stopped(format!("the server closed with {code}"))
        }
        Some(_) | None => End::Lost,
    }
}
