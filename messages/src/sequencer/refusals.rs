//! Final refusals that were told lately, so that no older copy of a refused command is stored after all.
//!
//! A client whose socket broke sends a command again while the first copy may still be on its way. If the
//! second copy is refused for good and the reason then goes away (a ban is lifted, a room thaws), the
//! first one must not be admitted: its author was told that it never happens. A copy is begun within its
//! deadline only, so a refusal has to be remembered no longer than that and what clocks may be off.
//! Does not prove anything: what is remembered is told again under the same rules as a new refusal.

use crate::dedup::Key;
use protocol::Timestamp;
use protocol::request::CommandResult;
use std::collections::{BTreeMap, VecDeque};

/// The refusals of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    told: BTreeMap<Key, Told>,
    // Invariant: every key of `told` is in here with its `until`, the earliest first.
    order: VecDeque<(Timestamp, Key)>,
    /// Those that wait for a proof; they stand or fall together.
    unsettled: BTreeMap<Key, CommandResult>,
}

#[derive(Clone, Debug)]
struct Told {
    result: CommandResult,
    until: Timestamp,
}

/// Whether this answer says that the command is not in the log and never will be.
pub(super) fn is_never(result: &CommandResult) -> bool {
    match result {
        CommandResult::Ok(accepted) => accepted.noop,
        CommandResult::Err(refusal) => !refusal.temp,
    }
}

impl Refusals {
    /// What a copy of this command was told, or is about to be.
    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<&CommandResult> {
        let told = self.told.get(key).filter(|told| now < told.until);
        self.unsettled.get(key).or(told.map(|told| &told.result))
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.told.len() + self.unsettled.len()
    }

    /// This will be told unless the state that it came from turns out not to be the present one.
    pub(super) fn expect(&mut self, key: Key, result: &CommandResult) {
        self.unsettled.insert(key, result.clone());
    }

    /// Nothing of what was expected is told: all of it is judged again.
    pub(super) fn take_back(&mut self) {
        self.unsettled.clear();
    }

    /// This is told now, and stands until then.
    pub(super) fn tell(&mut self, key: Key, result: CommandResult, until: Timestamp) {
        self.unsettled.remove(&key);
        self.told.insert(key, Told { result, until });
        self.order.push_back((until, key));
    }

    /// Forgets what no copy can belie any more.
    pub(super) fn forget(&mut self, now: Timestamp) {
        while let Some((until, key)) = self.order.front().copied()
            && until <= now
        {
            self.order.pop_front();
            // It may have been told again since.
            if self.told.get(&key).is_some_and(|told| told.until <= until) {
                self.told.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Cid, ErrorCode, Refusal, RoomId, UserId};

    fn key(n: u64) -> Key {
        let (room, user) = (RoomId::parse("r").unwrap(), UserId::parse("u").unwrap());
        Key::new(&room, &user, Cid::from_parts(n, [1; 10]))
    }

    fn banned() -> CommandResult {
        CommandResult::Err(Refusal::plain(ErrorCode::Banned))
    }

    #[test]
    fn a_refusal_is_known_from_its_judgement_until_its_time() {
        let mut refusals = Refusals::default();
        refusals.expect(key(1), &banned());
        assert_eq!(refusals.get(&key(1), Timestamp(0)), Some(&banned()));
        refusals.tell(key(1), banned(), Timestamp(10));
        refusals.forget(Timestamp(9));
        assert_eq!(refusals.get(&key(1), Timestamp(9)), Some(&banned()));
        assert_eq!(refusals.get(&key(1), Timestamp(10)), None);
        refusals.forget(Timestamp(10));
        assert_eq!(refusals.len(), 0);
    }

    #[test]
    fn what_is_judged_again_is_not_remembered() {
        let mut refusals = Refusals::default();
        refusals.expect(key(1), &banned());
        refusals.take_back();
        assert_eq!(refusals.get(&key(1), Timestamp(0)), None);
    }

    #[test]
    fn what_is_told_twice_stands_until_the_later_time() {
        let mut refusals = Refusals::default();
        refusals.tell(key(1), banned(), Timestamp(10));
        refusals.tell(key(1), banned(), Timestamp(20));
        refusals.forget(Timestamp(15));
        assert_eq!(refusals.get(&key(1), Timestamp(15)), Some(&banned()));
        refusals.forget(Timestamp(21));
        assert_eq!(refusals.len(), 0);
    }

    #[test]
    fn only_what_is_not_stored_and_final_counts() {
        let temporary = CommandResult::Err(Refusal::plain(ErrorCode::Unavailable));
        let stored = protocol::request::Accepted::stored(protocol::Seq(1), Timestamp(1));
        let noop = protocol::request::Accepted::noop(protocol::Seq(1));
        assert!(!is_never(&temporary) && !is_never(&CommandResult::Ok(stored)));
        assert!(is_never(&banned()) && is_never(&CommandResult::Ok(noop)));
    }
}
