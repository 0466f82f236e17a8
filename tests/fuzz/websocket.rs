//! Bytes of a WebSocket, before there is a line: the gateway's own reader of frames. Not for libFuzzer,
//! which would have to build a web server with it.

use gateway::socket::incoming::{Breach, Incoming, Unread};
use protocol::limits::FRAME_BYTES_MAX;

/// What bytes lead to: the messages, and how it ends. It must not depend on how they arrive.
pub(crate) fn websocket(data: &[u8]) {
    let whole = read(data, data.len().max(1));
    for cut in [1, 3, 1_000] {
        assert_eq!(read(data, cut), whole, "cut into {cut}");
    }
}

fn read(data: &[u8], cut: usize) -> (Vec<Incoming>, Option<Breach>) {
    let (mut unread, mut messages) = (Unread::default(), Vec::new());
    for chunk in data.chunks(cut) {
        unread.feed(chunk);
        loop {
            match unread.poll() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    is_bounded(&message);
                    let last = matches!(message, Incoming::Close(_));
                    messages.push(message);
                    if last {
                        return (messages, None);
                    }
                }
                Err(breach) => return (messages, Some(breach)),
            }
        }
    }
    (messages, None)
}

fn is_bounded(message: &Incoming) {
    match message {
        Incoming::Text(text) => assert!(text.len() <= FRAME_BYTES_MAX),
        Incoming::Ping(payload) => assert!(payload.len() <= 125),
        Incoming::Close(Some(reason)) => {
            let text = reason.description.as_ref().map_or(0, String::len);
            // What is not UTF-8 may be shown as a character of three bytes each.
            assert!(text <= 3 * 123, "a reason of {text} bytes");
        }
        Incoming::Pong | Incoming::Close(None) => {}
    }
}
