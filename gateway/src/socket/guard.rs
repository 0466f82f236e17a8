//! Follows frame headers on the raw bytes of a socket, before the library's parser sees them.
//!
//! The parser buffers a whole frame before it looks at its declared length, so one header could cost
//! 300 MB. Here a frame, or the frames of one message together, that declare more than the limit end
//! the stream at once. Nothing is unmasked or parsed beyond the headers.

use actix_web::error::PayloadError;
use bytes::Bytes;
use futures_util::Stream;
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The longest header: two bytes, eight of length, four of mask.
const HEADER_MAX: usize = 14;
const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
/// Opcodes from here on are control frames, which are no part of a message.
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

/// The boundaries of frames.
#[derive(Debug)]
pub struct Boundaries {
    max: u64,
    skip: u64,
    header: [u8; HEADER_MAX],
    have: usize,
    message: u64,
}

impl Boundaries {
    /// Frames and messages may declare at most `max` bytes.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self {
            max,
            skip: 0,
            header: [0; HEADER_MAX],
            have: 0,
            message: 0,
        }
    }

    /// Follows the next bytes; false once a frame or message declares too much.
    pub fn follow(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let available = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let skipped = self.skip.min(available);
            self.skip -= skipped;
            bytes = bytes
                .get(usize::try_from(skipped).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
            let [next, rest @ ..] = bytes else {
                return true;
            };
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *next;
            }
            self.have += 1;
            bytes = rest;
            match self.header_end() {
                Some(length) => {
                    if !self.take_frame(length) {
                        return false;
                    }
                }
                None => continue,
            }
        }
    }

    /// The declared length, once the header is complete.
    fn header_end(&self) -> Option<u64> {
        let [_, second, rest @ ..] = &self.header;
        if self.have < 2 {
            return None;
        }
        let extended = match second & LENGTH {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & MASKED != 0 { 4 } else { 0 };
        if self.have < 2 + extended + mask {
            return None;
        }
        Some(if extended == 0 {
            u64::from(second & LENGTH)
        } else {
            rest.iter()
                .take(extended)
                .fold(0, |length, byte| length << 8 | u64::from(*byte))
        })
    }

    fn take_frame(&mut self, length: u64) -> bool {
        let [first, ..] = self.header;
        self.have = 0;
        self.skip = length;
        if length > self.max {
            return false;
        }
        if first & OPCODE >= CONTROL {
            return true;
        }
        self.message += length;
        let fits = self.message <= self.max;
        if first & FIN != 0 {
            self.message = 0;
        }
        fits
    }
}

/// A stream of raw bytes that ends with an error once a frame or message declares too much.
pub struct Guard<S> {
    inner: S,
    boundaries: Boundaries,
    refused: Rc<Cell<bool>>,
}

impl<S> Guard<S> {
    /// Guards `inner`; sets `refused` before it ends the stream.
    pub fn new(inner: S, max: u64, refused: Rc<Cell<bool>>) -> Self {
        Self {
            inner,
            boundaries: Boundaries::new(max),
            refused,
        }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for Guard<S> {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.refused.get() {
            return Poll::Ready(None);
        }
        let next = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next
            && !self.boundaries.follow(bytes)
        {
            self.refused.set(true);
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 65_536;

    /// A masked frame as a client sends it; the payload may be shorter than declared.
    fn frame(first: u8, declared: u64, payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match declared {
            0..126 => bytes.push(0x80 | u8::try_from(declared).unwrap()),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(declared).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(declared.to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(vec![0xff; payload]);
        bytes
    }

    fn whole(first: u8, length: usize) -> Vec<u8> {
        frame(first, u64::try_from(length).unwrap(), length)
    }

    /// Whether these bytes pass, however they are cut.
    fn passes(bytes: &[u8]) -> bool {
        let verdicts: Vec<bool> = [1, 2, 3, 7, 1_000, usize::MAX]
            .into_iter()
            .map(|cut| {
                let mut boundaries = Boundaries::new(MAX);
                bytes
                    .chunks(cut.min(bytes.len()))
                    .all(|chunk| boundaries.follow(chunk))
            })
            .collect();
        assert!(
            verdicts.iter().all(|verdict| *verdict == verdicts[0]),
            "{verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_frame_passes_up_to_the_limit_and_not_beyond() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            assert!(passes(&whole(0x81, length)), "{length}");
        }
        for declared in [65_537, 300 << 20, u64::MAX] {
            assert!(
                !passes(&frame(0x81, declared, 0)),
                "the header alone is enough: {declared}"
            );
        }
    }

    #[test]
    fn the_fragments_of_a_message_count_together() {
        let half = [whole(0x01, 40_000), whole(0x00, 20_000)].concat();
        assert!(passes(
            &[half.clone(), whole(0x89, 100), whole(0x80, 5_536)].concat()
        ));
        assert!(!passes(&[half.clone(), whole(0x80, 5_537)].concat()));
        assert!(!passes(&[half.clone(), frame(0x00, 60_000, 0)].concat()));
        let next = [
            half,
            whole(0x80, 5_000),
            whole(0x81, 60_000),
            whole(0x82, 60_000),
        ]
        .concat();
        assert!(passes(&next), "every message counts anew");
    }
}
