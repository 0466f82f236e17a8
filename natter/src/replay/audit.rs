//! The judge: compares what was sent, what was acknowledged, what is archived and what observers saw.
//!
//! Pure, and strict: everything is compared with everything. It trusts neither the client nor the
//! servers, so a defect of either shows. `sent` is what the replay asked for, `acks` what it was
//! promised, `archive` what a reader of history gets, `observers` what others were shown, in order.

use protocol::event::{Event, EventBody, MemberChange};
use protocol::{Cid, Seq, UserId};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Complaints that are kept in words; the rest is only counted.
const NOTES_MAX: usize = 20;

/// What a command should have become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Joined,
    Left,
    Said { text: String, reply_to: Option<Seq> },
}

/// A command that was submitted.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) cid: Cid,
    pub(crate) by: UserId,
    pub(crate) expected: Expected,
}

/// What a sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// It is stored at this seq.
    Stored(Seq),
    /// Nothing had to change.
    Noop,
}

/// A short name for everything an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// Of every field of the event.
    pub(crate) fn of(event: &Event) -> Self {
        let mut hasher = DefaultHasher::new();
        let text = serde_json::to_string(event).expect("an event is JSON");
        text.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Everything about one room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// In the order in which each sender submitted; senders may be mixed.
    pub(crate) sent: Vec<Sent>,
    /// By cid.
    pub(crate) acks: BTreeMap<Cid, Ack>,
    /// Seq up to which the room was not ours: a room that was there before.
    pub(crate) base: Seq,
    /// Every event above `base`, as history tells it, in its order.
    pub(crate) archive: Vec<Event>,
    /// Per observer, what was delivered, in its order.
    pub(crate) observers: Vec<Vec<(Seq, Fingerprint)>>,
}

/// What was found. All zero but the first four: nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Verdict {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// Commands whose event is in the archive.
    pub(crate) stored: u64,
    /// Events above the base, those that no command of the replay made included.
    pub(crate) events: u64,
    /// Per observer.
    pub(crate) received: Vec<u64>,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) gaps: u64,
    /// Archive against acks, commands and observers.
    pub(crate) differences: u64,
    /// The first complaints in words.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub(crate) const fn is_clean(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.out_of_order == 0
            && self.gaps == 0
            && self.differences == 0
    }

    /// Adds the findings about another room.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.stored += other.stored;
        self.events += other.events;
        self.received
            .resize(self.received.len().max(other.received.len()), 0);
        for (mine, theirs) in self.received.iter_mut().zip(other.received) {
            *mine += theirs;
        }
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.gaps += other.gaps;
        self.differences += other.differences;
        for note in other.notes {
            self.note(note);
        }
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }
}

/// Judges one room.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict {
        sent: count(evidence.sent.len()),
        acked: count(evidence.acks.len()),
        events: count(evidence.archive.len()),
        ..Verdict::default()
    };
    judge_archive(evidence, &mut verdict);
    judge_commands(evidence, &mut verdict);
    judge_order_of_senders(evidence, &mut verdict);
    for (number, seen) in evidence.observers.iter().enumerate() {
        verdict.received.push(count(seen.len()));
        judge_observer(evidence, number, seen, &mut verdict);
    }
    verdict
}

/// Dense seqs, no command twice, nothing that nobody sent.
fn judge_archive(evidence: &Evidence, verdict: &mut Verdict) {
    let mut expected = evidence.base.next();
    for event in &evidence.archive {
        if event.seq < expected {
            verdict.duplicated += 1;
            verdict.note(format!(
                "archive: seq {} comes again or too late",
                event.seq
            ));
            continue;
        }
        if event.seq > expected {
            verdict.gaps += 1;
            verdict.note(format!(
                "archive: {expected} to {} are missing",
                event.seq.before()
            ));
        }
        expected = event.seq.next();
    }
    let mut stored: BTreeMap<(&UserId, Cid), Seq> = BTreeMap::new();
    let sent: BTreeMap<(&UserId, Cid), &Sent> = evidence
        .sent
        .iter()
        .map(|sent| ((&sent.by, sent.cid), sent))
        .collect();
    for event in &evidence.archive {
        // One create makes several events, each with its cid and another subject.
        if !matches!(event.body, EventBody::Msg(_)) && !sent.contains_key(&(&event.by, event.cid)) {
            continue;
        }
        if let Some(first) = stored.insert((&event.by, event.cid), event.seq) {
            verdict.duplicated += 1;
            verdict.note(format!(
                "archive: {first} and {} are the same command",
                event.seq
            ));
        }
        if !sent.contains_key(&(&event.by, event.cid)) {
            verdict.differences += 1;
            verdict.note(format!("archive: nobody sent the message at {}", event.seq));
        }
    }
}

/// Each command: acknowledged, in the archive, where and as it was acknowledged.
fn judge_commands(evidence: &Evidence, verdict: &mut Verdict) {
    let archive: BTreeMap<(&UserId, Cid), &Event> = evidence
        .archive
        .iter()
        .map(|event| ((&event.by, event.cid), event))
        .collect();
    for sent in &evidence.sent {
        let stored = archive.get(&(&sent.by, sent.cid));
        verdict.stored += u64::from(stored.is_some());
        match (evidence.acks.get(&sent.cid), stored) {
            (Some(Ack::Noop), None) if sent.expected == Expected::Joined => {}
            (Some(Ack::Stored(seq)), Some(event)) => {
                if *seq != event.seq {
                    verdict.differences += 1;
                    let at = event.seq;
                    verdict.note(format!(
                        "{}: acknowledged at {seq}, archived at {at}",
                        sent.cid
                    ));
                } else if !is_as_sent(event, sent) {
                    verdict.differences += 1;
                    verdict.note(format!("the event at {seq} is not what was sent"));
                }
            }
            (Some(Ack::Noop), Some(event)) => {
                verdict.differences += 1;
                verdict.note(format!(
                    "nothing had to change, but {} was stored",
                    event.seq
                ));
            }
            (Some(_), None) => {
                verdict.lost += 1;
                verdict.note(format!(
                    "{} was acknowledged and is not in the archive",
                    sent.cid
                ));
            }
            (None, _) => {
                verdict.lost += 1;
                verdict.note(format!(
                    "{} of {} was never acknowledged",
                    sent.cid, sent.by
                ));
            }
        }
    }
}

fn is_as_sent(event: &Event, sent: &Sent) -> bool {
    match (&event.body, &sent.expected) {
        (EventBody::Msg(message), Expected::Said { text, reply_to }) => {
            message.text == *text && message.reply_to == *reply_to
        }
        (EventBody::Member { user, change, .. }, Expected::Joined) => {
            *user == sent.by && *change == MemberChange::Joined
        }
        (EventBody::Member { user, change, .. }, Expected::Left) => {
            *user == sent.by && *change == MemberChange::Left
        }
        (_, _) => false,
    }
}

/// What one sender wrote first comes first.
fn judge_order_of_senders(evidence: &Evidence, verdict: &mut Verdict) {
    let archive: BTreeMap<(&UserId, Cid), Seq> = evidence
        .archive
        .iter()
        .map(|event| ((&event.by, event.cid), event.seq))
        .collect();
    let mut last: BTreeMap<&UserId, Seq> = BTreeMap::new();
    for sent in &evidence.sent {
        let Some(seq) = archive.get(&(&sent.by, sent.cid)).copied() else {
            continue;
        };
        let last = last.entry(&sent.by).or_default();
        if seq < *last {
            verdict.out_of_order += 1;
            verdict.note(format!("{}: {seq} was sent after {last}", sent.by));
        }
        *last = (*last).max(seq);
    }
}

/// Every event of the archive, once, in its order, as it is in the archive.
fn judge_observer(
    evidence: &Evidence,
    number: usize,
    seen: &[(Seq, Fingerprint)],
    verdict: &mut Verdict,
) {
    let archive: BTreeMap<Seq, Fingerprint> = evidence
        .archive
        .iter()
        .map(|event| (event.seq, Fingerprint::of(event)))
        .collect();
    let mut delivered: BTreeMap<Seq, Fingerprint> = BTreeMap::new();
    let mut last = evidence.base;
    for (seq, fingerprint) in seen.iter().filter(|(seq, _)| *seq > evidence.base) {
        if delivered.insert(*seq, *fingerprint).is_some() {
            verdict.duplicated += 1;
            verdict.note(format!("observer {number}: {seq} came twice"));
        } else if *seq < last {
            verdict.out_of_order += 1;
            verdict.note(format!("observer {number}: {seq} came after {last}"));
        }
        last = last.max(*seq);
        match archive.get(seq) {
            Some(archived) if archived == fingerprint => {}
            Some(_) => {
                verdict.differences += 1;
                verdict.note(format!("observer {number}: {seq} differs from the archive"));
            }
            None => {
                verdict.differences += 1;
                verdict.note(format!("observer {number}: {seq} is not in the archive"));
            }
        }
    }
    let mut missing = archive
        .keys()
        .filter(|seq| !delivered.contains_key(seq))
        .peekable();
    while let Some(from) = missing.next() {
        let mut to = *from;
        while let Some(next) = missing.next_if(|next| **next == to.next()) {
            to = *next;
        }
        verdict.gaps += 1;
        verdict.note(format!("observer {number}: {from} to {to} never came"));
    }
}

fn count(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
