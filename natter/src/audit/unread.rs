//! Unread, counted once more from the archive.

use protocol::limits::UNREAD_SHOWN_MAX;
use protocol::{Seq, UserId};
use serde::Serialize;

use super::Evidence;
use super::archive::{Book, What};
use super::fence::memberships;
use super::verdict::{Fault, Verdict};

/// What history said to a member about this room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    pub(crate) user: UserId,
    /// The greatest mark that this user was told is stored.
    pub(crate) marked: Seq,
    /// Where history says the mark is.
    pub(crate) read: Seq,
    pub(crate) unread: u32,
}

pub(super) fn judge(evidence: &Evidence, book: &Book<'_>, verdict: &mut Verdict) {
    for counted in &evidence.counted {
        let Counted {
            user,
            marked,
            read,
            unread,
        } = counted;
        if marked != read {
            verdict.complain(Fault::UnreadDiffers, || {
                format!("{user} marked {marked}, history has {read}")
            });
        }
        let own = memberships(&evidence.archive, user);
        let Some(membership) = own.last().filter(|last| last.to.is_none()) else {
            verdict.complain(Fault::UnreadDiffers, || {
                format!("{user} is counted for and is no member")
            });
            continue;
        };
        let floor = membership.from.max(*read);
        let others = book.events().filter(|event| {
            event.what == (What::Said { main: true })
                && event.by != *user
                && event.seq > floor
                && !book.is_removed(event.seq)
        });
        let most = usize::try_from(UNREAD_SHOWN_MAX).unwrap_or(usize::MAX);
        let recount = others.take(most).count();
        if u32::try_from(recount) != Ok(*unread) {
            verdict.complain(Fault::UnreadDiffers, || {
                format!("{unread} are unread by {user}, the archive has {recount}")
            });
        }
    }
}
