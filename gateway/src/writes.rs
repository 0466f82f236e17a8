//! Whether writes get through at all, as the owners themselves say in their beacons.
//!
//! A broker with a full disk is connected and answers reads, and yet nothing can be stored; then this
//! gateway is not ready. One owner in trouble among others is no outage of the gateway.

use protocol::InstanceId;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// An owner that is not heard for this long counts no more; a beacon comes every two seconds.
const MEMORY_MS: u64 = 7_000;

/// What the owners say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// None is in trouble, or none is heard.
    Fine,
    /// Some cannot store.
    Partly,
    /// None can store.
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Word {
    in_trouble: bool,
    at: u64,
}

/// The last word of each owner.
#[derive(Debug, Default)]
pub struct Writes {
    owners: Mutex<BTreeMap<InstanceId, Word>>,
}

impl Writes {
    /// An owner's beacon came.
    pub fn handle_beacon(&self, now: u64, owner: InstanceId, in_trouble: bool) {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(
            owner,
            Word {
                in_trouble,
                at: now,
            },
        );
        owners.retain(|_, word| now.saturating_sub(word.at) <= MEMORY_MS);
    }

    /// How the owners stand now.
    #[must_use]
    pub fn standing(&self, now: u64) -> Standing {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = owners
            .values()
            .filter(|word| now.saturating_sub(word.at) <= MEMORY_MS);
        let (all, in_trouble) = heard.fold((0, 0), |(all, bad), word| {
            (all + 1, bad + u32::from(word.in_trouble))
        });
        match (all, in_trouble) {
            (_, 0) => Standing::Fine,
            (all, bad) if all == bad => Standing::Down,
            (_, _) => Standing::Partly,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_if_every_owner_that_is_heard_is_in_trouble_are_writes_down() {
        let writes = Writes::default();
        let owner = |name: &str| InstanceId::parse(name).unwrap();
        assert_eq!(writes.standing(0), Standing::Fine);
        writes.handle_beacon(0, owner("a"), true);
        assert_eq!(writes.standing(1), Standing::Down);
        writes.handle_beacon(1, owner("b"), false);
        assert_eq!(writes.standing(2), Standing::Partly);
        // The one that works is heard no more, the other still is.
        writes.handle_beacon(6_000, owner("a"), true);
        assert_eq!(writes.standing(8_000), Standing::Down);
        writes.handle_beacon(8_001, owner("a"), false);
        assert_eq!(writes.standing(8_002), Standing::Fine);
        writes.handle_beacon(8_003, owner("a"), true);
        assert_eq!(
            writes.standing(20_000),
            Standing::Fine,
            "an old word counts no more"
        );
    }
}
