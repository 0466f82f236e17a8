//! Looks whether partitions can be taken: their leases were given back, or their owner is dead.

use super::keeper::Heard;
use super::slot::{self, Claim};
use crate::shared::Shared;
use async_nats::HeaderMap;
use chassis::nats::RequestError;
use futures_util::future::join_all;
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

/// A lease that was given back is taken at once, but not as we `left` it; one whose holder says nothing
/// is looked at further.
pub(super) async fn probed(
    shared: &Shared,
    partition: Partition,
    (first_in_line, left): (bool, Option<u64>),
) -> Heard {
    if first_in_line {
        let (nats, key) = (&shared.nats, partition.lease_key());
        match slot::claim_unless(nats, &key, &shared.instance, (false, left)).await {
            Claim::Ours(revision) => return Heard::Got(partition, revision),
            Claim::Left => return Heard::Probed(partition),
            Claim::Theirs | Claim::Unknown => {}
        }
    }
    if is_silent(shared, partition).await {
        Heard::Silent(partition, first_in_line)
    } else {
        Heard::Probed(partition)
    }
}

/// Which of these have nobody who listens, twice: a paused owner is still subscribed, so silence proves
/// nothing.
///
/// A process that dies leaves many partitions at once. They are asked for together, so that their tails
/// are read together.
pub(super) async fn orphans(
    shared: &Shared,
    partitions: Vec<Partition>,
    first_in_line: bool,
) -> Heard {
    let silent = silent(shared, &partitions).await;
    let gap_ms = rand::rng().random_range(PROBE_GAP_MS);
    tokio::time::sleep(Duration::from_millis(gap_ms)).await;
    if !first_in_line {
        tokio::time::sleep(SECOND_IN_LINE).await;
    }
    let orphans = self::silent(shared, &silent).await;
    Heard::Orphans {
        asked: partitions,
        orphans,
    }
}

/// Those for which nobody listens.
async fn silent(shared: &Shared, partitions: &[Partition]) -> Vec<Partition> {
    let asked = partitions
        .iter()
        .map(|partition| async move { is_silent(shared, *partition).await.then_some(*partition) });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn is_silent(shared: &Shared, partition: Partition) -> bool {
    let subject = Subject::Own(partition).to_string();
    let asked = shared
        .nats
        .request(subject, HeaderMap::new(), bytes::Bytes::new(), PROBE);
    matches!(asked.await, Err(RequestError::NoResponders))
}
