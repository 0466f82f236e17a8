//! One WebSocket: bytes in, bytes out, time; a thin shell around its session.
//!
//! It decides nothing about the protocol. Transport rules are here: frames that are too large (1009),
//! text that is not UTF-8 (1007), other breaches (1002), a peer that takes nothing (4002).

pub mod alarm;
pub mod flow;
pub mod guard;
pub mod pipe;

use self::flow::{Counted, Flow};
use self::guard::Guard;
use self::pipe::Pipe;
use crate::hub::{Hub, Socket};
use crate::metrics::SocketEnd;
use crate::questions::ANSWER_WITHIN;
use crate::session::outside::{Action, Outcome, Ticket};
use crate::shared::Shared;
use crate::transport::Writing;
use actix_web::error::PayloadError;
use actix_web::web::{self, Bytes};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseReason, ProtocolError};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use protocol::ConnId;
use protocol::error::CloseCode;
use protocol::limits::{FRAME_BYTES_MAX, SOCKET_STALLED_MS};
use protocol::query::Viewer;
use rand::RngExt;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The subprotocol; a client that offers none gets the same words.
const SUBPROTOCOL: &str = "natter.v1.json";
/// How long what is queued may still take once a socket is to be closed.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Letters and digits in a connection's id.
const CONN_LENGTH: usize = 12;
/// The worker's hub writes too, and does not wake the task for it.
const STALL_CHECK: Duration = Duration::from_secs(5);
const STALLED: Duration = Duration::from_millis(SOCKET_STALLED_MS.unsigned_abs());

/// Why a socket ended.
enum End {
    /// We close it with this code.
    Ours(CloseCode),
    /// The client closed it.
    Theirs(Option<CloseReason>),
    /// The connection is gone, or nothing can be written any more.
    Lost(SocketEnd),
}

type Running = FuturesUnordered<LocalBoxFuture<'static, (Ticket, Outcome)>>;

/// Upgrades a request to a socket, and starts its task on this worker.
///
/// # Errors
/// The request is no WebSocket handshake.
pub async fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    hub: Rc<Hub>,
) -> actix_web::Result<HttpResponse> {
    let refused = Rc::new(Cell::new(false));
    let max = u64::try_from(FRAME_BYTES_MAX).unwrap_or(u64::MAX);
    let guarded: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> =
        Box::pin(Guard::new(payload.into_inner(), max, Rc::clone(&refused)));
    let mut guarded = actix_web::dev::Payload::Stream { payload: guarded };
    let payload = web::Payload::from_request(request, &mut guarded).await?;
    let (response, sender, stream) =
        actix_ws::handle_with_protocols(request, payload, &[SUBPROTOCOL])?;
    let stream = stream
        .max_frame_size(FRAME_BYTES_MAX)
        .aggregate_continuations()
        .max_continuation_size(FRAME_BYTES_MAX);
    let flow = Rc::new(Flow::default());
    let counted = Rc::clone(&flow);
    let response = response
        .map_body(|_, body| Counted::new(body, counted))
        .map_into_boxed_body();
    let pipe = Rc::new(Pipe::new(sender, Rc::clone(&flow)));
    let carrier: Rc<Pipe> = Rc::clone(&pipe);
    let (socket, closed) = hub.open(conn_id(), carrier);
    let shared = Arc::clone(hub.shared());
    let connection = Connection {
        hub,
        socket,
        pipe,
        flow,
        refused,
    };
    shared
        .ctx
        .tasks
        .spawn_local("socket", connection.run(stream, closed));
    Ok(response)
}

fn conn_id() -> ConnId {
    let mut rng = rand::rng();
    let text: String = (0..CONN_LENGTH)
        .map(|_| char::from(rng.sample(rand::distr::Alphanumeric)))
        .collect();
    ConnId::parse(&text).expect("letters and digits are an id")
}

struct Connection {
    hub: Rc<Hub>,
    socket: Rc<Socket>,
    pipe: Rc<Pipe>,
    flow: Rc<Flow>,
    refused: Rc<Cell<bool>>,
}

/// Counts the socket out, also if its task is aborted.
struct Registered {
    hub: Rc<Hub>,
    socket: Rc<Socket>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.hub.close(&self.socket);
        self.hub.shared().metrics.sockets.dec();
    }
}

impl Connection {
    async fn run(self, mut stream: AggregatedMessageStream, closed: oneshot::Receiver<CloseCode>) {
        let shared = Arc::clone(self.hub.shared());
        shared.metrics.sockets.inc();
        shared.metrics.sockets_opened_total.inc();
        let registered = Registered {
            hub: Rc::clone(&self.hub),
            socket: Rc::clone(&self.socket),
        };
        let end = self.converse(&mut stream, closed).await;
        drop(registered);
        let cause = match &end {
            End::Ours(code) => cause(*code),
            End::Theirs(_) => SocketEnd::Client,
            End::Lost(cause) => *cause,
        };
        shared.metrics.sockets_closed_total.get(cause).inc();
        if let End::Ours(code) = &end {
            tracing::debug!(session.id = %self.socket.conn, code = code.number(), "a socket is closed");
        }
        let reason = match end {
            End::Ours(code) => Some(CloseReason {
                code: code.number().into(),
                description: Some(code.reason().to_owned()),
            }),
            End::Theirs(reason) => reason,
            End::Lost(_) => return,
        };
        self.pipe.close(reason, LAST_WORDS).await;
    }

    async fn converse(
        &self,
        stream: &mut AggregatedMessageStream,
        mut closed: oneshot::Receiver<CloseCode>,
    ) -> End {
        let shared = Arc::clone(self.hub.shared());
        let mut running = Running::new();
        let sleep = tokio::time::sleep_until(Instant::now());
        tokio::pin!(sleep);
        loop {
            self.start_actions(&mut running);
            if self.hub.write(&self.socket) == Writing::Gone {
                return End::Lost(SocketEnd::Lost);
            }
            let closing = self.socket.session.borrow().closing();
            if let Some(code) = closing {
                return self.last_words(code).await;
            }
            let wake = self.wake_at(&shared);
            // Set back only if it is needed: a timer that fires too early costs less than one per frame.
            if sleep.is_elapsed() || wake < sleep.deadline() {
                sleep.as_mut().reset(wake);
            }
            tokio::select! {
                biased;
                Ok(code) = &mut closed => {
                    self.step(|session, _, _| session.handle_close(code));
                }
                message = stream.recv() => {
                    if let Some(end) = self.receive(message) {
                        return end;
                    }
                }
                Some((ticket, outcome)) = running.next(), if !running.is_empty() => {
                    self.step(|session, now, outside| {
                        session.handle_outcome(now, ticket, outcome, outside);
                    });
                }
                () = self.socket.wake.rings() => {}
                () = self.flow.moved.rings() => {}
                () = &mut sleep => {
                    if self.flow.waits_since().is_some_and(|since| since.elapsed() >= STALLED) {
                        return End::Lost(SocketEnd::Stalled);
                    }
                    self.step(|session, now, outside| session.handle_tick(now, outside));
                }
            }
        }
    }

    /// When time is due next, be it the session's or a look at whether the peer takes anything.
    fn wake_at(&self, shared: &Shared) -> Instant {
        let due = shared.instant(self.socket.session.borrow().deadline(shared.now()));
        due.min(Instant::now() + STALL_CHECK)
    }

    fn step<T>(
        &self,
        step: impl FnOnce(
            &mut crate::session::Session,
            crate::moment::Moment,
            &dyn crate::session::outside::Outside,
        ) -> T,
    ) -> T {
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
            let shared = Arc::clone(self.hub.shared());
            running.push(Box::pin(perform(shared, viewer.clone(), action)));
        }
    }

    fn receive(&self, message: Option<Result<AggregatedMessage, ProtocolError>>) -> Option<End> {
        match message {
            Some(Ok(AggregatedMessage::Text(text))) => {
                self.hub.shared().metrics.messages_received_total.inc();
                self.step(|session, now, outside| session.handle_text(now, &text, outside));
                None
            }
            Some(Ok(AggregatedMessage::Ping(payload))) => {
                self.step(|session, now, _| session.handle_heard(now));
                (!self.pipe.pong(payload)).then_some(End::Lost(SocketEnd::Lost))
            }
            Some(Ok(AggregatedMessage::Pong(_))) => {
                self.step(|session, now, _| session.handle_heard(now));
                None
            }
            // The protocol is text.
            Some(Ok(AggregatedMessage::Binary(_))) => Some(End::Ours(CloseCode::Protocol)),
            Some(Ok(AggregatedMessage::Close(reason))) => Some(End::Theirs(reason)),
            Some(Err(error)) => Some(self.breach(&error)),
            None => Some(End::Lost(SocketEnd::Lost)),
        }
    }

    fn breach(&self, error: &ProtocolError) -> End {
        if self.refused.get() || matches!(error, ProtocolError::Overflow) {
            return End::Ours(CloseCode::TooLarge);
        }
        let ProtocolError::Io(io) = error else {
            return End::Ours(CloseCode::Protocol);
        };
        if io.kind() != std::io::ErrorKind::InvalidData {
            return End::Lost(SocketEnd::Lost);
        }
        // The library has no variant for text that is not UTF-8.
        End::Ours(if io.to_string().contains("utf-8") {
            CloseCode::BadUtf8
        } else {
            CloseCode::Protocol
        })
    }

    /// Writes what is queued before the close frame, if the peer takes it in time.
    async fn last_words(&self, code: CloseCode) -> End {
        let deadline = Instant::now() + LAST_WORDS;
        while !self.socket.session.borrow().is_quiet() {
            if self.hub.write(&self.socket) == Writing::Gone {
                return End::Lost(SocketEnd::Lost);
            }
            if self.socket.session.borrow().is_quiet() {
                break;
            }
            if tokio::time::timeout_at(deadline, self.flow.moved.rings())
                .await
                .is_err()
            {
                break;
            }
        }
        End::Ours(code)
    }
}

async fn perform(shared: Arc<Shared>, viewer: Viewer, action: Action) -> (Ticket, Outcome) {
    match action {
        Action::Ask {
            ticket,
            query,
            min_seq,
        } => (
            ticket,
            Outcome::Answer(shared.ask(*query, min_seq, ANSWER_WITHIN).await),
        ),
        Action::Send {
            ticket,
            room,
            commands,
        } => (
            ticket,
            Outcome::Sent(shared.send_batch(&viewer, &room, commands).await),
        ),
        Action::Introduce { ticket } => {
            (ticket, Outcome::Introduced(shared.introduce(&viewer).await))
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
