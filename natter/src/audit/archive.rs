//! The archive: its events reduced to what is compared, and whether they are dense.

use std::collections::{BTreeMap, BTreeSet};

use protocol::event::{Event, EventBody, MemberChange, SeqRange};
use protocol::{Cid, Seq, UserId};
use serde::Serialize;

use super::Evidence;
use super::print::{Content, Print};
use super::verdict::{Fault, Verdict, count};

/// What an archived event is about, as far as it is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum What {
    /// A message; whether it stands in the main timeline.
    Said { main: bool },
    /// A change of the text of this message.
    Edited { on: Seq },
    /// A removal: ranges, or all by a user up to a seq.
    Removed {
        on: Vec<SeqRange>,
        all_by: Option<(UserId, Seq)>,
    },
    /// A membership changed.
    Member { user: UserId, change: MemberChange },
    /// Positions from this one on are lost for everybody.
    Void { from: Seq },
    /// Anything else.
    Other,
}

/// An event as history told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Archived {
    pub(crate) seq: Seq,
    pub(crate) by: UserId,
    pub(crate) cid: Cid,
    pub(crate) print: Print,
    pub(crate) content: Content,
    pub(crate) what: What,
}

impl Archived {
    pub(crate) fn of(event: &Event) -> Self {
        let what = match &event.body {
            EventBody::Msg(message) => What::Said {
                main: message.n.is_some(),
            },
            EventBody::Edit { on, .. } => What::Edited { on: *on },
            EventBody::Del { on, user, to, .. } => What::Removed {
                on: on.clone(),
                all_by: user.clone().zip(*to),
            },
            EventBody::Member { user, change, .. } => What::Member {
                user: user.clone(),
                change: *change,
            },
            EventBody::Void { from } => What::Void { from: *from },
            EventBody::Room { .. }
            | EventBody::Role { .. }
            | EventBody::Read { .. }
            | EventBody::Unknown(_) => What::Other,
        };
        Self {
            seq: event.seq,
            by: event.by.clone(),
            cid: event.cid,
            print: Print::of(event),
            content: Content::of(&event.body),
            what,
        }
    }
}

/// The archive, to be looked up.
pub(super) struct Book<'a> {
    by_seq: BTreeMap<Seq, &'a Archived>,
    by_command: BTreeMap<(&'a UserId, Cid), &'a Archived>,
    removed: BTreeSet<Seq>,
    pub(super) head: Seq,
}

impl<'a> Book<'a> {
    pub(super) fn new(archive: &'a [Archived]) -> Self {
        let mut book = Self {
            by_seq: BTreeMap::new(),
            by_command: BTreeMap::new(),
            removed: BTreeSet::new(),
            head: Seq(0),
        };
        for event in archive {
            book.by_seq.insert(event.seq, event);
            // A command's first event stands for it.
            book.by_command
                .entry((&event.by, event.cid))
                .or_insert(event);
            book.head = book.head.max(event.seq);
        }
        for event in archive {
            if let What::Removed { on, all_by } = &event.what {
                book.remove(event.seq, on, all_by.as_ref());
            }
        }
        book
    }

    fn remove(&mut self, at: Seq, on: &[SeqRange], all_by: Option<&(UserId, Seq)>) {
        for range in on {
            let to = range.1.min(at);
            self.removed.extend(
                self.by_seq
                    .range(range.0..=to.max(range.0))
                    .map(|(s, _)| *s),
            );
        }
        if let Some((user, to)) = all_by {
            let theirs = self.by_seq.range(..=*to).filter(|(_, e)| e.by == *user);
            self.removed.extend(theirs.map(|(seq, _)| *seq));
        }
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&'a Archived> {
        self.by_seq.get(&seq).copied()
    }

    pub(super) fn stored(&self, by: &UserId, cid: Cid) -> Option<&'a Archived> {
        self.by_command.get(&(by, cid)).copied()
    }

    pub(super) fn events(&self) -> impl Iterator<Item = &'a Archived> + '_ {
        self.by_seq.values().copied()
    }

    /// Whether the message at this seq was removed.
    pub(super) fn is_removed(&self, seq: Seq) -> bool {
        self.removed.contains(&seq)
    }

    /// Whether readers may be given this event without its content.
    pub(super) fn is_blanked(&self, event: &Archived) -> bool {
        match &event.what {
            What::Said { .. } => self.is_removed(event.seq),
            What::Edited { on } => self.is_removed(*on),
            What::Removed { .. } | What::Member { .. } | What::Void { .. } | What::Other => false,
        }
    }

    /// Whether the two can be the same event, of which one may have lost its content.
    pub(super) fn is_same(&self, event: &Archived, one: Print, other: Print) -> bool {
        one == other || (one.header == other.header && self.is_blanked(event))
    }
}

/// Dense positions, no command twice, nothing that nobody sent, the same as in the log.
pub(super) fn judge(evidence: &Evidence, verdict: &mut Verdict) {
    verdict.events = count(evidence.archive.len());
    let mut next = evidence.base.next();
    for event in &evidence.archive {
        if event.seq < next {
            verdict.complain(Fault::Duplicated, || {
                format!("archive: seq {} comes again or too late", event.seq)
            });
            continue;
        }
        let voided = matches!(event.what, What::Void { from } if from <= next);
        if event.seq > next && !voided {
            verdict.complain(Fault::Gaps, || {
                format!("archive: {next} to {} are missing", event.seq.before())
            });
        }
        next = event.seq.next();
    }
    judge_commands_once(evidence, verdict);
    judge_log(evidence, verdict);
    judge_heads(evidence, verdict);
}

/// All who know the chain's head know the same one, and it is that of the last event.
fn judge_heads(evidence: &Evidence, verdict: &mut Verdict) {
    let last = evidence.archive.last().map_or(Seq(0), |event| event.seq);
    let Some(first) = evidence.heads.first() else {
        return;
    };
    for head in &evidence.heads {
        if head != first || head.0 != last {
            verdict.complain(Fault::ArchiveDiffers, || {
                format!(
                    "the chain's head is {}:{} for one and {}:{} for another, the last event {last}",
                    first.0, first.1, head.0, head.1
                )
            });
        }
    }
}

fn judge_commands_once(evidence: &Evidence, verdict: &mut Verdict) {
    let sent: BTreeSet<(&UserId, Cid)> = evidence.commands.iter().map(|c| (&c.by, c.cid)).collect();
    let mut stored: BTreeMap<(&UserId, Cid), Seq> = BTreeMap::new();
    for event in &evidence.archive {
        let name = (&event.by, event.cid);
        let speaks = match &event.what {
            What::Said { .. } | What::Edited { .. } | What::Removed { .. } => true,
            // One create makes several events, each with its cid.
            What::Member { .. } | What::Void { .. } | What::Other => false,
        };
        if !speaks && !sent.contains(&name) {
            continue;
        }
        if let Some(first) = stored.insert(name, event.seq) {
            verdict.complain(Fault::Duplicated, || {
                format!("archive: {first} and {} are the same command", event.seq)
            });
        }
        if !sent.contains(&name) {
            verdict.complain(Fault::ArchiveDiffers, || {
                format!("nobody sent what is at {}", event.seq)
            });
        }
    }
}

fn judge_log(evidence: &Evidence, verdict: &mut Verdict) {
    let Some(log) = &evidence.log else { return };
    let book = Book::new(&evidence.archive);
    let first = log.first().map_or(Seq(1), |seen| seen.seq());
    let mut next = first.max(evidence.base.next());
    for seen in log.iter().filter(|seen| seen.seq() > evidence.base) {
        if seen.seq() != next {
            verdict.complain(Fault::ArchiveDiffers, || {
                format!("the log has {} where {next} should be", seen.seq())
            });
        }
        next = seen.seq().next();
        let same = book
            .get(seen.seq())
            .is_some_and(|event| book.is_same(event, event.print, seen.print()));
        if !same {
            verdict.complain(Fault::ArchiveDiffers, || {
                format!("{} is not what the log has", seen.seq())
            });
        }
    }
    if !log.is_empty() && next != book.head.next() {
        verdict.complain(Fault::ArchiveDiffers, || {
            format!("the archive ends at {}, the log before {next}", book.head)
        });
    }
}
