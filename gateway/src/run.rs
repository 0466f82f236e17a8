//! The life of a gateway: start, serve, drain, stop.

use crate::config::Config;
use crate::http;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::session::outside::Answered;
use crate::shared::Shared;
use crate::socket::door;
use crate::upstream;
use crate::writes::Standing;
use actix_http::{HttpService, KeepAlive, Response};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::App;
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, Server, ServerHandle};
use actix_web::middleware::DefaultHeaders;
use chassis::config::Problems;
use chassis::{Context, RunError};
use protocol::StreamSeq;
use protocol::query::{Position, Query};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Connections that wait to be accepted: a reconnect storm comes at once.
const BACKLOG: i32 = 4_096;
/// How long a request's head may take to arrive.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long an idle HTTP connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long an HTTP connection may take to end once it was answered for the last time.
const DISCONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Milliseconds after which the kernel gives up a connection whose peer takes nothing: an HTTP answer
/// that nobody reads, or a socket whose peer has vanished from the network.
const USER_TIMEOUT_MS: u32 = 20_000;
/// Between two rounds of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// How long the probe of history may take.
const PROBE_WITHIN: Duration = Duration::from_secs(2);
/// How long sockets may take to say goodbye when everything is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// What an operator is told when the broker's store is not the one that history knows.
const FOREIGN: &str = "the broker's log is not the one that history follows: the broker's store was lost or \
     replaced; restore it, or run natter reseed";

/// Serves until the context's shutdown is cancelled, then drains and stops.
///
/// # Errors
/// A wrong configuration, an address that cannot be bound.
pub async fn run(config: Config, ctx: Context) -> Result<(), RunError> {
    let mut problems = Problems::new();
    let auth = config.check(&mut problems);
    problems.finish()?;
    let auth = auth.ok_or_else(|| RunError::failed("reading the token keys", "there are none"))?;
    let metrics = Metrics::register(&ctx.registry)
        .map_err(|error| RunError::failed("registering the metrics", error))?;
    let shared = Arc::new(Shared::new(config, ctx, auth, metrics));
    let (server, address) = serve(&shared)?;
    let handle = server.handle();
    let tasks = &shared.ctx.tasks;
    tasks.spawn_fallible("http", server);
    tasks.spawn("upstream", upstream::run(Arc::clone(&shared)));
    tasks.spawn("housekeeping", keep_house(Arc::clone(&shared)));
    tracing::info!(%address, "listening");
    shared.ctx.started();
    shared.ctx.shutdown.cancelled().await;
    drain(&shared, &handle).await;
    Ok(())
}

fn serve(shared: &Arc<Shared>) -> Result<(Server, SocketAddr), RunError> {
    let (listener, address) = listen(shared.config.listen)?;
    let workers = match shared.config.gateway_workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    };
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(shared.config.gateway_connections_max.div_ceil(workers))
        .disable_signals()
        .shutdown_timeout(1);
    let stopping = builder.graceful_shutdown_signal();
    let factory = {
        let shared = Arc::clone(shared);
        move || {
            let hub = Hub::new(Arc::clone(&shared));
            shared.ctx.tasks.spawn_local("hub", Rc::clone(&hub).run());
            let app = App::new()
                .app_data(Rc::clone(&hub))
                .wrap(DefaultHeaders::new().add(("X-Content-Type-Options", "nosniff")))
                .configure(http::routes)
                .into_factory()
                .map_err(|error: actix_web::Error| Response::<BoxBody>::from(error));
            let stopping = stopping.clone();
            HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(KeepAlive::Timeout(KEEP_ALIVE))
                .client_request_timeout(REQUEST_WITHIN)
                .client_disconnect_timeout(DISCONNECT_WITHIN)
                .tcp_nodelay(true)
                .local_addr(address)
                .on_connect_ext(|io, _| set_user_timeout(io))
                .upgrade(fn_service(move |(request, http)| {
                    door::open(request, http, Rc::clone(&hub))
                }))
                .finish(map_config(app, |()| AppConfig::default()))
                .tcp()
        }
    };
    let server = builder.listen("gateway", listener, factory);
    let server = server.map_err(|source| RunError::Listen {
        address: address.to_string(),
        source,
    })?;
    Ok((server.run(), address))
}

/// Binds before the server is built, so that the port that was found is known.
fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), RunError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // The standard library listens already, with a shorter queue.
        rustix::net::listen(&listener, BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|source| RunError::Listen {
        address: address.to_string(),
        source,
    })
}

fn set_user_timeout(stream: &tokio::net::TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS) {
        tracing::debug!(%error, "a connection keeps the system's timeout");
    }
}

/// Purges what is not needed any more, and tells the health board about others.
async fn keep_house(shared: Arc<Shared>) {
    let stop = shared.ctx.shutdown.clone();
    let rounds = async {
        loop {
            tokio::time::sleep(HOUSEKEEPING).await;
            let now = shared.ticks();
            let keep = shared.config.gateway_view_seconds.saturating_mul(1_000);
            let oldest = now.saturating_sub(keep);
            shared
                .views
                .purge(oldest, |user| shared.connections.has(user));
            shared
                .metrics
                .views
                .set(i64::try_from(shared.views.count()).unwrap_or(i64::MAX));
            shared.rates.forget_quiet();
            let health = &shared.ctx.health;
            match shared.writes.standing(now) {
                Standing::Fine => health.set_ready("writes"),
                Standing::Partly => health.set_degraded("writes", "some rooms take no messages"),
                Standing::Down => health.set_down("writes", "the log takes no records"),
            }
            match shared
                .ask(Query::Position {}, StreamSeq(0), PROBE_WITHIN)
                .await
            {
                Ok(answered) if is_of_another_log(&shared, &answered) => {
                    health.set_down("history", FOREIGN);
                }
                Ok(_) => health.set_ready("history"),
                Err(refusal) => health.set_degraded("history", refusal.msg),
            }
        }
    };
    stop.run_until_cancelled(rounds).await;
}

/// Whether history follows another log than the one whose records come in here.
fn is_of_another_log(shared: &Shared, answered: &Answered) -> bool {
    let position: Option<Position> = serde_json::from_str(answered.ok.get()).ok();
    let followed = position.map(|position| position.log);
    let here = shared.ring.head().map(|(log, _)| log);
    followed
        .zip(here)
        .is_some_and(|(followed, here)| followed != here)
}

/// Asks the clients to move, waits for them, closes what is left, and stops serving.
async fn drain(shared: &Shared, handle: &ServerHandle) {
    let within = Duration::from_secs(shared.config.gateway_drain_seconds);
    drop(tokio::time::timeout(CLOSE_WITHIN, handle.pause()).await);
    if !within.is_zero() && shared.metrics.sockets.get() > 0 {
        tracing::info!(
            sockets = shared.metrics.sockets.get(),
            "clients are asked to move"
        );
        shared.goaway.cancel();
        without_sockets(shared, within).await;
    }
    shared.closing.cancel();
    without_sockets(shared, CLOSE_WITHIN).await;
    drop(tokio::time::timeout(CLOSE_WITHIN, handle.stop(false)).await);
}

/// Waits until the last socket has gone, `within` this time.
async fn without_sockets(shared: &Shared, within: Duration) {
    let deadline = Instant::now() + within;
    while shared.metrics.sockets.get() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
