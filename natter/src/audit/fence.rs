//! Who was a member when: nobody writes outside of a membership.
//!
//! It is told from the archive's own member events; whether those are true is compared elsewhere.

use std::collections::BTreeMap;

use protocol::{Seq, UserId};

use super::Evidence;
use super::archive::{Archived, What};
use super::verdict::{Fault, Verdict};

/// From the event that began it to the one that ended it, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) from: Seq,
    pub(super) to: Option<Seq>,
}

impl Membership {
    pub(super) fn covers(self, seq: Seq) -> bool {
        self.from <= seq && self.to.is_none_or(|to| seq <= to)
    }
}

/// Every membership of a user, in order.
pub(super) fn memberships(archive: &[Archived], of: &UserId) -> Vec<Membership> {
    let mut found: Vec<Membership> = Vec::new();
    for event in archive {
        let What::Member { user, change } = &event.what else {
            continue;
        };
        if user != of {
            continue;
        }
        let open = found.last_mut().filter(|last| last.to.is_none());
        match open {
            Some(open) if change.ends_membership() => open.to = Some(event.seq),
            None if change.begins_membership() => found.push(Membership {
                from: event.seq,
                to: None,
            }),
            Some(_) | None => {}
        }
    }
    found
}

pub(super) fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    let mut members: BTreeMap<&UserId, bool> = BTreeMap::new();
    for event in &evidence.archive {
        match &event.what {
            What::Member { user, change } => {
                if change.begins_membership() {
                    members.insert(user, true);
                } else if change.ends_membership() {
                    members.insert(user, false);
                }
            }
            What::Said { .. } | What::Edited { .. } | What::Removed { .. } => {
                if members.get(&event.by) != Some(&true) {
                    verdict.complain(Fault::BehindFence, || {
                        format!("{} wrote {} and was no member", event.by, event.seq)
                    });
                }
            }
            What::Void { .. } | What::Other => {}
        }
    }
}
