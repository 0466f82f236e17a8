//! history: keeps what was said, and finds it.
//!
//! | module | does |
//! |---|---|
//! | [`record`] | takes a record of the log apart |
//! | [`projector`] | turns records into rows: pure |
//! | [`ingest`] | follows the log into Postgres, exactly once |
//! | [`store`] | all SQL |
//! | [`query`] | answers `svc.history.*`, each from one snapshot |
//! | [`applied`] | how far the log is applied, and waiting for more |
//! | [`monitor`] | health, lag, checkpoints |
//! | [`verify`] | checks the archive against itself |
//! | [`database`], [`config`], [`metrics`] | connections and schema, settings, what is measured |
//!
//! It reads the log and never writes to it; everything it holds can be rebuilt from there, as long as
//! the log or the table `events` is there.

pub mod applied;
pub mod config;
pub mod database;
pub mod ingest;
pub mod metrics;
pub mod monitor;
pub mod projector;
pub mod query;
pub mod record;
pub mod store;
pub mod verify;

pub use config::Config;
pub use database::migrate;

use applied::Applied;
use chassis::config::Problems;
use chassis::{Context, RunError};
use database::Connector;
use ingest::Ingest;
use metrics::Metrics;
use query::serve::Desk;

/// Runs the service until the context's shutdown.
///
/// It is started as soon as its tasks run: without Postgres or NATS it is not ready, and becomes so
/// by itself. It needs the tables (`natter migrate`) and the streams, which it does not make.
///
/// # Errors
/// If the configuration is wrong, or the metrics are registered already.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    let mut problems = Problems::new();
    config.check(&mut problems);
    problems.finish()?;
    let metrics = Metrics::register(&context.registry)
        .map_err(|error| RunError::failed("registering the metrics of history", error))?;
    let pool = database::read_pool(&config.database, config.history_connections)?;
    let applied = Applied::new(pool.clone());
    let ingest = Ingest {
        context: context.clone(),
        connector: Connector::new(&config.database)?,
        batch_events: usize::try_from(config.history_batch_events).unwrap_or(usize::MAX),
        applied: applied.clone(),
        metrics: metrics.clone(),
    };
    let desk = Desk {
        context: context.clone(),
        pool: pool.clone(),
        applied,
        metrics: metrics.clone(),
        reads: config.history_reads,
    };
    // Not ready before each of these has said otherwise.
    context.health.set_down("postgres", "not asked yet");
    context.health.set_down("service", "not subscribed yet");
    let tasks = &context.tasks;
    tasks.spawn("postgres", monitor::postgres(context.clone(), pool.clone()));
    tasks.spawn("lag", monitor::lag(context.clone(), pool.clone(), metrics));
    let interval = config.checkpoint_interval();
    tasks.spawn(
        "checkpoints",
        monitor::checkpoints(context.clone(), pool, interval),
    );
    tasks.spawn("ingest", ingest.run());
    tasks.spawn("serve", desk.run());
    context.started();
    context.shutdown.cancelled().await;
    Ok(())
}
