//! The shell of one who watches without the client's mercy: a raw socket around [`Track`].
//!
//! It connects again and again, cuts its own socket without a word when told to, reads slowly if it
//! shall, and sends commands one after the other until each has its last word.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::cid::CidClock;
use futures_util::StreamExt as _;
use protocol::command::{Write, WriteCommand};
use protocol::frame::{ClientFrame, ClientOp, HelloOk};
use protocol::limits::SILENCE_MAX_MS;
use protocol::query::ReadCommand;
use protocol::request::Accepted;
use protocol::{Cid, ErrorCode, Refusal, RoomId, Seq, UserId};
use rand::RngExt as _;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::place::Place;
use super::prints::Prints;
use super::progress::Progress;
use super::track::{Tally, Tape, Track, Word};
use super::wire::{self, Socket};
use crate::audit::{Answer, Step};

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
/// Wants that wait.
const WANTS_MAX: usize = 64;

/// How it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As fast as it can, and fetches what is left out.
    Eager,
    /// Slowly while the load lasts, and content with what it is told.
    Slow,
}

/// What it is told to do.
pub(crate) enum Want {
    /// Lose the socket without a word, and resume.
    Cut,
    /// Send a command until it has a last word, under this name or a new one.
    Submit(
        RoomId,
        (Option<Cid>, Box<Write>),
        oneshot::Sender<(Cid, Answer)>,
    ),
    /// Ask once; refusals for now are waited out.
    Ask(ReadCommand, oneshot::Sender<Result<Value, Refusal>>),
}

/// What is known of it from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) user: Option<UserId>,
    pub(crate) is_live: bool,
    pub(crate) tally: Tally,
    pub(crate) connections: u64,
    /// Why it will never connect again.
    pub(crate) stopped: Option<String>,
}

#[derive(Default)]
struct Shared {
    tape: Tape,
    known: Known,
    lasts: BTreeMap<RoomId, Seq>,
}

/// Whether it is in a room, and on which of its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    is_in: bool,
    is_live: bool,
    connections: u64,
}

impl Shared {
    fn standing(&self, room: &RoomId) -> Standing {
        Standing {
            is_in: self.lasts.contains_key(room),
            is_live: self.known.is_live,
            connections: self.known.connections,
        }
    }
}

/// A handle to one who watches.
pub(crate) struct Witness {
    pub(crate) name: String,
    wants: mpsc::Sender<Want>,
    shared: Arc<Mutex<Shared>>,
    hurry: watch::Sender<bool>,
}

impl Witness {
    /// Begins to watch.
    pub(crate) fn start(
        name: &str,
        place: Place,
        manner: Manner,
        (prints, progress): (Arc<Prints>, Arc<Progress>),
    ) -> Self {
        let (wants, wanted) = mpsc::channel(WANTS_MAX);
        let (hurry, hurried) = watch::channel(true);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let task = Task {
            track: Track::new(wire::device(), manner == Manner::Eager),
            manner,
            place,
            prints,
            progress,
            shared: Arc::clone(&shared),
            wanted,
            hurried,
            work: VecDeque::new(),
            reading: None,
            ask_at: Instant::now(),
            cids: CidClock::default(),
            next_id: 2,
            fresh_token: false,
        };
        // The run ends with the process; until then a handle is kept.
        drop(tokio::spawn(task.run()));
        Self {
            name: name.to_owned(),
            wants,
            shared,
            hurry,
        }
    }

    pub(crate) fn known(&self) -> Known {
        lock(&self.shared).known.clone()
    }

    /// Whether everything of the room up to `seq` has come, or been skipped.
    pub(crate) fn has(&self, room: &RoomId, seq: Seq) -> bool {
        lock(&self.shared)
            .lasts
            .get(room)
            .is_some_and(|last| *last >= seq)
    }

    /// Whether the room has been entered, and not been left since.
    pub(crate) fn is_in(&self, room: &RoomId) -> bool {
        lock(&self.shared).lasts.contains_key(room)
    }

    /// What it was given of a room.
    pub(crate) fn steps(&self, room: &RoomId) -> Vec<Step> {
        lock(&self.shared)
            .tape
            .get(room)
            .cloned()
            .unwrap_or_default()
    }

    /// Where it is with a room, to be compared later.
    pub(crate) fn standing(&self, room: &RoomId) -> Standing {
        lock(&self.shared).standing(room)
    }

    /// Notes what history gave when it was asked what this user may read, unless it stands elsewhere now.
    pub(crate) fn note(&self, room: &RoomId, (before, step): (Standing, Step)) {
        let mut shared = lock(&self.shared);
        if before.is_live && shared.standing(room) == before {
            shared.tape.entry(room.clone()).or_default().push(step);
        }
    }

    /// Cuts its socket, if it is not busy with other wants.
    pub(crate) fn cut(&self) -> bool {
        self.wants.try_send(Want::Cut).is_ok()
    }

    /// One who reads slowly reads as fast as it can, or not.
    pub(crate) fn hurries(&self, hurries: bool) {
        self.hurry.send_replace(hurries);
    }

    /// Sends a command until it has its last word.
    pub(crate) async fn submit(&self, room: &RoomId, write: Write) -> Option<(Cid, Answer)> {
        self.send(room, (None, Box::new(write))).await
    }

    /// The same with a name that was used before.
    pub(crate) async fn repeat(
        &self,
        room: &RoomId,
        cid: Cid,
        write: Write,
    ) -> Option<(Cid, Answer)> {
        self.send(room, (Some(cid), Box::new(write))).await
    }

    async fn send(
        &self,
        room: &RoomId,
        command: (Option<Cid>, Box<Write>),
    ) -> Option<(Cid, Answer)> {
        let (tx, rx) = oneshot::channel();
        let want = Want::Submit(room.clone(), command, tx);
        self.wants.send(want).await.ok()?;
        rx.await.ok()
    }

    /// Asks until there is an answer that is not only for now.
    pub(crate) async fn ask(&self, read: ReadCommand) -> Option<Result<Value, Refusal>> {
        let (tx, rx) = oneshot::channel();
        self.wants.send(Want::Ask(read, tx)).await.ok()?;
        rx.await.ok()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that is sent until it has an answer.
struct Work {
    op: ClientOp,
    room: Option<RoomId>,
    answer: Promise,
    /// The id it was sent with on the present socket, and when.
    sent: Option<(u64, Instant)>,
    not_before: Instant,
}

enum Promise {
    Write(Cid, oneshot::Sender<(Cid, Answer)>),
    Read(oneshot::Sender<Result<Value, Refusal>>),
}

struct Task {
    track: Track,
    manner: Manner,
    place: Place,
    prints: Arc<Prints>,
    progress: Arc<Progress>,
    shared: Arc<Mutex<Shared>>,
    wanted: mpsc::Receiver<Want>,
    hurried: watch::Receiver<bool>,
    work: VecDeque<Work>,
    /// The id of the question for a hole, and when it was asked.
    reading: Option<(u64, Instant)>,
    ask_at: Instant,
    cids: CidClock,
    next_id: u64,
    /// Whether the last token was refused as expired, or soon will be.
    fresh_token: bool,
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
    async fn run(mut self) {
        loop {
            let end = self.connect().await;
            self.reading = None;
            for work in &mut self.work {
                work.sent = None;
            }
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
        let opened = timeout(
            GREETING_MAX,
            wire::open(&self.place, narrow, self.fresh_token),
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
                    Some(want) => self.take(want),
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
                self.cids.set_server_time(hello.now, wire::now());
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

    fn take(&mut self, want: Want) {
        let (op, room, answer) = match want {
            Want::Cut => return,
            Want::Ask(read, reply) => (ClientOp::Read(read), None, Promise::Read(reply)),
            Want::Submit(room, (cid, write), reply) => {
                let cid = cid.unwrap_or_else(|| self.cids.next(wire::now(), rand::random()));
                let command = Box::new(WriteCommand { cid, write: *write });
                let op = ClientOp::Write {
                    room: Some(room.clone()),
                    command,
                };
                (op, Some(room), Promise::Write(cid, reply))
            }
        };
        self.work.push_back(Work {
            op,
            room,
            answer,
            sent: None,
            not_before: Instant::now(),
        });
    }

    /// Sends what is due; false if the socket is broken.
    async fn speak(&mut self, socket: &mut Socket) -> bool {
        let now = Instant::now();
        if !lock(&self.shared).known.is_live {
            return true;
        }
        let due = self.work.front_mut();
        if let Some(work) = due.filter(|work| work.sent.is_none() && work.not_before <= now) {
            let id = self.next_id;
            self.next_id += 1;
            work.sent = Some((id, now));
            let frame = ClientFrame {
                id: Some(id),
                op: work.op.clone(),
            };
            if !wire::send(socket, frame.to_line()).await {
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
        let sent = self.work.front().and_then(|work| work.sent);
        [sent, self.reading]
            .into_iter()
            .flatten()
            .any(|(_, at)| at.elapsed() > ANSWER_MAX)
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
        let asked = |work: &Work| work.sent.is_some_and(|(sent, _)| sent == id);
        if !self.work.front().is_some_and(asked) {
            return;
        }
        if let Err(refusal) = &result
            && refusal.temp
            && let Some(work) = self.work.front_mut()
        {
            work.sent = None;
            work.not_before = Instant::now() + wait_of(refusal);
            return;
        }
        let Some(work) = self.work.pop_front() else {
            return;
        };
        self.progress.moved();
        // Whoever asked may have given up.
        match work.answer {
            Promise::Read(reply) => drop(reply.send(result)),
            Promise::Write(cid, reply) => {
                debug_assert!(work.room.is_some());
                let accepted = result.map(serde_json::from_value::<Accepted>);
                let answer = match accepted {
                    Ok(Ok(accepted)) if accepted.noop => Answer::Noop,
                    Ok(Ok(accepted)) => Answer::Stored(accepted.seq),
                    Ok(Err(_)) => Answer::None,
                    Err(_) => Answer::Refused,
                };
                if reply.send((cid, answer)).is_err() {
                    tracing::trace!("nobody waits for this answer");
                }
            }
        }
    }
}

fn wait_of(refusal: &Refusal) -> Duration {
    Duration::from_millis(refusal.retry_after_ms.unwrap_or(500).min(2_000))
}

fn closed(code: Option<u16>) -> End {
    match code {
        Some(code) if !protocol::error::close_means_retry(code) => {
            End::Stopped(format!("the server closed with {code}"))
        }
        Some(_) | None => End::Lost,
    }
}
