//! Asking a service whether it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A status line and some headers; more is not read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Returns when `GET /readyz` answers 200.
///
/// Cancel safety: may be dropped at any time.
pub(crate) async fn ready(address: SocketAddr) {
    loop {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, status_line(address)).await;
        if matches!(answer, Ok(Ok(line)) if is_success(&line)) {
            return;
        }
        tokio::time::sleep(super::PROBE_INTERVAL).await;
    }
}

async fn status_line(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

fn is_success(line: &str) -> bool {
    line.starts_with("HTTP/1.") && line.split(' ').nth(1) == Some("200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ready() {
        assert!(is_success("HTTP/1.1 200 OK"));
        assert!(!is_success("HTTP/1.1 503 Service Unavailable"));
        assert!(!is_success("200"));
        assert!(!is_success(""));
    }
}
