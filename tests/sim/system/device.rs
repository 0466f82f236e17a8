//! One device: the real client core over a store, and what its application has seen.
//!
//! What is shown is judged as it comes: dense, in order, once, and as the log has it.

use super::faults::Fault;
use super::stream::Stream;
use client::change::{Change, Saved};
use client::connection::LinkId;
use client::core::{Core, CoreConfig, Output};
use client::outbox::Entry;
use client::{Delivery, Follow, Store, Update};
use protocol::command::{Send, Write};
use protocol::cursor::Cursor;
use protocol::event::EventBody;
use protocol::frame::Window;
use protocol::request::Accepted;
use protocol::{Cid, Event, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::BTreeMap;

/// Where a device dies while it does what its core says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Nothing of it is stored or done.
    BeforeStoring,
    /// Everything is stored, nothing else is done.
    AfterStoring,
}

/// A message that a device was asked to send.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where.
    pub room: RoomId,
    /// What; unlike any other's.
    pub text: String,
    /// Its name now.
    pub cid: Cid,
    /// Whether it is durable on this side.
    pub saved: bool,
    /// Whether it is noted there that it was refused.
    pub failed: bool,
    /// Whether it got a new name, and with it perhaps another place.
    pub renamed: bool,
    /// What the application was told at last.
    pub told: Option<Result<Accepted, protocol::ErrorCode>>,
}

/// What happened, for judging whether a run was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events shown.
    pub shown: u64,
    /// Rooms that were skipped over.
    pub skips: u64,
    /// Commands acknowledged.
    pub acked: u64,
    /// Of them as repeats.
    pub repeats: u64,
    /// Commands refused for good.
    pub refused: u64,
    /// Resumes from a cursor.
    pub resumes: u64,
    /// Conversations that had to begin anew although there was a cursor.
    pub anew: u64,
    /// Lives after the first.
    pub restarts: u64,
    /// Rooms that ended for their user.
    pub gone: u64,
    /// Times that a socket was told that it lags.
    pub lagged: u64,
    /// Holes that nobody would fill.
    pub missing: u64,
    /// Reads that had to see what their asker was told.
    pub reads: u64,
}

/// One device of one user.
pub struct Device {
    /// Whose.
    pub user: UserId,
    /// How closely it follows.
    pub follow: Follow,
    /// Its clock, compared with true time.
    pub clock_offset_ms: i64,
    /// The core; `None` while the process is down.
    pub core: Option<Core>,
    /// What survives.
    pub store: Store,
    /// Where it dies next.
    pub dies: Option<Death>,
    /// The last event shown, by room.
    pub seen: BTreeMap<RoomId, Seq>,
    /// Messages it was asked to send, in order.
    pub asked: Vec<Asked>,
    /// Its own messages in the log.
    pub own: Vec<(RoomId, Seq)>,
    /// What was acknowledged last on each link, by room.
    pub acked: BTreeMap<RoomId, Seq>,
    /// Questions on their way, and the seqs that their answers must hold.
    pub reads: BTreeMap<u64, (RoomId, Seq)>,
    /// What happened.
    pub counts: Counts,
    saved_last: BTreeMap<RoomId, Seq>,
    cursor: StreamSeq,
    /// The cursor of the youngest hello.
    opened_with: StreamSeq,
    next: u64,
    fault: Option<Fault>,
}

impl Device {
    /// A device that was never started.
    pub fn new(user: UserId, follow: Follow, fault: Option<Fault>) -> Self {
        Self {
            user,
            follow,
            clock_offset_ms: 0,
            core: None,
            store: Store::memory(),
            dies: None,
            seen: BTreeMap::new(),
            asked: Vec::new(),
            own: Vec::new(),
            acked: BTreeMap::new(),
            reads: BTreeMap::new(),
            counts: Counts::default(),
            saved_last: BTreeMap::new(),
            cursor: StreamSeq(0),
            opened_with: StreamSeq(0),
            next: 0,
            fault,
        }
    }

    /// Its clock.
    pub fn now(&self, now_ms: i64) -> Timestamp {
        Timestamp(now_ms + self.clock_offset_ms)
    }

    /// A new process over the same store.
    pub fn start(&mut self, now_ms: i64, seed: u64) {
        let mut saved = self.store.load().expect("memory can be read");
        if self.fault == Some(Fault::NewCids) {
            rename(&mut saved, seed);
        }
        let config = CoreConfig {
            app: None,
            window: Window { rooms: 10, tl: 5 },
            follow: self.follow,
        };
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        self.core = Some(Core::new(config, saved, bytes, self.now(now_ms)));
    }

    /// The process is gone; what was not stored is forgotten.
    pub fn stop(&mut self) {
        self.core = None;
        self.acked.clear();
        self.reads.clear();
        self.counts.restarts += 1;
    }

    /// Sends a message that is unlike any other.
    pub fn say(&mut self, now_ms: i64, name: &str, room: &RoomId, send: Send) {
        let text = format!("{name}-{} {}", self.next, send.text);
        self.next += 1;
        let write = Write::Send(Send {
            text: text.clone(),
            ..send
        });
        let now = self.now(now_ms);
        let Some(core) = &mut self.core else { return };
        if let Ok(cid) = core.submit(Some(room.clone()), write, now) {
            self.asked.push(Asked {
                room: room.clone(),
                text,
                cid,
                saved: false,
                failed: false,
                renamed: false,
                told: None,
            });
        }
    }

    /// Does what the core says, storing first; what is left is the world's.
    ///
    /// # Errors
    /// The application is shown something that is not so.
    pub fn act(&mut self, stream: &Stream) -> Result<Vec<Output>, String> {
        let Some(core) = &mut self.core else {
            return Ok(Vec::new());
        };
        let outputs: Vec<Output> = std::iter::from_fn(|| core.poll_output()).collect();
        if outputs.is_empty() {
            return Ok(outputs);
        }
        let dies = self.dies.take();
        let mut changes: Vec<Change> = Vec::new();
        for output in &outputs {
            if let Output::Save(change) = output {
                changes.push(change.clone());
            }
        }
        if self.fault == Some(Fault::SentIsStored) {
            let sent = outputs.iter().any(|o| matches!(o, Output::Transmit { .. }));
            let sent = self.waiting().into_iter().filter(|_| sent);
            changes.extend(sent.map(|entry| Change::OutboxRemove(entry.position)));
        }
        if dies == Some(Death::BeforeStoring) {
            if self.fault == Some(Fault::CursorFirst) {
                changes.retain(|change| matches!(change, Change::Cursor(_)));
                self.store.apply(&changes).expect("memory can be written");
            }
            self.stop();
            return Ok(Vec::new());
        }
        self.store.apply(&changes).expect("memory can be written");
        for output in &outputs {
            self.see(output, stream)?;
        }
        if dies == Some(Death::AfterStoring) {
            self.stop();
            return Ok(Vec::new());
        }
        Ok(outputs)
    }

    fn see(&mut self, output: &Output, stream: &Stream) -> Result<(), String> {
        match output {
            Output::Save(Change::Room(room)) => {
                self.saved_last
                    .insert(room.snapshot.room.clone(), room.last);
            }
            Output::Save(Change::Cursor(cursor)) => self.see_cursor(cursor)?,
            Output::Save(Change::OutboxPut(entry)) => {
                let asked = self.asked.iter_mut().rev();
                let mut asked = asked.filter(|asked| asked.cid == entry.cid);
                if let Some(asked) = asked.next() {
                    asked.saved = true;
                    asked.failed = entry.failed.is_some();
                }
            }
            Output::Show(update) => self.see_update(update, stream)?,
            Output::Answer {
                ticket,
                result: Ok(page),
            } => {
                if let Some((room, least)) = self.reads.remove(ticket) {
                    self.counts.reads += 1;
                    let head = page.get("head").and_then(serde_json::Value::as_u64);
                    if head.is_some_and(|head| head < least.0) {
                        return Err(format!(
                            "{} reads {room} up to {head:?} after it was told {least}",
                            self.user
                        ));
                    }
                }
            }
            Output::Answer { ticket, .. } => {
                self.reads.remove(ticket);
            }
            Output::Save(_)
            | Output::Open { .. }
            | Output::Close { .. }
            | Output::Transmit { .. }
            | Output::Refresh { .. } => {}
        }
        Ok(())
    }

    /// In one conversation a cursor never goes back.
    fn see_cursor(&mut self, text: &str) -> Result<(), String> {
        let cursor = Cursor::parse(text).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut self.cursor, cursor.position);
        if cursor.position < before {
            return Err(format!(
                "the cursor of {} goes back from {before} to {}",
                self.user, cursor.position
            ));
        }
        Ok(())
    }

    fn see_update(&mut self, update: &Update, stream: &Stream) -> Result<(), String> {
        match update {
            Update::Event(event) => self.see_event(event, stream)?,
            Update::Room(room) => {
                let last = self.saved_last.get(room).copied().unwrap_or_default();
                let before = self.seen.insert(room.clone(), last);
                if before.is_some_and(|before| before > last) {
                    return Err(format!("{room} goes back from {before:?} to {last}"));
                }
            }
            Update::Skipped { room, to, .. } => {
                self.counts.skips += 1;
                if self.seen.get(room).is_none_or(|seen| seen < to) {
                    return Err(format!("{room} is not where its skip to {to} ends"));
                }
            }
            Update::Missing { room, from, to } => {
                self.counts.missing += 1;
                if self.seen.insert(room.clone(), *to) != Some(from.before()) {
                    return Err(format!("{room} misses {from} to {to}, which is not next"));
                }
            }
            Update::Gone(room) => {
                self.counts.gone += 1;
                self.seen.remove(room);
                self.saved_last.remove(room);
            }
            Update::Hello(hello) => {
                if hello.resumed {
                    self.counts.resumes += 1;
                    // Another gateway may be behind the one before, but never behind what it was told.
                    self.cursor = self.cursor.min(self.opened_with);
                } else {
                    self.counts.anew += u64::from(self.cursor > StreamSeq(0));
                    self.cursor = StreamSeq(0);
                }
            }
            Update::Delivery {
                cid,
                room,
                delivery,
            } => {
                self.see_delivery(*cid, room.as_ref(), delivery, stream)?;
            }
            Update::Connection(_) | Update::Live => {}
        }
        Ok(())
    }

    fn see_event(&mut self, event: &Event, stream: &Stream) -> Result<(), String> {
        self.counts.shown += 1;
        let place = format!("{} {} to {}", event.room, event.seq, self.user);
        let before = self.seen.insert(event.room.clone(), event.seq);
        if before != Some(event.seq.before()) {
            return Err(format!("{place} is shown behind {before:?}"));
        }
        let truth = stream.event(&event.room, event.seq);
        let truth = truth.ok_or_else(|| format!("{place} is shown and not stored"))?;
        if event != truth && !is_blanked(event) {
            return Err(format!(
                "{place} is shown as {event:?}, stored is {truth:?}"
            ));
        }
        Ok(())
    }

    fn see_delivery(
        &mut self,
        cid: Cid,
        room: Option<&RoomId>,
        delivery: &Delivery,
        stream: &Stream,
    ) -> Result<(), String> {
        let asked = self.asked.iter_mut().rev().find(|asked| asked.cid == cid);
        match delivery {
            Delivery::Queued | Delivery::Sent => {}
            Delivery::Renamed(new) => {
                if let Some(asked) = asked {
                    (asked.cid, asked.renamed) = (*new, true);
                }
            }
            Delivery::Failed(refusal) => {
                self.counts.refused += 1;
                if crate::check::is_strange(refusal.code) {
                    return Err(format!("a client is told {refusal:?}"));
                }
                if let Some(asked) = asked {
                    asked.told = Some(Err(refusal.code));
                }
            }
            Delivery::Stored(accepted) => {
                self.counts.acked += 1;
                self.counts.repeats += u64::from(accepted.dup);
                if let Some(asked) = asked {
                    asked.told = Some(Ok(accepted.clone()));
                }
                let room = accepted.room.as_ref().or(room);
                if let (Some(room), false) = (room, accepted.noop) {
                    self.see_ack(cid, room, accepted, stream)?;
                }
            }
        }
        Ok(())
    }

    /// An acknowledgement must be true when it is seen.
    fn see_ack(
        &mut self,
        cid: Cid,
        room: &RoomId,
        accepted: &Accepted,
        stream: &Stream,
    ) -> Result<(), String> {
        let place = format!("{room} {}", accepted.seq);
        let event = stream.event(room, accepted.seq);
        let event = event.ok_or_else(|| format!("{place} is acknowledged and not stored"))?;
        // The same room of two people has one maker, whoever else asks for it.
        let is_shared = accepted.dup && accepted.room.is_some();
        if (event.cid, &event.by) != (cid, &self.user) && !is_shared {
            return Err(format!("{place} is acknowledged and somebody else's"));
        }
        if matches!(event.body, EventBody::Msg(_)) {
            self.own.push((room.clone(), accepted.seq));
        }
        self.acked.insert(room.clone(), accepted.seq);
        Ok(())
    }

    fn waiting(&mut self) -> Vec<Entry> {
        self.store.load().expect("memory can be read").outbox
    }

    /// A hello goes out.
    pub fn greets(&mut self) {
        self.opened_with = self.cursor;
    }

    /// A link is gone: what was told there is no promise of another gateway.
    pub fn forget_link(&mut self, _: LinkId) {
        self.acked.clear();
        self.reads.clear();
    }
}

/// Whether an event was taken out of a page because its message was removed.
fn is_blanked(event: &Event) -> bool {
    match &event.body {
        EventBody::Msg(message) => message.text.is_empty(),
        EventBody::Edit { text, .. } => text.is_empty(),
        EventBody::Room { .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => false,
    }
}

fn rename(saved: &mut Saved, seed: u64) {
    for (index, entry) in saved.outbox.iter_mut().enumerate() {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&seed.to_be_bytes());
        random[9] = u8::try_from(index % 256).expect("a byte");
        let time = u64::try_from(entry.cid.time().0).expect("after 1970");
        entry.cid = Cid::from_parts(time + 1, random);
    }
}
