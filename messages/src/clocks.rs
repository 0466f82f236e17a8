//! Brokers' clocks at the start: what makes a command surely new builds on their agreement.

use chassis::Context;
use chassis::nats::clocks::{SPREAD_MS_MAX, spread_ms};
use chassis::topology::LOG_STREAM;
use std::time::Duration;

/// The clocks' name on the health board.
const CLOCKS: &str = "clocks";
/// Between two looks at clocks that do not agree.
const AGAIN: Duration = Duration::from_secs(5);

/// Returns once the brokers' clocks agree, or cannot be seen; nothing is owned before.
///
/// Cancel safety: may be dropped at any time.
pub(crate) async fn agree(ctx: &Context) {
    loop {
        match ctx.nats.broker_clocks(LOG_STREAM, &ctx.clock).await {
            Ok(offsets) if spread_ms(&offsets) <= SPREAD_MS_MAX => break,
            Ok(offsets) => {
                tracing::error!(?offsets, "the brokers' clocks differ by more than 5 s");
                let reason = "the brokers' clocks differ by more than 5 s: set them";
                ctx.health.set_down(CLOCKS, reason);
            }
            Err(error) => {
                tracing::warn!(%error, "the brokers' clocks could not be compared");
                break;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
    ctx.health.set_ready(CLOCKS);
}
