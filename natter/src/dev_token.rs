//! Tokens from a development server: `POST /v1/dev/token`, asked for anew when one has expired.
//!
//! One small request with a bounded answer does not need an HTTP client; anything more would.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use client::{TokenError, TokenSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// For the whole request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// A token has some hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Requests at once: a thousand users that come back together must not knock all at one door.
const REQUESTS_MAX: usize = 16;

/// The server that makes tokens.
#[derive(Debug)]
pub(crate) struct DevServer {
    authority: String,
    requests: Semaphore,
}

impl DevServer {
    /// The server behind a socket's address, such as `ws://127.0.0.1:8080`.
    pub(crate) fn of(url: &str) -> anyhow::Result<Arc<Self>> {
        let rest = url
            .strip_prefix("ws://")
            .or_else(|| url.strip_prefix("http://"))
            .with_context(|| format!("{url} does not begin with ws://"))?;
        let authority = rest.split('/').next().unwrap_or(rest);
        anyhow::ensure!(!authority.is_empty(), "{url} names no host");
        let port = if authority.contains(':') { "" } else { ":80" };
        let requests = Semaphore::new(REQUESTS_MAX);
        Ok(Arc::new(Self {
            authority: format!("{authority}{port}"),
            requests,
        }))
    }

    /// Tokens of one user, made when they are first needed.
    pub(crate) fn tokens_of(self: &Arc<Self>, user: &str) -> Arc<DevTokens> {
        let (server, user) = (Arc::clone(self), user.to_owned());
        Arc::new(DevTokens {
            server,
            user,
            last: Mutex::default(),
        })
    }

    async fn make(&self, user: &str) -> anyhow::Result<String> {
        let _turn = self.requests.acquire().await?;
        tokio::time::timeout(REQUEST_MAX, self.request(user))
            .await
            .with_context(|| format!("{} did not answer in time", self.authority))?
    }

    async fn request(&self, user: &str) -> anyhow::Result<String> {
        let body = serde_json::json!({ "user": user, "name": user, "roles": [] }).to_string();
        let authority = &self.authority;
        let request = format!(
            "POST /v1/dev/token HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(authority)
            .await
            .with_context(|| format!("connect to {authority}"))?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        parse_answer(&String::from_utf8_lossy(&answer))
            .with_context(|| format!("{authority} gives no development tokens"))
    }
}

/// The token in an HTTP answer.
fn parse_answer(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.contains(" 200"), "it answered {status}");
    // The body may be chunked; the object in it is all that is wanted.
    let object = body
        .find('{')
        .zip(body.rfind('}'))
        .and_then(|(from, to)| body.get(from..=to));
    #[derive(serde::Deserialize)]
    struct Answer {
        token: String,
    }
    let answer: Answer = serde_json::from_str(object.context("no JSON in the answer")?)?;
    Ok(answer.token)
}

/// The tokens of one user.
#[derive(Debug)]
pub(crate) struct DevTokens {
    server: Arc<DevServer>,
    user: String,
    last: Mutex<Option<String>>,
}

impl TokenSource for DevTokens {
    fn token(
        &self,
        fresh: bool,
    ) -> Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send + '_>> {
        Box::pin(async move {
            let last = self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Some(token) = last.filter(|_| !fresh) {
                return Ok(token);
            }
            let made = self.server.make(&self.user).await;
            let token = made.map_err(|error| TokenError::Unavailable(format!("{error:#}")))?;
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
            Ok(token)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_the_host_of_the_socket() {
        let authority = |url| DevServer::of(url).unwrap().authority.clone();
        assert_eq!(authority("ws://127.0.0.1:8080"), "127.0.0.1:8080");
        assert_eq!(authority("ws://localhost/v1/ws"), "localhost:80");
        assert!(DevServer::of("ftp://x").is_err());
        assert!(DevServer::of("ws:///v1/ws").is_err());
    }

    #[test]
    fn a_token_is_read_from_a_plain_or_a_chunked_answer() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"token\":\"t\"}";
        assert_eq!(parse_answer(plain).unwrap(), "t");
        let chunked = "HTTP/1.1 200 OK\r\n\r\nd\r\n{\"token\":\"t\"}\r\n0\r\n\r\n";
        assert_eq!(parse_answer(chunked).unwrap(), "t");
        assert!(parse_answer("HTTP/1.1 404 Not Found\r\n\r\n{}").is_err());
        assert!(parse_answer("").is_err());
    }
}
