//! One WebSocket: bytes in, bytes out, time; a thin shell around its session.
//!
//! It decides nothing about the protocol. Transport rules are here: frames that are too large (1009),
//! text that is not UTF-8 (1007), other breaches (1002), a peer that takes nothing (cut off).

pub mod alarm;
pub mod door;
pub mod incoming;
pub mod wire;
pub mod work;

use self::door::Place;
use self::incoming::{Breach, Incoming, Unread};
use self::wire::Wire;
use crate::hub::{Hub, Socket};
use crate::metrics::SocketEnd;
use crate::moment::Moment;
use crate::session::Session;
use crate::session::outside::{Outcome, Outside, Ticket};
use crate::shared::Shared;
use crate::transport::{Transport, Writing};
use actix_http::ws::CloseReason;
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::ConnId;
use protocol::error::CloseCode;
use protocol::limits::SOCKET_STALLED_MS;
use protocol::query::Viewer;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// From the moment that a socket is to be closed: what is queued, the close frames, and the peer's end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What a peer may still send after the close frame; to close with bytes unread would reset the
/// connection, and that can overtake the close frame.
const DISCARD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes read at once; a worker's sockets share the buffer.
const READ_BYTES: usize = 16 * 1024;
/// Between two looks at whether a peer with a full connection takes anything.
const STALL_CHECK: Duration = Duration::from_secs(1);
/// A peer that took something is found out at the next look, so one that takes nothing is cut off a
/// little before the time that is promised, and not after it.
const STALLED: Duration = Duration::from_millis(SOCKET_STALLED_MS.unsigned_abs())
    .saturating_sub(STALL_CHECK.saturating_mul(3));

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Why a socket ended.
enum End {
    /// We close it with this code, until then.
    Ours(CloseCode, Instant),
    /// The client closed it.
    Theirs(Option<CloseReason>),
    /// The connection is gone, or nothing can be written any more.
    Lost(SocketEnd),
}

/// What reading has brought.
enum Reading {
    /// There may be more.
    More,
    /// All that has come was read.
    Done,
}

type Running = FuturesUnordered<LocalBoxFuture<'static, (Ticket, Outcome)>>;

/// A socket and what carries it.
struct Connection {
    hub: Rc<Hub>,
    socket: Rc<Socket>,
    wire: Rc<Wire>,
}

/// Takes the socket out of its hub, also if its task is aborted.
struct Registered<'a>(&'a Connection);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.hub.close(&self.0.socket);
    }
}

impl Connection {
    /// Starts the task of a connection that was upgraded, and of which `received` was read already.
    fn start(hub: Rc<Hub>, wire: Rc<Wire>, (conn, place): (ConnId, Place), received: &[u8]) {
        let carrier: Rc<Wire> = Rc::clone(&wire);
        let (socket, closed) = hub.open(conn, carrier);
        let shared = Arc::clone(hub.shared());
        let mut unread = Unread::default();
        unread.feed(received);
        let connection = Self { hub, socket, wire };
        let run = async move {
            connection.run(unread, closed).await;
            drop(place);
        };
        // Boxed: a task that watches over another's future would hold room for two of it.
        shared.ctx.tasks.spawn_local("socket", Box::pin(run));
    }

    async fn run(self, mut unread: Unread, closed: oneshot::Receiver<CloseCode>) {
        let metrics = &self.hub.shared().metrics;
        metrics.sockets_opened_total.inc();
        let registered = Registered(&self);
        let end = self.converse(&mut unread, closed).await;
        drop(registered);
        drop(unread);
        let cause = match &end {
            End::Ours(code, _) => cause(*code),
            End::Theirs(_) => SocketEnd::Client,
            End::Lost(cause) => *cause,
        };
        metrics.sockets_closed_total.get(cause).inc();
        match end {
            End::Ours(code, until) => {
                tracing::debug!(session.id = %self.socket.conn, code = code.number(), "a socket is closed");
                let reason = CloseReason {
                    code: code.number().into(),
                    description: Some(code.reason().to_owned()),
                };
                self.part(Some(reason), until).await;
            }
            End::Theirs(reason) => self.part(reason, Instant::now() + LAST_WORDS).await,
            // What a peer has not taken would stay in the system for a while.
            End::Lost(_) if self.wire.full_since().is_some() => self.wire.forsake(),
            End::Lost(_) => {}
        }
    }

    async fn converse(&self, unread: &mut Unread, mut closed: oneshot::Receiver<CloseCode>) -> End {
        let mut running = Running::new();
        let sleep = tokio::time::sleep_until(Instant::now());
        tokio::pin!(sleep);
        if let Err(end) = self.take_messages(unread) {
            return end;
        }
        loop {
            self.start_actions(&mut running);
            let writing = self.hub.write(&self.socket);
            let closing = self.socket.session.borrow().closing();
            match (writing, closing) {
                (Writing::Gone, _) => return End::Lost(SocketEnd::Lost),
                (_, Some(code)) => return self.last_words(code).await,
                (Writing::Done | Writing::More | Writing::Full, None) => {}
            }
            let full = writing == Writing::Full;
            self.socket.waits_for_room.set(full);
            let wake = self.wake_at();
            // Set back only if it is needed: a timer that fires too early costs less than one per frame.
            if sleep.is_elapsed() || wake < sleep.deadline() {
                sleep.as_mut().reset(wake);
            }
            // Reading comes last: it alone can always go on, and the others are bounded by it. Who takes
            // nothing is not read either, or the answers to what it sends would have no bound.
            tokio::select! {
                biased;
                Ok(code) = &mut closed => {
                    self.step(|session, _, _| session.handle_close(code));
                }
                Some((ticket, outcome)) = running.next(), if !running.is_empty() => {
                    self.step(|session, now, outside| {
                        session.handle_outcome(now, ticket, outcome, outside);
                    });
                }
                () = self.socket.wake.rings() => {}
                _ = self.wire.writable(), if full => {}
                () = &mut sleep => {
                    if let Some(end) = self.look_for_stall() {
                        return end;
                    }
                    self.step(|session, now, outside| session.handle_tick(now, outside));
                }
                _ = self.wire.readable(), if !full => match self.receive(unread) {
                    Ok(Reading::Done) => {}
                    // Others of this worker have their turn between two reads of a flood.
                    Ok(Reading::More) => tokio::task::yield_now().await,
                    Err(end) => return end,
                },
                () = tokio::task::yield_now(), if writing == Writing::More => {}
            }
        }
    }

    /// When time is due next, be it the session's or a look at whether the peer takes anything.
    fn wake_at(&self) -> Instant {
        let shared = self.hub.shared();
        let due = shared.instant(self.socket.session.borrow().deadline(shared.now()));
        match self.wire.full_since() {
            Some(since) => due.min(since + STALLED).min(Instant::now() + STALL_CHECK),
            None => due,
        }
    }

    fn look_for_stall(&self) -> Option<End> {
        self.wire.full_since()?;
        self.wire.probe();
        let since = self.wire.full_since()?;
        (since.elapsed() >= STALLED).then_some(End::Lost(SocketEnd::Stalled))
    }

    fn step<T>(&self, step: impl FnOnce(&mut Session, Moment, &dyn Outside) -> T) -> T {
        let now = self.hub.shared().now();
        self.hub
            .step(&self.socket, |session, outside| step(session, now, outside))
    }

    fn start_actions(&self, running: &mut Running) {
        if !self.socket.session.borrow().has_action() {
            return;
        }
        let viewer = {
            let session = self.socket.session.borrow();
            session.user().map(|user| Viewer {
                user: user.clone(),
                guest: session.is_guest(),
            })
        };
        let Some(viewer) = viewer else { return };
        loop {
            let action = self.socket.session.borrow_mut().poll_action();
            let Some(action) = action else { return };
            let shared: Arc<Shared> = Arc::clone(self.hub.shared());
            running.push(Box::pin(work::perform(shared, viewer.clone(), action)));
        }
    }

    /// Reads once, and takes every message that is complete now.
    fn receive(&self, unread: &mut Unread) -> Result<Reading, End> {
        let lost = || End::Lost(SocketEnd::Lost);
        let reading = READ.with_borrow_mut(|buffer| match self.wire.read(buffer) {
            Ok(Some(0)) | Err(_) => Err(lost()),
            Ok(None) => Ok(Reading::Done),
            Ok(Some(count)) => {
                unread.feed(buffer.get(..count).unwrap_or_default());
                let full = count == buffer.len();
                Ok(if full { Reading::More } else { Reading::Done })
            }
        })?;
        self.take_messages(unread)?;
        Ok(reading)
    }

    fn take_messages(&self, unread: &mut Unread) -> Result<(), End> {
        loop {
            match unread.poll() {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Text(text))) => {
                    self.hub.shared().metrics.messages_received_total.inc();
                    self.step(|session, now, outside| session.handle_text(now, &text, outside));
                    if self.socket.session.borrow().closing().is_some() {
                        return Ok(());
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    self.wire.pong(&payload);
                    self.step(|session, now, _| session.handle_heard(now));
                }
                Ok(Some(Incoming::Pong)) => {
                    self.step(|session, now, _| session.handle_heard(now));
                }
                Ok(Some(Incoming::Close(reason))) => return Err(End::Theirs(reason)),
                Err(breach) => {
                    let code = match breach {
                        Breach::TooLarge => CloseCode::TooLarge,
                        Breach::BadUtf8 => CloseCode::BadUtf8,
                        Breach::Protocol => CloseCode::Protocol,
                    };
                    return Err(End::Ours(code, Instant::now() + LAST_WORDS));
                }
            }
        }
    }

    /// Writes what is queued before the close frame, if the peer takes it in time.
    async fn last_words(&self, code: CloseCode) -> End {
        let until = Instant::now() + LAST_WORDS;
        while !self.socket.session.borrow().is_quiet() {
            match self.hub.write(&self.socket) {
                Writing::Gone => return End::Lost(SocketEnd::Lost),
                Writing::Done => break,
                Writing::More => tokio::task::yield_now().await,
                Writing::Full => {
                    let room = tokio::time::timeout_at(until, self.wire.writable());
                    if room.await.is_err() {
                        break;
                    }
                }
            }
        }
        End::Ours(code, until)
    }

    /// The closing handshake: our close frame, our end, and then whatever the peer still sends until it
    /// ends too.
    async fn part(&self, reason: Option<CloseReason>, until: Instant) {
        self.wire.close(reason);
        let parting = async {
            loop {
                match self.wire.flush() {
                    Writing::Gone => return,
                    Writing::Done => break,
                    Writing::More | Writing::Full => drop(self.wire.writable().await),
                }
            }
            self.wire.end();
            self.discard().await;
        };
        if tokio::time::timeout_at(until, parting).await.is_err() {
            self.wire.forsake();
        }
    }

    async fn discard(&self) {
        let mut discarded = 0;
        while discarded < DISCARD_BYTES_MAX && self.wire.readable().await.is_ok() {
            match READ.with_borrow_mut(|buffer| self.wire.read(buffer)) {
                Ok(Some(0)) | Err(_) => return,
                Ok(None) => {}
                Ok(Some(count)) => discarded += count,
            }
            tokio::task::yield_now().await;
        }
    }
}

fn cause(code: CloseCode) -> SocketEnd {
    match code {
        CloseCode::Normal => SocketEnd::Client,
        CloseCode::Protocol
        | CloseCode::BadUtf8
        | CloseCode::TooLarge
        | CloseCode::ProtocolError
        | CloseCode::VersionUnsupported => SocketEnd::Protocol,
        CloseCode::Restart | CloseCode::GoingAway | CloseCode::Internal => SocketEnd::Gateway,
        CloseCode::HeartbeatTimeout | CloseCode::LagUnrecoverable => SocketEnd::Stalled,
        CloseCode::Replaced | CloseCode::Overload | CloseCode::TooManyConnections => SocketEnd::Cap,
        CloseCode::TokenExpired
        | CloseCode::AuthFailed
        | CloseCode::AccountSuspended
        | CloseCode::SessionRevoked
        | CloseCode::OriginRefused => SocketEnd::Auth,
    }
}
