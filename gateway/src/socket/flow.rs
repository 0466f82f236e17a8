//! How much of what was sent the connection has taken.
//!
//! The library's channel holds 32 messages of any size, and a full one blocks its sender; so what is
//! in it is counted here, from the moment of sending until the connection asks for the bytes.

use super::alarm::Alarm;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Bytes between this task and the connection: enough to keep a fast reader busy.
const BYTES_MAX: u64 = 64 * 1024;
/// Messages likewise; below the channel's 32, so that sending never waits.
const MESSAGES_MAX: usize = 24;

/// The counters of one socket.
#[derive(Debug, Default)]
pub struct Flow {
    sent: Cell<u64>,
    taken: Cell<u64>,
    messages: Cell<usize>,
    waits_since: Cell<Option<Instant>>,
    wanted: Cell<bool>,
    /// Rings when the connection has taken something, if [`Flow::wants_room`] was called before:
    /// most of the time nobody waits, and a task woken for nothing costs as much as a frame.
    pub moved: Alarm,
}

impl Flow {
    /// Whether another message may be sent.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sent.get() - self.taken.get() < BYTES_MAX && self.messages.get() < MESSAGES_MAX
    }

    /// A message of so many bytes was sent.
    pub fn handle_sent(&self, payload: usize) {
        let header = match payload {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        let bytes = u64::try_from(payload + header).unwrap_or(u64::MAX);
        self.sent.set(self.sent.get().saturating_add(bytes));
        self.messages.set(self.messages.get() + 1);
        if self.waits_since.get().is_none() {
            self.waits_since.set(Some(Instant::now()));
        }
    }

    fn handle_taken(&self, bytes: usize) {
        let taken = self.taken.get() + u64::try_from(bytes).unwrap_or(0);
        self.taken.set(taken.min(self.sent.get()));
        // The connection empties the channel whenever it asks.
        self.messages.set(0);
        let empty = self.taken.get() == self.sent.get();
        self.waits_since
            .set(if empty { None } else { Some(Instant::now()) });
        if self.wanted.take() {
            self.moved.ring();
        }
    }

    /// Asks to be told when the connection takes something.
    pub fn wants_room(&self) {
        self.wanted.set(true);
    }

    /// Since when the connection has taken nothing although something waits.
    #[must_use]
    pub fn waits_since(&self) -> Option<Instant> {
        self.waits_since.get()
    }
}

/// The response body of the socket, counted.
pub struct Counted {
    inner: BoxBody,
    flow: Rc<Flow>,
}

impl Counted {
    /// Counts what is taken from `inner`.
    #[must_use]
    pub fn new(inner: BoxBody, flow: Rc<Flow>) -> Self {
        Self { inner, flow }
    }
}

impl MessageBody for Counted {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let next = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.flow.handle_taken(bytes.len());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_counts_and_time_tells_since_when() {
        let flow = Flow::default();
        let start = Instant::now();
        flow.handle_sent(60_000);
        assert!(flow.has_room());
        flow.handle_sent(10_000);
        assert!(!flow.has_room());
        tokio::time::advance(std::time::Duration::from_secs(3)).await;
        assert_eq!(flow.waits_since(), Some(start));
        flow.handle_taken(60_004);
        assert!(flow.has_room());
        assert_eq!(
            flow.waits_since(),
            Some(Instant::now()),
            "taking something is progress"
        );
        flow.handle_taken(10_004);
        assert_eq!(flow.waits_since(), None);
        for _ in 0..MESSAGES_MAX {
            flow.handle_sent(1);
        }
        assert!(!flow.has_room(), "small messages count too");
    }
}
