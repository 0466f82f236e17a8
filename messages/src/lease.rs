//! Who works on which partition: rendezvous hashing over live instances, one lease each.
//!
//! The plan is pure; [`keeper`] reads and writes the bucket. A lease decides only who works: what is
//! true is decided by the compare-and-set on the log, so two owners at once cost time, never order.

pub(crate) mod keeper;
mod launch;
mod probe;
mod slot;

use protocol::{InstanceId, Partition};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What the bucket says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Board {
    /// Instances that are alive.
    pub(crate) instances: BTreeSet<InstanceId>,
    /// When each of them has last said so: a revision of the bucket.
    pub(crate) said_at: BTreeMap<InstanceId, u64>,
    /// Who holds which partition.
    pub(crate) leases: BTreeMap<Partition, InstanceId>,
}

/// Instances that were found dead, though the bucket still says that they live.
///
/// Without this, whoever takes a dead one's partitions would hand them over to it at the next look.
/// Each with what the first look afterwards finds: the last that it can have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dead(BTreeMap<InstanceId, Option<u64>>);

impl Dead {
    /// Nobody listens to any partition of this one.
    pub(crate) fn insert(&mut self, instance: InstanceId, board: &mut Board) {
        board.instances.remove(&instance);
        self.0.entry(instance).or_insert(None);
    }

    /// Takes the dead from a board that was read just now. One that has spoken since does live.
    pub(crate) fn strike(&mut self, board: &mut Board) {
        self.0.retain(|instance, last| {
            let said_at = board.said_at.get(instance).copied();
            let last = *last.get_or_insert(said_at.unwrap_or_default());
            said_at == Some(last)
        });
        for instance in self.0.keys() {
            board.instances.remove(instance);
        }
    }
}

/// What an instance should do about one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Take its lease: it has none.
    Take(Partition),
    /// Hand it over to the instance that it belongs to.
    HandOver(Partition),
}

/// The instance that a partition belongs to: the greatest hash of both names (rendezvous hashing), so
/// that an instance that comes or goes moves only its own share.
pub(crate) fn home(partition: Partition, instances: &BTreeSet<InstanceId>) -> Option<&InstanceId> {
    instances.iter().max_by_key(|instance| {
        let mut hash = Sha256::new();
        hash.update([partition.number()]);
        hash.update(instance.as_str());
        <[u8; 32]>::from(hash.finalize())
    })
}

/// What `me` should do. `free_long` are partitions that have had no lease for a while: anyone takes them.
pub(crate) fn plan(board: &Board, me: &InstanceId, free_long: &BTreeSet<Partition>) -> Vec<Move> {
    let mut moves = Vec::new();
    for partition in Partition::all() {
        let is_home = home(partition, &board.instances) == Some(me);
        match board.leases.get(&partition) {
            None if is_home || free_long.contains(&partition) => {
                moves.push(Move::Take(partition));
            }
            Some(holder) if holder == me && !is_home => moves.push(Move::HandOver(partition)),
            None | Some(_) => {}
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(names: &[&str]) -> BTreeSet<InstanceId> {
        names
            .iter()
            .map(|name| InstanceId::parse(name).unwrap())
            .collect()
    }

    #[test]
    fn an_instance_that_comes_moves_only_its_own_share() {
        let (two, three) = (instances(&["a", "b"]), instances(&["a", "b", "c"]));
        let c = InstanceId::parse("c").unwrap();
        let mut moved = 0;
        for partition in Partition::all() {
            let (before, after) = (home(partition, &two), home(partition, &three));
            if before != after {
                assert_eq!(after, Some(&c));
                moved += 1;
            }
        }
        assert!((10..=35).contains(&moved), "{moved}");
    }

    #[test]
    fn two_plans_never_want_the_same_partition() {
        let board = Board {
            instances: instances(&["a", "b", "c"]),
            ..Board::default()
        };
        let all: Vec<Move> = board
            .instances
            .iter()
            .flat_map(|me| plan(&board, me, &BTreeSet::new()))
            .collect();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn a_partition_of_a_dead_instance_is_taken_and_a_foreign_one_handed_over() {
        let a = InstanceId::parse("a").unwrap();
        let mut board = Board {
            instances: instances(&["a", "b"]),
            leases: Partition::all().map(|p| (p, a.clone())).collect(),
            ..Board::default()
        };
        let handed = plan(&board, &a, &BTreeSet::new());
        assert!(!handed.is_empty() && handed.iter().all(|m| matches!(m, Move::HandOver(_))));
        board.instances = instances(&["a"]);
        assert_eq!(plan(&board, &a, &BTreeSet::new()), []);
        board.leases.clear();
        assert_eq!(plan(&board, &a, &BTreeSet::new()).len(), 64);
        let stranger = InstanceId::parse("z").unwrap();
        let long = BTreeSet::from([Partition::new(5).unwrap()]);
        assert_eq!(
            plan(&board, &stranger, &long),
            [Move::Take(Partition::new(5).unwrap())]
        );
    }

    #[test]
    fn nothing_is_handed_over_to_the_dead_until_they_speak_again() {
        let (a, b) = (
            InstanceId::parse("a").unwrap(),
            InstanceId::parse("b").unwrap(),
        );
        let bucket = |b_said_at: u64| Board {
            instances: instances(&["a", "b"]),
            said_at: BTreeMap::from([(a.clone(), 10), (b.clone(), b_said_at)]),
            leases: Partition::all().map(|p| (p, a.clone())).collect(),
        };
        let moves = |board: &Board| plan(board, &a, &BTreeSet::new()).len();
        let (mut dead, mut board) = (Dead::default(), bucket(11));
        assert_ne!(moves(&board), 0);
        dead.insert(b.clone(), &mut board);
        assert_eq!(moves(&board), 0);
        // It had spoken once more between the look before and its end; from then on it says nothing.
        for _ in 0..3 {
            let mut board = bucket(12);
            dead.strike(&mut board);
            assert_eq!(moves(&board), 0);
        }
        // It lives after all.
        let mut board = bucket(13);
        dead.strike(&mut board);
        assert_eq!((board, &dead), (bucket(13), &Dead::default()));
        // A name that ends is forgotten.
        dead.insert(b.clone(), &mut bucket(13));
        let mut board = Board {
            instances: instances(&["a"]),
            said_at: BTreeMap::from([(a.clone(), 14)]),
            leases: BTreeMap::new(),
        };
        dead.strike(&mut board);
        assert_eq!(dead, Dead::default());
    }
}
