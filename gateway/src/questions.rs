//! Asking history.

use crate::metrics::AnswerOutcome;
use crate::session::outside::Answered;
use crate::shared::Shared;
use async_nats::HeaderMap;
use chassis::nats::RequestError;
use protocol::query::{Answer, Query, Question};
use protocol::{ErrorCode, Refusal, StreamSeq, Subject};
use std::time::Duration;

/// How long an answer may take; history itself waits less for `min_seq`.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(4);

impl Shared {
    /// Asks history, and waits for the answer `within` this time.
    ///
    /// # Errors
    /// What history refused, or `unavailable` if it does not answer.
    ///
    /// Cancel safety: dropping the future forgets the answer.
    pub async fn ask(
        &self,
        query: Query,
        min_seq: StreamSeq,
        within: Duration,
    ) -> Result<Answered, Refusal> {
        let timer = self.metrics.question_seconds.start_timer();
        let result = self.ask_unmeasured(query, min_seq, within).await;
        timer.observe_duration();
        let outcome = match &result {
            Ok(_) => AnswerOutcome::Ok,
            Err(refusal) if refusal.code == ErrorCode::Unavailable => AnswerOutcome::Unavailable,
            Err(_) => AnswerOutcome::Refused,
        };
        self.metrics.questions_total.get(outcome).inc();
        result
    }

    async fn ask_unmeasured(
        &self,
        query: Query,
        min_seq: StreamSeq,
        within: Duration,
    ) -> Result<Answered, Refusal> {
        let subject = Subject::History(query.verb().to_owned()).to_string();
        let millis = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
        let deadline = self.now().wall.plus_ms(millis);
        let question = Question {
            min_seq: if sees_own_writes(&query) {
                self.at_least(min_seq)
            } else {
                min_seq
            },
            deadline,
            query,
        };
        let internal = || Refusal::plain(ErrorCode::Internal);
        let Ok(payload) = serde_json::to_vec(&question) else {
            return Err(internal());
        };
        let sent = self
            .ctx
            .nats
            .request(subject, HeaderMap::new(), payload.into(), within)
            .await;
        let payload = sent.map_err(|error| away(&error))?;
        let answer: Answer = match serde_json::from_slice(&payload) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "an answer of history cannot be read");
                return Err(internal());
            }
        };
        match (answer.ok, answer.err) {
            (Some(ok), None) => Ok(Answered {
                applied: answer.applied,
                ok,
            }),
            (_, Some(refusal)) => Err(refusal),
            (None, None) => Err(internal()),
        }
    }
}

/// Whether its answer must hold what its asker was told, whatever has come by the live feed yet.
#[must_use]
pub fn sees_own_writes(query: &Query) -> bool {
    match query {
        Query::Read { .. } | Query::ReadCounts { .. } => true,
        Query::Position {}
        | Query::Snapshots { .. }
        | Query::CatchUp { .. }
        | Query::Have { .. }
        | Query::RoomState { .. }
        | Query::MessageStates { .. }
        | Query::Cids { .. }
        | Query::UserFacts { .. }
        | Query::Records { .. } => false,
    }
}

fn away(error: &RequestError) -> Refusal {
    let msg = match error {
        RequestError::NoResponders => "history is not running",
        RequestError::Timeout => "history does not answer in time",
        RequestError::Disconnected => "the connection to the broker is down",
        RequestError::Invalid(_) | RequestError::Failed(_) => {
            tracing::error!(%error, "a question to history could not be sent");
            "history cannot be asked"
        }
    };
    Refusal::new(ErrorCode::Unavailable, msg)
}
