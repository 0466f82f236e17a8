//! The writing end of a WebSocket of actix-ws, without waiting.

use super::flow::Flow;
use crate::transport::Transport;
use actix_ws::{CloseReason, Message};
use bytestring::ByteString;
use futures_util::{FutureExt, Sink};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::coop::unconstrained;

/// The writing end.
pub struct Pipe {
    sender: RefCell<Option<actix_ws::Session>>,
    flow: Rc<Flow>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}

impl Pipe {
    /// Writes to `sender`, as far as `flow` has room.
    #[must_use]
    pub fn new(sender: actix_ws::Session, flow: Rc<Flow>) -> Self {
        Self {
            sender: RefCell::new(Some(sender)),
            flow,
        }
    }

    /// Answers a ping, if there is room: with a full connection a pong would not be true.
    ///
    /// Returns false if the connection is gone.
    pub fn pong(&self, payload: bytes::Bytes) -> bool {
        !self.flow.has_room() || self.put(payload.len(), Message::Pong(payload))
    }

    /// Sends the close frame; nothing can be sent after it.
    pub async fn close(&self, reason: Option<CloseReason>, within: Duration) {
        let sender = self.sender.borrow_mut().take();
        if let Some(sender) = sender {
            // A peer that takes nothing would hold the close frame, and us, for ever.
            drop(tokio::time::timeout(within, sender.close(reason)).await);
        }
    }

    fn put(&self, length: usize, message: Message) -> bool {
        let mut sender = self.sender.borrow_mut();
        let Some(sender) = sender.as_mut() else {
            return false;
        };
        // The flow has room, so the channel has; only tokio's budget could make it seem full.
        let ready = unconstrained(poll_fn(|cx| Pin::new(&mut *sender).poll_ready(cx)));
        match ready.now_or_never() {
            Some(Ok(())) => {
                self.flow.handle_sent(length);
                Pin::new(sender).start_send(message).is_ok()
            }
            Some(Err(_)) => false,
            None => {
                tracing::error!("the channel of a socket is full although its flow has room");
                false
            }
        }
    }
}

impl Transport for Pipe {
    fn has_room(&self) -> bool {
        self.flow.has_room()
    }

    fn wants_room(&self) {
        self.flow.wants_room();
    }

    fn send(&self, message: ByteString) -> bool {
        self.put(message.len(), Message::Text(message))
    }
}
