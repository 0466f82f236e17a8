//! What a writer does outside of its process; every call has a deadline of its own.

use super::Event;
use crate::metrics::{Append, Lookup as LookupKind};
use crate::partition::{Notice, Record};
use crate::sequencer::{Ask, Lookup, Outcome, Publish, Read, Request, Stop};
use crate::shared::Shared;
use async_nats::{HeaderMap, Message};
use chassis::nats::{ApiError, PublishError, RequestError, StoredMessage};
use chassis::telemetry::{TraceId, with_trace};
use chassis::topology::LOG_STREAM;
use futures_util::future::BoxFuture;
use protocol::limits::FRAME_COMMANDS_MAX;
use protocol::request::{CommandReply, CommandRequest, CommandResult};
use protocol::subject::Subject;
use protocol::{ErrorCode, Partition, Refusal, StreamSeq, Timestamp};
use std::sync::Arc;
use tokio::time::Instant;

/// Records that one read fetches at most: more, and the partition is better taken over anew.
const TAIL_MAX: usize = 2_000;

/// Reads a request from a message: the subject tells who and where, the body what.
pub(super) fn request(message: &Message) -> Result<Request, Refusal> {
    let bad = |msg: &str| Refusal::new(ErrorCode::BadRequest, msg);
    let Ok(Subject::Command {
        door, actor, room, ..
    }) = Subject::parse(&message.subject)
    else {
        return Err(bad("the subject is none of a command"));
    };
    let body: CommandRequest = serde_json::from_slice(&message.payload)
        .map_err(|error| bad(&format!("the body is no batch of commands: {error}")))?;
    if body.commands.len() > FRAME_COMMANDS_MAX {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("a batch may have at most {FRAME_COMMANDS_MAX} commands"),
        ));
    }
    Ok(Request {
        door,
        actor,
        room,
        body,
    })
}

/// Answers a message that is no request.
pub(super) async fn refuse(shared: &Shared, message: &Message, refusal: Refusal) {
    let reply = CommandReply {
        results: vec![CommandResult::Err(refusal)],
        position: StreamSeq(0),
    };
    let body = serde_json::to_vec(&reply).expect("a reply is JSON");
    respond(shared, message, body).await;
}

/// Answers the question whether the partition's owner is alive: with its name, if it lets commands in.
pub(super) async fn say_alive(shared: &Shared, message: &Message, listens: bool) {
    let name = if listens {
        shared.instance.as_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    respond(shared, message, name).await;
}

async fn respond(shared: &Shared, message: &Message, body: Vec<u8>) {
    if let Err(error) = shared
        .nats
        .respond(message, HeaderMap::new(), body.into())
        .await
    {
        tracing::debug!(%error, "an answer could not be sent");
    }
}

/// Appends a record.
pub(super) fn publish(
    shared: Arc<Shared>,
    partition: Partition,
    (publish, trace): (Publish, Option<TraceId>),
) -> BoxFuture<'static, Event> {
    Box::pin(async move {
        let since = Instant::now();
        let headers = match trace {
            Some(trace) => with_trace(HeaderMap::new(), trace),
            None => HeaderMap::new(),
        };
        if publish.events > 0 {
            #[expect(clippy::cast_precision_loss, reason = "an envelope has few events")]
            shared.metrics.append_events.observe(publish.events as f64);
        }
        let subject = Subject::Log(partition).to_string();
        let result = shared
            .nats
            .publish_expect(subject, publish.payload.into(), headers, publish.expected.0)
            .await;
        let outcome = match result {
            Ok(ack) => {
                shared.acknowledged(StreamSeq(ack.seq));
                if publish.events > 0 {
                    tracing::debug!(
                        partition = partition.number(),
                        position = ack.seq,
                        events = publish.events,
                        duration_ms = since.elapsed().as_millis(),
                        trace.id = trace.map(tracing::field::display),
                        "stored {} events at {}",
                        publish.events,
                        ack.seq
                    );
                }
                Outcome::Stored(StreamSeq(ack.seq))
            }
            Err(PublishError::Conflict) => Outcome::Conflict,
            Err(error) => {
                tracing::warn!(
                    partition = partition.number(),
                    error = %chassis::tasks::chain(&error),
                    "an append to partition {partition} of the log did not succeed"
                );
                Outcome::Unknown
            }
        };
        Event::Published(outcome, since)
    })
}

/// Counts an append.
pub(super) fn count_append(shared: &Shared, outcome: Outcome, since: Instant) {
    let label = match outcome {
        Outcome::Stored(_) => Append::Stored,
        Outcome::Conflict => Append::Conflict,
        Outcome::Unknown => Append::Unknown,
    };
    shared.metrics.appends_total.get(label).inc();
    shared
        .metrics
        .append_seconds
        .observe(since.elapsed().as_secs_f64());
}

/// Reads everything behind a record from the leader.
pub(super) fn read_tail(
    shared: Arc<Shared>,
    partition: Partition,
    read: Read,
) -> BoxFuture<'static, Event> {
    Box::pin(async move {
        shared.metrics.leader_reads_total.inc();
        let tail = proven_tail(&shared, partition, read.after).await;
        if let Err(error) = &tail {
            tracing::warn!(
                partition = partition.number(),
                error = %chassis::tasks::chain(error),
                "reading the tail of partition {partition} failed"
            );
        }
        Event::Tail(read.id, tail.ok())
    })
}

/// The tail, from a leader that nobody had replaced yet when it was read: what it does not have proves
/// something.
async fn proven_tail(
    shared: &Shared,
    partition: Partition,
    after: StreamSeq,
) -> Result<Vec<Record>, ApiError> {
    let tail = tail(shared, partition, after).await?;
    let is_replicated = shared.view.borrow().is_replicated;
    if is_replicated && !shared.nats.leader_is_proven(LOG_STREAM).await? {
        return Err(ApiError::Unavailable(RequestError::Timeout));
    }
    Ok(tail)
}

async fn tail(
    shared: &Shared,
    partition: Partition,
    after: StreamSeq,
) -> Result<Vec<Record>, ApiError> {
    let subject = Subject::Log(partition).to_string();
    let nats = &shared.nats;
    let last = nats.last_for_subject(LOG_STREAM, &subject).await?;
    let Some(last) = last.filter(|last| last.seq > after.0) else {
        return Ok(Vec::new());
    };
    let mut tail = Vec::new();
    let mut from = after.next();
    while from.0 < last.seq && tail.len() < TAIL_MAX {
        let next = nats.next_for_subject(LOG_STREAM, &subject, from.0).await?;
        let Some(next) = next.filter(|next| next.seq < last.seq) else {
            break;
        };
        from = StreamSeq(next.seq).next();
        tail.push(record(next));
    }
    // Without a hole: a tail that was cut is continued by the next read.
    if tail.len() < TAIL_MAX {
        tail.push(record(last));
    }
    Ok(tail)
}

fn record(message: StoredMessage) -> Record {
    Record {
        position: StreamSeq(message.seq),
        time: Timestamp(message.time_ms),
        payload: message.payload,
    }
}

/// Asks history.
pub(super) fn ask(shared: Arc<Shared>, ask: Ask) -> BoxFuture<'static, Event> {
    Box::pin(async move {
        let kind = match &ask.lookup {
            Lookup::Room(_) => LookupKind::Room,
            Lookup::Messages(..) => LookupKind::Messages,
            Lookup::Cids(_) => LookupKind::Cids,
            Lookup::User(_) => LookupKind::User,
        };
        shared.metrics.lookups_total.get(kind).inc();
        let view = *shared.view.borrow();
        let answer = if view.is_foreign() {
            None
        } else {
            shared.history.ask(&ask).await
        };
        if answer.is_none() {
            shared.metrics.lookups_failed_total.inc();
        }
        Event::Answer(ask.id, answer)
    })
}

/// Logs and counts what a person should hear of.
pub(super) fn tell(shared: &Shared, partition: Partition, notice: &Notice) {
    let number = partition.number();
    match notice {
        Notice::Overtaken(by) => {
            tracing::info!(
                partition = number,
                instance.id = %by,
                "partition {partition} was taken over by {by}"
            );
        }
        Notice::Poisoned {
            room,
            position,
            why,
        } => {
            shared.metrics.poisoned_rooms_total.inc();
            tracing::error!(
                partition = number,
                room.id = %room,
                position = position.0,
                "room {room} is unavailable until repaired: of its event at {position}, {why}"
            );
        }
        Notice::Unreadable(position) => {
            tracing::error!(
                partition = number,
                position = position.0,
                "record {position} of the log cannot be read"
            );
        }
        Notice::Lost { from, to } => {
            shared.metrics.lost_ranges_total.inc();
            tracing::error!(
                partition = number,
                from = from.0,
                to = to.0,
                "records {from} to {to} of the log are lost: history never had them"
            );
        }
        Notice::Stopped(why) => match why {
            Stop::Released => {
                tracing::debug!(partition = number, "partition {partition} is released");
            }
            Stop::LogLost { end, cursor } => {
                shared.metrics.lost_ranges_total.inc();
                tracing::error!(
                    partition = number,
                    end = end.0,
                    cursor = cursor.0,
                    "partition {partition} stops: the log ends at {end}, history has {cursor}; \
                     the broker's store was lost or rolled back: restore it, or run natter reseed"
                );
            }
            Stop::ForeignLog => {
                tracing::error!(
                    partition = number,
                    "partition {partition} stops: the broker's log is not the one that history follows; \
                     restore the broker's store, or run natter reseed"
                );
            }
            Stop::ClockSkew => {
                tracing::error!(
                    partition = number,
                    "partition {partition} stops: this clock is too far off the broker's"
                );
            }
        },
    }
}
