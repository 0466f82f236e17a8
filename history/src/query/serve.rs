//! The NATS micro service `svc.history.*`: takes questions, bounds them, sends answers.
//!
//! A question waits for `min_seq` a bounded time, then gets a snapshot of its own. What is beyond the
//! bounds is told to come again at once, so that a queue never holds questions nobody waits for.

use super::{Failure, Terms, answer};
use crate::applied::Applied;
use crate::ingest::chain;
use crate::metrics::{Metrics, Outcome, Verb};
use crate::monitor;
use crate::store::{Snapshot, StoreError};
use async_nats::service::ServiceExt as _;
use async_nats::service::endpoint::Endpoint;
use chassis::Context;
use chassis::backoff::{INFRASTRUCTURE, forever};
use chassis::nats::SendError;
use futures_util::StreamExt as _;
use protocol::query::{Answer, Query, Question, ReadCommand};
use protocol::subject::HISTORY_QUEUE;
use protocol::{ErrorCode, Refusal, StreamSeq, Subject, Timestamp};
use sqlx::PgPool;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How long a question waits for a record to be applied.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How long an answer may take to put together.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// When those beyond the bound shall come again, in ms.
const OVERLOAD_RETRY_MS: u64 = 500;

/// When to come again while Postgres is gone, in ms.
const GONE_RETRY_MS: u64 = 1_000;

/// Bytes of an answer around what was asked for.
const FRAME_BYTES: usize = 4 * 1024;

/// The largest answer, whatever the broker would take: it is held in memory more than once.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The component of the health board that says whether questions arrive here.
const SERVICE: &str = "service";

/// What every question needs; clones share it.
#[derive(Clone, Debug)]
pub struct Desk {
    /// What the service lives with.
    pub context: Context,
    /// Connections for reads.
    pub pool: PgPool,
    /// How far the log is applied.
    pub applied: Applied,
    /// What is measured.
    pub metrics: Metrics,
    /// Questions under way or waiting, at most.
    pub reads: u32,
}

impl Desk {
    /// Serves until the context's shutdown; begins again if the subscription ends.
    pub async fn run(self) {
        let context = self.context.clone();
        let permits = Arc::new(Semaphore::new(
            usize::try_from(self.reads).unwrap_or(usize::MAX),
        ));
        loop {
            let endpoint = forever(
                "starting the service",
                INFRASTRUCTURE,
                &context.shutdown,
                || self.endpoint(),
            );
            let Some((_service, mut endpoint)) = endpoint.await else {
                return;
            };
            context.health.set_ready(SERVICE);
            let serve = async {
                while let Some(request) = endpoint.next().await {
                    self.admit(&permits, request.message).await;
                }
            };
            if context.shutdown.run_until_cancelled(serve).await.is_none() {
                // Nothing new comes from here on; what was taken is answered by its own task.
                if let Err(error) = endpoint.stop().await {
                    tracing::debug!(%error, "ending the subscription failed");
                }
                return;
            }
            context
                .health
                .set_down(SERVICE, "the subscription has ended");
        }
    }

    async fn endpoint(
        &self,
    ) -> Result<(async_nats::service::Service, Endpoint), async_nats::Error> {
        self.context.nats.connected().await;
        let client = &self.context.nats.client;
        let service = client
            .service_builder()
            .description("keeps what was said and finds it again")
            .queue_group(HISTORY_QUEUE)
            .start("history", env!("CARGO_PKG_VERSION"))
            .await?;
        let subject = Subject::History("*".to_owned()).to_string();
        let endpoint = service
            .endpoint_builder()
            .name("query")
            .add(subject)
            .await?;
        self.context.nats.flush().await?;
        Ok((service, endpoint))
    }

    async fn admit(&self, permits: &Arc<Semaphore>, request: async_nats::Message) {
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            self.metrics.queries_total.get(Outcome::Unavailable).inc();
            let refusal = Refusal::plain(ErrorCode::Unavailable).after_ms(OVERLOAD_RETRY_MS);
            self.respond(&request, refused(self.applied.get(), refusal))
                .await;
            return;
        };
        let desk = self.clone();
        self.context.tasks.spawn("query", async move {
            desk.handle(&request).await;
            drop(permit);
        });
    }

    async fn handle(&self, request: &async_nats::Message) {
        let started = Instant::now();
        let question = match parse(request) {
            Ok(question) => question,
            Err(refusal) => {
                self.metrics.queries_total.get(Outcome::Refused).inc();
                return self
                    .respond(request, refused(self.applied.get(), refusal))
                    .await;
            }
        };
        let verb = verb(&question.query);
        let left_ms = question
            .deadline
            .since_ms(Timestamp(self.context.clock.now_ms()));
        let Some(left) = u64::try_from(left_ms).ok().filter(|left| *left > 0) else {
            self.metrics.queries_total.get(Outcome::Late).inc();
            return;
        };
        let left = Duration::from_millis(left).min(ANSWER_MAX + WAIT_MAX);
        let answer = match tokio::time::timeout(left, self.answer(&question, left)).await {
            Ok(answer) => answer,
            Err(_) => refused(self.applied.get(), Refusal::plain(ErrorCode::Unavailable)),
        };
        let outcome = match &answer.err {
            None => Outcome::Ok,
            Some(refusal) if refusal.temp => Outcome::Unavailable,
            Some(_) => Outcome::Refused,
        };
        self.respond(request, answer).await;
        self.metrics.queries_total.get(outcome).inc();
        self.metrics
            .query_seconds
            .get(verb)
            .observe(started.elapsed().as_secs_f64());
    }

    async fn answer(&self, question: &Question, left: Duration) -> Answer {
        if self.is_without_archive() {
            // Nobody waits for a connection that is known not to come; the watch looks each second.
            let refusal = Refusal::plain(ErrorCode::Unavailable).after_ms(GONE_RETRY_MS);
            return refused(self.applied.get(), refusal);
        }
        let deadline = Instant::now() + left.min(WAIT_MAX);
        if question.min_seq > StreamSeq(0)
            && !self.applied.reaches(question.min_seq, deadline).await
        {
            let msg = "The archive has not caught up yet.";
            return refused(
                self.applied.get(),
                Refusal::new(ErrorCode::Unavailable, msg),
            );
        }
        match self.look(question).await {
            Ok(answer) => answer,
            Err((applied, Failure::Refused(refusal))) => refused(applied, refusal),
            Err((applied, Failure::Store(error))) => {
                tracing::warn!(
                    verb = question.query.verb(), error = %chain(&error), "a read failed"
                );
                refused(applied, Refusal::plain(ErrorCode::Unavailable))
            }
        }
    }

    /// Whether Postgres was found gone at the last look.
    fn is_without_archive(&self) -> bool {
        let condition = self.context.health.get(monitor::POSTGRES);
        condition.is_some_and(|condition| !condition.serves())
    }

    async fn look(&self, question: &Question) -> Result<Answer, (StreamSeq, Failure)> {
        let store = |error: StoreError| (self.applied.get(), Failure::Store(error));
        let mut snapshot = Snapshot::begin(&self.pool).await.map_err(store)?;
        let applied = snapshot.applied;
        if applied < question.min_seq {
            // The archive was put back meanwhile, or another process had been ahead of this snapshot.
            let refusal = Refusal::plain(ErrorCode::Unavailable);
            return Err((applied, Failure::Refused(refusal)));
        }
        let now = Timestamp(self.context.clock.now_ms());
        let terms = Terms {
            now,
            bytes_max: self.bytes_max(),
        };
        let found = answer(&mut snapshot, &question.query, terms).await;
        let found = found.map_err(|failure| (applied, failure))?;
        snapshot.end().await.map_err(store)?;
        if found.json.get().len() > terms.bytes_max {
            let bytes = found.json.get().len();
            tracing::error!(
                verb = question.query.verb(),
                bytes,
                "an answer of {bytes} bytes is more than the broker takes: raise max_payload"
            );
            return Err((
                applied,
                Failure::Refused(Refusal::plain(ErrorCode::TooLarge)),
            ));
        }
        Ok(Answer {
            applied: found.covered,
            ok: Some(found.json),
            err: None,
        })
    }

    /// Bytes that the broker lets an answer have.
    fn bytes_max(&self) -> usize {
        let broker = self
            .context
            .nats
            .client
            .try_server_info()
            .map(|info| info.max_payload);
        broker
            .unwrap_or(ANSWER_BYTES_MAX)
            .min(ANSWER_BYTES_MAX)
            .saturating_sub(FRAME_BYTES)
    }

    async fn respond(&self, request: &async_nats::Message, answer: Answer) {
        let body = serde_json::to_vec(&answer).expect("answers are JSON");
        let nats = &self.context.nats;
        match nats
            .respond(request, async_nats::HeaderMap::new(), body.into())
            .await
        {
            Ok(()) => {}
            Err(SendError::NotAnInbox) => {
                tracing::debug!("a question without an inbox for its answer was dropped");
            }
            Err(error) => tracing::debug!(error = %chain(&error), "an answer was not sent"),
        }
    }
}

fn refused(applied: StreamSeq, refusal: Refusal) -> Answer {
    Answer {
        applied,
        ok: None,
        err: Some(refusal),
    }
}

/// The question, if it is one and came on the subject of its verb: the broker's permissions are
/// about the subject.
fn parse(request: &async_nats::Message) -> Result<Question, Refusal> {
    let bad = |msg: String| Refusal::new(ErrorCode::BadRequest, msg);
    let question: Question =
        serde_json::from_slice(&request.payload).map_err(|error| bad(error.to_string()))?;
    match Subject::parse(&request.subject) {
        Ok(Subject::History(verb)) if verb == question.query.verb() => Ok(question),
        Ok(_) | Err(_) => Err(bad("the question is not what its subject says".to_owned())),
    }
}

fn verb(query: &Query) -> Verb {
    match query {
        Query::Read { read, .. } => match read {
            ReadCommand::History { .. } => Verb::History,
            ReadCommand::Thread { .. } => Verb::Thread,
            ReadCommand::Rooms { .. } => Verb::Rooms,
            ReadCommand::Discover { .. } => Verb::Discover,
            ReadCommand::Members { .. } => Verb::Members,
            ReadCommand::Bans { .. } => Verb::Bans,
            ReadCommand::Revisions { .. } => Verb::Revisions,
            ReadCommand::Unread {} => Verb::Unread,
        },
        Query::Position {} => Verb::Position,
        Query::Snapshots { .. } => Verb::Snapshots,
        Query::CatchUp { .. } => Verb::CatchUp,
        Query::Have { .. } => Verb::Have,
        Query::RoomState { .. } => Verb::RoomState,
        Query::MessageStates { .. } => Verb::MessageStates,
        Query::Cids { .. } => Verb::Cids,
        Query::UserFacts { .. } => Verb::UserFacts,
        Query::ReadCounts { .. } => Verb::ReadCounts,
        Query::Records { .. } => Verb::Records,
    }
}
