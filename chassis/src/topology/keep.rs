//! Watches over the streams while a service runs.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::settings::{LEASE_STREAM, lease_settings};
use super::{COMPONENT, LogInfo, TopologyConfig, TopologyError, ensure, inspect};
use crate::health::Health;
use crate::nats::Nats;
use crate::process::Context;
use crate::tasks::chain;

/// How often to look whether the connection was made anew: leases wait for this.
const CONNECTION_CHECK: Duration = Duration::from_millis(100);

/// How often to look at the streams though the connection stayed: a log can be replaced without it.
const STREAM_CHECK: Duration = Duration::from_secs(5);

/// What to do when the log has vanished.
const REMEDY: &str = "the broker's store was lost: restore it, or run natter reseed";

/// What the watch needs to know.
pub(super) struct Keeper {
    nats: Nats,
    health: Health,
    config: TopologyConfig,
    log_id: String,
}

impl Keeper {
    pub(super) fn new(context: &Context, config: &TopologyConfig, log: &LogInfo) -> Self {
        Self {
            nats: context.nats.clone(),
            health: context.health.clone(),
            config: config.clone(),
            log_id: log.log_id.clone(),
        }
    }

    /// Looks after each new connection and every now and then, until there is another log.
    pub(super) async fn run(self) -> Result<Infallible, TopologyError> {
        let mut seen = self.nats.connects();
        let mut next = Instant::now() + STREAM_CHECK;
        loop {
            tokio::time::sleep(CONNECTION_CHECK).await;
            let connects = self.nats.connects();
            if !self.nats.is_connected() || (connects == seen && Instant::now() < next) {
                continue;
            }
            next = Instant::now() + STREAM_CHECK;
            match self.look().await {
                Ok(()) => seen = connects,
                Err(error) if error.is_temporary() => {
                    tracing::debug!(error = chain(&error), "looking at the streams failed");
                    next = Instant::now();
                }
                Err(error @ TopologyError::Replaced { .. }) => return Err(error),
                Err(error @ TopologyError::NoLog) => {
                    seen = connects;
                    self.alarm(&format!("{error}; {REMEDY}"));
                }
                Err(error) => {
                    seen = connects;
                    self.alarm(&chain(&error));
                }
            }
        }
    }

    async fn look(&self) -> Result<(), TopologyError> {
        ensure(
            &self.nats,
            LEASE_STREAM,
            &lease_settings(&self.config),
            None,
        )
        .await?;
        let log = inspect(&self.nats).await?;
        if log.log_id == self.log_id {
            self.health.set_ready(COMPONENT);
            return Ok(());
        }
        Err(TopologyError::Replaced {
            began: self.log_id.clone(),
            found: log.log_id,
        })
    }

    fn alarm(&self, reason: &str) {
        tracing::error!(
            reason,
            "the streams are not what they were when this process started"
        );
        self.health.set_down(COMPONENT, reason);
    }
}
