//! The users of a replay: each does its steps in order, over a socket of its own while it has one.
//!
//! A step waits until it is due and until the message it answers has a seq. With fewer sockets than
//! users, one whose next step has to wait gives its socket to somebody else; targets lie earlier in the
//! log, so somebody can always go on.

use std::sync::Arc;

use client::{Client, ClientError, Config, Store, Submitted};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use protocol::command::{Send, Write};
use protocol::request::Accepted;
use protocol::{Cid, RoomId, Seq, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SetOnce, watch};
use tokio::time::Instant;

use super::Speed;
use super::progress::Progress;
use super::script::{Act, Script, Step};
use crate::audit::Answer;

/// Commands of one user without an answer.
const UNANSWERED_MAX: usize = 64;

/// What all speakers share.
pub(crate) struct Cast {
    script: Arc<Script>,
    rooms: Vec<RoomId>,
    /// Per step: the seq it got, or that it will never have one.
    seqs: Vec<SetOnce<Option<Seq>>>,
    sockets: Arc<Semaphore>,
    /// How many speakers wait for a socket.
    queue: watch::Sender<usize>,
    /// How many speakers have steps left.
    busy: watch::Sender<usize>,
    speed: Speed,
    start: Instant,
}

impl Cast {
    /// Nobody has done anything yet; `sockets` of them may be connected at once.
    pub(crate) fn new(
        script: Arc<Script>,
        rooms: Vec<RoomId>,
        (sockets, speed): (usize, Speed),
    ) -> Self {
        let seqs = script.steps.iter().map(|_| SetOnce::new()).collect();
        Self {
            script,
            rooms,
            seqs,
            sockets: Arc::new(Semaphore::new(sockets)),
            queue: watch::Sender::new(0),
            busy: watch::Sender::new(0),
            speed,
            start: Instant::now(),
        }
    }

    /// Waits until a step may be done; the seq of what it answers.
    async fn ready(&self, step: &Step) -> Option<Seq> {
        tokio::time::sleep_until(self.speed.due(self.start, step.at_ms)).await;
        match &step.act {
            Act::Say {
                reply_to: Some(target),
                ..
            } => *self.seqs[*target].wait().await,
            Act::Say { reply_to: None, .. } | Act::Join | Act::Leave => None,
        }
    }
}

/// A command and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Number of the step.
    pub(crate) step: usize,
    /// The name it was submitted with, and stored with in the end.
    pub(crate) cid: Cid,
    /// Who submitted it.
    pub(crate) by: UserId,
    /// The seq of the message it answers.
    pub(crate) reply_to: Option<Seq>,
    /// What the sender was told.
    pub(crate) answer: Answer,
}

/// What came of all steps.
pub(crate) struct Played {
    /// In the order in which each user submitted.
    pub(crate) records: Vec<Record>,
    /// Final refusals in words.
    pub(crate) refused: Vec<String>,
    /// From submission to acknowledgement, rate limits included: median, 99th percentile, maximum.
    pub(crate) ack_ms: (u64, u64, u64),
}

/// Lets every user of the script do their steps.
pub(crate) async fn play(
    cast: Arc<Cast>,
    configs: Vec<Config>,
    progress: &Arc<Progress>,
) -> Played {
    let mut steps_of: Vec<Vec<usize>> = vec![Vec::new(); configs.len()];
    for (number, step) in cast.script.steps.iter().enumerate() {
        steps_of[step.user].push(number);
    }
    let mut tasks = Vec::new();
    cast.busy.send_replace(configs.len());
    for (config, steps) in configs.into_iter().zip(steps_of) {
        let speaker = Speaker {
            cast: Arc::clone(&cast),
            progress: Arc::clone(progress),
            config,
            session: None,
            unanswered: FuturesUnordered::new(),
            records: Vec::new(),
            refused: Vec::new(),
            latencies_ms: Vec::new(),
        };
        tasks.push(tokio::spawn(speaker.run(steps)));
    }
    let mut played = Played {
        records: Vec::new(),
        refused: Vec::new(),
        ack_ms: (0, 0, 0),
    };
    let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
    for task in tasks {
        // A speaker that panicked has no records; its commands are missing and the judge sees it.
        let Ok(speaker) = task.await else {
            played.refused.push("a speaker crashed".to_owned());
            continue;
        };
        played.records.extend(speaker.records);
        played.refused.extend(speaker.refused);
        for ms in speaker.latencies_ms {
            // It grows by itself; only a time of centuries could not be recorded.
            if histogram.record(ms).is_err() {
                tracing::debug!(ms, "an implausible time");
            }
        }
    }
    played.ack_ms = (
        histogram.value_at_quantile(0.5),
        histogram.value_at_quantile(0.99),
        histogram.max(),
    );
    played
}

struct Session {
    client: Client,
    _socket: OwnedSemaphorePermit,
}

/// An answer: number of the record, when it was submitted, and the last word.
type Reply = (usize, Instant, Result<(Cid, Accepted), ClientError>);

struct Speaker {
    cast: Arc<Cast>,
    progress: Arc<Progress>,
    config: Config,
    session: Option<Session>,
    unanswered: FuturesUnordered<BoxFuture<'static, Reply>>,
    records: Vec<Record>,
    refused: Vec<String>,
    latencies_ms: Vec<u64>,
}

impl Speaker {
    async fn run(mut self, steps: Vec<usize>) -> Self {
        let progress = Arc::clone(&self.progress);
        tokio::select! {
            () = self.act(steps) => {}
            () = progress.over() => {}
        }
        self.cast.busy.send_modify(|busy| *busy -= 1);
        if self.session.is_some() {
            // Whoever has nothing more to say goes on listening, unless somebody needs the socket.
            let (mut busy, mut queue) = (self.cast.busy.subscribe(), self.cast.queue.subscribe());
            tokio::select! {
                _ = busy.wait_for(|busy| *busy == 0) => {}
                _ = queue.wait_for(|waiting| *waiting > 0) => {}
                () = progress.over() => {}
            }
        }
        self.know_author().await;
        if let Some(session) = self.session.take() {
            session.client.close().await;
        }
        self
    }

    async fn act(&mut self, steps: Vec<usize>) {
        let cast = Arc::clone(&self.cast);
        for number in steps {
            let step = &cast.script.steps[number];
            let reply_to = self.wait_until_ready(&cast, step).await;
            while self.unanswered.len() >= UNANSWERED_MAX {
                self.take_answer().await;
            }
            if let Err(error) = self.submit(number, step, reply_to).await {
                self.refused.push(format!("step {number}: {error}"));
                self.settle(number, None);
            }
        }
        while !self.unanswered.is_empty() {
            self.take_answer().await;
        }
    }

    /// Waits for a step, taking answers meanwhile, and lends the socket out if that takes time.
    async fn wait_until_ready(&mut self, cast: &Cast, step: &Step) -> Option<Seq> {
        let ready = cast.ready(step);
        tokio::pin!(ready);
        let mut queue = cast.queue.subscribe();
        loop {
            let may_lend = self.session.is_some() && self.unanswered.is_empty();
            tokio::select! {
                biased;
                reply_to = &mut ready => return reply_to,
                Some(answer) = self.unanswered.next() => self.handle_answer(answer),
                _ = queue.wait_for(|waiting| *waiting > 0), if may_lend => {}
            }
            if may_lend && *queue.borrow() > 0 && self.unanswered.is_empty() {
                self.know_author().await;
                if let Some(session) = self.session.take() {
                    session.client.close().await;
                }
            }
        }
    }

    async fn submit(
        &mut self,
        number: usize,
        step: &Step,
        reply_to: Option<Seq>,
    ) -> anyhow::Result<()> {
        let write = match &step.act {
            Act::Join => Write::Join {},
            Act::Leave => Write::Leave {},
            Act::Say { text, .. } => Write::Send(Send {
                text: text.clone(),
                reply_to,
                ..Send::default()
            }),
        };
        let room = self.cast.rooms[step.room].clone();
        let client = self.client().await?;
        let submitted: Submitted = client.submit(Some(room), write).await?;
        let record = self.records.len();
        self.records.push(Record {
            step: number,
            cid: submitted.cid,
            // The author is filled in once a server has said who we are.
            by: nobody(),
            reply_to,
            answer: Answer::None,
        });
        let at = Instant::now();
        let answer = submitted.stored_as().map(move |word| (record, at, word));
        self.unanswered.push(answer.boxed());
        Ok(())
    }

    async fn client(&mut self) -> anyhow::Result<Client> {
        if let Some(session) = &self.session {
            return Ok(session.client.clone());
        }
        self.cast.queue.send_modify(|waiting| *waiting += 1);
        let socket = Arc::clone(&self.cast.sockets).acquire_owned().await;
        self.cast.queue.send_modify(|waiting| *waiting -= 1);
        let client = Client::open(self.config.clone(), Store::memory())?;
        self.session = Some(Session {
            client: client.clone(),
            _socket: socket?,
        });
        Ok(client)
    }

    async fn take_answer(&mut self) {
        if let Some(answer) = self.unanswered.next().await {
            self.handle_answer(answer);
        }
    }

    fn handle_answer(&mut self, (record, at, word): Reply) {
        let ms = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let number = self.records[record].step;
        match word {
            Ok((cid, accepted)) => {
                self.records[record].cid = cid;
                self.records[record].answer = if accepted.noop {
                    Answer::Noop
                } else {
                    Answer::Stored(accepted.seq)
                };
                self.latencies_ms.push(ms);
                self.settle(number, Some(accepted.seq).filter(|_| !accepted.noop));
                self.progress.acked();
            }
            Err(error) => {
                if let ClientError::Refused(_) = &error {
                    self.records[record].answer = Answer::Refused;
                }
                self.refused.push(format!("step {number}: {error}"));
                self.settle(number, None);
            }
        }
    }

    fn settle(&self, number: usize, seq: Option<Seq>) {
        // Set once per step: a step is submitted once.
        drop(self.cast.seqs[number].set(seq));
    }

    /// Learns who the server says we are, before the client that knows it goes.
    async fn know_author(&mut self) {
        let Some(session) = &self.session else { return };
        if let Ok(status) = session.client.status().await
            && let Some(user) = status.user
        {
            for record in &mut self.records {
                record.by = user.clone();
            }
        }
    }
}

/// No user has this id: the server makes ids of names.
fn nobody() -> UserId {
    UserId::parse("-").expect("a hyphen is in the grammar")
}
