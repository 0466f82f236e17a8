//! Commands and questions of one who watches: one after the other, each until it has its last word.

use std::collections::VecDeque;
use std::time::Duration;

use client::cid::CidClock;
use protocol::command::WriteCommand;
use protocol::frame::{ClientFrame, ClientOp};
use protocol::request::Accepted;
use protocol::{Cid, Refusal, Timestamp};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Want;
use crate::audit::Answer;

/// Something that is sent until it has an answer.
struct Item {
    op: ClientOp,
    answer: Promise,
    /// The id it was sent with on the present socket, and when.
    sent: Option<(u64, Instant)>,
    not_before: Instant,
}

enum Promise {
    Write(Cid, oneshot::Sender<(Cid, Answer)>),
    Read(oneshot::Sender<Result<Value, Refusal>>),
}

/// What waits for an answer, in order; only the first is on its way.
#[derive(Default)]
pub(super) struct Work {
    items: VecDeque<Item>,
    cids: CidClock,
}

impl Work {
    /// Learns the server's clock.
    pub(super) fn set_server_time(&mut self, server: Timestamp, now: Timestamp) {
        self.cids.set_server_time(server, now);
    }

    /// The socket is gone: what was on its way is sent again.
    pub(super) fn handle_lost(&mut self) {
        for item in &mut self.items {
            item.sent = None;
        }
    }

    /// Takes something to send; a cut is none of it.
    pub(super) fn push(&mut self, want: Want, now: Timestamp) {
        let (op, answer) = match want {
            Want::Cut => return,
            Want::Ask(read, reply) => (ClientOp::Read(read), Promise::Read(reply)),
            Want::Submit(room, (cid, write), reply) => {
                let cid = cid.unwrap_or_else(|| self.cids.next(now, rand::random()));
                let command = Box::new(WriteCommand { cid, write: *write });
                let room = Some(room);
                (
                    ClientOp::Write { room, command },
                    Promise::Write(cid, reply),
                )
            }
        };
        self.items.push_back(Item {
            op,
            answer,
            sent: None,
            not_before: Instant::now(),
        });
    }

    /// The next line to send, under this id, if it is due.
    pub(super) fn poll_line(&mut self, id: u64, now: Instant) -> Option<String> {
        let item = self.items.front_mut()?;
        if item.sent.is_some() || item.not_before > now {
            return None;
        }
        item.sent = Some((id, now));
        let frame = ClientFrame {
            id: Some(id),
            op: item.op.clone(),
        };
        Some(frame.to_line())
    }

    /// Since when the one on its way waits for its answer.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let (_, at) = self.items.front()?.sent?;
        Some(at)
    }

    /// Takes an answer; whether it was a last word.
    pub(super) fn handle_reply(&mut self, id: u64, result: Result<Value, Refusal>) -> bool {
        let Some(item) = self.items.front_mut() else {
            return false;
        };
        if item.sent.is_none_or(|(sent, _)| sent != id) {
            return false;
        }
        if let Err(refusal) = &result
            && refusal.temp
        {
            item.sent = None;
            item.not_before = Instant::now() + wait_of(refusal);
            return false;
        }
        let Some(item) = self.items.pop_front() else {
            return false;
        };
        // Whoever asked may have given up.
        let told = match item.answer {
            Promise::Read(reply) => reply.send(result).is_ok(),
            Promise::Write(cid, reply) => reply.send((cid, answer(result))).is_ok(),
        };
        tracing::trace!(told, "a last word");
        true
    }
}

fn answer(result: Result<Value, Refusal>) -> Answer {
    match result.map(serde_json::from_value::<Accepted>) {
        Ok(Ok(accepted)) if accepted.noop => Answer::Noop,
        Ok(Ok(accepted)) => Answer::Stored(accepted.seq),
        Ok(Err(_)) => Answer::None,
        Err(_) => Answer::Refused,
    }
}

/// How long to wait after a refusal for now.
pub(super) fn wait_of(refusal: &Refusal) -> Duration {
    Duration::from_millis(refusal.retry_after_ms.unwrap_or(500).min(2_000))
}
