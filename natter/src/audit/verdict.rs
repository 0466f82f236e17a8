//! What was found: a counter for each promise, and the first complaints in words.

use std::collections::BTreeMap;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// Complaints of one kind that are kept in words; the rest is only counted.
const NOTES_MAX: u64 = 5;

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Acknowledged, and not in the archive, or not seen by a member who watched.
    Lost,
    /// Stored or delivered twice.
    Duplicated,
    /// One command with two positions.
    TwoSeqs,
    /// A position that is left out.
    Gaps,
    /// Two who watch were shown different things at one position.
    Disagree,
    /// Stored or delivered in another order.
    Disorder,
    /// Refused for good, and stored.
    RefusedButStored,
    /// Written, or seen, by somebody who was no member at that position.
    BehindFence,
    /// The archive is not what was sent, acknowledged, shown or logged.
    ArchiveDiffers,
    /// History counts another number of unread messages than the archive has.
    UnreadDiffers,
    /// No final answer came.
    Stuck,
}

impl Fault {
    /// Every fault, in the order of reports.
    pub(crate) const ALL: [Self; 11] = [
        Self::Lost,
        Self::Duplicated,
        Self::TwoSeqs,
        Self::Gaps,
        Self::Disagree,
        Self::Disorder,
        Self::RefusedButStored,
        Self::BehindFence,
        Self::ArchiveDiffers,
        Self::UnreadDiffers,
        Self::Stuck,
    ];

    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::TwoSeqs => "two_seqs",
            Self::Gaps => "gaps",
            Self::Disagree => "disagree",
            Self::Disorder => "disorder",
            Self::RefusedButStored => "refused_but_stored",
            Self::BehindFence => "behind_fence",
            Self::ArchiveDiffers => "archive_differs",
            Self::UnreadDiffers => "unread_differs",
            Self::Stuck => "stuck",
        }
    }
}

/// The counters alone, every one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters(BTreeMap<Fault, u64>);

impl Counters {
    /// How often this was found.
    pub(crate) fn get(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or_default()
    }

    fn add(&mut self, fault: Fault, count: u64) -> u64 {
        let counter = self.0.entry(fault).or_default();
        *counter += count;
        *counter
    }
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Fault::ALL.len()))?;
        for fault in Fault::ALL {
            map.serialize_entry(fault.name(), &self.get(fault))?;
        }
        map.end()
    }
}

/// What was found about one room, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    room: String,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// Commands whose event is in the archive.
    pub(crate) stored: u64,
    /// Events of the archive, those that no command of the run made included.
    pub(crate) events: u64,
    /// Events given to those who watch.
    pub(crate) received: u64,
    pub(crate) counters: Counters,
    /// The first complaints of each kind in words.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    /// Nothing found yet about this room.
    pub(crate) fn of_room(room: &str) -> Self {
        Self {
            room: room.to_owned(),
            ..Self::default()
        }
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        Fault::ALL
            .iter()
            .all(|fault| self.counters.get(*fault) == 0)
    }

    /// Adds the findings about another room.
    pub(crate) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.stored += other.stored;
        self.events += other.events;
        self.received += other.received;
        for (fault, count) in other.counters.0 {
            self.counters.add(fault, count);
        }
        self.notes.extend(other.notes);
    }

    /// Counts a fault.
    pub(crate) fn complain(&mut self, fault: Fault, what: impl FnOnce() -> String) {
        if self.counters.add(fault, 1) <= NOTES_MAX {
            self.notes
                .push(format!("{} {}: {}", fault.name(), self.room, what()));
        }
    }
}

pub(super) fn count(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}
