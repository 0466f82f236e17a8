//! The operators' port: `/healthz`, `/readyz`, `/metrics`.
//!
//! Apart from the public port, so that a full or draining gateway still tells how it is, and nobody
//! outside reads metrics.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::health::Report;
use crate::metrics;
use crate::process::{Process, RunError};
use crate::tasks::Tasks;

/// Connections beyond this wait: probes and one or two scrapers.
const CONNECTIONS_MAX: usize = 64;

/// How long a scrape may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A bound operators' port.
#[derive(Debug)]
pub struct Ops {
    listener: TcpListener,
    address: SocketAddr,
}

/// Binds the port; nothing is answered before [`Ops::serve`].
///
/// # Errors
/// If the address cannot be bound.
pub fn bind(listen: SocketAddr) -> Result<Ops, RunError> {
    let failed = |source| RunError::Listen {
        address: listen.to_string(),
        source,
    };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Ops { listener, address })
}

impl Ops {
    /// The address that was bound, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to answer, as a task; works within tokio and within actix.
    ///
    /// Goes on while the process stops, so that its readiness can be watched: stop it last, with
    /// the handle.
    ///
    /// # Errors
    /// If the listener cannot be used.
    pub fn serve(self, process: &Process, tasks: &Tasks) -> Result<ServerHandle, RunError> {
        let data = web::Data::new(process.clone());
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/healthz", web::get().to(healthz))
                .route("/readyz", web::get().to(readyz))
                .route("/metrics", web::get().to(metrics_text))
        })
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(1)
        .disable_signals()
        .listen(self.listener)
        .map_err(|source| RunError::Listen {
            address: self.address.to_string(),
            source,
        })?
        .run();
        let handle = server.handle();
        tasks.spawn_fallible("ops", server);
        Ok(handle)
    }
}

/// Alive: this thread answers, and no task has failed.
async fn healthz(process: web::Data<Process>) -> HttpResponse {
    match process.failure.first() {
        None => HttpResponse::Ok()
            .content_type(ContentType::plaintext())
            .body("ok\n"),
        Some(failure) => HttpResponse::ServiceUnavailable()
            .content_type(ContentType::plaintext())
            .body(format!("{failure}\n")),
    }
}

/// Ready: no component is down and the process is not stopping.
async fn readyz(process: web::Data<Process>) -> HttpResponse {
    let mut report: Report = process.health.report();
    report.ready &= !process.shutdown.gently.is_cancelled();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    HttpResponse::build(status).json(report)
}

async fn metrics_text(process: web::Data<Process>) -> HttpResponse {
    match metrics::encode(&process.registry) {
        Ok(text) => HttpResponse::Ok()
            .content_type("text/plain; version=0.0.4; charset=utf-8")
            .body(text),
        Err(error) => {
            tracing::error!(%error, "encoding the metrics failed");
            HttpResponse::InternalServerError().finish()
        }
    }
}
