//! The live feed: one subscription for the whole process, put in order, into the ring.
//!
//! Decides nothing: what to do about a gap is decided by [`feed`].

pub mod feed;

use self::feed::{Feed, Fill, Found, Source, Step};
use crate::questions::ANSWER_WITHIN;
use crate::ring::record::Record;
use crate::shared::Shared;
use async_nats::{Message, Subscriber};
use chassis::backoff;
use chassis::nats::{ApiError, SendError, StreamState};
use chassis::telemetry::trace_of;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use protocol::query::{Query, Records};
use protocol::request::Beacon;
use protocol::subject::{LOG_EPOCH_METADATA, LOG_STREAM};
use protocol::{LogId, StreamSeq, Subject};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The header that carries a republished record's position.
const SEQUENCE: &str = "Nats-Sequence";
/// How often the connection is looked at: a reconnect may have lost records.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Messages taken in one go before anything else is looked at.
const BURST: usize = 512;
/// Records asked for in one search.
const SEARCH_RECORDS: u64 = 1_000;
/// The component of the health board.
const COMPONENT: &str = "feed";

/// Why the feed could not begin.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("subscribing failed")]
    Subscribe(#[from] SendError),
    #[error("reading the log's state failed")]
    State(#[from] ApiError),
    #[error("there is no log yet")]
    NoLog,
}

type Search = BoxFuture<'static, (Fill, Option<Found>)>;
type Probe = BoxFuture<'static, Option<(LogId, StreamSeq)>>;

struct Upstream {
    shared: Arc<Shared>,
    live: Subscriber,
    beacons: Subscriber,
    feed: Feed,
    log: LogId,
    connects: u64,
    slow_consumers: u64,
    search: Option<Search>,
    probe: Option<Probe>,
    /// Whether the feed waits for the probe.
    asks_last: bool,
}

/// Follows the log until the last sockets are closed: while clients move they still hear everything.
pub async fn run(shared: Arc<Shared>) {
    shared.ctx.health.set_down(COMPONENT, "not begun");
    let stop = shared.closing.clone();
    let open = || Upstream::open(Arc::clone(&shared));
    let opened = backoff::forever(
        "beginning the live feed",
        backoff::INFRASTRUCTURE,
        &stop,
        open,
    )
    .await;
    let Some(mut upstream) = opened else { return };
    shared.ctx.health.set_ready(COMPONENT);
    stop.run_until_cancelled(upstream.follow()).await;
}

impl Upstream {
    async fn open(shared: Arc<Shared>) -> Result<Self, OpenError> {
        let nats = &shared.ctx.nats;
        let connects = nats.connects();
        // Subscribed before the state is read, so that nothing falls in between.
        let live = nats.subscribe(Subject::Lives.to_string()).await?;
        let beacons = nats.subscribe(Subject::Beacons.to_string()).await?;
        let state = nats
            .stream_state(LOG_STREAM)
            .await?
            .ok_or(OpenError::NoLog)?;
        let (log, last) = log_of(&state).ok_or(OpenError::NoLog)?;
        tracing::info!(log = %log, position = last.0, "the live feed begins");
        let slow_consumers = nats.slow_consumers();
        shared.views.start(last);
        shared.ring.start(log.clone(), last);
        let feed = Feed::new(last, gap_max(&shared));
        Ok(Self {
            live,
            beacons,
            feed,
            log,
            connects,
            slow_consumers,
            search: None,
            probe: None,
            asks_last: false,
            shared,
        })
    }

    async fn follow(&mut self) {
        let mut check = Instant::now();
        loop {
            let wake = self.feed.deadline().map(|due| self.shared.instant(due));
            let wake = wake.map_or(check, |wake| wake.min(check));
            tokio::select! {
                message = self.live.next() => match message {
                    Some(message) => self.take_burst(&message),
                    // The connection was closed for good: the process is stopping.
                    None => return std::future::pending().await,
                },
                Some(message) = self.beacons.next() => self.take_beacon(&message),
                (fill, found) = optional(&mut self.search) => self.take_found(fill, found),
                state = optional(&mut self.probe) => self.take_state(state),
                () = tokio::time::sleep_until(wake) => {}
            }
            if Instant::now() >= check {
                check = Instant::now() + CHECK_INTERVAL;
                self.check_connection();
            }
            self.go_on();
        }
    }

    fn take_burst(&mut self, first: &Message) {
        self.take_live(first);
        for _ in 1..BURST {
            match self.live.next().now_or_never() {
                Some(Some(message)) => self.take_live(&message),
                Some(None) | None => return,
            }
        }
    }

    fn take_live(&mut self, message: &Message) {
        let sequence = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(SEQUENCE));
        let Some(position) = sequence.and_then(|value| value.as_str().parse().ok()) else {
            tracing::error!(subject = %message.subject, "a message on the live feed is no record of the log");
            return;
        };
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Some(trace) = trace_of(message.headers.as_ref())
        {
            tracing::debug!(trace.id = %trace, position, "a record is fanned out");
        }
        if let Ok(Subject::Live(partition)) = Subject::parse(&message.subject) {
            let takeovers = &self.shared.takeovers;
            takeovers.handle_record(partition, &message.payload);
        }
        self.feed
            .handle_live(decode(StreamSeq(position), &message.payload));
    }

    fn take_beacon(&mut self, message: &Message) {
        let now = self.shared.ticks();
        let beacon = serde_json::from_slice::<Beacon>(&message.payload);
        match (beacon, Subject::parse(&message.subject)) {
            (Ok(beacon), Ok(Subject::Beacon(owner))) => {
                self.feed.handle_known_last(now, beacon.position);
                self.shared
                    .writes
                    .handle_beacon(now, owner, beacon.in_trouble);
            }
            (Ok(_) | Err(_), _) => {
                tracing::warn!(subject = %message.subject, "a beacon cannot be read");
            }
        }
    }

    fn take_found(&mut self, fill: Fill, found: Option<Found>) {
        self.search = None;
        let now = self.shared.ticks();
        match found {
            Some(found) => {
                let count = u64::try_from(found.records.len()).unwrap_or(0);
                self.shared.metrics.feed_filled_total.inc_by(count);
                self.feed.handle_found(now, fill, found);
            }
            None => self.feed.handle_failed(now, fill),
        }
    }

    fn take_state(&mut self, state: Option<(LogId, StreamSeq)>) {
        self.probe = None;
        let now = self.shared.ticks();
        let asked = std::mem::take(&mut self.asks_last);
        match state {
            Some((log, last)) if log == self.log => {
                if asked {
                    self.feed.handle_last(now, Some(last));
                }
                self.feed.handle_known_last(now, last);
            }
            Some((log, last)) => {
                tracing::error!(old = %self.log, new = %log, "another log has taken the place of this one; all sockets begin anew");
                self.log = log;
                self.shared.forget_told();
                self.feed = Feed::new(last, gap_max(&self.shared));
                self.begin_behind(last);
            }
            None => {
                if asked {
                    self.feed.handle_last(now, None);
                }
                // The next check tries again.
                self.connects = 0;
            }
        }
    }

    /// Forgets the past; the feed goes on behind `last`.
    fn begin_behind(&mut self, last: StreamSeq) {
        self.search = None;
        self.shared.views.start(last);
        self.shared.ring.start(self.log.clone(), last);
    }

    /// After a reconnect, or after messages were dropped, only the leader knows what was missed.
    fn check_connection(&mut self) {
        let (records, bytes) = self.shared.ring.size();
        let metrics = &self.shared.metrics;
        metrics
            .ring_records
            .set(i64::try_from(records).unwrap_or(i64::MAX));
        metrics
            .ring_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let nats = &self.shared.ctx.nats;
        let (connects, slow_consumers) = (nats.connects(), nats.slow_consumers());
        let same = connects == self.connects && slow_consumers == self.slow_consumers;
        if same || self.probe.is_some() || !nats.is_connected() {
            return;
        }
        self.connects = connects;
        self.slow_consumers = slow_consumers;
        self.probe = Some(self.probe());
    }

    fn probe(&self) -> Probe {
        let nats = self.shared.ctx.nats.clone();
        Box::pin(async move {
            match nats.stream_state(LOG_STREAM).await {
                Ok(state) => log_of(&state?),
                Err(error) => {
                    tracing::debug!(%error, "the log's state cannot be read");
                    None
                }
            }
        })
    }

    fn go_on(&mut self) {
        while let Some(record) = self.feed.poll_record() {
            let position = i64::try_from(record.position.0).unwrap_or(i64::MAX);
            self.shared.metrics.feed_position.set(position);
            self.shared.ring.push(Arc::clone(&record));
            self.shared.views.apply(&record);
        }
        while let Some(step) = self.feed.poll_step(self.shared.ticks()) {
            match step {
                Step::Search(fill) => {
                    if fill.source == Source::Replica {
                        self.shared.metrics.feed_gaps_total.inc();
                    }
                    tracing::debug!(from = fill.from.0, to = fill.to.0, source = ?fill.source, "looking for lost records");
                    self.search = Some(Box::pin(search(Arc::clone(&self.shared), fill)));
                }
                Step::AskLast => {
                    self.asks_last = true;
                    self.probe = Some(self.probe());
                }
                Step::Jump(last) => {
                    tracing::warn!(
                        position = last.0,
                        "too much was missed; sockets catch up from history"
                    );
                    self.begin_behind(last);
                }
                Step::Lost(from, to) => {
                    self.shared
                        .metrics
                        .feed_lost_total
                        .inc_by(to.0 - from.0 + 1);
                    tracing::error!(
                        from = from.0,
                        to = to.0,
                        "records of the log are nowhere to be found"
                    );
                    self.go_on();
                }
            }
        }
    }
}

/// The largest gap worth filling record by record: beyond it most would leave the ring at once.
fn gap_max(shared: &Shared) -> u64 {
    u64::try_from(shared.config.gateway_ring_records / 2).unwrap_or(u64::MAX)
}

fn log_of(state: &StreamState) -> Option<(LogId, StreamSeq)> {
    let log = LogId::parse(state.metadata.get(LOG_EPOCH_METADATA)?).ok()?;
    Some((log, StreamSeq(state.last_seq)))
}

/// A record that cannot be read is counted like any other, but has no events.
fn decode(position: StreamSeq, payload: &[u8]) -> Record {
    Record::from_envelope(position, payload).unwrap_or_else(|error| {
        tracing::error!(position = position.0, %error, "a record of the log cannot be read");
        Record::empty(position)
    })
}

/// The future's output once it is there; never, as long as there is none.
async fn optional<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn search(shared: Arc<Shared>, fill: Fill) -> (Fill, Option<Found>) {
    let found = match fill.source {
        Source::Replica => replica(&shared, fill).await,
        Source::Leader => leader(&shared, fill).await,
        Source::Archive => return (fill, archive(&shared, fill).await),
    };
    let found = found.inspect_err(|error| {
        tracing::warn!(%error, from = fill.from.0, to = fill.to.0, "looking for lost records failed");
    });
    (fill, found.ok())
}

async fn replica(shared: &Shared, fill: Fill) -> Result<Found, ApiError> {
    let count = (fill.to.0 - fill.from.0 + 1).min(SEARCH_RECORDS);
    let count = u32::try_from(count).unwrap_or(1);
    let messages = shared
        .ctx
        .nats
        .direct_get_batch(LOG_STREAM, fill.from.0, count)
        .await?;
    let records = messages
        .iter()
        .map(|message| decode(StreamSeq(message.seq), &message.payload));
    Ok(Found {
        records: records.collect(),
        ..Found::default()
    })
}

async fn leader(shared: &Shared, fill: Fill) -> Result<Found, ApiError> {
    let nats = &shared.ctx.nats;
    if let Some(message) = nats.get_by_seq(LOG_STREAM, fill.from.0).await? {
        let records = vec![decode(fill.from, &message.payload)];
        return Ok(Found {
            records,
            ..Found::default()
        });
    }
    let state = nats.stream_state(LOG_STREAM).await?;
    let leader = state.map(|state| (StreamSeq(state.first_seq), StreamSeq(state.last_seq)));
    Ok(Found {
        leader,
        ..Found::default()
    })
}

async fn archive(shared: &Shared, fill: Fill) -> Option<Found> {
    let query = Query::Records {
        from: fill.from,
        to: fill.to,
    };
    let answered = shared.ask(query, fill.from, ANSWER_WITHIN).await;
    let answered = match answered {
        Ok(answered) => answered,
        Err(refusal) => {
            tracing::warn!(why = %refusal.msg, "the archive cannot tell lost records now");
            return None;
        }
    };
    let records: Records = serde_json::from_str(answered.ok.get()).ok()?;
    let records = records.records.iter();
    Some(Found {
        records: records
            .map(|r| Record::from_lines(r.position, &r.lines))
            .collect(),
        applied: Some(answered.applied),
        leader: None,
    })
}
