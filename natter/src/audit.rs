//! The judge of a run: what was asked, answered, archived and shown, compared with each other.
//!
//! Pure, and strict: it trusts neither clients nor servers, so a defect of either shows. It is given
//! fingerprints, not texts. Who gathers the evidence (`natter bench`, `natter replay`) decides nothing.

mod archive;
mod commands;
mod fence;
mod print;
mod unread;
mod verdict;
mod watch;

pub(crate) use self::archive::Archived;
pub(crate) use self::print::{Content, Seen};
pub(crate) use self::unread::Counted;
pub(crate) use self::verdict::{Fault, Verdict};

use self::archive::Book;
use protocol::chain::Hash;
use protocol::event::HistoryScope;
use protocol::{Cid, Seq, UserId};
use serde::Serialize;

/// What a sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Answer {
    /// Nothing final.
    None,
    /// It is stored at this seq.
    Stored(Seq),
    /// Nothing had to change.
    Noop,
    /// It is not stored and never will be.
    Refused,
}

/// A command that was submitted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Command {
    pub(crate) cid: Cid,
    pub(crate) by: UserId,
    /// What it should become.
    pub(crate) content: Content,
    pub(crate) answer: Answer,
}

/// What one who watches was given of a room, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Step {
    /// A state as of this seq: events follow from the next one on.
    Entered { at: Seq },
    /// A new socket of one who was a member as of its cursor: events follow from the one after this.
    Resumed { after: Seq },
    /// An event came on the socket.
    Event(Seen),
    /// An event was read from history, because the server had said that it left it out.
    Read(Seen),
    /// The server said that it leaves this range out.
    Skipped { from: Seq, to: Seq },
    /// What is left out of this range is not asked for, or not given any more after the room's end.
    Waived { from: Seq, to: Seq },
    /// The server said that the room is not this user's any more.
    Gone,
    /// A new socket of one who was no member as of its cursor: what was entered since is told anew.
    Forgotten,
    /// History was asked for the room's first event that this user may read.
    Probed { first: Option<Seq> },
}

/// One who watches.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Watch {
    /// For notes.
    pub(crate) name: String,
    pub(crate) user: UserId,
    pub(crate) steps: Vec<Step>,
}

/// Everything about one room.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Evidence {
    /// For notes.
    pub(crate) room: String,
    /// Whether only members may read.
    pub(crate) private: bool,
    /// How much of the past members may read.
    pub(crate) history: HistoryScope,
    /// In the order in which each sender submitted; senders may be mixed.
    pub(crate) commands: Vec<Command>,
    /// Results of sending a command once more: its place in `commands`, and the answer.
    pub(crate) repeats: Vec<(usize, Answer)>,
    /// The seq below the first event that the reader of the archive may read.
    pub(crate) base: Seq,
    /// Every event above it, as history tells it, in its order.
    pub(crate) archive: Vec<Archived>,
    pub(crate) watches: Vec<Watch>,
    /// What history counted as unread.
    pub(crate) counted: Vec<Counted>,
    /// The log's events, if it was read.
    pub(crate) log: Option<Vec<Seen>>,
    /// The chain's head as several readers were told it, and as the log has it.
    pub(crate) heads: Vec<(Seq, Hash)>,
}

/// Judges one room.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::of_room(&evidence.room);
    let book = Book::new(&evidence.archive);
    archive::judge(evidence, &mut verdict);
    commands::judge(evidence, &book, &mut verdict);
    fence::judge(evidence, &mut verdict);
    watch::judge(evidence, &book, &mut verdict);
    unread::judge(evidence, &book, &mut verdict);
    verdict
}

#[cfg(test)]
mod tests;
