//! What an application uses: a handle to a client that runs in its own task.
//!
//! Every method sends a request to that task and awaits its answer; it may be called from anywhere and
//! dropped at any moment. What was queued stays queued.

use crate::core::{Core, CoreConfig, RoomView};
use crate::outbox::Delivery;
use crate::run::{Request, Shell, Word};
use crate::store::{Store, StoreError};
use crate::update::{Follow, Update};
use crate::{ConnectionState, connection::StopReason};
use protocol::command::{Create, DeleteTarget, Read, Send, Write};
use protocol::frame::listing::{MemberList, PublicRoomList};
use protocol::frame::{Page, RoomSnapshot, Window};
use protocol::query::ReadCommand;
use protocol::request::Accepted;
use protocol::{Cid, Refusal, RoomId, Seq, UserId};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the client's task; a caller beyond waits.
const REQUESTS_MAX: usize = 256;

/// No token could be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// Not now; the client tries again later. The text says why.
    #[error("{0}")]
    Unavailable(String),
    /// Never again; the client stops.
    #[error("the token has expired and there is no other")]
    Expired,
}

/// Where tokens come from.
pub trait TokenSource: std::marker::Send + Sync {
    /// A token; a new one if `fresh`, because the last one has expired or soon will.
    fn token(
        &self,
        fresh: bool,
    ) -> Pin<Box<dyn Future<Output = Result<String, TokenError>> + std::marker::Send + '_>>;
}

/// One token and no other: when it has expired, the client stops.
#[derive(Clone, Debug)]
pub struct StaticToken(pub String);

impl TokenSource for StaticToken {
    fn token(
        &self,
        fresh: bool,
    ) -> Pin<Box<dyn Future<Output = Result<String, TokenError>> + std::marker::Send + '_>> {
        let token = if fresh {
            Err(TokenError::Expired)
        } else {
            Ok(self.0.clone())
        };
        Box::pin(std::future::ready(token))
    }
}

/// How a client connects and what it follows.
#[derive(Clone)]
pub struct Config {
    /// Address of the socket, such as `ws://127.0.0.1:7070/v1/ws`.
    pub url: String,
    /// Where tokens come from.
    pub token: Arc<dyn TokenSource>,
    /// Name and version of the application, for the server's logs.
    pub app: Option<String>,
    /// How much `hello` shall bring along.
    pub window: Window,
    /// How closely rooms are followed.
    pub follow: Follow,
    /// How long a question may take, repeats after lost sockets included.
    pub read_within: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The usual: a window of 50 rooms with 20 entries each, questions within 10 seconds.
    ///
    /// An address without a path gets the path of the protocol.
    #[must_use]
    pub fn new(url: &str, token: Arc<dyn TokenSource>) -> Self {
        let has_path = url.split_once("://").is_some_and(|(_, rest)| {
            rest.split_once('/')
                .is_some_and(|(_, path)| !path.is_empty())
        });
        let url = if has_path {
            url.to_owned()
        } else {
            format!("{}/v1/ws", url.trim_end_matches('/'))
        };
        Self {
            url,
            token,
            app: None,
            window: Window { rooms: 50, tl: 20 },
            follow: Follow::default(),
            read_within: Duration::from_secs(10),
        }
    }
}

/// The client could not start.
#[derive(Debug, thiserror::Error)]
#[error("open the client's store")]
pub struct OpenError(#[from] StoreError);

/// A request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The client was closed, or its store failed.
    #[error("the client is closed")]
    Closed,
    /// The server, or the client in its place, said no.
    #[error("{}: {}", .0.code.slug(), .0.msg)]
    Refused(Refusal),
    /// The server's answer is not of the protocol.
    #[error("the answer is not of the protocol")]
    Answer(#[source] serde_json::Error),
}

/// A command that is durably queued.
#[derive(Debug)]
pub struct Submitted {
    /// Its name, until a [`Delivery::Renamed`] says otherwise.
    pub cid: Cid,
    outcome: oneshot::Receiver<Word>,
}

impl Submitted {
    /// Waits until the command is in the log.
    ///
    /// Cancel safety: dropping it changes nothing, the command goes on.
    ///
    /// # Errors
    /// The final refusal, or [`ClientError::Closed`]; after that the command is still in the store.
    pub async fn stored(self) -> Result<Accepted, ClientError> {
        self.stored_as().await.map(|(_, accepted)| accepted)
    }

    /// As [`Self::stored`], with the name under which the command was stored in the end.
    ///
    /// # Errors
    /// As [`Self::stored`].
    pub async fn stored_as(self) -> Result<(Cid, Accepted), ClientError> {
        match self.outcome.await {
            Ok((cid, Ok(accepted))) => Ok((cid, accepted)),
            Ok((_, Err(refusal))) => Err(ClientError::Refused(refusal)),
            Err(_) => Err(ClientError::Closed),
        }
    }
}

/// Updates in order, each once.
///
/// Bounded by backpressure: while an application does not read, the client stops reading from the
/// server, which then counts it as a slow reader and lets it catch up. Drop it if it is not needed.
#[derive(Debug)]
pub struct Updates(mpsc::Receiver<Update>);

impl Updates {
    /// The next update; `None` once the client is closed.
    ///
    /// Cancel safety: safe, nothing is lost.
    pub async fn next(&mut self) -> Option<Update> {
        self.0.recv().await
    }
}

/// How a client is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who we are, once a server has said so.
    pub user: Option<UserId>,
    /// The connection's state.
    pub connection: ConnectionState,
    /// Whether every command has a result.
    pub is_idle: bool,
}

/// A handle to a running client; clones share it. The client stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
}

impl Client {
    /// Starts a client on what its store holds; it connects by itself, again and again.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`] if the store cannot be read.
    pub fn open(config: Config, mut store: Store) -> Result<Self, OpenError> {
        let saved = store.load()?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let core_config = CoreConfig {
            app: config.app.clone(),
            window: config.window,
            follow: config.follow,
        };
        let start = move |now| Core::new(core_config, saved, rand::random(), now);
        let shell = Shell::new(Arc::new(config), store, receiver, start);
        // A library has no supervisor: when the task ends, every handle sees `Closed`.
        drop(tokio::spawn(shell.run()));
        Ok(Self { requests })
    }

    /// Queues a command durably; it is sent, and sent again, until the server has a final word.
    ///
    /// # Errors
    /// The refusal that the command's own bytes earn, `rate_limited` if the outbox is full, or
    /// [`ClientError::Closed`].
    pub async fn submit(
        &self,
        room: Option<RoomId>,
        write: Write,
    ) -> Result<Submitted, ClientError> {
        let (outcome_tx, outcome) = oneshot::channel();
        let request = |reply| Request::Submit {
            room,
            write,
            reply,
            outcome: outcome_tx,
        };
        let cid = self.request(request).await?.map_err(ClientError::Refused)?;
        Ok(Submitted { cid, outcome })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn send(&self, room: &RoomId, send: Send) -> Result<Submitted, ClientError> {
        self.submit(Some(room.clone()), Write::Send(send)).await
    }

    /// Changes a message of one's own; `base` is the revision that was changed.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn edit(
        &self,
        room: &RoomId,
        on: Seq,
        base: u32,
        text: &str,
    ) -> Result<Submitted, ClientError> {
        let write = Write::Edit {
            on,
            base,
            text: text.to_owned(),
            mentions: Vec::new(),
        };
        self.submit(Some(room.clone()), write).await
    }

    /// Removes a message.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn delete(&self, room: &RoomId, on: Seq) -> Result<Submitted, ClientError> {
        let on = Some(DeleteTarget::One(on));
        let write = Write::Del {
            on,
            user: None,
            to: None,
            why: None,
        };
        self.submit(Some(room.clone()), write).await
    }

    /// Becomes a member.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn join(&self, room: &RoomId) -> Result<Submitted, ClientError> {
        self.submit(Some(room.clone()), Write::Join {}).await
    }

    /// Ends one's membership.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn leave(&self, room: &RoomId) -> Result<Submitted, ClientError> {
        self.submit(Some(room.clone()), Write::Leave {}).await
    }

    /// Makes a room; its id is in the acknowledgement.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn create(&self, create: Create) -> Result<Submitted, ClientError> {
        self.submit(None, Write::Create(create)).await
    }

    /// Marks a room as read up to a seq; at most one mark per room and 5 s leaves the client.
    ///
    /// # Errors
    /// See [`Self::submit`].
    pub async fn mark_read(&self, room: &RoomId, seq: Seq) -> Result<Submitted, ClientError> {
        let read = Read {
            target: room.clone(),
            seq,
            back: false,
            read_n: None,
        };
        self.submit(None, Write::Read(read)).await
    }

    /// Forgets a command that was refused for good.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn discard(&self, cid: Cid) -> Result<(), ClientError> {
        self.request(|reply| Request::Discard { cid, reply }).await
    }

    /// Asks the server; asked again after a lost socket, within [`Config::read_within`].
    ///
    /// # Errors
    /// The refusal, `timeout` if the time has passed, or [`ClientError::Closed`].
    pub async fn ask(&self, read: ReadCommand) -> Result<Value, ClientError> {
        self.request(|reply| Request::Ask {
            read: Box::new(read),
            reply,
        })
        .await?
        .map_err(ClientError::Refused)
    }

    /// A page of a room's timeline, the newest without `before`; it also goes into the room's view.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub async fn history(
        &self,
        room: &RoomId,
        before: Option<Seq>,
        limit: u32,
    ) -> Result<Page, ClientError> {
        // Above every seq that JSON carries exactly: the newest page.
        let before = before.or(Some(Seq((1 << 53) - 1)));
        let room = room.clone();
        let (after, around, limit, all) = (None, None, Some(limit), false);
        self.typed(ReadCommand::History {
            room,
            before,
            after,
            around,
            limit,
            all,
        })
        .await
    }

    /// Every durable event above `after`, as it was, at most a page.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub async fn events_after(&self, room: &RoomId, after: Seq) -> Result<Page, ClientError> {
        let (room, after, limit) = (room.clone(), Some(after), Some(protocol::limits::PAGE_MAX));
        let (before, around, all) = (None, None, true);
        self.typed(ReadCommand::History {
            room,
            before,
            after,
            around,
            limit,
            all,
        })
        .await
    }

    /// A page of a room's members.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub async fn members(
        &self,
        room: &RoomId,
        cursor: Option<String>,
    ) -> Result<MemberList, ClientError> {
        self.typed(ReadCommand::Members {
            room: room.clone(),
            cursor,
            limit: None,
        })
        .await
    }

    /// A page of the public rooms, by name; `q` is a part of a name or topic.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub async fn discover(
        &self,
        q: Option<String>,
        cursor: Option<String>,
    ) -> Result<PublicRoomList, ClientError> {
        self.typed(ReadCommand::Discover {
            q,
            cursor,
            limit: None,
        })
        .await
    }

    /// The rooms this user is in, as far as this client knows.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn rooms(&self) -> Result<Vec<RoomSnapshot>, ClientError> {
        self.request(Request::Rooms).await
    }

    /// A room as it is to be shown, own pending commands included.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn view(&self, room: &RoomId) -> Result<Option<Box<RoomView>>, ClientError> {
        self.request(|reply| Request::View {
            room: room.clone(),
            reply,
        })
        .await
    }

    /// How the client is.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.request(Request::Status).await
    }

    /// Updates from now on; `capacity` of them may wait before the client stops reading.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn subscribe(&self, capacity: usize) -> Result<Updates, ClientError> {
        let (updates, receiver) = mpsc::channel(capacity.max(1));
        self.request(|reply| Request::Subscribe { updates, reply })
            .await?;
        Ok(Updates(receiver))
    }

    /// Closes the sockets with 1000 and ends the client; what is queued stays in the store.
    pub async fn close(&self) {
        // Already closed is closed.
        drop(self.request(|reply| Request::Close { reply }).await);
    }

    async fn typed<T: DeserializeOwned>(&self, read: ReadCommand) -> Result<T, ClientError> {
        serde_json::from_value(self.ask(read).await?).map_err(ClientError::Answer)
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ClientError> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(ClientError::Closed);
        }
        let Ok(answer) = answer.await else {
            return Err(ClientError::Closed);
        };
        Ok(answer)
    }
}

/// Whether the client will never connect again.
#[must_use]
pub(crate) const fn is_stopped(state: &ConnectionState) -> Option<&StopReason> {
    match state {
        ConnectionState::Stopped(reason) => Some(reason),
        ConnectionState::Connecting
        | ConnectionState::Connected
        | ConnectionState::Waiting { .. } => None,
    }
}

/// The last word on a command, if this is one.
pub(crate) fn last_word(delivery: &Delivery) -> Option<Result<Accepted, Refusal>> {
    match delivery {
        Delivery::Stored(accepted) => Some(Ok(accepted.clone())),
        Delivery::Failed(refusal) => Some(Err(refusal.clone())),
        Delivery::Queued | Delivery::Sent | Delivery::Renamed(_) => None,
    }
}
