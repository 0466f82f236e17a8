//! Leaves a server of a cluster that has been cut off from the others.
//!
//! Such a server keeps its clients and says nothing: only JetStream does not answer through it. After
//! longer than any election takes, another server is tried. With one server there is nowhere to go.

use std::time::Duration;

use protocol::subject::LOG_STREAM;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Nats;

/// Between two looks.
const CHECK: Duration = Duration::from_secs(2);
/// Elections of a stream's leader and of JetStream's own take up to ten seconds.
const STRANDED_AFTER: Duration = Duration::from_secs(15);
/// How often another server is asked for, should it be the same one again.
const ATTEMPTS: usize = 8;
/// How long a new connection may take.
const CONNECTED_WITHIN: Duration = Duration::from_secs(3);

impl Nats {
    /// Watches until `stop`; a context of a service with several servers runs this as a task.
    pub async fn leave_when_stranded(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&self) {
        let mut silent_since: Option<Instant> = None;
        loop {
            tokio::time::sleep(CHECK).await;
            if !self.is_connected() || self.stream_state(LOG_STREAM).await.is_ok() {
                silent_since = None;
                continue;
            }
            let since = *silent_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= STRANDED_AFTER {
                self.leave().await;
                silent_since = None;
            }
        }
    }

    /// Connects to another server.
    async fn leave(&self) {
        let old = self.server();
        tracing::warn!(
            server = old.as_deref().unwrap_or_default(),
            "JetStream does not answer through this server; trying another one"
        );
        for _ in 0..ATTEMPTS {
            let connects = self.connects();
            if let Err(error) = self.client.force_reconnect().await {
                tracing::debug!(%error, "the connection cannot be made anew");
                return;
            }
            let connected = async {
                while self.connects() == connects || !self.is_connected() {
                    tokio::time::sleep(super::LINK_CHECK).await;
                }
            };
            let connected = tokio::time::timeout(CONNECTED_WITHIN, connected).await;
            if connected.is_ok() && self.server() != old {
                return;
            }
        }
    }

    /// Which server this is connected to.
    fn server(&self) -> Option<String> {
        let info = self.client.try_server_info()?;
        Some(info.server_id)
    }
}
