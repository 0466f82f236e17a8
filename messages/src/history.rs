//! Asking history, and following how far it and the log are.
//!
//! Decides nothing: an answer goes to the sequencer that wanted it, with the position it was read at.

use crate::sequencer::{Answered, Ask, LogBounds, Lookup};
use async_nats::HeaderMap;
use chassis::clock::Clock;
use chassis::nats::Nats;
use chassis::topology::LOG_STREAM;
use protocol::limits::OWNER_CLOCK_SKEW_MS_MAX;
use protocol::query::{
    Answer, CidsAnswer, MessageStatesAnswer, Position, Query, Question, RoomStateAnswer, UserFacts,
};
use protocol::subject::{LOG_EPOCH_METADATA, Subject};
use protocol::{LogId, StreamSeq, Timestamp, UserId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long history may take to reach the wanted position and to answer.
const ANSWER_MS: i64 = 2_000;
/// The same and a network's delay.
const TIMEOUT: Duration = Duration::from_millis(2_300);
/// Between two looks at the log and at history.
const FOLLOW: Duration = Duration::from_secs(1);
/// How long a new log waits for history at the start.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Users whose last facts are kept for when history is down.
const FACTS_MAX: usize = 50_000;

/// How far log and history are, as last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Up to where history has applied the log; `None` until it has answered once.
    pub(crate) cursor: Option<StreamSeq>,
    /// What the stream holds, read after the cursor; `None` until it was read once.
    pub(crate) log: Option<LogBounds>,
    /// The broker's clock minus ours.
    pub(crate) clock_offset_ms: i64,
    /// History follows another log than this one.
    pub(crate) foreign: bool,
    /// The broker has another log than the one that this process began with.
    pub(crate) replaced: bool,
    /// The log has replicas, so its leader can change.
    pub(crate) is_replicated: bool,
    /// History answered when it was asked last.
    pub(crate) answers: bool,
}

impl View {
    /// Whether this process's clock is too far off.
    pub(crate) const fn is_skewed(&self) -> bool {
        self.clock_offset_ms.abs() > OWNER_CLOCK_SKEW_MS_MAX
    }

    /// Whether what this process knows, and what history knows, is not of the broker's log.
    pub(crate) const fn is_foreign(&self) -> bool {
        self.foreign || self.replaced
    }

    /// Whether the log holds nothing and history has never said that it follows it: then nobody can tell
    /// whether it is new or took the place of a lost one, in which every room would be refused as unknown
    /// and every number used again.
    pub(crate) fn is_unproven(&self) -> bool {
        self.cursor.is_none() && self.log.is_some_and(|log| log.first > log.last)
    }

    /// Whether this process must not own anything.
    pub(crate) fn is_unfit(&self) -> bool {
        self.is_foreign() || self.is_skewed() || self.is_unproven()
    }
}

/// Asks history.
#[derive(Debug)]
pub(crate) struct History {
    nats: Nats,
    clock: Clock,
    facts: Mutex<BTreeMap<UserId, UserFacts>>,
}

/// What the stream's leader says.
struct Log {
    bounds: LogBounds,
    /// Its clock minus ours.
    offset_ms: i64,
    id: Option<String>,
    is_replicated: bool,
}

#[derive(Deserialize)]
struct StreamInfo {
    ts: String,
    config: StreamInfoConfig,
    state: StreamInfoState,
}

#[derive(Deserialize)]
struct StreamInfoConfig {
    num_replicas: u32,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StreamInfoState {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
}

impl History {
    pub(crate) fn new(nats: Nats, clock: Clock) -> Self {
        Self {
            nats,
            clock,
            facts: Mutex::default(),
        }
    }

    /// Asks for a sequencer; `None` if history does not answer.
    pub(crate) async fn ask(&self, ask: &Ask) -> Option<(StreamSeq, Answered)> {
        let min_seq = ask.min_seq;
        match &ask.lookup {
            Lookup::Room(room) => {
                let query = Query::RoomState { room: room.clone() };
                let (applied, state) = self.query::<RoomStateAnswer>(min_seq, query).await?;
                Some((applied, Answered::Room(state.map(Box::new))))
            }
            Lookup::Messages(room, seqs) => {
                let query = Query::MessageStates {
                    room: room.clone(),
                    seqs: seqs.clone(),
                };
                let (applied, states) = self.query::<MessageStatesAnswer>(min_seq, query).await?;
                Some((applied, Answered::Messages(states)))
            }
            Lookup::Cids(cids) => {
                let query = Query::Cids { cids: cids.clone() };
                let (applied, found) = self.query::<CidsAnswer>(min_seq, query).await?;
                Some((applied, Answered::Cids(found)))
            }
            Lookup::User(user) => {
                let facts = self.user(user).await?;
                Some((min_seq, Answered::User(facts)))
            }
        }
    }

    /// Facts as of the log's present end; while history is down the last ones stand.
    async fn user(&self, user: &UserId) -> Option<UserFacts> {
        let query = Query::UserFacts { user: user.clone() };
        let fresh = match self.log().await {
            Some(log) => self.query::<UserFacts>(log.bounds.last, query).await,
            None => None,
        };
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, facts)) = fresh else {
            return known.get(user).copied();
        };
        if known.len() >= FACTS_MAX {
            // Crude, but bounded; it is only a fallback.
            known.clear();
        }
        known.insert(user.clone(), facts);
        Some(facts)
    }

    async fn query<T: DeserializeOwned>(
        &self,
        min_seq: StreamSeq,
        query: Query,
    ) -> Option<(StreamSeq, T)> {
        let subject = Subject::History(query.verb().to_owned()).to_string();
        let question = Question {
            min_seq,
            deadline: Timestamp(self.clock.now_ms()).plus_ms(ANSWER_MS),
            query,
        };
        let body = serde_json::to_vec(&question).expect("a question is JSON");
        let answer = self
            .nats
            .request(subject, HeaderMap::new(), body.into(), TIMEOUT)
            .await
            .inspect_err(|error| tracing::debug!(%error, "history did not answer"))
            .ok()?;
        let answer: Answer = serde_json::from_slice(&answer)
            .inspect_err(|error| tracing::warn!(%error, "history's answer cannot be read"))
            .ok()?;
        if let Some(refusal) = answer.err {
            tracing::debug!(code = refusal.code.slug(), "history refused a question");
            return None;
        }
        let value = serde_json::from_str(answer.ok?.get())
            .inspect_err(|error| tracing::warn!(%error, "history's answer cannot be read"))
            .ok()?;
        Some((answer.applied, value))
    }

    async fn log(&self) -> Option<Log> {
        let subject = format!("$JS.API.STREAM.INFO.{LOG_STREAM}");
        let before = self.clock.now_ms();
        let answer = self
            .nats
            .request(subject, HeaderMap::new(), bytes::Bytes::new(), TIMEOUT)
            .await
            .ok()?;
        let middle = before + (self.clock.now_ms() - before) / 2;
        let mut info: StreamInfo = serde_json::from_slice(&answer).ok()?;
        let broker = OffsetDateTime::parse(&info.ts, &Rfc3339).ok()?;
        let broker_ms = i64::try_from(broker.unix_timestamp_nanos() / 1_000_000).ok()?;
        let last = info.state.last_seq;
        let first = if info.state.messages == 0 {
            last + 1
        } else {
            info.state.first_seq
        };
        let bounds = LogBounds {
            first: StreamSeq(first),
            last: StreamSeq(last),
        };
        Some(Log {
            bounds,
            offset_ms: broker_ms - middle,
            is_replicated: info.config.num_replicas > 1,
            id: info.config.metadata.remove(LOG_EPOCH_METADATA),
        })
    }

    /// Looks once at history and then at the log.
    pub(crate) async fn look(&self, log_id: &LogId, last: View) -> View {
        let position = self
            .query::<Position>(StreamSeq(0), Query::Position {})
            .await;
        let mut view = last;
        view.answers = position.is_some();
        if let Some((applied, position)) = position {
            view.foreign = position.log != *log_id;
            if !view.foreign {
                view.cursor = Some(applied);
            }
        }
        if let Some(log) = self.log().await {
            view.replaced = log.id.as_deref() != Some(log_id.as_str());
            if !view.replaced {
                view.log = Some(log.bounds);
            }
            view.is_replicated = log.is_replicated;
            view.clock_offset_ms = log.offset_ms;
        }
        view
    }

    /// The first look. Beside a log that never held anything it waits a moment for history: whether the
    /// log is new or was lost, only history can tell.
    pub(crate) async fn first_look(&self, log_id: &LogId) -> View {
        let mut view = self.look(log_id, View::default()).await;
        let until = tokio::time::Instant::now() + FIRST_LOOK;
        while !view.answers
            && view.log.is_none_or(|log| log.last == StreamSeq(0))
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(FIRST_LOOK / 20).await;
            view = self.look(log_id, view).await;
        }
        view
    }

    /// Keeps the view up to date until `stop`.
    pub(crate) async fn follow(
        &self,
        log_id: LogId,
        view: watch::Sender<View>,
        stop: CancellationToken,
    ) {
        let follow = async {
            loop {
                tokio::time::sleep(FOLLOW).await;
                let last = *view.borrow();
                let next = self.look(&log_id, last).await;
                view.send_if_modified(|view| {
                    let changed = *view != next;
                    *view = next;
                    changed
                });
            }
        };
        stop.run_until_cancelled(follow).await;
    }
}
