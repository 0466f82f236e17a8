//! What async-nats tells about a connection: logged, counted, shown on the health board.
//!
//! Events can be lost when many come at once, so nothing is decided by them alone.

use std::future::Ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::Event;

use crate::health::Health;

/// The connection's name on the health board.
pub(super) const COMPONENT: &str = "nats";
/// Why it is down at first.
pub(super) const NEVER_CONNECTED: &str = "not connected yet";
/// Why it is down later.
pub(super) const DISCONNECTED: &str = "disconnected";

/// What async-nats calls with each event of the connection `name`.
pub(super) fn callback(
    name: &str,
    health: &Health,
    slow_consumers: Arc<AtomicU64>,
) -> impl Fn(Event) -> Ready<()> + Send + Sync + 'static {
    let name = name.to_owned();
    let health = health.clone();
    let last_problem = Mutex::new(String::new());
    move |event| {
        match event {
            Event::Connected => {
                last_problem
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clear();
                health.set_ready(COMPONENT);
            }
            Event::Disconnected => health.set_down(COMPONENT, DISCONNECTED),
            Event::SlowConsumer(_) => {
                let dropped = slow_consumers.fetch_add(1, Ordering::Relaxed) + 1;
                // One event per dropped message: log the powers of two.
                if dropped.is_power_of_two() {
                    tracing::warn!(
                        connection = %name,
                        dropped,
                        "a subscription was too slow and messages were dropped"
                    );
                }
            }
            Event::LameDuckMode => {
                tracing::warn!(connection = %name, "the NATS server is about to stop");
            }
            Event::Draining | Event::Closed => {
                tracing::debug!(connection = %name, "NATS connection: {event}");
            }
            Event::ServerError(_) | Event::ClientError(_) => {
                let problem = event.to_string();
                let mut last = last_problem.lock().unwrap_or_else(PoisonError::into_inner);
                // Each attempt to connect fails in the same words: once is enough.
                if *last == problem {
                    tracing::debug!(connection = %name, problem, "the NATS connection has a problem");
                } else {
                    tracing::warn!(connection = %name, problem, "the NATS connection has a problem");
                    *last = problem;
                }
            }
        }
        std::future::ready(())
    }
}
