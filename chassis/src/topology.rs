//! The streams and buckets that natter needs, created or brought up to date, never destroyed.
//!
//! A setting that the broker cannot change on an existing stream is an error that names it.

use std::time::Duration;

use async_nats::jetstream::kv;
use clap::Args;
use protocol::subject::LOG_EPOCH_METADATA as LOG_ID;
pub use protocol::subject::{LEASE_BUCKET, LOG_STREAM};
use serde_json::{Value, json};

use crate::backoff;
use crate::config::Problems;
use crate::nats::{ApiError, Nats, StreamState};
use crate::process::{Context, random_alphanumeric};

use settings::{LEASE_STREAM, Settings, changes, lease_settings, log_settings, nanos, object};

mod keep;
mod review;
mod settings;
mod successor;

pub use review::{Review, review};
pub use successor::{SUCCEEDS, succeed};

/// Letters and digits in a log id.
const LOG_ID_LENGTH: usize = 12;

/// The oldest nats-server that all of natter works with.
const SERVER_MIN: (i64, i64, i64) = (2, 15, 0);

/// The streams' name on the health board.
const COMPONENT: &str = "streams";

/// The server's code for "a stream of that name exists with other settings".
const NAME_IN_USE: u64 = 10_058;

/// The shape of the streams.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Streams")]
pub struct TopologyConfig {
    /// Replicas of each stream: 1, 3 or 5.
    ///
    /// The default is for one server; in production use 3, over three zones.
    #[arg(long, env = "NATTER_STREAM_REPLICAS", default_value_t = 1)]
    pub stream_replicas: u32,
    /// How long the log keeps events, in seconds; raised automatically, never lowered.
    ///
    /// The default is seven days: Postgres is the archive, the log needs to outlast its outages.
    #[arg(long, env = "NATTER_STREAM_MAX_AGE_SECONDS", default_value_t = 604_800)]
    pub stream_max_age_seconds: u64,
}

impl Default for TopologyConfig {
    fn default() -> Self {
        Self {
            stream_replicas: 1,
            stream_max_age_seconds: 604_800,
        }
    }
}

impl TopologyConfig {
    /// The shortest time that the log may keep events: an hour, to outlive any restart.
    const MAX_AGE_SECONDS_MIN: u64 = 3_600;

    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        problems.require(
            matches!(self.stream_replicas, 1 | 3 | 5),
            "NATTER_STREAM_REPLICAS",
            "must be 1, 3 or 5",
        );
        problems.require(
            (Self::MAX_AGE_SECONDS_MIN..=u64::from(u32::MAX))
                .contains(&self.stream_max_age_seconds),
            "NATTER_STREAM_MAX_AGE_SECONDS",
            format_args!("must be from {} to {}", Self::MAX_AGE_SECONDS_MIN, u32::MAX),
        );
    }
}

/// What is known about the log after provisioning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInfo {
    /// The log's id, made with the stream: cursors of another log mean nothing in this one.
    pub log_id: String,
    /// The sequence of the oldest record; when there is none, one above the last.
    pub first_seq: u64,
    /// The sequence of the newest record ever stored; 0 if there never was one.
    pub last_seq: u64,
    /// How long records are kept.
    pub max_age: Duration,
}

/// The streams could not be brought into shape.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// JetStream does not answer or refused.
    #[error("{doing} failed")]
    Api {
        /// The operation and its stream.
        doing: &'static str,
        /// The cause.
        #[source]
        source: ApiError,
    },
    /// An existing stream has a setting that cannot be changed.
    #[error(
        "stream {stream} has {setting} = {found}, which must be {wanted} and cannot be changed"
    )]
    Incompatible {
        /// The stream.
        stream: &'static str,
        /// The setting, by its name in the API.
        setting: String,
        /// What it is.
        found: Value,
        /// What it must be.
        wanted: Value,
    },
    /// The server refused to change settings of an existing stream.
    #[error("changing {} of stream {stream} failed", settings.join(", "))]
    Update {
        /// The stream.
        stream: &'static str,
        /// The settings, by their names in the API.
        settings: Vec<String>,
        /// The server's answer.
        #[source]
        source: ApiError,
    },
    /// The server is too old.
    #[error("nats-server {found} is too old: 2.15.0 is needed")]
    ServerTooOld {
        /// The server's version.
        found: String,
    },
    /// The stream exists but was not made by natter: it has no log id.
    #[error("stream {LOG_STREAM} has no log id in its metadata")]
    NoLogId,
    /// The stream does not exist.
    #[error("stream {LOG_STREAM} does not exist")]
    NoLog,
    /// Another log has taken the place of the one that this process began with.
    #[error("log {began} was replaced by {found}; the process begins anew")]
    Replaced {
        /// The log's id when the process began.
        began: String,
        /// What it is now.
        found: String,
    },
    /// The process is stopping.
    #[error("stopped while waiting for JetStream")]
    Stopped,
}

impl TopologyError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Api { source, .. } | Self::Update { source, .. } => source.is_temporary(),
            Self::Incompatible { .. }
            | Self::ServerTooOld { .. }
            | Self::NoLogId
            | Self::NoLog
            | Self::Replaced { .. }
            | Self::Stopped => false,
        }
    }
}

/// Creates the log and the lease bucket, or brings them up to date.
///
/// Safe to run from many processes at once, and again at each start.
///
/// # Errors
/// See [`TopologyError`]; if [temporary](TopologyError::is_temporary), try again.
pub async fn provision(nats: &Nats, config: &TopologyConfig) -> Result<LogInfo, TopologyError> {
    if !nats.is_connected() {
        let source = ApiError::Unavailable(crate::nats::RequestError::Disconnected);
        return Err(TopologyError::Api {
            doing: "connecting to JetStream",
            source,
        });
    }
    let (major, minor, patch) = SERVER_MIN;
    if !nats.client.is_server_compatible(major, minor, patch) {
        let found = nats
            .client
            .try_server_info()
            .map_or_else(String::new, |info| info.version);
        return Err(TopologyError::ServerTooOld { found });
    }
    ensure(nats, LEASE_STREAM, &lease_settings(config), None).await?;
    let created_with = json!({"metadata": {LOG_ID: random_alphanumeric(LOG_ID_LENGTH)}});
    let log = ensure(
        nats,
        LOG_STREAM,
        &log_settings(config),
        Some(object(created_with)),
    )
    .await?;
    log_info(&log)
}

/// Provisions, waiting for JetStream as long as it takes, and keeps watch from then on.
///
/// The watch makes the lease bucket again when a lone broker has lost it in a restart (it is in
/// memory), and reports a log that has vanished as down; it never makes the log again, since what was
/// in it is lost and somebody has to decide. Once another log has taken its place, the process ends
/// with an error: nothing that it knows is of that log.
///
/// # Errors
/// If the streams cannot be brought into shape, or the context is told to stop meanwhile.
pub async fn provision_when_ready(
    context: &Context,
    config: &TopologyConfig,
) -> Result<LogInfo, TopologyError> {
    context.health.set_down(COMPONENT, "not provisioned yet");
    let attempt = || async {
        match provision(&context.nats, config).await {
            Err(error) if error.is_temporary() => Err(Chain(error)),
            settled => Ok(settled),
        }
    };
    let settled = async {
        context.nats.connected().await;
        backoff::forever(
            "provisioning the streams",
            backoff::INFRASTRUCTURE,
            &context.shutdown,
            attempt,
        )
        .await
    };
    let info = context
        .shutdown
        .run_until_cancelled(settled)
        .await
        .flatten()
        .unwrap_or(Err(TopologyError::Stopped))?;
    context.health.set_ready(COMPONENT);
    let (keeper, stop) = (
        keep::Keeper::new(context, config, &info),
        context.shutdown.clone(),
    );
    context.tasks.spawn_fallible("topology", async move {
        let ended = stop.run_until_cancelled(keeper.run()).await;
        ended.map_or(Ok(()), |Err(replaced)| Err(replaced))
    });
    Ok(info)
}

/// What is known about the log, without changing anything.
///
/// # Errors
/// See [`TopologyError`].
pub async fn inspect(nats: &Nats) -> Result<LogInfo, TopologyError> {
    let state = nats.stream_state(LOG_STREAM).await;
    let state = state.map_err(|source| TopologyError::Api {
        doing: "reading the log's state",
        source,
    })?;
    log_info(&state.ok_or(TopologyError::NoLog)?)
}

/// Makes the log keep its records for `max_age` if it keeps them shorter now; returns what it is.
///
/// # Errors
/// See [`TopologyError`].
pub async fn raise_max_age(nats: &Nats, max_age: Duration) -> Result<Duration, TopologyError> {
    let state = nats.stream_state(LOG_STREAM).await;
    let state = state.map_err(|source| TopologyError::Api {
        doing: "reading the log's state",
        source,
    })?;
    let state = state.ok_or(TopologyError::NoLog)?;
    let wanted = object(json!({"max_age": nanos(max_age)}));
    let log = bring_up_to_date(nats, LOG_STREAM, state, &wanted).await?;
    Ok(log_info(&log)?.max_age)
}

/// The bucket of the partitions' leases, whose keys live as long as the writer says.
///
/// Renew a key with [`Nats::append`] on `$KV.NATTER_LEASE.KEY` with a time to live, which the
/// store's own `update` cannot set.
///
/// # Errors
/// If JetStream does not answer, or the bucket was not provisioned.
pub async fn leases(
    nats: &Nats,
) -> Result<kv::Store, async_nats::jetstream::context::KeyValueError> {
    nats.jetstream.get_key_value(LEASE_BUCKET).await
}

async fn ensure(
    nats: &Nats,
    stream: &'static str,
    wanted: &Settings,
    created_with: Option<Settings>,
) -> Result<StreamState, TopologyError> {
    let api = |doing| move |source| TopologyError::Api { doing, source };
    if let Some(found) = nats
        .stream_state(stream)
        .await
        .map_err(api("reading a stream's state"))?
    {
        return bring_up_to_date(nats, stream, found, wanted).await;
    }
    let mut config = wanted.clone();
    config.extend(created_with.unwrap_or_default());
    match nats.create_stream(stream, &config).await {
        Ok(created) => {
            tracing::info!(stream, "created stream {stream}");
            Ok(created)
        }
        // Another process was faster, with a log id of its own.
        Err(error) if error.is(NAME_IN_USE) => {
            let found = nats
                .stream_state(stream)
                .await
                .map_err(api("reading a stream's state"))?;
            let found = found.ok_or(TopologyError::Api {
                doing: "creating a stream",
                source: error,
            })?;
            bring_up_to_date(nats, stream, found, wanted).await
        }
        Err(error) => Err(api("creating a stream")(error)),
    }
}

async fn bring_up_to_date(
    nats: &Nats,
    stream: &'static str,
    found: StreamState,
    wanted: &Settings,
) -> Result<StreamState, TopologyError> {
    let changes = changes(stream, &found.config, wanted)?;
    if changes.is_empty() {
        return Ok(found);
    }
    let settings: Vec<String> = changes.keys().cloned().collect();
    tracing::info!(stream, settings = %settings.join(", "), "changing settings of stream {stream}");
    let mut config = found.config;
    config.extend(changes);
    let updated = nats.update_stream(stream, &config).await;
    updated.map_err(|source| TopologyError::Update {
        stream,
        settings,
        source,
    })
}

fn log_info(state: &StreamState) -> Result<LogInfo, TopologyError> {
    let max_age = state
        .config
        .get("max_age")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    Ok(LogInfo {
        log_id: state
            .metadata
            .get(LOG_ID)
            .cloned()
            .ok_or(TopologyError::NoLogId)?,
        first_seq: state.first_seq,
        last_seq: state.last_seq,
        max_age: Duration::from_nanos(max_age),
    })
}

/// A temporary error with its causes, for the log line of the next attempt.
struct Chain(TopologyError);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::tasks::chain(&self.0))
    }
}
