//! Each who watches: everything of their memberships, once, in order, as it is in the archive.

use std::collections::{BTreeMap, BTreeSet};

use protocol::Seq;
use protocol::event::HistoryScope;

use super::archive::Book;
use super::fence::{Membership, memberships};
use super::print::{Print, Seen};
use super::verdict::{Fault, Verdict};
use super::{Answer, Evidence, Step, Watch};

pub(super) fn judge(evidence: &Evidence, book: &Book<'_>, verdict: &mut Verdict) {
    let acked: BTreeSet<Seq> = evidence
        .commands
        .iter()
        .filter_map(|command| match command.answer {
            Answer::Stored(seq) => Some(seq),
            Answer::None | Answer::Noop | Answer::Refused => None,
        })
        .collect();
    let mut shown = Shown::default();
    for watch in &evidence.watches {
        let reader = Reader::new(evidence, watch);
        reader
            .read(verdict, &mut shown)
            .check(book, &acked, verdict);
    }
    shown.compare(book, verdict);
}

/// What was shown at each seq, by all who watch: different things, with who was shown it first.
#[derive(Default)]
struct Shown<'a>(BTreeMap<Seq, Vec<(Print, &'a str)>>);

impl<'a> Shown<'a> {
    fn add(&mut self, seen: Seen, name: &'a str) {
        let prints = self.0.entry(seen.seq()).or_default();
        if !prints.iter().any(|(print, _)| *print == seen.print()) {
            prints.push((seen.print(), name));
        }
    }

    fn compare(&self, book: &Book<'_>, verdict: &mut Verdict) {
        for (seq, prints) in &self.0 {
            let Some(event) = book.get(*seq) else {
                verdict.complain(Fault::ArchiveDiffers, || {
                    format!(
                        "{} was shown {seq}, which is not in the archive",
                        prints[0].1
                    )
                });
                continue;
            };
            let mut differ = prints
                .iter()
                .filter(|(print, _)| !book.is_same(event, event.print, *print));
            if let Some((_, name)) = differ.next() {
                verdict.complain(Fault::ArchiveDiffers, || {
                    format!("{seq} as {name} was shown it is not what the archive has")
                });
            }
            let first = prints[0].0;
            if let Some((_, name)) = prints
                .iter()
                .find(|(print, _)| !book.is_same(event, first, *print))
            {
                verdict.complain(Fault::Disagree, || {
                    format!(
                        "{seq} is one thing for {} and another for {name}",
                        prints[0].1
                    )
                });
            }
        }
    }
}

/// Reads one's steps in order.
struct Reader<'a> {
    evidence: &'a Evidence,
    watch: &'a Watch,
    memberships: Vec<Membership>,
    /// The seq that comes next; nothing may come while it is absent.
    next: Option<Seq>,
    /// Given, however often.
    given: BTreeMap<Seq, Print>,
    /// Given on the present socket.
    on_socket: BTreeSet<Seq>,
    /// What a membership's state already held.
    held: Vec<(Seq, Seq)>,
    gaps: Vec<(Seq, Seq)>,
    /// Left out by the server's word, and not asked for.
    waived: Vec<(Seq, Seq)>,
    entered: bool,
}

impl<'a> Reader<'a> {
    fn new(evidence: &'a Evidence, watch: &'a Watch) -> Self {
        Self {
            evidence,
            watch,
            memberships: memberships(&evidence.archive, &watch.user),
            next: None,
            given: BTreeMap::new(),
            on_socket: BTreeSet::new(),
            held: Vec::new(),
            gaps: Vec::new(),
            waived: Vec::new(),
            entered: false,
        }
    }

    fn read(mut self, verdict: &mut Verdict, shown: &mut Shown<'a>) -> Self {
        for step in &self.watch.steps {
            match *step {
                Step::Entered { at } => self.enter(at),
                Step::Resumed { after } => {
                    self.on_socket.clear();
                    self.next = Some(after.next());
                    self.disown(|from| from > after);
                }
                Step::Forgotten => {
                    self.on_socket.clear();
                    self.next = None;
                    let last = self.held.last().map(|(from, _)| *from);
                    self.disown(|from| Some(from) == last);
                }
                Step::Event(seen) => self.take(seen, verdict, shown),
                Step::Read(seen) => self.take_read(seen, verdict, shown),
                Step::Skipped { from, to } => self.skip(from, to, verdict),
                Step::Waived { from, to } => self.waived.push((from, to)),
                Step::Gone => self.next = None,
                Step::Probed { first } => self.probe(first, verdict),
            }
        }
        self
    }

    fn enter(&mut self, at: Seq) {
        self.entered = true;
        self.next = Some(at.next());
        let membership = self.memberships.iter().rev().find(|m| m.from <= at);
        if let Some(membership) = membership.or(self.memberships.first()) {
            self.held.push((membership.from, at));
        }
    }

    /// A membership that began behind the cursor, and ended before the new socket, is told to nobody.
    fn disown(&mut self, behind_cursor: impl Fn(Seq) -> bool) {
        self.held.retain(|(from, _)| !behind_cursor(*from));
    }

    /// One that begins and ends on the way is owed from the first event of it that came.
    fn note_membership(&mut self, seq: Seq) {
        let membership = self.memberships.iter().find(|m| m.covers(seq));
        if let Some(membership) = membership
            && !self.held.iter().any(|(from, _)| *from == membership.from)
        {
            self.held.push((membership.from, seq.before()));
        }
    }

    fn take(&mut self, seen: Seen, verdict: &mut Verdict, shown: &mut Shown<'a>) {
        let (seq, name) = (seen.seq(), self.watch.name.as_str());
        verdict.received += 1;
        shown.add(seen, name);
        let Some(next) = self.next else {
            verdict.complain(Fault::BehindFence, || {
                format!("{name} was shown {seq} after the end of the membership")
            });
            return;
        };
        self.check_fence(seq, verdict);
        self.note_membership(seq);
        let again = !self.on_socket.insert(seq);
        self.given.entry(seq).or_insert(seen.print());
        if seq >= next {
            self.leave_out(next, seq.before(), verdict);
            self.next = Some(seq.next());
        } else if again || !self.is_in_gap(seq) {
            verdict.complain(Fault::Duplicated, || format!("{seq} came twice to {name}"));
        } else {
            verdict.complain(Fault::Disorder, || {
                format!("{seq} came to {name} after {}", next.before())
            });
        }
    }

    /// An event that history gave for a range that was skipped.
    fn take_read(&mut self, seen: Seen, verdict: &mut Verdict, shown: &mut Shown<'a>) {
        verdict.received += 1;
        shown.add(seen, &self.watch.name);
        self.given.entry(seen.seq()).or_insert(seen.print());
        if self.evidence.history == HistoryScope::Joined {
            self.check_fence(seen.seq(), verdict);
        }
    }

    fn skip(&mut self, from: Seq, to: Seq, verdict: &mut Verdict) {
        let Some(next) = self.next else { return };
        if from > next {
            self.leave_out(next, from.before(), verdict);
        }
        self.next = Some(next.max(to.next()));
    }

    fn probe(&mut self, first: Option<Seq>, verdict: &mut Verdict) {
        let Some(first) = first.filter(|_| self.evidence.private) else {
            return;
        };
        let name = &self.watch.name;
        let Some(next) = self.next else {
            return verdict.complain(Fault::BehindFence, || {
                format!("{name} read {first} and is no member any more")
            });
        };
        let now = self.memberships.iter().rev().find(|m| m.from < next);
        if self.evidence.history == HistoryScope::Joined && now.is_some_and(|m| first < m.from) {
            verdict.complain(Fault::BehindFence, || {
                format!("{name} read {first}, which was before the join")
            });
        }
    }

    /// Notes a range that did not come, as far as it lies in a membership.
    fn leave_out(&mut self, from: Seq, to: Seq, verdict: &mut Verdict) {
        if from > to || !self.memberships.iter().any(|m| overlaps(*m, from, to)) {
            return;
        }
        self.gaps.push((from, to));
        let name = &self.watch.name;
        verdict.complain(Fault::Gaps, || {
            format!("{from} to {to} did not come to {name} where they belong")
        });
    }

    fn is_in_gap(&self, seq: Seq) -> bool {
        lies_in(&self.gaps, seq)
    }

    fn check_fence(&self, seq: Seq, verdict: &mut Verdict) {
        // In rooms where members read everything, so may a client that fetches the past.
        let reads_all = self.evidence.history == HistoryScope::All
            && self.memberships.first().is_some_and(|m| seq < m.from);
        if !reads_all && !self.memberships.iter().any(|m| m.covers(seq)) {
            let name = &self.watch.name;
            verdict.complain(Fault::BehindFence, || {
                format!("{name} was shown {seq} and was no member")
            });
        }
    }

    /// Whether everything that belongs to this user has come.
    fn check(&self, book: &Book<'_>, acked: &BTreeSet<Seq>, verdict: &mut Verdict) {
        let name = &self.watch.name;
        if !self.entered && self.memberships.iter().any(|m| m.to.is_none()) {
            return verdict.complain(Fault::Lost, || format!("{name} never saw the room"));
        }
        let entered = |m: &Membership| self.held.iter().any(|(from, _)| *from == m.from);
        let owed = |seq: Seq| {
            let member = self.memberships.iter().any(|m| entered(m) && m.covers(seq));
            member && !lies_in(&self.held, seq) && !lies_in(&self.waived, seq)
        };
        let mut missing: Option<(Seq, Seq)> = None;
        let mut ranges = Vec::new();
        for event in book.events() {
            if self.given.contains_key(&event.seq) || !owed(event.seq) {
                ranges.extend(missing.take());
                continue;
            }
            if acked.contains(&event.seq) {
                verdict.complain(Fault::Lost, || {
                    format!("{} is acknowledged and never came to {name}", event.seq)
                });
            }
            missing = Some(missing.map_or((event.seq, event.seq), |(from, _)| (from, event.seq)));
        }
        ranges.extend(missing);
        for (from, to) in ranges {
            if !self.gaps.iter().any(|(a, b)| *a <= to && from <= *b) {
                verdict.complain(Fault::Gaps, || {
                    format!("{from} to {to} never came to {name}")
                });
            }
        }
    }
}

fn lies_in(ranges: &[(Seq, Seq)], seq: Seq) -> bool {
    ranges.iter().any(|(from, to)| *from <= seq && seq <= *to)
}

fn overlaps(membership: Membership, from: Seq, to: Seq) -> bool {
    // The event that begins a membership may come as a state.
    membership.from < to.next() && membership.to.is_none_or(|end| from <= end)
}
