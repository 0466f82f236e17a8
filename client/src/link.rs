//! One socket: opens it, carries texts in both directions, says how it ended.
//!
//! Thin shell over tokio-tungstenite; it never looks into a text.

use crate::client::{Config, TokenError};
use crate::connection::LinkId;
use futures_util::{SinkExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::uri::InvalidUri;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// The subprotocol of version 1.
const SUBPROTOCOL: &str = "natter.v1.json";
/// For a token, for TCP and upgrade, and for one write.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How long a closing handshake may take before the socket is dropped.
const CLOSING_MAX: Duration = Duration::from_secs(2);
/// A thousand clients of one process must not hold 128 KiB each.
const BUFFER_BYTES: usize = 16 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a link's task tells the shell.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// The socket is open; `hello` goes out with this token.
    Opened { link: LinkId, token: String },
    /// A text message came.
    Text { link: LinkId, text: Utf8Bytes },
    /// It is closed, or could not be opened.
    Closed {
        link: LinkId,
        close: Option<(u16, String)>,
    },
    /// A new token for a socket in use.
    Token { link: LinkId, token: String },
    /// There will never be a token again.
    NoToken,
}

/// What the shell tells a link's task.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Send a text message.
    Text(String),
    /// Close with this code and end.
    Close(u16),
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no token")]
    Token(#[source] TokenError),
    #[error("the address is no URL")]
    Url(#[source] InvalidUri),
    #[error("open the socket")]
    Open(#[source] Box<tungstenite::Error>),
    #[error("{0} took longer than {STEP_MAX:?}")]
    Timeout(&'static str),
}

/// Runs one socket until it is closed; its last event is [`LinkEvent::Closed`].
pub(crate) async fn run(
    link: LinkId,
    config: Arc<Config>,
    fresh_token: bool,
    events: mpsc::Sender<LinkEvent>,
    mut outgoing: mpsc::Receiver<Outgoing>,
) {
    let close = match open(&config, fresh_token).await {
        Ok((socket, token)) => {
            if events
                .send(LinkEvent::Opened { link, token })
                .await
                .is_err()
            {
                return;
            }
            carry(link, socket, &events, &mut outgoing).await
        }
        Err(LinkError::Token(TokenError::Expired)) => {
            drop(events.send(LinkEvent::NoToken).await);
            return;
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::debug!(%error, cause, "no connection");
            None
        }
    };
    // The client may be gone; then nobody wants to know.
    drop(events.send(LinkEvent::Closed { link, close }).await);
}

/// Fetches a token for a socket in use.
pub(crate) async fn refresh(link: LinkId, config: Arc<Config>, events: mpsc::Sender<LinkEvent>) {
    match token(&config, true).await {
        Ok(token) => drop(events.send(LinkEvent::Token { link, token }).await),
        // The socket is good until its token ends; then the next one asks again.
        Err(error) => tracing::warn!(%error, "the token could not be refreshed"),
    }
}

async fn token(config: &Config, fresh: bool) -> Result<String, LinkError> {
    let Ok(token) = timeout(STEP_MAX, config.token.token(fresh)).await else {
        return Err(LinkError::Timeout("fetching a token"));
    };
    token.map_err(LinkError::Token)
}

async fn open(config: &Config, fresh_token: bool) -> Result<(Socket, String), LinkError> {
    let token = token(config, fresh_token).await?;
    let uri = config.url.parse().map_err(LinkError::Url)?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    let buffers = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES);
    let opening = connect_async_with_config(request, Some(buffers), true);
    let Ok(opened) = timeout(STEP_MAX, opening).await else {
        return Err(LinkError::Timeout("opening a socket"));
    };
    let (socket, _response) = opened.map_err(|error| LinkError::Open(Box::new(error)))?;
    Ok((socket, token))
}

enum Step {
    Out(Option<Outgoing>),
    In(Option<Result<Message, tungstenite::Error>>),
    Room,
}

/// Carries texts until either side closes; the close code, if the server gave one.
async fn carry(
    link: LinkId,
    mut socket: Socket,
    events: &mpsc::Sender<LinkEvent>,
    outgoing: &mut mpsc::Receiver<Outgoing>,
) -> Option<(u16, String)> {
    // A text that the shell has no room for yet: nothing more is read meanwhile, which is how a
    // slow application becomes a slow reader to the server.
    let mut held: Option<Utf8Bytes> = None;
    loop {
        let step = tokio::select! {
            command = outgoing.recv() => Step::Out(command),
            message = socket.next(), if held.is_none() => Step::In(message),
            _room = events.reserve(), if held.is_some() => Step::Room,
        };
        match step {
            Step::Out(Some(Outgoing::Text(text))) => write(&mut socket, text, outgoing).await?,
            Step::Out(Some(Outgoing::Close(code))) => return close(socket, code).await,
            Step::Out(None) => return close(socket, 1000).await,
            Step::In(Some(Ok(Message::Text(text)))) => held = Some(text),
            Step::In(Some(Ok(Message::Close(frame)))) => {
                return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
            }
            Step::In(Some(Ok(
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_),
            )))
            | Step::Room => {}
            Step::In(None | Some(Err(_))) => return None,
        }
        if let Some(text) = held.take()
            && let Err(error) = events.try_send(LinkEvent::Text { link, text })
        {
            match error {
                mpsc::error::TrySendError::Full(LinkEvent::Text { text, .. }) => held = Some(text),
                mpsc::error::TrySendError::Full(_) | mpsc::error::TrySendError::Closed(_) => {
                    return close(socket, 1000).await;
                }
            }
        }
    }
}

/// Writes a text and whatever else is ready, then flushes once; `None` if the socket is broken.
async fn write(
    socket: &mut Socket,
    text: String,
    outgoing: &mut mpsc::Receiver<Outgoing>,
) -> Option<()> {
    let mut next = Some(text);
    let mut closing = None;
    while let Some(text) = next.take() {
        timeout(STEP_MAX, socket.feed(Message::text(text)))
            .await
            .ok()?
            .ok()?;
        match outgoing.try_recv() {
            Ok(Outgoing::Text(text)) => next = Some(text),
            Ok(Outgoing::Close(code)) => closing = Some(code),
            Err(_) => {}
        }
    }
    timeout(STEP_MAX, socket.flush()).await.ok()?.ok()?;
    if let Some(code) = closing {
        say_close(socket, code).await;
        return None;
    }
    Some(())
}

async fn say_close(socket: &mut Socket, code: u16) {
    let frame = CloseFrame {
        code: code.into(),
        reason: Utf8Bytes::default(),
    };
    // The peer may be dead, which is a way of being closed.
    drop(timeout(CLOSING_MAX, socket.close(Some(frame))).await);
}

async fn close(mut socket: Socket, code: u16) -> Option<(u16, String)> {
    say_close(&mut socket, code).await;
    let rest = async { while let Some(Ok(_)) = socket.next().await {} };
    drop(timeout(CLOSING_MAX, rest).await);
    None
}
