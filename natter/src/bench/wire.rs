//! One raw socket: opened, read, written. It knows nothing of what is said on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::SinkExt as _;
use protocol::{DeviceId, Timestamp};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::place::Place;

const SUBPROTOCOL: &str = "natter.v1.json";
/// For one write.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Hundreds of sockets must not hold 128 KiB each.
const BUFFER_BYTES: usize = 16 * 1024;
/// So small that the server soon feels it when nothing is read.
const NARROW_BYTES: u32 = 4 * 1024;

/// A socket.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// What was heard.
pub(crate) enum Heard {
    Text(Utf8Bytes),
    Nothing,
    /// It is closed, with this code if there was one.
    Closed(Option<u16>),
}

/// Opens a socket; the token to say hello with comes along.
///
/// # Errors
/// There is no token, or no server.
pub(crate) async fn open(
    place: &Place,
    (attempt, narrow): (usize, bool),
    fresh_token: bool,
) -> anyhow::Result<(Socket, String)> {
    let token = place.tokens.token(fresh_token).await?;
    let url = &place.urls[attempt % place.urls.len()];
    let request = ClientRequestBuilder::new(url.parse()?).with_sub_protocol(SUBPROTOCOL);
    let rest = url.strip_prefix("ws://").context("only ws:// addresses")?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let address = lookup_host(host).await?.next().context("no address")?;
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if narrow {
        socket.set_recv_buffer_size(NARROW_BYTES)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let buffers = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES);
    let (socket, _response) = client_async_with_config(request, stream, Some(buffers)).await?;
    Ok((socket, token))
}

/// What a message of the socket is.
pub(crate) fn text(message: Option<Result<Message, Error>>) -> Heard {
    match message {
        Some(Ok(Message::Text(text))) => Heard::Text(text),
        Some(Ok(Message::Close(frame))) => Heard::Closed(frame.map(|frame| frame.code.into())),
        Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
            Heard::Nothing
        }
        Some(Err(_)) | None => Heard::Closed(None),
    }
}

/// Sends a line; false if the socket is broken.
pub(crate) async fn send(socket: &mut Socket, line: String) -> bool {
    matches!(
        timeout(WRITE_MAX, socket.send(Message::text(line))).await,
        Ok(Ok(()))
    )
}

/// A new device.
pub(crate) fn device() -> DeviceId {
    let name = format!("{:032x}", rand::random::<u128>());
    DeviceId::parse(&name).expect("hexadecimal digits are in the grammar")
}

/// This machine's clock.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
