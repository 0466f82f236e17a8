//! The worker's hub: which of its sockets wants which room, and one task that delivers.
//!
//! Everything here belongs to one thread, so there are no locks and no atomics on the way of a frame.
//! Sockets that are behind are pumped when the position has moved; what they do then is theirs.

use crate::auth::Identity;
use crate::connections::Control;
use crate::moment::Moment;
use crate::ring::Read;
use crate::ring::record::{Entry, Record, Turn};
use crate::session::Session;
use crate::session::outside::{Outside, Span, Verdict, Watch};
use crate::shared::Shared;
use crate::socket::alarm::Alarm;
use crate::transport::{Transport, Writing};
use protocol::error::CloseCode;
use protocol::limits::ClientLimits;
use protocol::{ConnId, DeviceId, LogId, Refusal, RoomId, StreamSeq, UserId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Records delivered before other tasks of the worker get their turn. Sockets are woken after each
/// such batch, so their frames leave together.
const BATCH: usize = 64;
/// Writes to one socket before others get their turn; each is at most 64 KiB and a message.
const WRITES: usize = 4;

/// One socket, as its worker sees it.
#[derive(Debug)]
pub struct Socket {
    /// Its conversation.
    pub session: RefCell<Session>,
    /// Its name.
    pub conn: ConnId,
    /// How others close it.
    pub control: Control,
    /// Wakes its task.
    pub wake: Alarm,
    /// Whether its task waits until the connection takes more.
    pub waits_for_room: Cell<bool>,
    transport: Rc<dyn Transport>,
    /// Whether it is among those to be woken after this batch.
    queued: Cell<bool>,
    /// Whether it is among its user's sockets.
    known: Cell<bool>,
    behind: Cell<bool>,
}

/// The hub of one worker.
#[derive(Debug)]
pub struct Hub {
    shared: Arc<Shared>,
    log: RefCell<Option<LogId>>,
    position: Cell<StreamSeq>,
    rooms: RefCell<HashMap<RoomId, Vec<Rc<Socket>>>>,
    users: RefCell<HashMap<UserId, Vec<Rc<Socket>>>>,
    behind: RefCell<Vec<Rc<Socket>>>,
    woken: RefCell<Vec<Rc<Socket>>>,
    sockets: RefCell<Vec<Rc<Socket>>>,
}

struct View<'a> {
    hub: &'a Hub,
    socket: &'a Socket,
}

impl Outside for View<'_> {
    fn verify(&self, token: &str) -> Result<Identity, Refusal> {
        self.hub.shared.auth.verify(token)
    }

    fn admit(&self, user: &UserId, device: Option<&DeviceId>) -> Result<(), CloseCode> {
        let connections = &self.hub.shared.connections;
        connections.admit(user, device, &self.socket.conn, &self.socket.control)
    }

    fn rate(&self, user: &UserId) -> Verdict {
        self.hub.shared.rates.check(user)
    }

    fn limits(&self) -> ClientLimits {
        self.hub.shared.rates.limits()
    }

    fn head(&self) -> Option<(LogId, StreamSeq)> {
        self.hub.shared.ring.head()
    }

    fn position(&self) -> StreamSeq {
        self.hub.position.get()
    }

    fn rooms_at(&self, user: &UserId, position: StreamSeq) -> Option<BTreeSet<RoomId>> {
        let shared = &self.hub.shared;
        if !shared.ring.holds_after(position) {
            return None;
        }
        shared.views.rooms_at(user, position, shared.ticks())
    }

    fn wanted(
        &self,
        user: &UserId,
        rooms: &mut dyn Iterator<Item = &RoomId>,
        span: Span,
    ) -> Option<Vec<Arc<Record>>> {
        self.hub
            .shared
            .ring
            .wanted(user, rooms, (span.after, span.to), span.max)
    }

    fn remember(&self, user: &UserId, applied: StreamSeq, rooms: &BTreeSet<RoomId>) {
        let shared = &self.hub.shared;
        shared
            .views
            .remember(user, applied, rooms, (&shared.ring, shared.ticks()));
    }
}

impl Hub {
    /// The hub of this worker; run [`Hub::run`] beside it.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Rc<Self> {
        let head = shared.ring.head();
        let (log, position) = head.map_or((None, StreamSeq(0)), |(log, last)| (Some(log), last));
        Rc::new(Self {
            shared,
            log: RefCell::new(log),
            position: Cell::new(position),
            rooms: RefCell::default(),
            users: RefCell::default(),
            behind: RefCell::default(),
            woken: RefCell::default(),
            sockets: RefCell::default(),
        })
    }

    /// What the process shares.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A socket was opened; it has to close when the receiver says so.
    pub fn open(
        &self,
        conn: ConnId,
        transport: Rc<dyn Transport>,
    ) -> (Rc<Socket>, oneshot::Receiver<CloseCode>) {
        let (control, closed) = Control::new();
        let socket = Rc::new(Socket {
            session: RefCell::new(Session::new(conn.clone(), self.shared.now())),
            conn,
            control,
            wake: Alarm::default(),
            waits_for_room: Cell::new(false),
            transport,
            queued: Cell::new(false),
            known: Cell::new(false),
            behind: Cell::new(false),
        });
        self.sockets.borrow_mut().push(Rc::clone(&socket));
        (socket, closed)
    }

    /// The socket is gone.
    pub fn close(&self, socket: &Rc<Socket>) {
        drop_from(&mut self.sockets.borrow_mut(), socket);
        let session = socket.session.borrow();
        let mut rooms = self.rooms.borrow_mut();
        session
            .rooms()
            .for_each(|room| forget(&mut rooms, room, socket));
        if let Some(user) = session.user() {
            forget(&mut self.users.borrow_mut(), user, socket);
            self.shared.connections.remove(user, &socket.conn);
        }
        drop_from(&mut self.behind.borrow_mut(), socket);
    }

    /// Runs a step of the socket's conversation and does what follows from it on this worker.
    pub fn step<T>(
        &self,
        socket: &Rc<Socket>,
        step: impl FnOnce(&mut Session, &dyn Outside) -> T,
    ) -> T {
        let result = step(
            &mut socket.session.borrow_mut(),
            &View { hub: self, socket },
        );
        self.settle(socket);
        result
    }

    /// Brings the registries up to date with what the session wants now.
    fn settle(&self, socket: &Rc<Socket>) {
        let mut session = socket.session.borrow_mut();
        while let Some(watch) = session.poll_watch() {
            let mut rooms = self.rooms.borrow_mut();
            match watch {
                Watch::All => session
                    .rooms()
                    .for_each(|room| remember(&mut rooms, room, socket)),
                Watch::Nothing => session
                    .rooms()
                    .for_each(|room| forget(&mut rooms, room, socket)),
                Watch::Add(room) => remember(&mut rooms, &room, socket),
                Watch::Remove(room) => forget(&mut rooms, &room, socket),
            }
        }
        if !socket.known.get()
            && let Some(user) = session.user()
        {
            socket.known.set(true);
            self.users
                .borrow_mut()
                .entry(user.clone())
                .or_default()
                .push(Rc::clone(socket));
        }
        if session.is_behind() && !socket.behind.replace(true) {
            self.behind.borrow_mut().push(Rc::clone(socket));
        }
    }

    fn wake(&self, socket: &Rc<Socket>) {
        if !socket.queued.replace(true) {
            self.woken.borrow_mut().push(Rc::clone(socket));
        }
    }

    /// Delivers the log to this worker's sockets until the service has stopped.
    pub async fn run(self: Rc<Self>) {
        let mut latest = self.shared.ring.subscribe();
        let (goaway, closing) = (self.shared.goaway.clone(), self.shared.closing.clone());
        let mut told = false;
        loop {
            let moved = self.deliver_batch();
            self.flush();
            if moved {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                () = goaway.cancelled(), if !told => {
                    told = true;
                    let within = self.shared.config.gateway_drain_seconds * 1_000;
                    self.tell_all(|session| session.handle_goaway(within));
                }
                changed = latest.changed() => if changed.is_err() { break },
            }
        }
        self.tell_all(|session| session.handle_close(CloseCode::Restart));
    }

    fn tell_all(&self, tell: impl Fn(&mut Session)) {
        let sockets = self.sockets.borrow().clone();
        for socket in sockets {
            self.step(&socket, |session, _| tell(session));
            self.wake(&socket);
        }
        self.flush();
    }

    /// Delivers the next records; false if there are none.
    fn deliver_batch(&self) -> bool {
        let Some((log, last)) = self.shared.ring.head() else {
            return false;
        };
        if self.log.borrow().as_ref() != Some(&log) {
            self.begin_anew(log, last);
            return true;
        }
        let position = self.position.get();
        if position == last {
            return false;
        }
        match self.shared.ring.after(position, BATCH) {
            Read::Records(records) => records.iter().for_each(|record| self.deliver(record)),
            Read::Evicted => self.lose(position, last),
        }
        self.pump_behind();
        true
    }

    /// Another log: no place in the old one means anything, so every socket begins anew.
    fn begin_anew(&self, log: LogId, last: StreamSeq) {
        let first = self.log.replace(Some(log)).is_none();
        self.position.set(last);
        if !first {
            for socket in self.users.borrow().values().flatten() {
                socket.control.close(CloseCode::Restart);
            }
        }
    }

    /// This worker is behind the ring: its sockets catch up on their own.
    fn lose(&self, delivered: StreamSeq, last: StreamSeq) {
        tracing::warn!(
            from = delivered.0,
            to = last.0,
            "this worker lost the feed; its sockets catch up"
        );
        self.position.set(last);
        let sockets: Vec<_> = self.users.borrow().values().flatten().cloned().collect();
        for socket in sockets {
            let now = self.shared.now();
            self.step(&socket, |session, _| {
                session.handle_lost_feed(now, delivered);
            });
            self.wake(&socket);
        }
    }

    fn deliver(&self, record: &Record) {
        let wanted = {
            let (rooms, users) = (self.rooms.borrow(), self.users.borrow());
            record.rooms.iter().any(|room| rooms.contains_key(room))
                || record
                    .changes
                    .iter()
                    .any(|change| users.contains_key(&change.user))
        };
        if wanted {
            record
                .entries()
                .iter()
                .for_each(|entry| self.deliver_entry(record.position, entry));
        }
        self.position.set(record.position);
    }

    fn deliver_entry(&self, position: StreamSeq, entry: &Entry) {
        let watching = self
            .rooms
            .borrow()
            .get(&entry.room)
            .cloned()
            .unwrap_or_default();
        let now = self.shared.now();
        for socket in &watching {
            self.hand(socket, now, position, entry);
        }
        // Who becomes a member does not watch the room yet.
        if let Some(change) = entry
            .change
            .as_ref()
            .filter(|change| change.turn == Turn::Begins)
        {
            let own = self
                .users
                .borrow()
                .get(&change.user)
                .cloned()
                .unwrap_or_default();
            for socket in own
                .iter()
                .filter(|own| !watching.iter().any(|w| Rc::ptr_eq(w, own)))
            {
                self.hand(socket, now, position, entry);
            }
        }
    }

    fn hand(&self, socket: &Rc<Socket>, now: Moment, position: StreamSeq, entry: &Entry) {
        let (queued, lagged, moved) = {
            let mut session = socket.session.borrow_mut();
            let behind = session.is_behind();
            let queued = session.handle_entry(now, position, entry);
            (queued, !behind && session.is_behind(), session.has_watch())
        };
        if lagged {
            self.shared.metrics.lagged_total.inc();
        }
        // Most deliveries change nothing but a queue.
        if lagged || moved {
            self.settle(socket);
        }
        if queued {
            self.wake(socket);
        }
    }

    fn pump_behind(&self) {
        let behind = std::mem::take(&mut *self.behind.borrow_mut());
        for socket in behind {
            socket.behind.set(false);
            let now = self.shared.now();
            self.step(&socket, |session, outside| session.pump(now, outside));
            self.wake(&socket);
        }
    }

    /// Writes to the sockets that something was queued for. Their tasks sleep on unless they have
    /// something to do: waking one costs as much as writing a frame.
    fn flush(&self) {
        for socket in self.woken.take() {
            socket.queued.set(false);
            let news = match self.write(&socket) {
                Writing::Done => false,
                Writing::More | Writing::Gone => true,
                Writing::Full => !socket.waits_for_room.replace(true),
            };
            let session = socket.session.borrow();
            if news || session.has_action() || session.closing().is_some() {
                socket.wake.ring();
            }
        }
    }

    /// Writes what waits, as far as the connection takes it.
    pub fn write(&self, socket: &Rc<Socket>) -> Writing {
        for _ in 0..WRITES {
            self.hand_over(socket);
            match socket.transport.flush() {
                Writing::Done if socket.session.borrow().is_quiet() => return Writing::Done,
                Writing::Done => {}
                other @ (Writing::More | Writing::Full | Writing::Gone) => return other,
            }
        }
        Writing::More
    }

    /// Gives the transport as much as shall leave with one write.
    fn hand_over(&self, socket: &Rc<Socket>) {
        let metrics = &self.shared.metrics;
        while socket.transport.has_room() {
            let message = socket.session.borrow_mut().poll_message();
            let Some((message, frames)) = message else {
                return;
            };
            metrics.messages_sent_total.inc();
            let frames = u64::try_from(frames).unwrap_or(0);
            metrics.frames_sent_total.inc_by(frames);
            socket.transport.send(message);
            let waits = socket.session.borrow().waits_for_room();
            if waits {
                let now = self.shared.now();
                self.step(socket, |session, outside| session.pump(now, outside));
            }
        }
    }
}

fn remember<K: Clone + Eq + std::hash::Hash>(
    registry: &mut HashMap<K, Vec<Rc<Socket>>>,
    key: &K,
    socket: &Rc<Socket>,
) {
    let sockets = registry.entry(key.clone()).or_default();
    if !sockets.iter().any(|known| Rc::ptr_eq(known, socket)) {
        sockets.push(Rc::clone(socket));
    }
}

fn forget<K: Eq + std::hash::Hash>(
    registry: &mut HashMap<K, Vec<Rc<Socket>>>,
    key: &K,
    socket: &Rc<Socket>,
) {
    if let Some(sockets) = registry.get_mut(key) {
        drop_from(sockets, socket);
        if sockets.is_empty() {
            registry.remove(key);
        }
    }
}

fn drop_from(sockets: &mut Vec<Rc<Socket>>, socket: &Rc<Socket>) {
    if let Some(index) = sockets.iter().position(|known| Rc::ptr_eq(known, socket)) {
        sockets.swap_remove(index);
    }
}
