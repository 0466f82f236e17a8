//! Leaves a server of a cluster that has been cut off from the others.
//!
//! Such a server keeps its clients and says nothing; only the log has no leader any more that it can name. After
//! longer than any election takes, another server is tried. With one server there is nowhere to go.

use std::time::Duration;

use protocol::subject::LOG_STREAM;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Nats;
use super::stream::NO_STREAM;

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
            // Through a server that was cut off the log's state is told too, but without a leader.
            let led = self.leader_is_proven(LOG_STREAM).await;
            // Before messages has made it there is no log.
            let led = led.unwrap_or_else(|error| error.is(NO_STREAM));
            if led || !self.is_connected() {
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
            "the log has no leader at this server; trying another one"
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
