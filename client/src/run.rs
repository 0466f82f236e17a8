//! The task of a client: feeds the core, does what it says, in its order. It decides nothing.
//!
//! Every change is stored before anything that follows from it is done: a message is durable before it
//! is transmitted or shown as queued, a cursor only together with the events it covers.

use crate::client::{Config, Status, is_stopped, last_word};
use crate::connection::{LinkId, StopReason};
use crate::core::{Core, Output, RoomView};
use crate::link::{self, LinkEvent, Outgoing};
use crate::outbox::Delivery;
use crate::store::{Store, StoreError};
use crate::update::Update;
use protocol::command::Write;
use protocol::frame::RoomSnapshot;
use protocol::query::ReadCommand;
use protocol::request::Accepted;
use protocol::{Cid, Refusal, RoomId, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Texts of all sockets that wait for the core.
const LINK_EVENTS_MAX: usize = 64;
/// Texts that wait for one socket.
const OUTGOING_MAX: usize = 64;
/// How long the sockets may take to close at the end.
const CLOSING_MAX: Duration = Duration::from_secs(3);

/// The last word on a command, and the name under which it was stored.
pub(crate) type Word = (Cid, Result<Accepted, Refusal>);

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Submit {
        room: Option<RoomId>,
        write: Write,
        reply: oneshot::Sender<Result<Cid, Refusal>>,
        outcome: oneshot::Sender<Word>,
    },
    Discard {
        cid: Cid,
        reply: oneshot::Sender<()>,
    },
    Ask {
        read: Box<ReadCommand>,
        reply: oneshot::Sender<Result<Value, Refusal>>,
    },
    View {
        room: RoomId,
        reply: oneshot::Sender<Option<Box<RoomView>>>,
    },
    Rooms(oneshot::Sender<Vec<RoomSnapshot>>),
    Status(oneshot::Sender<Status>),
    Subscribe {
        updates: mpsc::Sender<Update>,
        reply: oneshot::Sender<()>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Everything that can wake the task.
enum Event {
    Request(Option<Request>),
    Link(LinkEvent),
    /// A queue that was full has room.
    Room,
    Time,
}

/// Wall time that never goes back: the system's at the start, then the monotonic clock.
struct Clock {
    started: Instant,
    wall: Timestamp,
}

impl Clock {
    fn new() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Self {
            started: Instant::now(),
            wall,
        }
    }

    fn now(&self) -> Timestamp {
        let ms = self.started.elapsed().as_millis();
        self.wall.plus_ms(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    fn instant(&self, at: Timestamp) -> Instant {
        let ms = u64::try_from(at.since_ms(self.wall)).unwrap_or(0);
        // Rounded up, or the core would be woken before the moment it asked for.
        self.started + Duration::from_millis(ms + 1)
    }
}

/// Something on its way out through a bounded channel.
#[derive(Debug)]
struct Queue<T> {
    tx: mpsc::Sender<T>,
    waiting: VecDeque<T>,
}

impl<T> Queue<T> {
    const fn new(tx: mpsc::Sender<T>) -> Self {
        Self {
            tx,
            waiting: VecDeque::new(),
        }
    }

    fn push(&mut self, item: T) {
        self.waiting.push_back(item);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(item) = self.waiting.pop_front() {
            match self.tx.try_send(item) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(item)) => {
                    return self.waiting.push_front(item);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return self.waiting.clear(),
            }
        }
    }

    fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// The task.
pub(crate) struct Shell {
    config: Arc<Config>,
    clock: Clock,
    core: Core,
    /// `None` only while a blocking task holds it, or after that task was lost.
    store: Option<Store>,
    requests: mpsc::Receiver<Request>,
    links: BTreeMap<LinkId, Queue<Outgoing>>,
    link_events: (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>),
    tasks: TaskTracker,
    subscribers: Vec<Queue<Update>>,
    outcomes: BTreeMap<Cid, oneshot::Sender<Word>>,
    answers: BTreeMap<u64, oneshot::Sender<Result<Value, Refusal>>>,
    next_ticket: u64,
}

impl Shell {
    pub(crate) fn new(
        config: Arc<Config>,
        store: Store,
        requests: mpsc::Receiver<Request>,
        start: impl FnOnce(Timestamp) -> Core,
    ) -> Self {
        let clock = Clock::new();
        Self {
            config,
            core: start(clock.now()),
            clock,
            store: Some(store),
            requests,
            links: BTreeMap::new(),
            link_events: mpsc::channel(LINK_EVENTS_MAX),
            tasks: TaskTracker::new(),
            subscribers: Vec::new(),
            outcomes: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_ticket: 0,
        }
    }

    /// Runs until it is closed or the last handle is gone.
    pub(crate) async fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            self.act().await;
            match self.event().await {
                Event::Request(Some(Request::Close { reply })) => closing = Some(Some(reply)),
                Event::Request(None) => closing = Some(None),
                Event::Request(Some(request)) => self.handle_request(request).await,
                Event::Link(event) => self.handle_link(event),
                Event::Room => {}
                Event::Time => self.core.handle_timeout(self.clock.now()),
            }
        }
        self.core.stop(StopReason::Closed, self.clock.now());
        self.act().await;
        self.links.clear();
        drop(self.link_events);
        self.tasks.close();
        if tokio::time::timeout(CLOSING_MAX, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("a socket did not close in time");
        }
        // The file's lock is free before anybody is told that the client is closed.
        drop(self.store);
        if let Some(Some(reply)) = closing {
            tell(reply, ());
        }
    }

    /// Waits for whatever comes first. Cancel safety: nothing is lost, every branch is cancel-safe.
    async fn event(&mut self) -> Event {
        let due = self
            .core
            .poll_timeout(self.clock.now())
            .map(|at| self.clock.instant(at));
        let Self {
            requests,
            links,
            link_events,
            subscribers,
            ..
        } = self;
        // An application that does not read stops the reading from the server.
        let reads = !subscribers.iter().any(Queue::is_full);
        let link_room = links
            .values()
            .find(|queue| queue.is_full())
            .map(|queue| &queue.tx);
        let reader_room = subscribers
            .iter()
            .find(|queue| queue.is_full())
            .map(|queue| &queue.tx);
        tokio::select! {
            request = requests.recv() => Event::Request(request),
            Some(event) = link_events.1.recv(), if reads => Event::Link(event),
            () = room(link_room), if link_room.is_some() => Event::Room,
            () = room(reader_room), if reader_room.is_some() => Event::Room,
            () = until(due) => Event::Time,
        }
    }

    async fn handle_request(&mut self, request: Request) {
        let now = self.clock.now();
        match request {
            Request::Submit {
                room,
                write,
                reply,
                outcome,
            } => {
                let result = self.core.submit(room, write, now);
                if let Ok(cid) = &result {
                    self.outcomes.insert(*cid, outcome);
                }
                // Durable first: "queued" is a promise.
                self.act().await;
                tell(reply, result);
            }
            Request::Discard { cid, reply } => {
                self.core.discard(cid);
                self.act().await;
                tell(reply, ());
            }
            Request::Ask { read, reply } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.answers.insert(ticket, reply);
                let within = i64::try_from(self.config.read_within.as_millis()).unwrap_or(i64::MAX);
                self.core.ask(ticket, *read, now.plus_ms(within), now);
            }
            Request::View { room, reply } => {
                tell(reply, self.core.view(&room).map(Box::new));
            }
            Request::Rooms(reply) => tell(reply, self.core.room_list()),
            Request::Status(reply) => {
                let status = Status {
                    user: self.core.user().cloned(),
                    connection: self.core.connection_state(),
                    is_idle: self.core.is_idle(),
                };
                tell(reply, status);
            }
            Request::Subscribe { updates, reply } => {
                let mut queue = Queue::new(updates);
                queue.push(Update::Connection(self.core.connection_state()));
                self.subscribers.push(queue);
                tell(reply, ());
            }
            Request::Close { reply } => drop(reply),
        }
    }

    fn handle_link(&mut self, event: LinkEvent) {
        let now = self.clock.now();
        match event {
            LinkEvent::Opened { link, token } => self.core.handle_opened(link, &token, now),
            LinkEvent::Text { link, text } => self.core.handle_text(link, &text, now),
            LinkEvent::Closed { link, close } => {
                self.links.remove(&link);
                self.core.handle_closed(link, close, now);
            }
            LinkEvent::Token { link, token } => self.core.handle_token(link, token, now),
            LinkEvent::NoToken => self.core.stop(StopReason::TokenExpired, now),
        }
    }

    /// Does everything the core wants, storing first.
    async fn act(&mut self) {
        let mut changes = Vec::new();
        let mut rest = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Save(change) => changes.push(change),
                Output::Open { .. }
                | Output::Close { .. }
                | Output::Transmit { .. }
                | Output::Refresh { .. }
                | Output::Show(_)
                | Output::Answer { .. } => rest.push(output),
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.save(changes).await
        {
            tracing::error!(%error, "the store failed, the client stops");
            let reason = StopReason::Store(error.to_string());
            self.core.stop(reason, self.clock.now());
            // What was to be done rests on what could not be stored.
            rest = std::iter::from_fn(|| self.core.poll_output())
                .filter(|output| !matches!(output, Output::Save(_) | Output::Transmit { .. }))
                .collect();
        }
        for output in rest {
            self.do_one(output);
        }
        for queue in self.links.values_mut() {
            queue.flush();
        }
        self.subscribers.retain_mut(|queue| {
            queue.flush();
            !queue.tx.is_closed()
        });
    }

    fn do_one(&mut self, output: Output) {
        match output {
            Output::Open { link, fresh_token } => {
                let (tx, rx) = mpsc::channel(OUTGOING_MAX);
                self.links.insert(link, Queue::new(tx));
                let events = self.link_events.0.clone();
                let config = Arc::clone(&self.config);
                drop(
                    self.tasks
                        .spawn(link::run(link, config, fresh_token, events, rx)),
                );
            }
            Output::Close { link, code } => {
                if let Some(mut queue) = self.links.remove(&link) {
                    queue.waiting.clear();
                    queue.push(Outgoing::Close(code));
                }
            }
            Output::Transmit { link, text } => {
                if let Some(queue) = self.links.get_mut(&link) {
                    queue.push(Outgoing::Text(text));
                }
            }
            Output::Refresh { link } => {
                let events = self.link_events.0.clone();
                drop(
                    self.tasks
                        .spawn(link::refresh(link, Arc::clone(&self.config), events)),
                );
            }
            Output::Show(update) => self.show(&update),
            Output::Answer { ticket, result } => {
                if let Some(reply) = self.answers.remove(&ticket) {
                    tell(reply, result);
                }
            }
            Output::Save(_) => {}
        }
    }

    fn show(&mut self, update: &Update) {
        if let Update::Delivery { cid, delivery, .. } = update {
            if let Delivery::Renamed(new) = delivery
                && let Some(outcome) = self.outcomes.remove(cid)
            {
                // Of two marks that became one, who asked last waits.
                self.outcomes.entry(*new).or_insert(outcome);
            }
            if let Some(word) = last_word(delivery)
                && let Some(outcome) = self.outcomes.remove(cid)
            {
                tell(outcome, (*cid, word));
            }
        }
        if let Update::Connection(state) = update
            && let Some(reason) = is_stopped(state)
        {
            tracing::debug!(?reason, "the client stops");
        }
        for queue in &mut self.subscribers {
            queue.push(update.clone());
        }
    }

    async fn save(&mut self, changes: Vec<crate::change::Change>) -> Result<(), StoreError> {
        let Some(mut store) = self.store.take() else {
            return Err(StoreError::Lost);
        };
        if !store.blocks() {
            let result = store.apply(&changes);
            self.store = Some(store);
            return result;
        }
        let work = tokio::task::spawn_blocking(move || {
            let result = store.apply(&changes);
            (store, result)
        });
        let Ok((store, result)) = work.await else {
            return Err(StoreError::Lost);
        };
        self.store = Some(store);
        result
    }
}

/// Answers; whoever asked may have gone, which is their right.
fn tell<T>(reply: oneshot::Sender<T>, answer: T) {
    if reply.send(answer).is_err() {
        tracing::trace!("nobody waits for this answer");
    }
}

async fn room<T>(tx: Option<&mpsc::Sender<T>>) {
    match tx {
        // A closed channel is room too: whatever waits for it is thrown away.
        Some(tx) => drop(tx.reserve().await),
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
