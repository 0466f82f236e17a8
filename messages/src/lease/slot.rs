//! One key of the lease bucket: taken, renewed and given back under a compare-and-set.

use chassis::nats::{Append, Nats, PublishError, StoredMessage};
use chassis::topology::LEASE_BUCKET;
use protocol::limits::LEASE_TTL_MS;
use protocol::{InstanceId, Partition};
use std::collections::BTreeMap;
use std::time::Duration;

use super::Board;

/// How long a lease outlives its last renewal.
const TTL: Duration = Duration::from_millis(LEASE_TTL_MS);
/// A renewal that takes longer is as good as none.
const TIMEOUT: Duration = Duration::from_secs(1);
/// More keys than there can be: partitions, instances, and markers of ended leases.
const KEYS_MAX: u32 = 1_000;
/// The header that marks a key as removed; the server's own markers have the second.
const OPERATION: &str = "KV-Operation";
const MARKER: &str = "Nats-Marker-Reason";

/// How taking or renewing a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is ours, with this revision.
    Ours(u64),
    /// Somebody else holds it.
    Theirs,
    /// Nobody holds it, and it is left for somebody else.
    Left,
    /// The broker did not answer.
    Unknown,
}

fn stream() -> String {
    format!("KV_{LEASE_BUCKET}")
}

fn subject(key: &str) -> String {
    format!("$KV.{LEASE_BUCKET}.{key}")
}

/// The key that says that an instance is alive.
pub(super) fn instance_key(instance: &InstanceId) -> String {
    format!("i.{instance}")
}

fn is_live(message: &StoredMessage) -> bool {
    message.headers.get(OPERATION).is_none()
        && message.headers.get(MARKER).is_none()
        && !message.payload.is_empty()
}

/// Renews a key known to be ours at `revision`.
pub(super) async fn renew(nats: &Nats, key: &str, me: &InstanceId, revision: u64) -> Claim {
    match write(nats, key, me, revision).await {
        Ok(revision) => Claim::Ours(revision),
        // The key may be gone with the broker's memory, or ours with a revision whose answer was lost.
        Err(PublishError::Conflict) => claim(nats, key, me, false).await,
        Err(PublishError::Unknown(_) | PublishError::Refused { .. }) => Claim::Unknown,
    }
}

/// Takes a key that is free or ours; with `force`, also one whose holder was found dead.
pub(super) async fn claim(nats: &Nats, key: &str, me: &InstanceId, force: bool) -> Claim {
    claim_unless(nats, key, me, (force, None)).await
}

/// The same, but for a key that still is as we `left` it for somebody else.
pub(super) async fn claim_unless(
    nats: &Nats,
    key: &str,
    me: &InstanceId,
    (force, left): (bool, Option<u64>),
) -> Claim {
    let Ok(last) = nats.last_for_subject(&stream(), &subject(key)).await else {
        return Claim::Unknown;
    };
    if left.is_some() && last.as_ref().map(|message| message.seq) == left {
        return Claim::Left;
    }
    if let Some(holder) = last.as_ref().filter(|message| is_live(message))
        && *holder.payload != *me.as_str().as_bytes()
        && !force
    {
        return Claim::Theirs;
    }
    match write(nats, key, me, last.map_or(0, |message| message.seq)).await {
        Ok(revision) => Claim::Ours(revision),
        Err(PublishError::Conflict) => Claim::Theirs,
        Err(PublishError::Unknown(_) | PublishError::Refused { .. }) => Claim::Unknown,
    }
}

async fn write(
    nats: &Nats,
    key: &str,
    me: &InstanceId,
    expected: u64,
) -> Result<u64, PublishError> {
    let payload = bytes::Bytes::copy_from_slice(me.as_str().as_bytes());
    let append = Append {
        ttl: Some(TTL),
        timeout: TIMEOUT,
        ..Append::new(subject(key), payload, expected)
    };
    nats.append(append).await.map(|ack| ack.seq)
}

/// Gives a key back, if it is still ours; returns the revision of that.
pub(super) async fn release(nats: &Nats, key: &str, revision: u64) -> Option<u64> {
    let mut append = Append {
        // The marker need not outlive the lease.
        ttl: Some(TTL),
        timeout: TIMEOUT,
        ..Append::new(subject(key), bytes::Bytes::new(), revision)
    };
    append.headers.insert(OPERATION, "DEL");
    match nats.append(append).await {
        Ok(ack) => Some(ack.seq),
        Err(error) => {
            // It ends by itself.
            tracing::debug!(key, %error, "giving back a lease failed");
            None
        }
    }
}

/// Reads the whole bucket.
pub(super) async fn board(nats: &Nats) -> Option<Board> {
    let messages = nats.direct_get_batch(&stream(), 1, KEYS_MAX).await.ok()?;
    // The last message of a key counts, whatever order a batch has.
    let mut last: BTreeMap<String, StoredMessage> = BTreeMap::new();
    for message in messages {
        let key = message.subject.as_str().to_owned();
        if last.get(&key).is_none_or(|known| known.seq < message.seq) {
            last.insert(key, message);
        }
    }
    let mut board = Board::default();
    let prefix = subject("");
    for (key, message) in last {
        let Some(key) = key.strip_prefix(&prefix).filter(|_| is_live(&message)) else {
            continue;
        };
        let holder = std::str::from_utf8(&message.payload).ok();
        let Some(holder) = holder.and_then(|holder| InstanceId::parse(holder).ok()) else {
            continue;
        };
        if key.starts_with("i.") {
            board.said_at.insert(holder.clone(), message.seq);
            board.instances.insert(holder);
        } else if let Some(partition) = Partition::all().find(|p| p.lease_key() == key) {
            board.leases.insert(partition, holder);
        }
    }
    Some(board)
}
