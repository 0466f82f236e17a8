//! History's tables in memory: the real projector's rows, written as the SQL writes them.
//!
//! One writer applies the log exactly once; every answer is read as of one cursor.

pub mod answers;
mod catch_up;
mod rooms;

use super::faults::Fault;
use super::stream::Stream;
use history::projector::rows::{DeletionRow, MembershipRow, RevisionRow, RoomRow, Rows};
use history::projector::{Base, Gap, needs, project};
use history::record::Record;
use protocol::event::{Mention, Message};
use protocol::query::CidKey;
use protocol::room::{Mark, Restriction};
use protocol::{Cid, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// A row of `events`.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its record.
    pub position: StreamSeq,
    /// The word for its kind.
    pub kind: &'static str,
    /// The line to the byte.
    pub line: String,
}

/// A row of `messages`.
#[derive(Clone, Debug)]
pub struct Text {
    /// Who wrote it.
    pub author: UserId,
    /// When it was ordered.
    pub ts: Timestamp,
    /// Its command.
    pub cid: Cid,
    /// What it says now, and its ordinals.
    pub message: Message,
    /// The greatest revision.
    pub rev: u32,
    /// The one that is shown.
    pub shown_rev: u32,
    /// Effective time of that.
    pub eff: Timestamp,
    /// When it was made.
    pub edited: Option<Timestamp>,
    /// The event that removed it.
    pub deleted: Option<Seq>,
    /// Replies ever sent in its thread.
    pub replies: u64,
}

/// One room's messages.
pub type Texts = BTreeMap<Seq, Text>;

/// The tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// The cursor.
    pub applied: StreamSeq,
    /// The table `rooms`.
    pub rooms: BTreeMap<RoomId, RoomRow>,
    /// The table `memberships`.
    pub memberships: BTreeMap<(RoomId, UserId, Seq), MembershipRow>,
    /// The table `events`.
    pub events: BTreeMap<RoomId, BTreeMap<Seq, Event>>,
    /// The table `messages`.
    pub texts: BTreeMap<RoomId, Texts>,
    /// The table `marks`.
    pub marks: BTreeMap<(UserId, RoomId), Mark>,
    /// The table `bans`.
    pub bans: BTreeMap<(RoomId, UserId), Restriction>,
    mutes: BTreeMap<(RoomId, UserId), Restriction>,
    users: BTreeSet<UserId>,
    /// The unique index of commands, with the first event of each.
    commands: BTreeMap<CidKey, Seq>,
    /// Rooms by the stream sequences of their records.
    lines: BTreeMap<StreamSeq, Vec<String>>,
}

impl Tables {
    /// Applies `count` records from `from` on, in one transaction; false if they do not follow.
    ///
    /// # Errors
    /// The projector found something that it could not apply.
    pub fn apply(
        &mut self,
        stream: &Stream,
        (from, count): (StreamSeq, usize),
        fault: Option<Fault>,
    ) -> Result<bool, String> {
        let from = usize::try_from(from.0.max(1) - 1).expect("memory holds it");
        let batch = stream.records.iter().skip(from).take(count);
        let batch: Vec<Record> = batch.map(|stored| stored.parsed.clone()).collect();
        let Some(first) = batch.first() else {
            return Ok(true);
        };
        let mut base = self.base(&batch);
        let again = fault == Some(Fault::AppliedTwice) && first.position <= self.applied;
        let over = fault == Some(Fault::RecordSkipped) && first.position > self.applied;
        if again || over {
            // The rule "exactly the next one" is undone.
            base.applied = first.position.before();
        }
        match project(base, &batch) {
            Ok(rows) => {
                if let Some(poisoned) = rows.poisoned.first() {
                    return Err(format!("history calls it poison: {poisoned:?}"));
                }
                self.write(&rows);
                Ok(true)
            }
            Err(Gap { .. }) => Ok(false),
        }
    }

    /// Everything that the log has.
    ///
    /// # Errors
    /// The projector found something that it could not apply.
    pub fn apply_all(&mut self, stream: &Stream, fault: Option<Fault>) -> Result<(), String> {
        self.apply(stream, (self.applied.next(), usize::MAX), fault)
            .map(drop)
    }

    fn base(&self, batch: &[Record]) -> Base {
        let needs = needs(batch);
        let rooms = needs.rooms.iter();
        let rooms = rooms.filter_map(|room| Some((room.clone(), self.rooms.get(room)?.clone())));
        let mut base = Base {
            applied: self.applied,
            rooms: rooms.collect(),
            ..Base::default()
        };
        for (room, user) in &needs.members {
            if let Some(open) = self.membership(room, user) {
                let members = base.members.entry(room.clone()).or_default();
                members.insert(user.clone(), open.clone());
            }
        }
        // Looked up at once: the real store does so only after its constraint has spoken.
        let keys = batch.iter().flat_map(Record::lines).filter_map(|line| {
            let event = &line.event.as_ref().ok()?.event;
            Some(CidKey {
                room: event.room.clone(),
                author: event.by.clone(),
                cid: event.cid,
            })
        });
        let stored = keys.filter(|key| self.commands.contains_key(key));
        base.repeated = Some(stored.collect());
        base
    }

    /// The membership that lasts.
    pub fn membership(&self, room: &RoomId, user: &UserId) -> Option<&MembershipRow> {
        let (from, to) = (Seq(0), Seq(u64::MAX));
        let of = |seq| (room.clone(), user.clone(), seq);
        let rows = self.memberships.range(of(from)..=of(to));
        rows.map(|(_, row)| row).find(|row| row.to.is_none())
    }

    /// In the order of `history::store::write::rows`.
    fn write(&mut self, rows: &Rows<'_>) {
        self.applied = rows.applied;
        for record in &rows.records {
            self.lines.entry(record.position).or_default();
        }
        for room in &rows.rooms {
            self.rooms.insert(room.room.clone(), room.clone());
        }
        self.write_events(rows);
        self.write_messages(rows);
        let memberships = rows.memberships.iter();
        let memberships = memberships.map(|(key, row)| (key.clone(), row.clone()));
        self.memberships.extend(memberships);
        self.users.extend(rows.users.keys().cloned());
        for (key, row) in &rows.bans {
            let ban = row.as_ref().map(|row| (row.since, row.until));
            restrict(&mut self.bans, key, ban);
        }
        for (key, row) in &rows.mutes {
            let mute = row.as_ref().map(|row| (row.since, row.until));
            restrict(&mut self.mutes, key, mute);
        }
        for (key, mark) in &rows.marks {
            let old = self.marks.entry(key.clone()).or_default();
            *old = (*old).max(*mark);
        }
        for ((room, root), tn) in &rows.threads {
            if let Some(text) = self.text(room, *root) {
                text.replies = text.replies.max(*tn);
            }
        }
        rows.revisions.iter().for_each(|row| self.edit(row));
        rows.deletions.iter().for_each(|row| self.delete(row));
    }

    fn write_events(&mut self, rows: &Rows<'_>) {
        for row in &rows.events {
            if let (true, Some(author), Some(cid)) = (row.first, &row.author, row.cid) {
                let key = CidKey {
                    room: row.room.clone(),
                    author: author.clone(),
                    cid,
                };
                self.commands.insert(key, row.seq);
            }
            let lines = self.lines.entry(row.position).or_default();
            lines.push(row.line.to_owned());
            let event = Event {
                position: row.position,
                kind: row.kind,
                line: row.line.to_owned(),
            };
            let events = self.events.entry(row.room.clone()).or_default();
            events.insert(row.seq, event);
        }
    }

    fn write_messages(&mut self, rows: &Rows<'_>) {
        for row in &rows.messages {
            let text = Text {
                author: row.author.clone(),
                ts: row.ts,
                cid: row.cid,
                message: Message {
                    text: row.text.to_owned(),
                    reply_to: row.reply_to,
                    thread: row.thread,
                    mentions: row.mentions.to_vec(),
                    n: row.n,
                    tn: row.tn,
                    ..Message::default()
                },
                rev: 1,
                shown_rev: 1,
                eff: row.ts,
                edited: None,
                deleted: None,
                replies: 0,
            };
            let texts = self.texts.entry(row.room.clone()).or_default();
            texts.insert(row.seq, text);
        }
    }

    fn text(&mut self, room: &RoomId, seq: Seq) -> Option<&mut Text> {
        self.texts.get_mut(room)?.get_mut(&seq)
    }

    fn edit(&mut self, row: &RevisionRow<'_>) {
        let Some(text) = self.text(&row.room, row.on) else {
            return;
        };
        text.rev = text.rev.max(row.rev);
        if row.won {
            text.shown_rev = row.rev;
            text.eff = row.eff;
            text.edited = Some(row.ts);
            row.text.clone_into(&mut text.message.text);
            text.message.mentions = row.mentions.to_vec();
        }
    }

    fn delete(&mut self, row: &DeletionRow) {
        let to = row.to.min(row.seq.before());
        let Some(texts) = self.texts.get_mut(&row.room) else {
            return;
        };
        if row.from > to {
            return;
        }
        for text in texts.range_mut(row.from..=to).map(|(_, text)| text) {
            let meant = row.author.as_ref().is_none_or(|who| *who == text.author);
            if meant {
                text.deleted.get_or_insert(row.seq);
            }
        }
    }
}

impl Text {
    /// Whether its text calls a user.
    pub fn calls(&self, user: &UserId) -> bool {
        self.message.mentions.iter().any(|mention| match mention {
            Mention::User(called) => called == user,
            Mention::Room => true,
            Mention::Here => false,
        })
    }
}

fn restrict(
    table: &mut BTreeMap<(RoomId, UserId), Restriction>,
    key: &(RoomId, UserId),
    row: Option<(Seq, Option<Timestamp>)>,
) {
    match row {
        Some((since, until)) => {
            table.insert(key.clone(), Restriction { since, until });
        }
        None => {
            table.remove(key);
        }
    }
}
