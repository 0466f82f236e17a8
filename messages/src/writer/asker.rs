//! Who waits for which answer, and what their answers are counted as.

use crate::metrics::{Conflict, Result as Became};
use crate::sequencer::{Sequencer, Ticket};
use crate::shared::Shared;
use async_nats::{HeaderMap, Message};
use chassis::telemetry::{TraceId, trace_of};
use protocol::ErrorCode;
use protocol::request::{CommandReply, CommandResult};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Requests whose answer is to come.
#[derive(Default)]
pub(super) struct Askers {
    waiting: BTreeMap<Ticket, (Message, Instant)>,
}

impl Askers {
    /// Keeps the message that an answer goes to.
    pub(super) fn remember(&mut self, ticket: Ticket, mut message: Message) {
        // Only its reply subject is needed from now on.
        message.payload = bytes::Bytes::new();
        self.waiting.insert(ticket, (message, Instant::now()));
    }

    /// The trace that a request belongs to.
    pub(super) fn trace(&self, ticket: Ticket) -> Option<TraceId> {
        let (message, _) = self.waiting.get(&ticket)?;
        trace_of(message.headers.as_ref())
    }

    /// Sends every answer that there is.
    pub(super) async fn answer_all(&mut self, shared: &Shared, sequencer: &mut Sequencer) {
        while let Some((ticket, reply)) = sequencer.poll_reply() {
            count(shared, &reply);
            let Some((message, since)) = self.waiting.remove(&ticket) else {
                continue;
            };
            shared
                .metrics
                .command_seconds
                .observe(since.elapsed().as_secs_f64());
            if message.reply.is_none() {
                continue;
            }
            let body = serde_json::to_vec(&reply).expect("a reply is JSON");
            if let Err(error) = shared
                .nats
                .respond(&message, HeaderMap::new(), body.into())
                .await
            {
                tracing::debug!(%error, "an answer could not be sent");
            }
        }
    }
}

fn count(shared: &Shared, reply: &CommandReply) {
    for result in &reply.results {
        let became = match result {
            CommandResult::Ok(accepted) if accepted.dup => Became::Repeat,
            CommandResult::Ok(accepted) if accepted.noop => Became::Noop,
            CommandResult::Ok(_) => Became::Stored,
            CommandResult::Err(refusal) if refusal.temp => Became::Temporary,
            CommandResult::Err(_) => Became::Refused,
        };
        shared.metrics.commands_total.get(became).inc();
        if let Some(kind) = conflict(result) {
            shared.sync.conflicts_total.get(kind).inc();
        }
    }
}

/// Whether the outcome differs from what the client showed meanwhile.
fn conflict(result: &CommandResult) -> Option<Conflict> {
    match result {
        CommandResult::Ok(accepted) => {
            (accepted.won == Some(false) && !accepted.dup).then_some(Conflict::EditLost)
        }
        CommandResult::Err(refusal) => match refusal.code {
            ErrorCode::Superseded => Some(Conflict::Superseded),
            ErrorCode::TargetGone => Some(Conflict::TargetGone),
            ErrorCode::NotMember => Some(Conflict::NotMember),
            _ => None,
        },
    }
}
