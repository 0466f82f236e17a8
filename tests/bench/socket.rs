//! A socket that says hello and then reads or asks; nothing of our client library in it.

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// One connection after hello.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    lines: std::collections::VecDeque<Value>,
    next_id: u64,
}

impl Socket {
    /// Connects and says hello; returns once `live` has come.
    pub async fn hello(url: &str, token: &str) -> anyhow::Result<Self> {
        let (stream, _) = tokio_tungstenite::connect_async(url).await?;
        let mut socket = Self {
            stream,
            lines: std::collections::VecDeque::new(),
            next_id: 1,
        };
        socket.ask(json!({"op": "hello", "token": token})).await?;
        while socket.line().await?.get("ev").and_then(Value::as_str) != Some("live") {}
        Ok(socket)
    }

    /// Sends a command and waits for its reply; events on the way are dropped.
    pub async fn ask(&mut self, mut command: Value) -> anyhow::Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        self.stream.send(Message::text(command.to_string())).await?;
        loop {
            let line = self.line().await?;
            if line.get("id").and_then(Value::as_u64) == Some(id) {
                return match line.get("ok") {
                    Some(ok) => Ok(ok.clone()),
                    None => bail!("refused: {line}"),
                };
            }
        }
    }

    /// The next line.
    pub async fn line(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                if line.get("ev").and_then(Value::as_str) == Some("ping") {
                    self.stream.send(Message::text(r#"{"op":"pong"}"#)).await?;
                }
                return Ok(line);
            }
            match self.stream.next().await.context("closed")?? {
                Message::Text(text) => {
                    for line in text.split('\n') {
                        self.lines.push_back(serde_json::from_str(line)?);
                    }
                }
                Message::Close(frame) => bail!("closed: {frame:?}"),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Counts `"ev":"msg"` in raw texts, without parsing, until `wanted` have come.
    pub async fn count_messages(mut self, wanted: u64) -> anyhow::Result<u64> {
        let mut seen = 0;
        while seen < wanted {
            match self.stream.next().await.context("closed")?? {
                Message::Text(text) => {
                    seen += text.matches(r#""ev":"msg""#).count() as u64;
                    if text.contains(r#""ev":"ping""#) {
                        self.stream.send(Message::text(r#"{"op":"pong"}"#)).await?;
                    }
                }
                Message::Close(frame) => bail!("closed: {frame:?}"),
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(seen)
    }
}

/// Makes a UUIDv7 of now.
pub fn cid() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Asks `POST /v1/dev/token`.
pub async fn dev_token(url: &str, user: &str) -> anyhow::Result<String> {
    let host = url.trim_start_matches("http://");
    let body = json!({"user": user, "name": user, "roles": []}).to_string();
    let mut stream = TcpStream::connect(host).await?;
    let request = format!(
        "POST /v1/dev/token HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, json) = answer.split_once("\r\n\r\n").context("no body")?;
    let start = json.find('{').context("no JSON")?;
    let end = json.rfind('}').context("no JSON")?;
    let value: Value = serde_json::from_str(&json[start..=end])?;
    Ok(value["token"].as_str().context("no token")?.to_owned())
}
