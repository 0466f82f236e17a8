//! The members who write: each sends in its room, edits and removes its own, and marks what it has read.
//!
//! With a rate, the moment at which a command is due does not depend on how the ones before it fared,
//! and its time is measured from that moment (otherwise a server that stalls would hide its stall).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::{Client, ClientError};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use protocol::command::{DeleteTarget, Send, Write};
use protocol::event::SeqRange;
use protocol::request::Accepted;
use protocol::{Cid, RoomId, Seq, UserId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::corpus::Corpus;
use super::progress::Progress;
use super::repeater::Copy;
use crate::audit::{Answer, Command, Content};

/// Commands of one sender without an answer, with a rate: a stall shall not stop what is due at once.
const RATED_WINDOW: usize = 64;
/// The same as fast as acknowledgements allow.
const UNRATED_WINDOW: usize = 8;
/// Own messages that may be edited.
const OWN_MAX: usize = 16;
/// Of what changes own messages, one in this many removes one.
const REMOVALS: u64 = 5;
/// One in this many messages answers an own one.
const REPLIES: u64 = 10;
/// One in this many commands of some senders is sent once more.
const COPIED: u32 = 8;
/// Between two read marks; more often they would only wait in the client.
const MARK_INTERVAL: Duration = Duration::from_secs(6);

/// What all senders share.
pub(crate) struct Load {
    pub(crate) corpus: Corpus,
    /// Messages per second over all, if there is a limit.
    pub(crate) rate: Option<u64>,
    /// How many messages in all, if it is not the time that ends it.
    pub(crate) messages: Option<u64>,
    pub(crate) seconds: Option<u64>,
    /// Percent of the commands that change an own message.
    pub(crate) edits: u64,
    pub(crate) start: Instant,
    claimed: AtomicU64,
}

impl Load {
    pub(crate) fn new(corpus: Corpus, edits: u64, start: Instant) -> Self {
        Self {
            corpus,
            rate: None,
            messages: None,
            seconds: None,
            edits,
            start,
            claimed: AtomicU64::new(0),
        }
    }

    /// The moment at which one more command is due, unless there were enough.
    fn claim(&self) -> Option<Instant> {
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        if self.messages.is_some_and(|messages| number >= messages) {
            return None;
        }
        let due = match self.rate {
            Some(rate) => {
                let micros = number.saturating_mul(1_000_000) / rate.max(1);
                self.start + Duration::from_micros(micros)
            }
            None => Instant::now().max(self.start),
        };
        let end = self.seconds.map(|s| self.start + Duration::from_secs(s));
        (end.is_none_or(|end| due < end)).then_some(due)
    }

    /// A command was refused for good: another one takes its place.
    fn unclaim(&self) {
        if self.messages.is_some() {
            self.claimed.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A member who writes.
pub(crate) struct Sender {
    pub(crate) client: Client,
    pub(crate) user: UserId,
    /// Which room, by number.
    pub(crate) room: usize,
    room_id: RoomId,
    load: Arc<Load>,
    progress: Arc<Progress>,
    rng: StdRng,
    unanswered: FuturesUnordered<BoxFuture<'static, Reply>>,
    own: VecDeque<(Seq, u32)>,
    marks: FuturesUnordered<BoxFuture<'static, (Seq, bool)>>,
    marked_at: Option<Instant>,
    /// Takes some of what was answered, to be sent again.
    copies: Option<mpsc::Sender<Copy>>,
    /// In the order of submission.
    pub(crate) commands: Vec<Command>,
    /// The greatest mark that is stored.
    pub(crate) marked: Seq,
    pub(crate) latency_us: Histogram<u64>,
    /// Final refusals in words.
    pub(crate) refused: Vec<String>,
}

/// A last word: the place of the command, when it was due, what it changes, and the word.
struct Reply {
    place: usize,
    due: Instant,
    on: Option<(Seq, bool)>,
    copy: Option<Write>,
    word: Result<(Cid, Accepted), ClientError>,
}

impl Sender {
    pub(crate) fn new(
        client: Client,
        user: UserId,
        (room, room_id): (usize, RoomId),
        (load, progress): (Arc<Load>, Arc<Progress>),
        seed: u64,
    ) -> Self {
        Self {
            client,
            user,
            room,
            room_id,
            load,
            progress,
            rng: StdRng::seed_from_u64(seed),
            unanswered: FuturesUnordered::new(),
            own: VecDeque::new(),
            marks: FuturesUnordered::new(),
            marked_at: None,
            copies: None,
            commands: Vec::new(),
            marked: Seq(0),
            latency_us: Histogram::new(3).expect("three digits are allowed"),
            refused: Vec::new(),
        }
    }

    /// Gives some of what is answered to be sent again.
    pub(crate) fn repeats(mut self, copies: mpsc::Sender<Copy>) -> Self {
        self.copies = Some(copies);
        self
    }

    /// The room it writes in.
    pub(crate) const fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Writes until there was enough and everything has a last word, or patience has run out.
    pub(crate) async fn run(mut self) -> Self {
        let progress = Arc::clone(&self.progress);
        tokio::select! {
            () = self.write() => {}
            () = progress.over() => {}
        }
        self.copies = None;
        self
    }

    async fn write(&mut self) {
        let window = match self.load.rate {
            Some(_) => RATED_WINDOW,
            None => UNRATED_WINDOW,
        };
        loop {
            while self.unanswered.len() >= window {
                self.take_reply().await;
            }
            let Some(due) = self.load.claim() else { break };
            self.wait_until(due).await;
            self.submit(due).await;
        }
        while !self.unanswered.is_empty() || !self.marks.is_empty() {
            self.take_reply().await;
        }
    }

    /// Waits, taking replies meanwhile.
    async fn wait_until(&mut self, due: Instant) {
        loop {
            tokio::select! {
                biased;
                Some(reply) = self.unanswered.next() => self.handle_reply(reply),
                () = tokio::time::sleep_until(due) => return,
            }
        }
    }

    async fn take_reply(&mut self) {
        tokio::select! {
            Some(reply) = self.unanswered.next() => self.handle_reply(reply),
            Some((seq, stored)) = self.marks.next() => {
                if stored {
                    self.marked = self.marked.max(seq);
                }
            }
            else => {}
        }
    }

    async fn submit(&mut self, due: Instant) {
        let (write, content, on) = self.choose();
        let room = self.room_id.clone();
        let is_copied = self.copies.is_some() && self.rng.random_range(0..COPIED) == 0;
        let copy = is_copied.then(|| write.clone());
        let submitted = match self.client.submit(Some(room), write).await {
            Ok(submitted) => submitted,
            Err(error) => {
                self.refused.push(error.to_string());
                self.load.unclaim();
                return self.progress.pause(Duration::from_secs(1)).await;
            }
        };
        self.progress.sent();
        let place = self.commands.len();
        self.commands.push(Command {
            cid: submitted.cid,
            by: self.user.clone(),
            content,
            answer: Answer::None,
        });
        let reply = submitted.stored_as().map(move |word| Reply {
            place,
            due,
            on,
            copy,
            word,
        });
        self.unanswered.push(reply.boxed());
    }

    /// What to do next: a message, or a change of an own one.
    fn choose(&mut self) -> (Write, Content, Option<(Seq, bool)>) {
        let text = self.load.corpus.text(self.rng.random());
        if self.rng.random_range(0..100) < self.load.edits
            && let Some((seq, rev)) = self.own.pop_front()
        {
            if self.rng.random_range(0..REMOVALS) == 0 {
                let write = Write::Del {
                    on: Some(DeleteTarget::One(seq)),
                    user: None,
                    to: None,
                    why: None,
                };
                return (
                    write,
                    Content::removed(&[SeqRange(seq, seq)]),
                    Some((seq, true)),
                );
            }
            let write = Write::Edit {
                on: seq,
                base: rev,
                text: text.to_owned(),
                mentions: Vec::new(),
            };
            return (write, Content::edited(seq, text), Some((seq, false)));
        }
        let answers = self.rng.random_range(0..REPLIES) == 0;
        let reply_to = self.own.back().filter(|_| answers).map(|(seq, _)| *seq);
        let send = Send {
            text: text.to_owned(),
            reply_to,
            ..Send::default()
        };
        (Write::Send(send), Content::said(text, reply_to), None)
    }

    fn handle_reply(&mut self, reply: Reply) {
        let Reply {
            place,
            due,
            on,
            copy,
            word,
        } = reply;
        let command = &mut self.commands[place];
        match word {
            Ok((cid, accepted)) => {
                command.cid = cid;
                command.answer = if accepted.noop {
                    Answer::Noop
                } else {
                    Answer::Stored(accepted.seq)
                };
                if let (Some(copies), Some(write)) = (&self.copies, copy)
                    && copies.try_send(Copy { cid, write }).is_err()
                {
                    tracing::trace!("enough copies are on their way");
                }
                let us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                // It grows by itself; only a time of centuries could not be recorded.
                if self.latency_us.record(us).is_err() {
                    tracing::debug!(us, "an implausible time");
                }
                match on {
                    None => self.own.push_back((accepted.seq, 1)),
                    Some((seq, false)) => self.own.push_back((seq, accepted.rev.unwrap_or(1))),
                    Some((_, true)) => {}
                }
                if self.own.len() > OWN_MAX {
                    self.own.pop_front();
                }
                self.progress.acked();
                self.mark(accepted.seq);
            }
            Err(ClientError::Refused(refusal)) => {
                command.answer = Answer::Refused;
                self.refused
                    .push(format!("{}: {}", refusal.code.slug(), refusal.msg));
                self.progress.refused();
                self.load.unclaim();
            }
            Err(ClientError::Closed | ClientError::Answer(_)) => {}
        }
    }

    /// Marks the room as read, now and then.
    fn mark(&mut self, seq: Seq) {
        if self
            .marked_at
            .is_some_and(|at| at.elapsed() < MARK_INTERVAL)
            || !self.marks.is_empty()
        {
            return;
        }
        self.marked_at = Some(Instant::now());
        let (client, room) = (self.client.clone(), self.room_id.clone());
        let marking = async move {
            let stored = match client.mark_read(&room, seq).await {
                Ok(submitted) => submitted.stored().await,
                Err(error) => Err(error),
            };
            (seq, stored.is_ok())
        };
        self.marks.push(marking.boxed());
    }
}
