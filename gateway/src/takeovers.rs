//! When a partition changes its owner, as the log itself says.
//!
//! A command that its old owner had when it died is answered by nobody. Its door need not wait until
//! the deadline: behind the new owner's first record it can be sent again, and whoever has stored it
//! answers the same.

use protocol::Partition;
use protocol::envelope::{Envelope, EnvelopeKind};
use std::collections::BTreeMap;
use tokio::sync::watch;
use tokio::time::Instant;

/// When each partition had its last takeover.
#[derive(Debug)]
pub struct Takeovers {
    last: BTreeMap<Partition, watch::Sender<Option<Instant>>>,
}

impl Default for Takeovers {
    fn default() -> Self {
        let last = Partition::all().map(|partition| (partition, watch::Sender::new(None)));
        Self {
            last: last.collect(),
        }
    }
}

impl Takeovers {
    /// A record of this partition has come now.
    pub fn handle_record(&self, partition: Partition, payload: &[u8]) {
        if is_takeover(payload)
            && let Some(last) = self.last.get(&partition)
        {
            last.send_replace(Some(Instant::now()));
        }
    }

    /// Changes with each takeover of this partition from now on.
    ///
    /// # Panics
    /// Never: every partition is there.
    #[must_use]
    pub fn subscribe(&self, partition: Partition) -> watch::Receiver<Option<Instant>> {
        let last = self.last.get(&partition);
        last.expect("every partition is there").subscribe()
    }
}

/// Whether a record is the first of its owner. Idle owners write such records again, with other numbers.
fn is_takeover(payload: &[u8]) -> bool {
    // Most records carry events and are not read for this.
    payload.starts_with(b"natter1 epoch ")
        && Envelope::parse(payload)
            .is_ok_and(|envelope| envelope.kind == EnvelopeKind::Epoch && envelope.id.counter == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::InstanceId;
    use protocol::envelope::{EnvelopeId, epoch_record};

    fn epoch(counter: u64) -> String {
        epoch_record(&EnvelopeId {
            instance: InstanceId::parse("a").unwrap(),
            epoch: 1,
            counter,
        })
    }

    #[test]
    fn only_the_first_record_of_an_owner_tells_of_it_and_only_of_its_partition() {
        let takeovers = Takeovers::default();
        let (three, four) = (Partition::new(3).unwrap(), Partition::new(4).unwrap());
        let (mut told, mut other) = (takeovers.subscribe(three), takeovers.subscribe(four));
        takeovers.handle_record(three, epoch(1).as_bytes());
        takeovers.handle_record(three, b"natter1 events a.1.0 r\n");
        takeovers.handle_record(three, b"natter1 epoch nonsense");
        assert!(!told.has_changed().unwrap());
        takeovers.handle_record(three, epoch(0).as_bytes());
        assert!(told.has_changed().unwrap());
        assert!(!other.has_changed().unwrap());
        told.mark_unchanged();
        other.mark_unchanged();
        assert!(!takeovers.subscribe(three).has_changed().unwrap());
    }
}
