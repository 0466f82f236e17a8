//! Questions and their answers, as history answers them: each from one cursor.

use super::Tables;
use history::query::Terms;
use messages::sequencer::{Answered, Lookup};
use protocol::event::{EventBody, LogEvent, RoomKind};
use protocol::frame::listing::{UnreadList, UnreadRoom};
use protocol::limits::PAGE_DEFAULT;
use protocol::query::{
    CidKey, Position, Query, ReadCommand, Record, Records, Snapshots, UserFacts, Viewer,
};
use protocol::request::Accepted;
use protocol::room::message::MessageState;
use protocol::room::{Membership, RoomState};
use protocol::{ErrorCode, Refusal, RoomId, Seq, StreamSeq, Timestamp, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

/// An answer, and the record up to which it covers the log.
pub type Found = (StreamSeq, Box<RawValue>);

impl Tables {
    /// Answers a gateway.
    ///
    /// # Errors
    /// What the asker is told instead.
    pub fn answer(&self, query: &Query, terms: Terms) -> Result<Found, Refusal> {
        let found = |json| Ok((self.applied, json));
        match query {
            Query::Read { viewer, read } => self.read(viewer, read, terms).and_then(found),
            Query::Position {} => found(json(&Position {
                log: super::Stream::log(),
                time: Timestamp(0),
            })),
            Query::Snapshots {
                viewer,
                rooms,
                window_rooms,
                window_timeline,
            } => {
                let window = (*window_rooms as usize, *window_timeline);
                found(json(&self.snapshots(
                    viewer,
                    rooms.as_deref(),
                    window,
                    terms,
                )))
            }
            Query::CatchUp {
                viewer,
                after,
                have,
                window_timeline,
            } => {
                let from = (*after, have);
                let (answer, covered) = self.catch_up(viewer, from, *window_timeline, terms);
                Ok((covered, json(&answer)))
            }
            Query::Have {
                viewer,
                have,
                window_timeline,
            } => found(json(&self.have(viewer, have, *window_timeline, terms))),
            Query::RoomState { room } => found(json(&self.room_state(room))),
            Query::MessageStates { room, seqs } => found(json(&self.message_states(room, seqs))),
            Query::Cids { cids } => found(json(&self.cids(cids))),
            Query::UserFacts { user } => found(json(&self.user_facts(user))),
            Query::ReadCounts { viewer, room, mark } => {
                let access = self.access(viewer, room, terms)?;
                found(json(&self.counts(&viewer.user, &access, *mark)))
            }
            Query::Records { from, to } => found(json(&self.records(*from, *to))),
        }
    }

    /// Answers an owner.
    pub fn look_up(&self, lookup: &Lookup) -> Answered {
        match lookup {
            Lookup::Room(room) => Answered::Room(self.room_state(room).map(Box::new)),
            Lookup::Messages(room, seqs) => Answered::Messages(self.message_states(room, seqs)),
            Lookup::Cids(keys) => Answered::Cids(self.cids(keys)),
            Lookup::User(user) => Answered::User(self.user_facts(user)),
        }
    }

    fn read(
        &self,
        viewer: &Viewer,
        read: &ReadCommand,
        terms: Terms,
    ) -> Result<Box<RawValue>, Refusal> {
        match read {
            ReadCommand::History {
                room,
                after,
                limit,
                all,
                ..
            } => {
                let limit = limit.unwrap_or(PAGE_DEFAULT);
                if *all {
                    let place = (room, after.unwrap_or_default());
                    Ok(json(&self.dense(viewer, place, limit, terms)?))
                } else {
                    Ok(json(&self.page(viewer, (room, *after), limit, terms)?))
                }
            }
            ReadCommand::Unread {} => Ok(json(&self.unread(viewer, terms))),
            ReadCommand::Thread { .. }
            | ReadCommand::Rooms { .. }
            | ReadCommand::Discover { .. }
            | ReadCommand::Members { .. }
            | ReadCommand::Bans { .. }
            | ReadCommand::Revisions { .. } => Err(Refusal::plain(ErrorCode::Unsupported)),
        }
    }

    fn unread(&self, viewer: &Viewer, terms: Terms) -> UnreadList {
        let rooms = self.rooms_of(&viewer.user).into_iter();
        let row = |room: RoomId| {
            let access = self.visible(viewer, &room, terms)?;
            let counts = self.counts(&viewer.user, &access, None);
            Some(UnreadRoom {
                head: access.head(),
                read: access.view.mark.seq.min(access.head()),
                read_n: counts.read_n,
                unread: counts.unread,
                mentions: counts.mentions,
                room,
            })
        };
        UnreadList {
            rooms: rooms.filter_map(row).collect(),
        }
    }

    /// The unread counts of a user's rooms.
    pub fn unread_of(&self, viewer: &Viewer) -> Vec<(RoomId, u32)> {
        let terms = Terms {
            now: Timestamp(0),
            bytes_max: usize::MAX,
        };
        let rooms = self.unread(viewer, terms).rooms.into_iter();
        rooms.map(|room| (room.room, room.unread)).collect()
    }

    fn snapshots(
        &self,
        viewer: &Viewer,
        rooms: Option<&[RoomId]>,
        (window_rooms, timeline): (usize, u32),
        terms: Terms,
    ) -> Snapshots {
        let own = RoomId::own(&viewer.user);
        let all = || {
            let own = std::iter::once(own.clone());
            own.chain(self.rooms_of(&viewer.user)).collect()
        };
        let rooms: Vec<RoomId> = rooms.map_or_else(all, <[RoomId]>::to_vec);
        let mut with_timeline = 0;
        let snapshot = |room: &RoomId| {
            let access = self.visible(viewer, room, terms)?;
            with_timeline += usize::from(access.view.row.kind != Some(RoomKind::Own));
            let inside = with_timeline <= window_rooms;
            Some(self.snapshot(viewer, &access, if inside { timeline } else { 0 }))
        };
        Snapshots {
            known: self.users.contains(&viewer.user),
            rooms: rooms.iter().filter_map(snapshot).collect(),
        }
    }

    /// Everything about a room but its messages.
    pub fn room_state(&self, room: &RoomId) -> Option<RoomState> {
        let row = self.rooms.get(room)?;
        let mut state = row.state()?;
        let members = self.memberships.iter();
        let open = members.filter(|((of, _, _), row)| of == room && row.to.is_none());
        state.members = open
            .map(|((_, user, since), row)| {
                let membership = Membership {
                    role: row.role,
                    since: *since,
                    join_n: row.join_n,
                };
                (user.clone(), membership)
            })
            .collect();
        let bans = self.bans.iter().filter(|((of, _), _)| of == room);
        state.bans = bans.map(|((_, user), ban)| (user.clone(), *ban)).collect();
        let mutes = self.mutes.iter().filter(|((of, _), _)| of == room);
        state.mutes = mutes
            .map(|((_, user), mute)| (user.clone(), *mute))
            .collect();
        if row.kind == Some(RoomKind::Own)
            && let Some(owner) = &row.creator
        {
            let marks = self.marks.iter().filter(|((user, _), _)| user == owner);
            state.marks = marks
                .map(|((_, room), mark)| (room.clone(), *mark))
                .collect();
        }
        Some(state)
    }

    fn message_states(&self, room: &RoomId, seqs: &[Seq]) -> Vec<Option<MessageState>> {
        let state = |seq: &Seq| {
            let text = self.texts.get(room)?.get(seq)?;
            Some(MessageState {
                author: text.author.clone(),
                rev: text.rev,
                shown_rev: text.shown_rev,
                eff: text.eff,
                deleted: text.deleted.is_some(),
                thread: text.message.thread,
                replies: text.replies,
            })
        };
        seqs.iter().map(state).collect()
    }

    fn cids(&self, keys: &[CidKey]) -> Vec<Option<Accepted>> {
        let accepted = |key: &CidKey| {
            let seq = self.commands.get(key)?;
            let line = &self.events.get(&key.room)?.get(seq)?.line;
            let event = LogEvent::parse(line).ok()?.event;
            let mut accepted = Accepted::stored(event.seq, event.ts);
            accepted.dup = true;
            match &event.body {
                EventBody::Room { kind: Some(_), .. } => accepted.room = Some(event.room.clone()),
                EventBody::Edit { rev, won, .. } => {
                    (accepted.rev, accepted.won) = (Some(*rev), Some(*won));
                }
                EventBody::Room { kind: None, .. }
                | EventBody::Member { .. }
                | EventBody::Role { .. }
                | EventBody::Msg(_)
                | EventBody::Del { .. }
                | EventBody::Read { .. }
                | EventBody::Void { .. }
                | EventBody::Unknown(_) => {}
            }
            Some(accepted)
        };
        keys.iter().map(accepted).collect()
    }

    fn user_facts(&self, user: &UserId) -> UserFacts {
        UserFacts {
            known: self.users.contains(user),
            rooms: u32::try_from(self.rooms_of(user).len()).expect("few rooms"),
        }
    }

    fn records(&self, from: StreamSeq, to: StreamSeq) -> Records {
        let records = self.lines.range(from..=to.max(from));
        let record = |(position, lines): (&StreamSeq, &Vec<String>)| Record {
            position: *position,
            lines: lines.clone(),
        };
        Records {
            records: records.map(record).collect(),
        }
    }
}

fn json<T: Serialize>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("answers are JSON")
}
