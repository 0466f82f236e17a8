//! The beacon: tells gateways the greatest position that this process had acknowledged.
//!
//! A gateway that missed the last records of a burst learns of them within 200 ms, and of a lost beacon
//! within two seconds. It also tells at once when the log begins or ends to take no records.

use crate::shared::Shared;
use async_nats::HeaderMap;
use protocol::StreamSeq;
use protocol::limits::{BEACON_AFTER_MS, BEACON_INTERVAL_MS};
use protocol::request::Beacon;
use protocol::subject::Subject;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After the last record.
const AFTER_LAST: Duration = Duration::from_millis(BEACON_AFTER_MS);
/// Without any.
const ALWAYS: Duration = Duration::from_millis(BEACON_INTERVAL_MS);
/// How often the position is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Sends beacons until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    stop.run_until_cancelled(send(&shared)).await;
}

async fn send(shared: &Shared) {
    let subject = Subject::Beacon(shared.instance.clone()).to_string();
    let (mut seen, mut seen_at) = (StreamSeq(0), Instant::now());
    let (mut sent, mut sent_at) = (StreamSeq(0), Instant::now());
    let mut told_trouble = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let position = shared.acked();
        if position != seen {
            (seen, seen_at) = (position, Instant::now());
        }
        let in_trouble = shared.conditions().values().any(|c| c.in_trouble);
        let quiet = sent != position && seen_at.elapsed() >= AFTER_LAST;
        let due = quiet || in_trouble != told_trouble || sent_at.elapsed() >= ALWAYS;
        if (position == StreamSeq(0) && !in_trouble && !told_trouble) || !due {
            continue;
        }
        let beacon = Beacon {
            position,
            in_trouble,
        };
        let body = serde_json::to_vec(&beacon).expect("a beacon is JSON");
        let published = shared
            .nats
            .publish(subject.clone(), HeaderMap::new(), body.into())
            .await;
        match published {
            Ok(()) => {
                (sent, sent_at) = (position, Instant::now());
                told_trouble = in_trouble;
            }
            Err(error) => tracing::debug!(%error, "a beacon could not be sent"),
        }
    }
}
