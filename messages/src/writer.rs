//! The task of one owned partition: carries events to its sequencer and its wishes to the broker.
//!
//! Decides nothing. A planned end drains: it answers what it has, keeps what comes, and sends that on to
//! the next owner.

mod asker;
mod inlets;
mod io;

use crate::partition::{Load, Notice};
use crate::sequencer::{Answered, AskId, Outcome, ReadId, Sequencer, Stop};
use crate::shared::{Condition, Shared};
use asker::Askers;
use async_nats::Message;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use inlets::Inlet;
pub(crate) use inlets::Inlets;
use protocol::{Partition, StreamSeq};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a busy sequencer is told the time.
const TICK: Duration = Duration::from_millis(50);
/// How often an idle one is.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// How long a drain may take; what is left then is answered `unavailable` or `timeout`.
const DRAIN: Duration = Duration::from_secs(3);

/// How a writer is told to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Orders {
    /// Hand over: finish what was taken in.
    pub(crate) drain: CancellationToken,
    /// The lease is lost: end at once.
    pub(crate) stop: CancellationToken,
    /// Nobody else is there to take over.
    pub(crate) alone: CancellationToken,
}

/// Why a writer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it was told.
    Told,
    /// Another owner wrote, or the tail was too long to catch up with.
    Overtaken,
    /// The log or the clock is wrong: it must not be taken again before that has changed.
    Stopped,
}

/// What a writer waits for.
enum Event {
    Commands(Vec<Message>),
    Alive(Message),
    Published(Outcome, Instant),
    Tail(ReadId, Option<Vec<crate::partition::Record>>),
    Answer(AskId, Option<(StreamSeq, Answered)>),
    Tick,
    Drain,
    Stop,
}

/// One owned partition.
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) partition: Partition,
    pub(crate) sequencer: Sequencer,
    pub(crate) inlets: Inlets,
    pub(crate) orders: Orders,
    /// What it held when that was counted last, which takes a walk over all rooms.
    pub(crate) counted: Option<(Instant, Load)>,
}

impl Writer {
    /// Runs until told to end, or until it must.
    pub(crate) async fn run(mut self, opened: impl FnOnce() + Send) -> (Ended, Inlets) {
        let mut askers = Askers::default();
        let mut operations: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        let (mut opened, mut ended, mut draining) = (Some(opened), None, None::<Instant>);
        let mut ticked = Instant::now();
        while ended.is_none() {
            if let Some(why) = self.pump(&mut askers, &mut operations).await {
                ended = Some(why);
            }
            if self.sequencer.is_open(self.shared.now())
                && self.listens().await
                && let Some(opened) = opened.take()
            {
                self.report();
                opened();
            }
            if draining.is_some_and(|until| self.sequencer.is_idle() || Instant::now() > until) {
                ended = Some(Ended::Told);
            }
            if ended.is_some() {
                break;
            }
            let event = self.next(&mut operations, draining.is_some(), ticked).await;
            let now = self.shared.now();
            match event {
                Event::Commands(messages) if draining.is_some() => {
                    self.inlets.keep(&self.shared, messages).await;
                }
                Event::Commands(messages) => {
                    for message in messages {
                        self.take_in(&mut askers, message).await;
                    }
                }
                Event::Alive(message) => {
                    io::say_alive(&self.shared, &message, self.inlets.listens()).await;
                }
                Event::Published(outcome, since) => {
                    io::count_append(&self.shared, outcome, since);
                    self.sequencer.handle_published(now, outcome);
                }
                Event::Tail(id, tail) => self.sequencer.handle_tail(now, id, tail),
                Event::Answer(id, answer) => self.sequencer.handle_answer(id, answer),
                Event::Tick => {
                    ticked = Instant::now();
                    self.tick();
                }
                Event::Drain => draining = Some(Instant::now() + DRAIN),
                Event::Stop => ended = Some(Ended::Told),
            }
        }
        // What ends now answers everybody first.
        self.sequencer.stop(Stop::Released);
        askers.answer_all(&self.shared, &mut self.sequencer).await;
        self.shared.forget_condition(self.partition);
        (ended.unwrap_or(Ended::Told), self.inlets)
    }

    /// The next tick is due a while after the last one, however much else happens: memory is bounded
    /// and waiting commands are given up by it.
    ///
    /// Cancel safety: safe, each branch either has its event or leaves it where it was.
    async fn next(
        &mut self,
        operations: &mut FuturesUnordered<BoxFuture<'static, Event>>,
        draining: bool,
        ticked: Instant,
    ) -> Event {
        let tick = if self.sequencer.is_idle() {
            IDLE_TICK
        } else {
            TICK
        };
        tokio::select! {
            biased;
            () = self.orders.stop.cancelled() => Event::Stop,
            () = self.orders.drain.cancelled(), if !draining => Event::Drain,
            () = tokio::time::sleep_until(ticked + tick) => Event::Tick,
            Some(event) = operations.next(), if !operations.is_empty() => event,
            inlet = self.inlets.next() => match inlet {
                Inlet::Alive(message) => Event::Alive(message),
                Inlet::Commands(messages) => Event::Commands(messages),
            },
        }
    }

    /// Lets commands in, if they do not come yet; whether they do.
    async fn listens(&mut self) -> bool {
        if self.inlets.listens() {
            return true;
        }
        let listening = self.inlets.listen(&self.shared, self.partition).await;
        if let Err(error) = &listening {
            tracing::warn!(
                partition = self.partition.number(),
                %error,
                "the commands of partition {} cannot be subscribed to",
                self.partition
            );
        }
        listening.is_ok()
    }

    /// Does everything that the sequencer wants now; why it must end, if it must.
    async fn pump(
        &mut self,
        askers: &mut Askers,
        operations: &mut FuturesUnordered<BoxFuture<'static, Event>>,
    ) -> Option<Ended> {
        let now = self.shared.now();
        while let Some(publish) = self.sequencer.poll_publish(now) {
            let trace = publish.first.and_then(|ticket| askers.trace(ticket));
            let append = (publish, trace);
            operations.push(io::publish(
                Arc::clone(&self.shared),
                self.partition,
                append,
            ));
        }
        while let Some(read) = self.sequencer.poll_read(now) {
            operations.push(io::read_tail(
                Arc::clone(&self.shared),
                self.partition,
                read,
            ));
        }
        while let Some(ask) = self.sequencer.poll_lookup() {
            operations.push(io::ask(Arc::clone(&self.shared), ask));
        }
        askers.answer_all(&self.shared, &mut self.sequencer).await;
        let mut ended = None;
        while let Some(notice) = self.sequencer.poll_notice() {
            io::tell(&self.shared, self.partition, &notice);
            match notice {
                Notice::Overtaken(_) => ended = ended.or(Some(Ended::Overtaken)),
                Notice::Stopped(_) => ended = Some(Ended::Stopped),
                Notice::Poisoned { .. } | Notice::Unreadable(_) | Notice::Lost { .. } => {}
            }
        }
        ended
    }

    async fn take_in(&mut self, askers: &mut Askers, message: Message) {
        match io::request(&message) {
            Ok(request) => {
                let ticket = self.sequencer.handle_request(self.shared.now(), request);
                askers.remember(ticket, message);
            }
            Err(refusal) => io::refuse(&self.shared, &message, refusal).await,
        }
    }

    fn tick(&mut self) {
        let (now, view) = (self.shared.now(), *self.shared.view.borrow());
        self.sequencer.handle_clock(view.clock_offset_ms);
        if let Some((cursor, log)) = view.cursor.zip(view.log) {
            // Our own records may be younger than the view.
            let last = log.last.max(self.sequencer.end());
            self.sequencer.handle_history(cursor, last);
        }
        if view.is_foreign() {
            self.sequencer.stop(Stop::ForeignLog);
        } else if view.is_skewed() {
            self.sequencer.stop(Stop::ClockSkew);
        }
        self.sequencer.handle_pressure(self.shared.pressure());
        self.sequencer.handle_tick(now);
        self.report();
    }

    fn report(&mut self) {
        let now = self.shared.now();
        let recent = self.counted.filter(|(at, _)| at.elapsed() < IDLE_TICK / 2);
        let (at, load) = recent.unwrap_or_else(|| (Instant::now(), self.sequencer.load()));
        self.counted = Some((at, load));
        self.shared.set_condition(
            self.partition,
            Condition {
                open: self.sequencer.is_open(now),
                in_trouble: self.sequencer.is_in_trouble(now),
                load,
            },
        );
    }
}
