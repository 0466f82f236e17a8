//! Logs, and the trace id that ties the log lines of one command together across processes.
//!
//! Spans are not exported yet; the trace id is already in W3C form, so that an exporter can be added
//! without touching a service.

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogArgs, LogFormat};

pub use trace::{TRACEPARENT, TraceId, trace_of, with_trace};

mod trace;

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("reading the log filter failed")]
    Filter(#[from] ParseError),
    /// Something else in this process already receives the logs.
    #[error("starting the log failed")]
    Taken(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the process log on stderr.
///
/// # Errors
/// If the filter is wrong or logging has already been started.
pub fn init(arguments: &LogArgs) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&arguments.log)?)
        .with_writer(std::io::stderr);
    match arguments.log_format {
        LogFormat::Pretty => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// The filter of `text`, with async-nats at warn unless `text` says otherwise: it logs every event
/// of a connection at info, and ours are logged by [`crate::nats`] already.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    if text.contains("async_nats") {
        EnvFilter::builder().parse(text)
    } else {
        EnvFilter::builder().parse(format!("{text},async_nats=warn"))
    }
}
