//! Plain HTTP/1.1 as any client would speak it: one request, one connection, one answer.
//!
//! It does not keep connections, follow redirects or decompress.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::eventually::PATIENCE;

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    method: &'static str,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A GET of this address.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST of this JSON to this address.
    pub fn post(url: impl Into<String>, body: &Value) -> Self {
        Self::post_bytes(url, body.to_string().into_bytes())
    }

    /// A POST of what need not be JSON, though it says so.
    pub fn post_bytes(url: impl Into<String>, body: Vec<u8>) -> Self {
        let mut request = Self::new("POST", url).header("content-type", "application/json");
        request.body = body;
        request
    }

    fn new(method: &'static str, url: impl Into<String>) -> Self {
        let (url, headers, body) = (url.into(), Vec::new(), Vec::new());
        Self {
            method,
            url,
            headers,
            body,
        }
    }

    /// With one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    ///
    /// If there is none within the patience.
    pub async fn send(&self) -> Answer {
        let answer = self.try_send().await;
        answer.unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.url))
    }

    /// The same, for a server that may be away.
    ///
    /// # Errors
    ///
    /// The connection fails or brings no answer in time.
    pub async fn try_send(&self) -> std::io::Result<Answer> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange()).await;
        answer.map_err(|_| std::io::ErrorKind::TimedOut)?
    }

    async fn exchange(&self) -> std::io::Result<Answer> {
        let rest = self.url.strip_prefix("http://").expect("plain HTTP only");
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path };
        let mut head = format!(
            "{} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n",
            self.method
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        let mut stream = TcpStream::connect(host).await?;
        stream.write_all(head.as_bytes()).await?;
        // A server that refuses by the head alone may close before it has read the body.
        drop(stream.write_all(&self.body).await);
        let mut bytes = Vec::new();
        // The length says when an answer is whole; a server may keep the connection a little longer.
        while !is_whole(&bytes) {
            match stream.read_buf(&mut bytes).await {
                Ok(0) => break,
                Err(error) if bytes.is_empty() => return Err(error),
                Err(_) => break,
                Ok(_) => {}
            }
        }
        Answer::parse(&bytes).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }
}

/// Whether the head has come, and as much of a body as it announces; without a length, never.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
        return false;
    };
    let head = Answer::parse(&bytes[..end + 4]);
    let length = head.as_ref().and_then(|head| head.header("content-length"));
    let length = length.and_then(|length| length.parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() - end - 4 >= length)
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Self {
            status,
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        })
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(its_name, _)| its_name == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Asserts that it is a problem (RFC 9457) with this status and code.
    ///
    /// # Panics
    ///
    /// If it is anything else.
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/problem+json"), "{self:?}");
        assert_eq!(self.json()["type"], format!("/errors/{code}"), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_parts() {
        let bytes = b"HTTP/1.1 304 Not Modified\r\nETag: \"a:b\"\r\n\r\n{}";
        let answer = Answer::parse(bytes).expect("a whole answer");
        assert_eq!(
            (answer.status, answer.header("etag")),
            (304, Some("\"a:b\""))
        );
        assert_eq!(answer.json(), serde_json::json!({}));
    }

    #[test]
    fn an_answer_is_whole_when_its_length_has_come() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        for (text, whole) in [("ab", false), ("abc", true)] {
            assert_eq!(is_whole(format!("{head}{text}").as_bytes()), whole);
        }
        assert!(!is_whole(b"HTTP/1.1 200 OK\r\n\r\nabc"));
        assert!(!is_whole(&head.as_bytes()[..20]));
    }
}
