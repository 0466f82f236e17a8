//! The service: starts everything in order, shows its health, and ends in order.

use crate::beacon;
use crate::config::Config;
use crate::history::History;
use crate::lease::keeper::{Keeper, Standing};
use crate::metrics::{Metrics, SyncMetrics};
use crate::shared::{Parts, Shared};
use chassis::backoff::{self, INFRASTRUCTURE};
use chassis::{Context, RunError};
use protocol::subject::Subject;
use protocol::{InstanceId, LogId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The partitions' name on the health board.
const PARTITIONS: &str = "partitions";
/// The log's name on the health board.
const LOG: &str = "log";
/// History's name on the health board.
const HISTORY: &str = "history";
/// What an operator is told when the broker's store is not the one that history knows.
const FOREIGN: &str = "the broker's log is not the one that history follows: the broker's store was lost or \
     replaced; restore it, or run natter reseed";
/// What an operator is told while nobody can tell that.
const UNPROVEN: &str =
    "the log is empty, and only history, which has not answered yet, can tell whether it is new";
/// How often the health board is brought up to date.
const HEALTH: Duration = Duration::from_millis(250);

/// Runs messages until the context is told to stop; then every partition is handed over.
///
/// # Errors
/// If the configuration is wrong, the streams cannot be used, or the metrics clash.
pub async fn run(config: Config, ctx: Context) -> Result<(), RunError> {
    let mut problems = chassis::config::Problems::new();
    config.check(&mut problems);
    problems.finish()?;
    let metrics = Metrics::register(&ctx.registry)
        .map_err(|error| RunError::failed("registering the metrics", error))?;
    let sync = SyncMetrics::register(&ctx.registry)
        .map_err(|error| RunError::failed("registering the metrics", error))?;
    ctx.health.set_down(PARTITIONS, "not taken over yet");
    let log = match chassis::topology::provision_when_ready(&ctx, &config.topology).await {
        Ok(log) => log,
        Err(chassis::topology::TopologyError::Stopped) => return Ok(()),
        Err(error) => return Err(RunError::failed("provisioning the streams", error)),
    };
    let stopped = ctx.shutdown.run_until_cancelled(crate::clocks::agree(&ctx));
    if stopped.await.is_none() {
        return Ok(());
    }
    let log_id = LogId::parse(&log.log_id)
        .map_err(|error| RunError::failed("reading the log's id", error))?;
    let instance = InstanceId::parse(&ctx.instance)
        .map_err(|error| RunError::failed("reading the instance's id", error))?;
    let history = History::new(ctx.nats.clone(), ctx.clock.clone());
    let (view_sender, view) = watch::channel(history.first_look(&log_id).await);
    let shared = Arc::new(Shared::new(Parts {
        nats: ctx.nats.clone(),
        clock: ctx.clock.clone(),
        tasks: ctx.tasks.clone(),
        metrics,
        sync,
        sequencer: config.sequencer(log.max_age),
        config,
        instance,
        history,
        view,
    }));
    // The last to be cancelled: what hands partitions over still needs these.
    let helpers = CancellationToken::new();
    let follower = Arc::clone(&shared);
    let stop = helpers.clone();
    ctx.tasks.spawn("follow", async move {
        follower.history.follow(log_id, view_sender, stop).await;
    });
    ctx.tasks
        .spawn("beacon", beacon::run(Arc::clone(&shared), helpers.clone()));
    let hints = backoff::forever(
        "subscribing to hints",
        INFRASTRUCTURE,
        &ctx.shutdown,
        || ctx.nats.subscribe(Subject::Hints.to_string()),
    );
    let Some(hints) = hints.await else {
        helpers.cancel();
        return Ok(());
    };
    let (standing_sender, standing) = watch::channel(Standing::default());
    ctx.tasks.spawn(
        "health",
        show_health(
            ctx.clone(),
            Arc::clone(&shared),
            (standing, helpers.clone()),
        ),
    );
    Keeper::new(shared, standing_sender)
        .run(hints, ctx.shutdown.clone())
        .await;
    helpers.cancel();
    Ok(())
}

/// Keeps the health board and the gauges true; says once that the service is up.
async fn show_health(
    ctx: Context,
    shared: Arc<Shared>,
    (standing, stop): (watch::Receiver<Standing>, CancellationToken),
) {
    let mut started = false;
    let show = async {
        loop {
            let standing = *standing.borrow();
            if standing.open == standing.held && standing.orphans == 0 && standing.connected {
                ctx.health.set_ready(PARTITIONS);
                if !std::mem::replace(&mut started, true) {
                    ctx.started();
                }
            } else if !standing.connected {
                ctx.health
                    .set_down(PARTITIONS, "the leases cannot be renewed");
            } else if standing.orphans > 0 {
                ctx.health
                    .set_down(PARTITIONS, format!("{} have no owner", standing.orphans));
            } else {
                let closed = standing.held - standing.open.min(standing.held);
                ctx.health
                    .set_down(PARTITIONS, format!("{closed} are not open"));
            }
            show_log(&ctx, &shared);
            tokio::time::sleep(HEALTH).await;
        }
    };
    stop.run_until_cancelled(show).await;
}

fn show_log(ctx: &Context, shared: &Shared) {
    let view = *shared.view.borrow();
    let in_trouble = shared.conditions().values().any(|c| c.in_trouble);
    if in_trouble {
        ctx.health.set_down(LOG, "the log takes no records");
    } else if view.is_skewed() {
        ctx.health
            .set_down(LOG, "this clock is too far off the broker's");
    } else if view.log.is_none() {
        ctx.health.set_down(LOG, "the log does not answer");
    } else {
        ctx.health.set_ready(LOG);
    }
    if view.is_foreign() {
        ctx.health.set_down(HISTORY, FOREIGN);
    } else if view.is_unproven() {
        ctx.health.set_down(HISTORY, UNPROVEN);
    } else if !view.answers {
        ctx.health.set_degraded(HISTORY, "history does not answer");
    } else {
        ctx.health.set_ready(HISTORY);
    }
    let (pieces, bytes) = shared.load();
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    shared.metrics.memory_pieces.set(gauge(pieces));
    shared.metrics.memory_bytes.set(gauge(bytes));
}
