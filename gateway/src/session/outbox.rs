//! What waits to be written to one socket, counted in bytes.

use bytestring::ByteString;
use protocol::limits::{PAGE_BYTES_MAX, SOCKET_QUEUE_BYTES_MAX};
use std::collections::VecDeque;

/// A catch-up fills the queue only so far, so that the live feed has room behind it.
const PACE_BYTES: usize = SOCKET_QUEUE_BYTES_MAX / 2;
/// What a queued frame costs beside its bytes.
const FRAME_BYTES: usize = size_of::<ByteString>();
/// Frames that leave as one message; one write for 32 frames costs little more than one for one.
const MESSAGE_FRAMES_MAX: usize = 32;
/// Bytes of such a message; a single larger frame leaves alone.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// An empty queue gives its memory back above this capacity: most sockets are idle.
const IDLE_CAPACITY: usize = 32;

/// The queue of one socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<ByteString>,
    bytes: usize,
}

impl Outbox {
    /// Whether a live frame of this length still fits. An empty queue takes any frame.
    #[must_use]
    pub(super) fn takes(&self, length: usize) -> bool {
        self.bytes == 0 || self.bytes + length + FRAME_BYTES <= SOCKET_QUEUE_BYTES_MAX
    }

    /// Whether a catch-up has to wait until something was written.
    #[must_use]
    pub(super) fn is_paced(&self) -> bool {
        self.bytes >= PACE_BYTES
    }

    /// Whether so many pages of a read may come whenever they are ready: half the queue is theirs.
    #[must_use]
    pub(super) fn takes_pages(&self, count: usize) -> bool {
        self.bytes + count * PAGE_BYTES_MAX <= PACE_BYTES
    }

    /// Queues a frame, whatever the bound says: what has no bound of its own asks first.
    pub(super) fn push(&mut self, frame: ByteString) {
        self.bytes += frame.len() + FRAME_BYTES;
        self.frames.push_back(frame);
    }

    /// Whether nothing waits.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Takes the next message: several frames joined by a line break, and how many they are.
    pub(super) fn pop_message(&mut self) -> Option<(ByteString, usize)> {
        let first = self.pop()?;
        let (mut count, mut length) = (1, first.len());
        while let Some(next) = self.frames.get(count - 1) {
            if count == MESSAGE_FRAMES_MAX || length + 1 + next.len() > MESSAGE_BYTES_MAX {
                break;
            }
            length += 1 + next.len();
            count += 1;
        }
        if count == 1 {
            return Some((first, 1));
        }
        let mut message = String::with_capacity(length);
        message.push_str(&first);
        for _ in 1..count {
            if let Some(next) = self.pop() {
                message.push('\n');
                message.push_str(&next);
            }
        }
        Some((message.into(), count))
    }

    fn pop(&mut self) -> Option<ByteString> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.len() + FRAME_BYTES;
        if self.frames.is_empty() && self.frames.capacity() > IDLE_CAPACITY {
            self.frames = VecDeque::new();
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_joined_in_order_up_to_a_message_of_64_kib() {
        let mut outbox = Outbox::default();
        for n in 0..40 {
            outbox.push(ByteString::from(format!("f{n}")));
        }
        let (message, count) = outbox.pop_message().unwrap();
        assert_eq!(
            (count, message.lines().count(), message.lines().last()),
            (32, 32, Some("f31"))
        );
        assert_eq!(outbox.pop_message().unwrap().1, 8);
        for _ in 0..3 {
            outbox.push("x".repeat(30_000).into());
        }
        assert_eq!(outbox.pop_message().unwrap().1, 2);
        outbox.push("x".repeat(300_000).into());
        assert_eq!(outbox.pop_message().unwrap().1, 1);
        assert_eq!(outbox.pop_message().unwrap().0.len(), 300_000);
        assert!(outbox.pop_message().is_none());
        assert_eq!(outbox.bytes, 0);
    }

    #[test]
    fn it_is_bounded_in_bytes_and_an_empty_one_takes_anything() {
        let mut outbox = Outbox::default();
        assert!(outbox.takes(10 * SOCKET_QUEUE_BYTES_MAX));
        let mut frames = 0;
        while outbox.takes(1_000) {
            outbox.push("x".repeat(1_000).into());
            frames += 1;
        }
        assert!((240..262).contains(&frames), "{frames}");
        assert!(outbox.is_paced());
    }
}
