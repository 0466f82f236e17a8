//! Rooms as one user sees them, and pages of them.

use super::{Tables, Text, Texts};
use history::query::Terms;
use history::query::access::{Access, Verdict, judge};
use history::query::snapshots::{count_from, without_timeline};
use history::query::wire::WireEvent;
use history::store::page::Archived;
use history::store::room::RoomView;
use protocol::event::{EventBody, LogEvent, Message, RoomKind};
use protocol::frame::listing::DensePage;
use protocol::frame::{Page, RoomSnapshot, ThreadSummary, TimelineEntry};
use protocol::limits::PAGE_MAX;
use protocol::query::{ReadCounts, Viewer};
use protocol::room::Membership;
use protocol::{ErrorCode, Event, Refusal, RoomId, Seq, UserId};
use serde_json::value::RawValue;
use std::collections::BTreeSet;

impl Tables {
    fn view(&self, user: &UserId, room: &RoomId) -> Option<RoomView> {
        let membership = self.membership(room, user).map(|row| Membership {
            role: row.role,
            since: row.from_seq,
            join_n: row.join_n,
        });
        let mark = self.marks.get(&(user.clone(), room.clone())).copied();
        Some(RoomView {
            row: self.rooms.get(room)?.clone(),
            membership,
            ban: self.bans.get(&(room.clone(), user.clone())).copied(),
            mark: mark.unwrap_or_default(),
        })
    }

    /// The room, if the viewer may read it.
    pub(super) fn visible(&self, viewer: &Viewer, room: &RoomId, terms: Terms) -> Option<Access> {
        match judge(self.view(&viewer.user, room)?, viewer, terms.now) {
            Verdict::Visible(access) => Some(*access),
            Verdict::Hidden | Verdict::Poisoned => None,
        }
    }

    /// The same, or what its viewer is told.
    pub(super) fn access(
        &self,
        viewer: &Viewer,
        room: &RoomId,
        terms: Terms,
    ) -> Result<Access, Refusal> {
        self.visible(viewer, room, terms)
            .ok_or_else(|| Refusal::plain(ErrorCode::NotFound))
    }

    /// The rooms a user is in, latest activity first, the own one left out.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<RoomId> {
        let mine = self.rooms.values().filter(|row| {
            row.kind != Some(RoomKind::Own) && self.membership(&row.room, user).is_some()
        });
        let mut mine: Vec<_> = mine
            .map(|row| (row.head_stream, row.room.clone()))
            .collect();
        mine.sort_by(|a, b| b.cmp(a));
        mine.into_iter().map(|(_, room)| room).collect()
    }

    fn texts(&self, room: &RoomId) -> impl DoubleEndedIterator<Item = (&Seq, &Text)> {
        static NONE: Texts = Texts::new();
        self.texts.get(room).unwrap_or(&NONE).iter()
    }

    /// Unread, by the formula.
    pub(super) fn counts(&self, user: &UserId, access: &Access, mark: Option<Seq>) -> ReadCounts {
        let mut start = count_from(access);
        if let Some(mark) = mark {
            start.mark = mark.min(access.head());
        }
        let room = &start.room;
        let main = |(seq, text): &(&Seq, &Text)| text.message.n.is_some() && **seq <= start.mark;
        let last = self.texts(room).rfind(main);
        let floor = start.mark.max(start.since);
        let counts = |(seq, text): &(&Seq, &Text)| {
            **seq > floor
                && text.message.n.is_some()
                && text.deleted.is_none()
                && text.author != *user
        };
        let unread = self.texts(room).filter(counts);
        let mentions = self.texts(room).filter(counts);
        ReadCounts {
            read_n: last.and_then(|(_, text)| text.message.n).unwrap_or(0),
            unread: u32::try_from(unread.count()).expect("few messages"),
            mentions: u32::try_from(mentions.filter(|(_, text)| text.calls(user)).count())
                .expect("few messages"),
        }
    }

    /// A room's state, with the newest entries of its timeline if some are wanted.
    pub(super) fn snapshot(&self, viewer: &Viewer, access: &Access, timeline: u32) -> RoomSnapshot {
        let counts = self.counts(&viewer.user, access, None);
        let mark = count_from(access).mark;
        let own = access.view.row.kind == Some(RoomKind::Own);
        let tl = (timeline > 0 && !own).then(|| {
            let mut entries = self.entries(access, access.floor, access.head());
            let surplus = entries.len().saturating_sub(timeline as usize);
            entries.split_off(surplus)
        });
        RoomSnapshot {
            tl,
            ..without_timeline(access, mark, counts)
        }
    }

    /// The entries of a timeline between two seqs, both included.
    pub fn entries(&self, access: &Access, from: Seq, to: Seq) -> Vec<TimelineEntry> {
        let room = &access.view.row.room;
        let Some(events) = self.events.get(room) else {
            return Vec::new();
        };
        if from > to {
            return Vec::new();
        }
        let entry = |(seq, event): (&Seq, &super::Event)| match event.kind {
            "msg" => self.entry(room, *seq),
            "room" | "member" | "role" => LogEvent::parse(&event.line)
                .ok()
                .map(|logged| TimelineEntry::plain(logged.event)),
            _ => None,
        };
        events.range(from..=to).filter_map(entry).collect()
    }

    /// One message as it is shown.
    pub fn entry(&self, room: &RoomId, seq: Seq) -> Option<TimelineEntry> {
        let text = self.texts.get(room)?.get(&seq)?;
        let replies = self.texts(room);
        let live = replies
            .filter(|(_, reply)| reply.message.thread == Some(seq) && reply.deleted.is_none());
        let live: Vec<Seq> = live.map(|(seq, _)| *seq).collect();
        let deleted = text.deleted.is_some();
        let mut message = text.message.clone();
        if deleted {
            message = Message {
                text: String::new(),
                mentions: Vec::new(),
                meta: None,
                ..message
            };
        }
        let shown = (!deleted && text.shown_rev > 1).then_some(text.shown_rev);
        Some(TimelineEntry {
            event: Event {
                room: room.clone(),
                seq,
                ts: text.ts,
                by: text.author.clone(),
                cid: text.cid,
                body: EventBody::Msg(message),
            },
            rev: shown,
            edited: text.edited.filter(|_| shown.is_some()),
            deleted,
            summary: live.last().map(|last| ThreadSummary {
                count: live.len() as u64,
                last: *last,
            }),
        })
    }

    /// Whether replies in the thread of a message were removed.
    pub fn has_lost_replies(&self, room: &RoomId, root: Seq) -> bool {
        let mut texts = self.texts(room);
        texts.any(|(_, text)| text.message.thread == Some(root) && text.deleted.is_some())
    }

    /// A page of `history`, at the head or behind a seq.
    pub(super) fn page(
        &self,
        viewer: &Viewer,
        (room, after): (&RoomId, Option<Seq>),
        limit: u32,
        terms: Terms,
    ) -> Result<Page, Refusal> {
        let access = self.access(viewer, room, terms)?;
        let from = after.map_or(access.floor, |after| after.next().max(access.floor));
        let mut events = self.entries(&access, from, access.head());
        let limit = limit as usize;
        let more = events.len() > limit;
        if after.is_some() {
            events.truncate(limit);
        } else {
            events = events.split_off(events.len().saturating_sub(limit));
        }
        Ok(Page {
            events,
            at: access.head(),
            more,
            head: access.head(),
        })
    }

    /// A page of `history` with `all`, behind a seq.
    pub(super) fn dense(
        &self,
        viewer: &Viewer,
        (room, after): (&RoomId, Seq),
        limit: u32,
        terms: Terms,
    ) -> Result<DensePage, Refusal> {
        let access = self.access(viewer, room, terms)?;
        let from = after.next().max(access.floor);
        let mut found = self.archived(room, from, access.head());
        let limit = limit.min(PAGE_MAX) as usize;
        let mut bytes = 0;
        let fitting = found.iter().take(limit).take_while(|event| {
            bytes += event.line.len() + 1;
            bytes <= terms.bytes_max
        });
        let fitting = fitting.count().max(1).min(found.len());
        let more = found.len() > fitting;
        found.truncate(fitting);
        Ok(DensePage {
            events: self.written(found),
            at: access.head(),
            more,
            head: access.head(),
        })
    }

    /// The events of a room between two seqs, both included.
    pub(super) fn archived(&self, room: &RoomId, from: Seq, to: Seq) -> Vec<Archived> {
        let Some(events) = self.events.get(room).filter(|_| from <= to) else {
            return Vec::new();
        };
        let archived = |(seq, event): (&Seq, &super::Event)| Archived {
            room: room.clone(),
            seq: *seq,
            position: event.position,
            line: event.line.clone(),
        };
        events.range(from..=to).map(archived).collect()
    }

    /// Events as they go to a client, those of removed messages blanked.
    pub(super) fn written(&self, events: Vec<Archived>) -> Vec<Box<RawValue>> {
        let events: Vec<WireEvent> = events.into_iter().map(WireEvent::new).collect();
        let is_removed = |room: &RoomId, seq: Seq| {
            let text = self.texts.get(room).and_then(|texts| texts.get(&seq));
            text.is_some_and(|text| text.deleted.is_some())
        };
        let messages = events.iter().filter_map(|event| {
            let seq = event.message()?;
            is_removed(&event.room, seq).then(|| (event.room.clone(), seq))
        });
        let removed: BTreeSet<(RoomId, Seq)> = messages.collect();
        let written = events.into_iter().map(|event| event.write(&removed));
        written.collect()
    }
}
