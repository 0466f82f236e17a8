//! The connection of one socket: what is written leaves in as few writes as there can be, and how long
//! the peer has taken nothing is known.
//!
//! Nothing here waits unless it says so, and nothing is decided about the protocol.

use crate::transport::{Transport, Writing};
use actix_codec::Encoder;
use actix_http::ws::{CloseReason, Codec, Message};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Bytes that wait here at most, beside one message: what does not fit stays in the session's queue.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// The system's buffer of one socket. Left alone it grows to megabytes for a peer that takes nothing.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Pieces that leave in one write.
const PIECES_MAX: usize = 32;
/// An empty queue gives its memory back above this capacity: most sockets are idle.
const IDLE_CAPACITY: usize = 4;

const TEXT: u8 = 0x81;
const PONG: u8 = 0x8a;

/// A frame's header and payload, as far as they are not written.
#[derive(Debug)]
struct Piece {
    header: [u8; 10],
    header_length: usize,
    payload: Bytes,
    written: usize,
}

impl Piece {
    /// A frame of the server: unmasked, and whole.
    fn frame(first: u8, payload: Bytes) -> Self {
        let mut header = [0; 10];
        let length = payload.len();
        let header_length = match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..126), _) => {
                header[1] = short;
                2
            }
            (_, Ok(medium)) => {
                header[1] = 126;
                header[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                header[1] = 127;
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                header[2..].copy_from_slice(&length.to_be_bytes());
                10
            }
        };
        header[0] = first;
        Self {
            header,
            header_length,
            payload,
            written: 0,
        }
    }

    /// Bytes that are a frame already.
    fn raw(bytes: Bytes) -> Self {
        Self {
            header: [0; 10],
            header_length: 0,
            payload: bytes,
            written: 0,
        }
    }

    fn left(&self) -> usize {
        self.header_length + self.payload.len() - self.written
    }

    fn slices(&self) -> [&[u8]; 2] {
        let header = self.header.get(self.written..self.header_length);
        let payload = self.written.saturating_sub(self.header_length);
        [
            header.unwrap_or_default(),
            self.payload.get(payload..).unwrap_or_default(),
        ]
    }
}

#[derive(Debug, Default)]
struct Waiting {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// The newest ping that could not be answered yet: the older ones need no answer (RFC 6455, 5.5.2).
    pong: Option<Bytes>,
}

impl Waiting {
    fn push(&mut self, piece: Piece) {
        self.bytes += piece.left();
        self.pieces.push_back(piece);
    }

    /// So many bytes were written.
    fn advance(&mut self, mut written: usize) {
        self.bytes = self.bytes.saturating_sub(written);
        while let Some(first) = self.pieces.front_mut() {
            let left = first.left();
            if written < left {
                first.written += written;
                return;
            }
            written -= left;
            self.pieces.pop_front();
        }
    }

    /// Writes the first pieces with one call of `write`.
    fn write_with(
        &self,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); 2 * PIECES_MAX];
        let mut count = 0;
        for (pair, piece) in slices.chunks_exact_mut(2).zip(&self.pieces) {
            for (slot, bytes) in pair.iter_mut().zip(piece.slices()) {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
        }
        write(slices.get(..count).unwrap_or_default())
    }
}

/// One connection after its upgrade.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    waiting: RefCell<Waiting>,
    full_since: Cell<Option<Instant>>,
}

impl Wire {
    /// Takes over a connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        if let Err(error) =
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES)
        {
            tracing::debug!(%error, "a connection keeps the system's buffer");
        }
        Self {
            stream,
            waiting: RefCell::default(),
            full_since: Cell::new(None),
        }
    }

    /// Waits until there may be something to read.
    ///
    /// Cancel safety: safe; one task at a time.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_read_ready(cx)).await
    }

    /// Waits until there may be room.
    ///
    /// Cancel safety: safe; one task at a time.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.stream.poll_write_ready(cx)).await
    }

    /// Reads what has come; `None` if that is nothing, 0 at the end.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.try_read(into) {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_not_yet(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Answers a ping: now, or once there is room, and then only the newest.
    pub fn pong(&self, payload: &[u8]) {
        // A copy: the payload would keep all that was received with it.
        let payload = Bytes::copy_from_slice(payload);
        let mut waiting = self.waiting.borrow_mut();
        if waiting.bytes < WAITING_BYTES_MAX {
            waiting.push(Piece::frame(PONG, payload));
        } else {
            waiting.pong = Some(payload);
        }
    }

    /// Queues the close frame; nothing may be sent after it.
    pub fn close(&self, reason: Option<CloseReason>) {
        let mut bytes = BytesMut::new();
        // The codec encodes every close frame.
        if Codec::new()
            .encode(Message::Close(reason), &mut bytes)
            .is_ok()
        {
            self.waiting.borrow_mut().push(Piece::raw(bytes.freeze()));
        }
    }

    /// Tells the peer that nothing more will come; reading goes on.
    pub fn end(&self) {
        // A connection that is gone has ended.
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).ok();
    }

    /// When the connection is dropped, the system drops what it has not delivered.
    pub fn forsake(&self) {
        if let Err(error) =
            rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a connection lingers");
        }
    }

    /// Since when the peer has taken nothing although something waits.
    #[must_use]
    pub fn full_since(&self) -> Option<Instant> {
        self.full_since.get()
    }

    /// Tries to write although the system has not said that there is room: it says so only when a third
    /// of its buffer is free, and a peer that takes a little now and then is slow, not stalled.
    pub fn probe(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let written = waiting.write_with(|slices| Ok(rustix::io::writev(&self.stream, slices)?));
        if let Ok(written @ 1..) = written {
            waiting.advance(written);
            self.full_since.set(Some(Instant::now()));
        }
    }
}

impl Transport for Wire {
    fn has_room(&self) -> bool {
        self.waiting.borrow().bytes < WAITING_BYTES_MAX
    }

    fn send(&self, message: ByteString) {
        let frame = Piece::frame(TEXT, message.into_bytes());
        self.waiting.borrow_mut().push(frame);
    }

    fn flush(&self) -> Writing {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            if waiting.pieces.is_empty() {
                let Some(pong) = waiting.pong.take() else {
                    break;
                };
                waiting.push(Piece::frame(PONG, pong));
            }
            match waiting.write_with(|slices| self.stream.try_write_vectored(slices)) {
                Ok(0) => return Writing::Gone,
                Ok(written) => {
                    waiting.advance(written);
                    self.full_since.set(None);
                }
                Err(error) if is_not_yet(&error) => {
                    let since = self.full_since.get().unwrap_or_else(Instant::now);
                    self.full_since.set(Some(since));
                    return Writing::Full;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Writing::Gone,
            }
        }
        if waiting.pieces.capacity() > IDLE_CAPACITY {
            waiting.pieces = VecDeque::new();
        }
        self.full_since.set(None);
        Writing::Done
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let wire = Wire::new(accepted.unwrap().0);
        wire.writable().await.unwrap();
        (wire, peer.unwrap())
    }

    fn text(length: usize) -> ByteString {
        "x".repeat(length).into()
    }

    #[tokio::test]
    async fn frames_of_every_length_arrive_in_order_with_the_shortest_header() {
        let (wire, mut peer) = pair().await;
        for length in [0, 125, 126, 65_535, 65_536] {
            wire.send(text(length));
        }
        wire.pong(b"p");
        let (mut bytes, expected) = (Vec::new(), 2 + 127 + 130 + 65_539 + 65_546 + 3);
        while bytes.len() < expected {
            assert_ne!(wire.flush(), Writing::Gone);
            let mut chunk = vec![0; 100_000];
            let count = peer.read(&mut chunk).await.unwrap();
            bytes.extend_from_slice(&chunk[..count]);
        }
        assert_eq!((wire.flush(), bytes.len()), (Writing::Done, expected));
        let headers = [
            (0, vec![0x81, 0]),
            (2, vec![0x81, 125]),
            (129, vec![0x81, 126, 0, 126]),
            (259, vec![0x81, 126, 255, 255]),
            (65_798, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            (expected - 3, vec![0x8a, 1, b'p']),
        ];
        for (at, header) in headers {
            assert_eq!(bytes[at..at + header.len()], header);
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_costs_a_bounded_queue_and_is_known_to_be_full() {
        let (wire, mut peer) = pair().await;
        let mut sent = 0;
        while wire.flush() != Writing::Full {
            while wire.has_room() {
                wire.send(text(1_000));
                sent += 1_004;
            }
        }
        let held = wire.waiting.borrow().bytes;
        assert!(held <= WAITING_BYTES_MAX + 1_004, "{held}");
        let since = wire.full_since().unwrap();
        assert_eq!(
            (wire.flush(), wire.full_since()),
            (Writing::Full, Some(since))
        );
        // A flood of pings does not grow it, and the newest is answered once there is room.
        for number in 0..20_000 {
            wire.pong(format!("{number:6}").as_bytes());
        }
        assert!(wire.waiting.borrow().bytes <= WAITING_BYTES_MAX + 1_004);
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 1 << 20]);
        while wire.flush() == Writing::Full || !bytes.ends_with(b" 19999") {
            let count = peer.read(&mut chunk).await.unwrap();
            bytes.extend_from_slice(&chunk[..count]);
            wire.writable().await.unwrap();
        }
        assert!(bytes.len() > sent && wire.waiting.borrow().bytes == 0);
        assert_eq!(wire.full_since(), None);
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_little_is_slow_and_not_stalled() {
        let (wire, mut peer) = pair().await;
        while wire.flush() != Writing::Full {
            wire.send(text(1_000));
        }
        let full = wire.full_since().unwrap();
        wire.probe();
        assert_eq!(wire.full_since(), Some(full), "nothing was taken");
        // Little enough that the system does not call the connection writable yet.
        let mut little = vec![0; 30_000];
        for _ in 0..200 {
            peer.read_exact(&mut little[..1_000]).await.unwrap();
            wire.probe();
            if wire.full_since() > Some(full) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the peer has taken 200 kB and still counts as stalled");
    }

    #[tokio::test]
    async fn a_forsaken_connection_is_reset_and_an_ended_one_can_still_be_read() {
        let (wire, mut peer) = pair().await;
        wire.close(Some(actix_http::ws::CloseCode::Size.into()));
        assert_eq!(wire.flush(), Writing::Done);
        wire.end();
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, [0x88, 2, 0x03, 0xf1]);
        peer.write_all(b"late").await.unwrap();
        wire.readable().await.unwrap();
        assert_eq!(wire.read(&mut [0; 10]).unwrap(), Some(4));
        wire.forsake();
        drop(wire);
        let reset = peer.read(&mut [0; 1]).await;
        assert!(matches!(reset, Ok(0)) || reset.is_err());
    }
}
