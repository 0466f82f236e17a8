//! A socket that says hello and then reads or asks; nothing of our client library in it.

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// The server pings each 25 s: longer silence is a broken connection.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longer than any bench takes, from hello to its last message.
const COUNT_WITHIN: Duration = Duration::from_secs(180);

/// One connection after hello.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    lines: std::collections::VecDeque<Value>,
    next_id: u64,
    opened: Instant,
}

impl Socket {
    /// Connects and says hello; returns once `live` has come.
    pub async fn hello(url: &str, token: &str) -> anyhow::Result<Self> {
        let (stream, _) = tokio_tungstenite::connect_async(url).await?;
        let mut socket = Self {
            stream,
            lines: std::collections::VecDeque::new(),
            next_id: 1,
            opened: Instant::now(),
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

    /// Joins a room and returns once its `state` has come too; the seq that the state is of.
    ///
    /// Reply and state come in either order. What the state covers does not come as an event.
    pub async fn join(&mut self, room: &Value) -> anyhow::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let join = json!({"id": id, "op": "join", "cid": cid(), "room": room});
        self.stream.send(Message::text(join.to_string())).await?;
        let (mut joined, mut at) = (false, None);
        loop {
            let line = self.line().await?;
            if line.get("id").and_then(Value::as_u64) == Some(id) {
                ensure!(line.get("ok").is_some(), "refused: {line}");
                joined = true;
            } else if line["ev"] == "state" && line["room"] == *room {
                at = line["at"].as_u64();
            }
            if let (true, Some(at)) = (joined, at) {
                return Ok(at);
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
    ///
    /// Says how many came if they do not all come in time: a hang would hide a loss.
    pub async fn count_messages(mut self, wanted: u64) -> anyhow::Result<u64> {
        // Those that were parsed already on the way to here.
        let mut seen = self.lines.iter().filter(|line| line["ev"] == "msg").count() as u64;
        let mut other = false;
        while seen < wanted {
            let next = tokio::time::timeout(SILENCE_MAX, self.stream.next()).await;
            let Ok(next) = next else {
                bail!("{seen} of {wanted} messages came; skipped or lagged: {other}");
            };
            match next.context("closed")?? {
                Message::Text(text) => {
                    seen += text.matches(r#""ev":"msg""#).count() as u64;
                    other |= text.contains(r#""ev":"skip""#) || text.contains(r#""ev":"lagged""#);
                    if text.contains(r#""ev":"ping""#) {
                        self.stream.send(Message::text(r#"{"op":"pong"}"#)).await?;
                        ensure!(
                            self.opened.elapsed() < COUNT_WITHIN,
                            "{seen} of {wanted} messages came; skipped or lagged: {other}"
                        );
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
