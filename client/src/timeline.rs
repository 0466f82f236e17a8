//! The messages of one room as they are shown now: a bounded window, newest kept.
//!
//! Pure. Events arrive in order (that is [`crate::rooms`]' matter), pages in any order. An entry
//! knows the seq it is a state of, so a page that is newer than an event wins, and the other way
//! round. A client's own pending commands are laid over it by [`view`], not stored in it.

use crate::outbox::Entry;
use protocol::command::Write;
use protocol::event::{Event, EventBody, SeqRange};
use protocol::frame::{ThreadSummary, TimelineEntry};
use protocol::{Cid, Refusal, Seq, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Entries kept per room; older ones are dropped and come again from `history`.
pub const ENTRIES_MAX: usize = 500;

/// An entry and the seq it is a state of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The message, or the member, role or room event.
    pub entry: TimelineEntry,
    /// Events up to this seq are already in it.
    pub as_of: Seq,
}

/// The window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    entries: BTreeMap<Seq, Shown>,
}

impl Timeline {
    /// Goes on with what a store held.
    #[must_use]
    pub fn restore(entries: Vec<Shown>) -> Self {
        let entries = entries
            .into_iter()
            .map(|shown| (shown.entry.event.seq, shown))
            .collect();
        Self { entries }
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Shown> {
        self.entries.values()
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, seq: Seq) -> Option<&Shown> {
        self.entries.get(&seq)
    }

    /// Folds the next event of the room; the entries that changed.
    pub fn apply(&mut self, event: &Event) -> Vec<Shown> {
        match &event.body {
            EventBody::Msg(message) => {
                let mut changed = self.insert(TimelineEntry::plain(event.clone()), event.seq);
                if let Some(root) = message.thread {
                    let reply = |entry: &mut TimelineEntry| {
                        let count = entry.summary.map_or(0, |summary| summary.count) + 1;
                        entry.summary = Some(ThreadSummary {
                            count,
                            last: event.seq,
                        });
                    };
                    changed.extend(self.change(root, event.seq, reply));
                }
                changed
            }
            EventBody::Room { .. } | EventBody::Member { .. } | EventBody::Role { .. } => {
                self.insert(TimelineEntry::plain(event.clone()), event.seq)
            }
            EventBody::Edit {
                on,
                rev,
                text,
                mentions,
                won: true,
                ..
            } => {
                let edit = |entry: &mut TimelineEntry| {
                    if entry.deleted {
                        return;
                    }
                    if let EventBody::Msg(message) = &mut entry.event.body {
                        message.text.clone_from(text);
                        message.mentions.clone_from(mentions);
                    }
                    (entry.rev, entry.edited) = (Some(*rev), Some(event.ts));
                };
                self.change(*on, event.seq, edit).into_iter().collect()
            }
            EventBody::Del { on, user, to, .. } => {
                self.delete(event.seq, on, user.as_ref().zip(*to))
            }
            EventBody::Edit { won: false, .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => Vec::new(),
        }
    }

    /// Takes entries in their state as of `at`; those that changed.
    pub fn load(&mut self, entries: Vec<TimelineEntry>, at: Seq) -> Vec<Shown> {
        let newer = |timeline: &Self, entry: &TimelineEntry| {
            timeline
                .entries
                .get(&entry.event.seq)
                .is_none_or(|shown| shown.as_of < at)
        };
        let mut changed = Vec::new();
        for entry in entries {
            if newer(self, &entry) {
                changed.extend(self.insert(entry, at));
            }
        }
        changed
    }

    /// Drops what is known to be stale, or unknown to be fresh.
    pub fn forget(&mut self, range: SeqRange) {
        self.entries.retain(|seq, _| !range.contains(*seq));
    }

    fn insert(&mut self, entry: TimelineEntry, as_of: Seq) -> Vec<Shown> {
        let shown = Shown { entry, as_of };
        self.entries.insert(shown.entry.event.seq, shown.clone());
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_first();
        }
        vec![shown]
    }

    fn change(
        &mut self,
        on: Seq,
        seq: Seq,
        change: impl FnOnce(&mut TimelineEntry),
    ) -> Option<Shown> {
        let shown = self.entries.get_mut(&on)?;
        if shown.as_of >= seq {
            return None;
        }
        change(&mut shown.entry);
        shown.as_of = seq;
        Some(shown.clone())
    }

    fn delete(&mut self, seq: Seq, on: &[SeqRange], by: Option<(&UserId, Seq)>) -> Vec<Shown> {
        let (mut changed, mut replies) = (Vec::new(), Vec::new());
        for shown in self.entries.values_mut() {
            let event = &mut shown.entry.event;
            let meant = on.iter().any(|range| range.contains(event.seq))
                || by.is_some_and(|(user, to)| event.by == *user && event.seq <= to);
            let EventBody::Msg(message) = &mut event.body else {
                continue;
            };
            if meant && shown.as_of < seq {
                message.text.clear();
                message.mentions.clear();
                message.meta = None;
                if !shown.entry.deleted {
                    replies.extend(message.thread);
                }
                shown.entry.deleted = true;
                (shown.entry.rev, shown.entry.edited) = (None, None);
                shown.as_of = seq;
                changed.push(shown.clone());
            }
        }
        for root in replies {
            changed.extend(self.lose_reply(root, seq));
        }
        changed
    }

    /// A reply that is held here was removed: its root counts one less. Replies that are not held are
    /// not known to be removed; a page brings their roots' counts.
    fn lose_reply(&mut self, root: Seq, seq: Seq) -> Option<Shown> {
        let of_root = |shown: &&Shown| {
            matches!(&shown.entry.event.body,
                EventBody::Msg(message) if message.thread == Some(root) && !shown.entry.deleted)
        };
        let last = self.entries().rev().find(of_root);
        let last = last.map(|shown| shown.entry.event.seq);
        let shown = self.entries.get_mut(&root)?;
        let summary = shown.entry.summary.as_mut()?;
        summary.count = summary.count.saturating_sub(1);
        summary.last = last.unwrap_or(summary.last);
        if summary.count == 0 {
            shown.entry.summary = None;
        }
        shown.as_of = shown.as_of.max(seq);
        Some(shown.clone())
    }
}

/// A line of a room as the user should see it: what is stored, and what is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// In the log; `pending` if an edit or deletion of it by this client is on its way and shown.
    Stored {
        /// The entry, with the pending change laid over.
        entry: Box<TimelineEntry>,
        /// Whether something was laid over.
        pending: bool,
    },
    /// A message of this client that has no seq yet.
    Pending {
        /// Its name.
        cid: Cid,
        /// Its text.
        text: String,
        /// The message it answers.
        reply_to: Option<Seq>,
        /// Why it will never be stored, if so.
        failed: Option<Refusal>,
    },
}

/// Lays the pending commands of this room over its timeline.
#[must_use]
pub fn view<'a, I: Iterator<Item = &'a Entry>>(timeline: &Timeline, pending: I) -> Vec<Line> {
    let mut stored: BTreeMap<Seq, (TimelineEntry, bool)> = timeline
        .entries()
        .map(|shown| (shown.entry.event.seq, (shown.entry.clone(), false)))
        .collect();
    let mut own = Vec::new();
    for command in pending {
        match (&command.write, &command.failed) {
            (Write::Send(send), failed) => {
                // The event may come before the answer.
                if !stored
                    .values()
                    .any(|(entry, _)| entry.event.cid == command.cid)
                {
                    own.push(Line::Pending {
                        cid: command.cid,
                        text: send.text.clone(),
                        reply_to: send.reply_to,
                        failed: failed.clone(),
                    });
                }
            }
            (Write::Edit { on, text, .. }, None) => {
                if let Some((entry, pending)) = stored.get_mut(on)
                    && let EventBody::Msg(message) = &mut entry.event.body
                {
                    message.text.clone_from(text);
                    *pending = true;
                }
            }
            (Write::Del { on: Some(on), .. }, None) => {
                let ranges = on.ranges();
                for (seq, (entry, pending)) in &mut stored {
                    if ranges.iter().any(|range| range.contains(*seq)) {
                        (entry.deleted, *pending) = (true, true);
                    }
                }
            }
            (_, _) => {}
        }
    }
    let stored = stored.into_values().map(|(entry, pending)| Line::Stored {
        entry: Box::new(entry),
        pending,
    });
    stored.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cid::CidClock;
    use protocol::command::{DeleteTarget, Send};
    use protocol::{RoomId, Timestamp};

    fn event(seq: u64, rest: &str) -> Event {
        let cid = Cid::from_parts(seq, [0; 10]);
        let json =
            format!(r#"{{"room":"r1","seq":{seq},"ts":{seq},"by":"alice","cid":"{cid}",{rest}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn message(seq: u64, text: &str) -> Event {
        event(seq, &format!(r#""ev":"msg","text":"{text}","n":{seq}"#))
    }

    fn texts(timeline: &Timeline) -> Vec<String> {
        let show = |shown: &Shown| match &shown.entry.event.body {
            EventBody::Msg(message) if !shown.entry.deleted => message.text.clone(),
            EventBody::Msg(_) => "-".to_owned(),
            other => other.kind().to_owned(),
        };
        timeline.entries().map(show).collect()
    }

    #[test]
    fn edits_and_deletions_show_and_a_lost_edit_does_not() {
        let mut timeline = Timeline::default();
        for one in [
            message(1, "a"),
            message(2, "b"),
            event(
                3,
                r#""ev":"edit","on":1,"rev":2,"text":"A","won":true,"eff":3"#,
            ),
            event(
                4,
                r#""ev":"edit","on":1,"rev":3,"text":"?","won":false,"eff":1"#,
            ),
            event(5, r#""ev":"del","on":[[2,2]]"#),
            event(
                6,
                r#""ev":"edit","on":2,"rev":2,"text":"B","won":true,"eff":6"#,
            ),
        ] {
            timeline.apply(&one);
        }
        assert_eq!(texts(&timeline), ["A", "-"]);
    }

    #[test]
    fn all_messages_of_a_user_up_to_a_seq_can_be_removed() {
        let mut timeline = Timeline::default();
        for seq in 1..=3 {
            timeline.apply(&message(seq, "x"));
        }
        timeline.apply(&event(4, r#""ev":"del","user":"alice","to":2"#));
        assert_eq!(texts(&timeline), ["-", "-", "x"]);
    }

    #[test]
    fn events_that_a_page_has_seen_are_not_applied_again() {
        let mut timeline = Timeline::default();
        let mut entry = TimelineEntry::plain(message(1, "third"));
        (entry.rev, entry.edited) = (Some(3), Some(Timestamp(9)));
        timeline.load(vec![entry], Seq(9));
        timeline.apply(&event(
            8,
            r#""ev":"edit","on":1,"rev":2,"text":"second","won":true,"eff":8"#,
        ));
        assert_eq!(texts(&timeline), ["third"]);
        timeline.load(vec![TimelineEntry::plain(message(1, "first"))], Seq(5));
        assert_eq!(texts(&timeline), ["third"], "an older page changes nothing");
    }

    #[test]
    fn a_thread_reply_counts_on_its_root() {
        let mut timeline = Timeline::default();
        timeline.apply(&message(1, "root"));
        timeline.apply(&event(2, r#""ev":"msg","text":"r","thread":1,"tn":1"#));
        let summary = timeline.get(Seq(1)).unwrap().entry.summary;
        assert_eq!(
            summary,
            Some(ThreadSummary {
                count: 1,
                last: Seq(2)
            })
        );
    }

    #[test]
    fn a_removed_root_keeps_its_thread_and_a_removed_reply_leaves_it() {
        let mut timeline = Timeline::default();
        timeline.apply(&message(1, "root"));
        timeline.apply(&event(2, r#""ev":"msg","text":"r","thread":1,"tn":1"#));
        timeline.apply(&event(3, r#""ev":"del","on":[[1,1]]"#));
        timeline.apply(&event(4, r#""ev":"msg","text":"s","thread":1,"tn":2"#));
        let summary = |timeline: &Timeline| {
            let summary = timeline.get(Seq(1)).unwrap().entry.summary;
            summary.map(|summary| (summary.count, summary.last.0))
        };
        assert_eq!(summary(&timeline), Some((2, 4)));
        timeline.apply(&event(5, r#""ev":"del","on":[[4,4]]"#));
        assert_eq!(summary(&timeline), Some((1, 2)));
        timeline.apply(&event(6, r#""ev":"del","on":[[1,4]]"#));
        assert_eq!(summary(&timeline), None);
    }

    #[test]
    fn a_removed_message_was_never_edited() {
        let mut timeline = Timeline::default();
        timeline.apply(&message(1, "a"));
        timeline.apply(&event(
            2,
            r#""ev":"edit","on":1,"rev":2,"text":"b","won":true,"eff":2"#,
        ));
        timeline.apply(&event(3, r#""ev":"del","on":[[1,1]]"#));
        let entry = &timeline.get(Seq(1)).unwrap().entry;
        assert_eq!((entry.deleted, entry.rev, entry.edited), (true, None, None));
    }

    #[test]
    fn the_window_is_bounded_and_keeps_the_newest() {
        let mut timeline = Timeline::default();
        for seq in 1..=700 {
            timeline.apply(&message(seq, "x"));
        }
        assert_eq!(timeline.entries().count(), ENTRIES_MAX);
        assert!(timeline.get(Seq(700)).is_some());
    }

    #[test]
    fn own_pending_commands_show_at_once_and_a_message_never_twice() {
        let mut timeline = Timeline::default();
        timeline.apply(&message(1, "old"));
        timeline.apply(&message(2, "gone"));
        let mut cids = CidClock::default();
        let mut entry = |position, write| Entry {
            position,
            cid: cids.next(Timestamp(99), [0; 8]),
            room: RoomId::parse("r1").ok(),
            write,
            failed: None,
        };
        let send = |text: &str| {
            Write::Send(Send {
                text: text.to_owned(),
                ..Send::default()
            })
        };
        let edit = Write::Edit {
            on: Seq(1),
            base: 1,
            text: "new".to_owned(),
            mentions: vec![],
        };
        let on = Some(DeleteTarget::One(Seq(2)));
        let del = Write::Del {
            on,
            user: None,
            to: None,
            why: None,
        };
        let mut echoed = entry(4, send("echoed"));
        echoed.cid = Cid::from_parts(3, [0; 10]);
        let pending = [
            entry(1, edit),
            entry(2, del),
            entry(3, send("mine")),
            echoed,
        ];
        timeline.apply(&message(3, "echoed"));
        let lines = view(&timeline, pending.iter());
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(matches!(&lines[0], Line::Stored { entry, pending: true }
            if matches!(&entry.event.body, EventBody::Msg(m) if m.text == "new")));
        assert!(matches!(&lines[1], Line::Stored { entry, pending: true } if entry.deleted));
        assert!(matches!(&lines[2], Line::Stored { pending: false, .. }));
        assert!(matches!(&lines[3], Line::Pending { text, .. } if text == "mine"));
    }
}
