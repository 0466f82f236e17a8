//! The beacon: tells gateways the greatest position that this process had acknowledged.
//!
//! A gateway that missed the last records of a burst learns of them within 200 ms, and of a lost beacon
//! within two seconds.

use crate::shared::Shared;
use async_nats::HeaderMap;
use protocol::StreamSeq;
use protocol::request::Beacon;
use protocol::subject::Subject;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After the last record.
const AFTER_LAST: Duration = Duration::from_millis(200);
/// Without any.
const ALWAYS: Duration = Duration::from_secs(2);
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
    loop {
        tokio::time::sleep(LOOK).await;
        let position = shared.acked();
        if position != seen {
            (seen, seen_at) = (position, Instant::now());
        }
        let quiet = sent != position && seen_at.elapsed() >= AFTER_LAST;
        if position == StreamSeq(0) || !(quiet || sent_at.elapsed() >= ALWAYS) {
            continue;
        }
        let body = serde_json::to_vec(&Beacon { position }).expect("a beacon is JSON");
        let published = shared
            .nats
            .publish(subject.clone(), HeaderMap::new(), body.into())
            .await;
        match published {
            Ok(()) => (sent, sent_at) = (position, Instant::now()),
            Err(error) => tracing::debug!(%error, "a beacon could not be sent"),
        }
    }
}
