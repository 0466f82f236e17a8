//! Sending batches of commands to the owners of their rooms.
//!
//! Nobody on the subject means that the partition has no owner just now: the standbys get a hint and
//! the batch is sent again, within its deadline. That is safe, because nobody received it.
//! An owner that takes long may be dead: the standbys get a hint too, and when another has taken its
//! place the batch is sent again, as a client would: whoever has stored it answers the same.
//! Everything else that goes wrong leaves the outcome unknown, and the client sends the same cids again.

use crate::metrics::CommandOutcome;
use crate::session::outside::Settled;
use crate::shared::Shared;
use async_nats::HeaderMap;
use bytes::Bytes;
use chassis::nats::RequestError;
use chassis::telemetry::{TraceId, with_trace};
use futures_util::future::join_all;
use protocol::command::{Create, Write, WriteCommand};
use protocol::event::RoomKind;
use protocol::limits::REQUEST_WITHIN_MS;
use protocol::query::{Query, ReadCounts, Viewer};
use protocol::request::{CommandReply, CommandRequest, CommandResult};
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, Refusal, RoomId, StreamSeq, Subject};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a batch may take.
const BATCH_WITHIN: Duration = Duration::from_millis(REQUEST_WITHIN_MS.unsigned_abs());
/// How soon to try again after that.
const LATE_RETRY_MS: u64 = 200;
/// How long the counts for a read mark may take.
const COUNTS_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts while a partition has no owner.
const NO_OWNER_WAIT: Duration = Duration::from_millis(60);
/// An owner that says nothing for this long may be dead, and after as long again.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a batch of before a takeover may still be answered: one that was handed over will be.
const HANDED_OVER_WITHIN: Duration = Duration::from_millis(60);

impl Shared {
    /// Sends a batch for one room; one result per command, in order.
    ///
    /// # Errors
    /// What goes for the whole batch.
    ///
    /// Cancel safety: dropping the future forgets the answer, not the batch.
    pub async fn send_batch(
        &self,
        viewer: &Viewer,
        room: &RoomId,
        mut commands: Vec<WriteCommand>,
    ) -> Result<Vec<Settled>, Refusal> {
        let counts = self.counts(viewer, &mut commands).await;
        let count = commands.len();
        let timer = self.metrics.command_seconds.start_timer();
        let result = self.request(viewer, room, commands).await;
        timer.observe_duration();
        match &result {
            Ok(results) => results.iter().for_each(|result| self.count_result(result)),
            Err(refusal) => {
                let failed = CommandResult::Err(refusal.clone());
                (0..count).for_each(|_| self.count_result(&failed));
            }
        }
        let settled = result?.into_iter().zip(counts);
        Ok(settled
            .map(|(result, counts)| Settled { result, counts })
            .collect())
    }

    fn count_result(&self, result: &CommandResult) {
        let outcome = match result {
            CommandResult::Ok(_) => CommandOutcome::Ok,
            CommandResult::Err(refusal) => outcome_of(refusal.code),
        };
        self.metrics.commands_total.get(outcome).inc();
    }

    /// Asks history for the counts of every read mark in the batch, and tells the owner their ordinals.
    async fn counts(
        &self,
        viewer: &Viewer,
        commands: &mut [WriteCommand],
    ) -> Vec<Option<ReadCounts>> {
        let min_seq = self
            .ring
            .head()
            .map(|(_, position)| position)
            .unwrap_or_default();
        let questions = commands.iter().map(|command| async move {
            let Write::Read(read) = &command.write else {
                return None;
            };
            let mark = if read.back {
                read.seq.before()
            } else {
                read.seq
            };
            let query = Query::ReadCounts {
                viewer: viewer.clone(),
                room: read.target.clone(),
                mark: Some(mark),
            };
            let answered = self.ask(query, min_seq, COUNTS_WITHIN).await.ok()?;
            serde_json::from_str::<ReadCounts>(answered.ok.get()).ok()
        });
        let counts = join_all(questions).await;
        for (command, counts) in commands.iter_mut().zip(&counts) {
            if let Write::Read(read) = &mut command.write {
                read.read_n = counts.map(|counts| counts.read_n);
            }
        }
        counts
    }

    async fn request(
        &self,
        viewer: &Viewer,
        room: &RoomId,
        commands: Vec<WriteCommand>,
    ) -> Result<Vec<CommandResult>, Refusal> {
        let verb = match commands.as_slice() {
            [one] => one.write.op(),
            _ => "batch",
        };
        let subject = Subject::Command {
            partition: room.partition(),
            door: Door::User,
            actor: viewer.user.clone(),
            verb: verb.to_owned(),
            room: room.clone(),
        };
        let trace = TraceId::random();
        tracing::debug!(
            trace.id = %trace, room.id = %room, user.id = %viewer.user, commands = commands.len(),
            "a batch goes to its owner"
        );
        let count = commands.len();
        let request = CommandRequest {
            deadline: self.now().wall.plus_ms(REQUEST_WITHIN_MS),
            guest: viewer.guest,
            commands,
        };
        let internal = || {
            Refusal::new(
                ErrorCode::Internal,
                format!("the server made a mistake, trace {trace}"),
            )
        };
        let Ok(payload) = serde_json::to_vec(&request) else {
            return Err(internal());
        };
        let reply = self
            .deliver(room, &subject.to_string(), payload.into(), trace)
            .await?;
        let reply = serde_json::from_slice::<CommandReply>(&reply).ok();
        if let Some(reply) = &reply {
            self.told(reply.position);
        }
        match reply.and_then(|reply| results_of(reply, count)) {
            Some(results) => results,
            None => {
                tracing::error!(trace.id = %trace, "an owner's answer does not fit its batch");
                Err(internal())
            }
        }
    }

    /// Requests until somebody answers or the time is over.
    async fn deliver(
        &self,
        room: &RoomId,
        subject: &str,
        payload: Bytes,
        trace: TraceId,
    ) -> Result<Bytes, Refusal> {
        let deadline = Instant::now() + BATCH_WITHIN;
        if !self.ctx.nats.is_connected() {
            return Err(Refusal::new(
                ErrorCode::Unavailable,
                "the broker is not reachable",
            ));
        }
        let mut takeovers = self.takeovers.subscribe(room.partition());
        let mut received = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let headers = with_trace(HeaderMap::new(), trace);
            let request = self
                .ctx
                .nats
                .request(subject.to_owned(), headers, payload.clone(), left);
            let Some(sent) = self.answered(room, request, &mut takeovers).await else {
                tracing::debug!(trace.id = %trace, "a batch goes to a new owner again");
                received = true;
                continue;
            };
            match sent {
                Ok(reply) => return Ok(reply),
                Err(RequestError::NoResponders) if left > NO_OWNER_WAIT => {
                    self.hint(room).await;
                    tokio::time::sleep(NO_OWNER_WAIT).await;
                }
                Err(RequestError::NoResponders) if !received => {
                    return Err(Refusal::new(
                        ErrorCode::Unavailable,
                        "nobody owns the room now",
                    ));
                }
                Err(
                    RequestError::NoResponders | RequestError::Timeout | RequestError::Disconnected,
                ) => {
                    return Err(late());
                }
                Err(error @ (RequestError::Invalid(_) | RequestError::Failed(_))) => {
                    tracing::error!(trace.id = %trace, %error, "a batch could not be sent");
                    return Err(late());
                }
            }
        }
    }

    /// Waits for the answer; none if the partition has another owner meanwhile.
    async fn answered<T>(
        &self,
        room: &RoomId,
        request: impl Future<Output = T>,
        takeovers: &mut watch::Receiver<Option<Instant>>,
    ) -> Option<T> {
        tokio::pin!(request);
        // A new owner listens a moment later than the log tells of it: until then only one that stands
        // still may have got the batch.
        let last = *takeovers.borrow_and_update();
        let was_early = last.is_some_and(|last| last.elapsed() < SILENCE);
        let mut hint_at = Instant::now() + SILENCE;
        loop {
            tokio::select! {
                biased;
                sent = &mut request => return Some(sent),
                Ok(()) = takeovers.changed() => {
                    return tokio::time::timeout(HANDED_OVER_WITHIN, request).await.ok();
                }
                () = tokio::time::sleep_until(hint_at), if was_early => return None,
                () = tokio::time::sleep_until(hint_at) => {
                    self.hint(room).await;
                    hint_at += SILENCE;
                }
            }
        }
    }

    async fn hint(&self, room: &RoomId) {
        let subject = Subject::Hint(room.partition()).to_string();
        if let Err(error) = self
            .ctx
            .nats
            .publish(subject, HeaderMap::new(), Bytes::new())
            .await
        {
            tracing::debug!(%error, "a hint could not be sent");
        }
    }

    /// Makes the user's own room; returns a position at or behind it.
    ///
    /// # Errors
    /// What its owner refused, or `unavailable`.
    pub async fn introduce(&self, viewer: &Viewer) -> Result<StreamSeq, Refusal> {
        let now = u64::try_from(self.now().wall.0).unwrap_or(0);
        let create = Create {
            kind: RoomKind::Own,
            name: None,
            topic: None,
            members: Vec::new(),
            history: None,
        };
        let cid = Cid::from_parts(now, rand::random());
        let command = WriteCommand {
            cid,
            write: Write::Create(create),
        };
        let room = RoomId::own(&viewer.user);
        let settled = self.send_batch(viewer, &room, vec![command]).await?;
        match settled.into_iter().next().map(|settled| settled.result) {
            Some(CommandResult::Ok(_)) => {}
            Some(CommandResult::Err(refusal)) => return Err(refusal),
            None => return Err(Refusal::plain(ErrorCode::Internal)),
        }
        // The owner's answer has told a position at or behind it.
        Ok(self.at_least(StreamSeq(0)))
    }
}

/// The outcome is unknown. Whoever waited that long need not wait long once more: it may be a new owner
/// that answers now.
fn late() -> Refusal {
    Refusal::plain(ErrorCode::Timeout).after_ms(LATE_RETRY_MS)
}

/// One result per command, or the one refusal that an owner gives a batch that it has not read: it is
/// handing its partition over, or could not read it. `None`: it does not fit.
#[must_use]
pub fn results_of(
    reply: CommandReply,
    count: usize,
) -> Option<Result<Vec<CommandResult>, Refusal>> {
    let mut results = reply.results;
    if results.len() == count {
        return Some(Ok(results));
    }
    match (results.pop(), results.is_empty()) {
        (Some(CommandResult::Err(refusal)), true) => Some(Err(refusal)),
        (Some(_), _) | (None, _) => None,
    }
}

fn outcome_of(code: ErrorCode) -> CommandOutcome {
    if matches!(code, ErrorCode::RateLimited | ErrorCode::SlowMode) {
        CommandOutcome::RateLimited
    } else if code == ErrorCode::Unavailable {
        CommandOutcome::Unavailable
    } else if code == ErrorCode::Timeout {
        CommandOutcome::Timeout
    } else {
        CommandOutcome::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::request::Accepted;

    fn reply_of(results: Vec<CommandResult>) -> CommandReply {
        CommandReply {
            results,
            position: StreamSeq(0),
        }
    }

    #[test]
    fn an_owner_that_hands_over_refuses_a_batch_as_a_whole() {
        let refusal = Refusal::plain(ErrorCode::Unavailable).after_ms(200);
        let refused = || CommandResult::Err(refusal.clone());
        let stored = || CommandResult::Ok(Accepted::noop(protocol::Seq(1)));
        let results = |results| results_of(reply_of(results), 3);
        assert_eq!(results(vec![refused()]), Some(Err(refusal.clone())));
        let all = vec![stored(), refused(), refused()];
        assert_eq!(results(all.clone()), Some(Ok(all)));
        assert_eq!(results(vec![stored()]), None);
        assert_eq!(results(vec![refused(), refused()]), None);
        assert_eq!(results(Vec::new()), None);
    }
}
