//! A client's bytes become messages, and nothing is buffered that will be refused.
//!
//! Frames are unmasked and checked by the codec of actix-http. It buffers a whole frame before it looks
//! at the declared length, so one header could cost 300 MB: here the header is read first, and a frame,
//! or the frames of one message together, that declare more than the limit end the socket at once.
//! Nothing is answered here, and nothing is read from the connection.

use actix_codec::Decoder;
use actix_http::ws::{CloseReason, Codec, Frame, Item, ProtocolError};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use protocol::limits::FRAME_BYTES_MAX;

const OPCODE: u8 = 0x0f;
/// Opcodes from here on are control frames, which are no part of a message.
const CONTROL: u8 = 0x08;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// RFC 6455, section 5.5.
const CONTROL_BYTES_MAX: u64 = 125;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message.
    Text(ByteString),
    /// To be answered with the same bytes.
    Ping(Bytes),
    /// An answer that nobody asked for, or a sign of life.
    Pong,
    /// The last frame.
    Close(Option<CloseReason>),
}

/// Why a socket must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A frame or message declares more than the limit.
    TooLarge,
    /// Text that is not UTF-8.
    BadUtf8,
    /// Anything else that RFC 6455 or natter forbids; the protocol is text, so binary messages too.
    Protocol,
}

/// The bytes of one socket that are no message yet: none for most of the time.
#[derive(Debug)]
pub struct Unread {
    codec: Codec,
    bytes: BytesMut,
    /// The fragments of a message so far.
    text: BytesMut,
    /// How far those are known to be UTF-8; the rest may be half a character.
    valid: usize,
}

impl Default for Unread {
    fn default() -> Self {
        Self {
            codec: Codec::new().max_size(FRAME_BYTES_MAX),
            bytes: BytesMut::new(),
            text: BytesMut::new(),
            valid: 0,
        }
    }
}

impl Unread {
    /// Takes what was received; call [`Unread::poll`] until it has nothing more.
    pub fn feed(&mut self, received: &[u8]) {
        self.bytes.extend_from_slice(received);
    }

    /// The next message, once it is complete.
    ///
    /// # Errors
    /// The socket must end, and nothing more is to be read from it.
    pub fn poll(&mut self) -> Result<Option<Incoming>, Breach> {
        loop {
            self.check_header()?;
            let frame = self.codec.decode(&mut self.bytes);
            let Some(frame) = frame.map_err(|error| breach(&error))? else {
                if self.bytes.is_empty() {
                    self.bytes = BytesMut::new();
                }
                return Ok(None);
            };
            match frame {
                Frame::Text(text) => return whole(text).map(Some),
                Frame::Continuation(item) => {
                    if let Some(text) = self.take_fragment(item)? {
                        return Ok(Some(text));
                    }
                }
                Frame::Binary(_) => return Err(Breach::Protocol),
                Frame::Ping(payload) => return Ok(Some(Incoming::Ping(payload))),
                Frame::Pong(_) => return Ok(Some(Incoming::Pong)),
                Frame::Close(reason) => return Ok(Some(Incoming::Close(reason))),
            }
        }
    }

    /// Refuses a frame by what its header declares, as soon as that has come.
    fn check_header(&self) -> Result<(), Breach> {
        let [first, second, rest @ ..] = &self.bytes[..] else {
            return Ok(());
        };
        // Before any length: how a socket ends must not depend on how its bytes arrive.
        let known = matches!(first & OPCODE, 0..=2 | 8..=10);
        if !known || first & RESERVED != 0 || second & MASKED == 0 {
            return Err(Breach::Protocol);
        }
        let declared = match second & LENGTH {
            126 => rest
                .first_chunk()
                .map(|bytes| u64::from(u16::from_be_bytes(*bytes))),
            127 => rest.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)),
            length => Some(u64::from(length)),
        };
        let Some(declared) = declared else {
            return Ok(());
        };
        if first & OPCODE >= CONTROL {
            let fits = declared <= CONTROL_BYTES_MAX;
            return if fits { Ok(()) } else { Err(Breach::Protocol) };
        }
        let room = FRAME_BYTES_MAX.saturating_sub(self.text.len());
        if usize::try_from(declared).is_ok_and(|declared| declared <= room) {
            Ok(())
        } else {
            Err(Breach::TooLarge)
        }
    }

    fn take_fragment(&mut self, item: Item) -> Result<Option<Incoming>, Breach> {
        match item {
            Item::FirstBinary(_) => Err(Breach::Protocol),
            Item::FirstText(part) | Item::Continue(part) => {
                self.text.extend_from_slice(&part);
                self.check_text()?;
                Ok(None)
            }
            Item::Last(part) => {
                self.text.extend_from_slice(&part);
                self.valid = 0;
                whole(std::mem::take(&mut self.text).freeze()).map(Some)
            }
        }
    }

    /// Looks at each byte once or twice, however small the fragments are.
    fn check_text(&mut self) -> Result<(), Breach> {
        let unchecked = self.text.get(self.valid..).unwrap_or_default();
        match std::str::from_utf8(unchecked) {
            Ok(_) => self.valid = self.text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Breach::BadUtf8),
        }
        Ok(())
    }
}

fn whole(text: Bytes) -> Result<Incoming, Breach> {
    // Where it is not UTF-8 does not matter.
    let text = ByteString::try_from(text).ok().ok_or(Breach::BadUtf8)?;
    Ok(Incoming::Text(text))
}

fn breach(error: &ProtocolError) -> Breach {
    match error {
        ProtocolError::Overflow => Breach::TooLarge,
        ProtocolError::UnmaskedFrame
        | ProtocolError::MaskedFrame
        | ProtocolError::InvalidOpcode(_)
        | ProtocolError::InvalidLength(_)
        | ProtocolError::BadOpCode
        | ProtocolError::ContinuationNotStarted
        | ProtocolError::ContinuationStarted
        | ProtocolError::ContinuationFragment(_)
        | ProtocolError::Io(_) => Breach::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: u8 = 0x81;
    const MORE: u8 = 0x01;
    const PING: u8 = 0x89;

    /// A masked frame as a client sends it; the payload may be shorter than declared.
    fn header(first: u8, declared: u64) -> Vec<u8> {
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
        bytes
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(first, u64::try_from(payload.len()).unwrap());
        let mask = [1, 2, 3, 4].into_iter().cycle();
        bytes.extend(payload.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn spaces(first: u8, count: usize) -> Vec<u8> {
        frame(first, &vec![b' '; count])
    }

    /// The texts and pings in these bytes, and how they end; the same however they are cut.
    fn check(bytes: &[u8]) -> (Vec<String>, Option<Breach>) {
        let read = |cut: usize| {
            let (mut unread, mut seen) = (Unread::default(), Vec::new());
            for chunk in bytes.chunks(cut) {
                unread.feed(chunk);
                loop {
                    match unread.poll() {
                        Ok(Some(Incoming::Text(text))) => seen.push(text.to_string()),
                        Ok(Some(other)) => seen.push(format!("{other:?}")),
                        Ok(None) => break,
                        Err(breach) => return (seen, Some(breach)),
                    }
                }
            }
            (seen, None)
        };
        let seen = read(bytes.len().max(1));
        for cut in [1, 2, 3, 7, 1_000] {
            assert_eq!(read(cut), seen, "cut into {cut}");
        }
        seen
    }

    fn breaks(bytes: &[u8]) -> Option<Breach> {
        check(bytes).1
    }

    #[test]
    fn a_frame_passes_up_to_the_limit_and_beyond_its_header_is_enough() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let (texts, breach) = check(&spaces(TEXT, length));
            assert_eq!((texts[0].len(), breach), (length, None));
        }
        for declared in [65_537, 300 << 20, 1 << 40, u64::MAX] {
            assert_eq!(
                breaks(&header(TEXT, declared)),
                Some(Breach::TooLarge),
                "{declared}"
            );
        }
    }

    #[test]
    fn a_frame_that_is_none_is_refused_for_that_however_large_it_is() {
        let unmasked = [&[TEXT, 127][..], &[0xff; 8]].concat();
        for bytes in [header(0x83, 1 << 40), header(0xc1, 1 << 40), unmasked] {
            assert_eq!(breaks(&bytes), Some(Breach::Protocol), "{bytes:?}");
        }
    }

    #[test]
    fn what_came_before_a_frame_that_is_too_large_is_still_taken() {
        let bytes = [frame(TEXT, b"hi"), header(TEXT, 1 << 40)].concat();
        assert_eq!(
            check(&bytes),
            (vec!["hi".to_owned()], Some(Breach::TooLarge))
        );
    }

    #[test]
    fn the_fragments_of_a_message_count_together_and_control_frames_do_not() {
        let half = [spaces(MORE, 40_000), spaces(0x00, 20_000)].concat();
        let fits = [half.clone(), spaces(PING, 100), spaces(0x80, 5_536)].concat();
        let (seen, breach) = check(&fits);
        assert_eq!((seen.len(), seen[1].len(), breach), (2, 65_536, None));
        assert!(seen[0].starts_with("Ping"));
        let over = [half.clone(), header(0x80, 5_537)].concat();
        assert_eq!(breaks(&over), Some(Breach::TooLarge));
        let next = [half, spaces(0x80, 5_000), spaces(TEXT, 60_000)].concat();
        assert_eq!(breaks(&next), None, "every message counts anew");
    }

    #[test]
    fn text_is_checked_as_it_comes_and_a_character_may_be_cut_anywhere() {
        let text = "h\u{e9}\u{20ac}\u{1f600}";
        let mut cut: Vec<u8> = frame(MORE, b"");
        cut.extend(
            text.as_bytes()
                .iter()
                .flat_map(|byte| frame(0x00, &[*byte])),
        );
        cut.extend(frame(0x80, b""));
        assert_eq!(check(&cut), (vec![text.to_owned()], None));
        let surrogate = frame(TEXT, b"\"\xed\xa0\x80\"");
        assert_eq!(breaks(&surrogate), Some(Breach::BadUtf8));
        assert_eq!(breaks(&frame(MORE, b"a\xff")), Some(Breach::BadUtf8));
        let half = [frame(MORE, b"a"), frame(0x80, b"\xf0\x9f")].concat();
        assert_eq!(
            breaks(&half),
            Some(Breach::BadUtf8),
            "half a character at the end"
        );
    }

    #[test]
    fn what_the_rfc_forbids_is_a_breach() {
        for (what, bytes) in [
            ("unmasked", vec![0x81, 2, b'{', b'}']),
            ("a reserved opcode", frame(0x83, b"x")),
            ("a reserved bit", frame(0xc1, b"{}")),
            ("a fragmented ping", frame(0x09, b"x")),
            ("a long ping", header(PING, 126)),
            ("a ping that declares a terabyte", header(PING, 1 << 40)),
            ("a continuation of nothing", frame(0x80, b"{}")),
            (
                "text within text",
                [frame(MORE, b"a"), frame(TEXT, b"b")].concat(),
            ),
            ("binary", frame(0x82, b"x")),
            ("binary in fragments", frame(0x02, b"x")),
            ("half a close code", frame(0x88, b"\x03")),
            (
                "a reserved close code",
                frame(0x88, &1005_u16.to_be_bytes()),
            ),
        ] {
            assert_eq!(breaks(&bytes), Some(Breach::Protocol), "{what}");
        }
    }

    #[test]
    fn a_socket_between_two_messages_holds_no_memory() {
        let mut unread = Unread::default();
        unread.feed(&[spaces(MORE, 30_000), spaces(0x80, 30_000)].concat());
        assert!(matches!(unread.poll(), Ok(Some(Incoming::Text(_)))));
        assert_eq!(unread.poll(), Ok(None));
        assert_eq!((unread.bytes.capacity(), unread.text.capacity()), (0, 0));
    }
}
