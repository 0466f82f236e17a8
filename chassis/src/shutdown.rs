//! When to stop: SIGINT and SIGTERM, the second of which stops the waiting too.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Two steps of stopping.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled at the first signal: stop in order, with grace periods.
    pub gently: CancellationToken,
    /// Cancelled at the second signal: stop without waiting for anything.
    pub at_once: CancellationToken,
}

/// SIGINT and SIGTERM as they arrive.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes over both signals; from now on neither kills the process by itself.
    ///
    /// # Errors
    /// If the operating system refuses the handlers.
    pub fn install() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the next signal.
    ///
    /// Cancel safety: safe, no signal is lost.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Cancels the two tokens at the first and second signal, then ends.
    pub async fn cancel(mut self, shutdown: Shutdown) {
        let signal = self.next().await;
        tracing::info!(signal, "stopping; a second signal stops without waiting");
        shutdown.gently.cancel();
        let signal = self.next().await;
        tracing::warn!(signal, "stopping without waiting");
        shutdown.at_once.cancel();
    }
}
