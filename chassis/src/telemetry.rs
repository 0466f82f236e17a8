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

/// Libraries that log every step of a connection or worker at info, or as an error of ours what any
/// stranger can cause by a malformed request; what matters of it we log.
const QUIET: [(&str, &str); 5] = [
    ("async_nats", "warn"),
    ("actix_server", "warn"),
    ("actix_web", "warn"),
    ("actix_http::h1::dispatcher", "off"),
    ("actix_http::ws", "off"),
];

/// The filter of `text`, with chatty libraries quiet unless `text` names them.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    let quiet = QUIET.iter().filter(|(target, _)| !text.contains(target));
    let filter = quiet.fold(text.to_owned(), |filter, (target, level)| {
        format!("{filter},{target}={level}")
    });
    EnvFilter::builder().parse(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chatty_libraries_are_quiet_unless_asked_for() {
        let shown = filter("info").unwrap().to_string();
        assert!(shown.contains("async_nats=warn"), "{shown}");
        let shown = filter("info,async_nats=debug").unwrap().to_string();
        assert!(!shown.contains("async_nats=warn"), "{shown}");
        assert!(filter("").is_ok(), "an empty filter logs errors only");
    }
}
