//! A WebSocket as any client would hold it: raw frames in, JSON lines out.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};

use crate::eventually::PATIENCE;

/// How a socket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// With a close frame; 1005 if it named no code.
    With(u16),
    /// Without one.
    Abruptly,
}

/// What a hello brought.
#[derive(Debug)]
pub struct Greeting {
    /// The reply.
    pub ok: Value,
    /// Every line between the reply and `live`.
    pub lines: Vec<Value>,
    /// The cursor of `live`.
    pub cursor: String,
}

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    lines: VecDeque<Value>,
    asked: u64,
}

impl Socket {
    /// Opens it with natter's subprotocol.
    ///
    /// # Panics
    ///
    /// If the upgrade is refused.
    pub async fn open(url: &str) -> Self {
        let headers = [("sec-websocket-protocol", "natter.v1.json")];
        Self::open_with(url, &headers)
            .await
            .unwrap_or_else(|status| panic!("refused: {status}"))
    }

    /// Opens it with these headers; the HTTP status if refused, 0 if there is no server.
    ///
    /// # Errors
    ///
    /// The upgrade is refused.
    pub async fn open_with(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let mut request = url.into_client_request().expect("the address is ours");
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header's value is text");
            request.headers_mut().insert(*name, value);
        }
        match tokio::time::timeout(PATIENCE, connect_async(request)).await {
            Ok(Ok((stream, _))) => Ok(Self::new(stream)),
            Ok(Err(Error::Http(response))) => Err(response.status().as_u16()),
            Ok(Err(_)) | Err(_) => Err(0),
        }
    }

    /// Opens it with so small a receive buffer that the server soon feels it when nothing is read.
    ///
    /// # Panics
    ///
    /// If the upgrade is refused.
    pub async fn open_narrow(url: &str) -> Self {
        let request = url.into_client_request().expect("the address is ours");
        let authority = request.uri().authority().expect("it has a host");
        let address = authority
            .as_str()
            .parse()
            .expect("the stack is named by address");
        let tcp = TcpSocket::new_v4().expect("a socket can be made");
        tcp.set_recv_buffer_size(4096)
            .expect("a buffer can be small");
        let tcp = tcp.connect(address).await.expect("the server listens");
        let opened = client_async(request, MaybeTlsStream::Plain(tcp)).await;
        Self::new(opened.expect("the upgrade is taken").0)
    }

    fn new(stream: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self {
            stream,
            lines: VecDeque::new(),
            asked: 0,
        }
    }

    /// Sends one command. A failed write is no failure here: reading tells how the socket ended.
    pub async fn sends(&mut self, command: &Value) {
        self.sends_message(Message::text(command.to_string())).await;
    }

    /// Sends commands as one text message: for one room they are a batch.
    pub async fn sends_batch(&mut self, commands: &[Value]) {
        let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
        self.sends_message(Message::text(lines.join("\n"))).await;
    }

    /// Sends any message, a wrong one too.
    pub async fn sends_message(&mut self, message: Message) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.send(message)).await;
        drop(sent.expect("the server reads"));
    }

    /// Writes bytes past the WebSocket library, for frames that it would refuse to make.
    pub async fn sends_bytes(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.get_mut().write_all(bytes)).await;
        // As above: reading tells how the socket ended.
        drop(sent.expect("the server reads"));
    }

    /// Sends a command with an `id` of its own and reads until the reply to it; what came before is dropped.
    ///
    /// # Errors
    ///
    /// The command is refused.
    ///
    /// # Panics
    ///
    /// If the socket ends before.
    pub async fn asks(&mut self, mut command: Value) -> Result<Value, Value> {
        self.asked += 1;
        command["id"] = json!(self.asked);
        self.sends(&command).await;
        loop {
            let line = self.next().await;
            let mut line =
                line.unwrap_or_else(|end| panic!("{end:?} instead of a reply to {command}"));
            if line["id"] == self.asked {
                return match line.get_mut("ok") {
                    Some(ok) => Ok(ok.take()),
                    None => Err(line["err"].take()),
                };
            }
        }
    }

    /// Says hello with these fields and reads until it is live.
    pub async fn says_hello(&mut self, mut fields: Value) -> Greeting {
        fields["op"] = json!("hello");
        let ok = self
            .asks(fields)
            .await
            .unwrap_or_else(|err| panic!("hello is refused: {err}"));
        let mut lines = Vec::new();
        loop {
            let line = self.next().await.expect("the socket stays open");
            if line["ev"] == "live" {
                let cursor = line["cur"]
                    .as_str()
                    .expect("live brings a cursor")
                    .to_owned();
                return Greeting { ok, lines, cursor };
            }
            lines.push(line);
        }
    }

    /// The next line.
    ///
    /// # Errors
    ///
    /// The socket has ended.
    ///
    /// # Panics
    ///
    /// If nothing comes within the patience.
    pub async fn next(&mut self) -> Result<Value, Closed> {
        self.next_within(PATIENCE).await.expect("a line in time")
    }

    /// The next line, or nothing within `patience`.
    pub async fn next_within(&mut self, patience: Duration) -> Option<Result<Value, Closed>> {
        tokio::time::timeout(patience, self.read()).await.ok()
    }

    /// Cancel safety: a line is either returned or kept.
    async fn read(&mut self) -> Result<Value, Closed> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(line);
            }
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => {
                    let parse = |line: &str| {
                        serde_json::from_str(line)
                            .unwrap_or_else(|error| panic!("{error} in the server's {line}"))
                    };
                    self.lines.extend(text.lines().map(parse));
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(Closed::With(frame.map_or(1005, |frame| frame.code.into())));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("the server sent {other:?}"),
                Some(Err(_)) | None => return Err(Closed::Abruptly),
            }
        }
    }

    /// Reads on until the socket ends.
    pub async fn ends(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    /// Closes in order.
    pub async fn closes(mut self) {
        // The other side may have closed first.
        drop(tokio::time::timeout(PATIENCE, self.stream.close(None)).await);
    }
}
