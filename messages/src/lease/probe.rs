//! Looks whether a partition can be taken: its lease was given back, or its owner is dead.

use super::keeper::Heard;
use super::slot::{self, Claim};
use crate::shared::Shared;
use async_nats::HeaderMap;
use chassis::nats::RequestError;
use protocol::Partition;
use protocol::subject::Subject;
use rand::RngExt as _;
use std::time::Duration;

/// How long an owner may take to say that it is alive.
const PROBE: Duration = Duration::from_millis(100);
/// Between the two questions, at least and at most.
const PROBE_GAP_MS: std::ops::Range<u64> = 50..150;
/// How much longer waits whoever is not first in line.
const SECOND_IN_LINE: Duration = Duration::from_millis(200);

/// A lease that was given back is taken at once, one whose holder is dead is an orphan's.
pub(super) async fn probed(shared: &Shared, partition: Partition, first_in_line: bool) -> Heard {
    if first_in_line {
        let (nats, key) = (&shared.nats, partition.lease_key());
        if let Claim::Ours(revision) = slot::claim(nats, &key, &shared.instance, false).await {
            return Heard::Got(partition, revision);
        }
    }
    if is_orphan(shared, partition, first_in_line).await {
        Heard::Orphan(partition)
    } else {
        Heard::Probed(partition)
    }
}

/// Nobody listens, twice: a paused owner is still subscribed, so silence proves nothing.
async fn is_orphan(shared: &Shared, partition: Partition, first_in_line: bool) -> bool {
    let asked = || {
        let subject = Subject::Own(partition).to_string();
        shared
            .nats
            .request(subject, HeaderMap::new(), bytes::Bytes::new(), PROBE)
    };
    if !matches!(asked().await, Err(RequestError::NoResponders)) {
        return false;
    }
    let gap_ms = rand::rng().random_range(PROBE_GAP_MS);
    tokio::time::sleep(Duration::from_millis(gap_ms)).await;
    if !first_in_line {
        tokio::time::sleep(SECOND_IN_LINE).await;
    }
    matches!(asked().await, Err(RequestError::NoResponders))
}
