//! The state of a room as a fold over its events.
//!
//! Owners admit by it, history answers with it, gateways judge membership by the same events.
//! Folding never re-judges: what is in the log is true (design section 3).
//! Messages themselves are not part of it; see [`message`].

pub mod message;

use crate::chain::Hash;
use crate::event::{Event, EventBody, HistoryScope, MemberChange, Role, RoomKind};
use crate::{RoomId, Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// What the member may do, as long as this membership lasts.
    pub role: Role,
    /// The event that began it.
    pub since: Seq,
    /// The last main-timeline ordinal when it began; messages up to it are never unread.
    #[serde(default)]
    pub join_n: u64,
}

/// A ban or mute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    /// The event that made it.
    pub since: Seq,
    /// When it ends by itself; judged at admission, no event is written for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Restriction {
    /// Whether it holds at `now`.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// An event that cannot follow the state it is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A gap or a repetition.
    #[error("expected seq {expected}, found {found}")]
    Seq {
        /// The seq that must come next.
        expected: Seq,
        /// The seq that came.
        found: Seq,
    },
    /// The first event of a room does not make it.
    #[error("the first event of a room must make it")]
    NotCreated,
}

/// Everything about a room but its messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomState {
    /// Which room.
    pub room: RoomId,
    /// What it is.
    pub kind: RoomKind,
    /// Shown name.
    pub name: String,
    /// What it is about.
    pub topic: String,
    /// Seconds between two messages of one member.
    pub slow_s: u32,
    /// Nobody below a moderator writes.
    pub frozen: bool,
    /// How much of the past members read.
    pub history: HistoryScope,
    /// Who is in it.
    pub members: BTreeMap<UserId, Membership>,
    /// Who is kept out.
    pub bans: BTreeMap<UserId, Restriction>,
    /// Who may not write.
    pub mutes: BTreeMap<UserId, Restriction>,
    /// Seq of the last event.
    pub head: Seq,
    /// Its hash.
    pub head_hash: Hash,
    /// Time of the last event.
    pub ts: Timestamp,
    /// Ordinal of the last main-timeline message.
    pub n: u64,
    /// Seq of the last `room` event, for `update`'s `base`.
    pub room_seq: Seq,
    /// The owner's read marks by room, in a room of kind `self`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<RoomId, Mark>,
}

/// How far a room was read: of two marks the greater holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Raised by marking unread.
    pub epoch: u32,
    /// Up to and including this seq.
    pub seq: Seq,
}

impl RoomState {
    /// The state after the event that makes a room.
    ///
    /// # Errors
    /// [`FoldError`] if the event is no first event.
    pub fn create(event: &Event, hash: Hash) -> Result<Self, FoldError> {
        let EventBody::Room {
            kind: Some(kind),
            changes,
        } = &event.body
        else {
            return Err(FoldError::NotCreated);
        };
        if event.seq != Seq(1) {
            return Err(FoldError::Seq {
                expected: Seq(1),
                found: event.seq,
            });
        }
        Ok(Self {
            room: event.room.clone(),
            kind: *kind,
            name: changes.name.clone().unwrap_or_default(),
            topic: changes.topic.clone().unwrap_or_default(),
            slow_s: changes.slow_s.unwrap_or(0),
            frozen: changes.frozen.unwrap_or(false),
            history: changes.history.unwrap_or_default(),
            members: BTreeMap::new(),
            bans: BTreeMap::new(),
            mutes: BTreeMap::new(),
            head: event.seq,
            head_hash: hash,
            ts: event.ts,
            n: 0,
            room_seq: event.seq,
            marks: BTreeMap::new(),
        })
    }

    /// Folds the next event, whose hash is `hash`.
    ///
    /// # Errors
    /// [`FoldError::Seq`] if it is not the next one (a `void` may jump); the state is unchanged then.
    pub fn apply(&mut self, event: &Event, hash: Hash) -> Result<(), FoldError> {
        let expected = match &event.body {
            EventBody::Void { from } if *from == self.head.next() && event.seq > *from => event.seq,
            _ => self.head.next(),
        };
        if event.seq != expected {
            return Err(FoldError::Seq {
                expected,
                found: event.seq,
            });
        }
        self.fold_body(event);
        self.head = event.seq;
        self.head_hash = hash;
        self.ts = event.ts;
        Ok(())
    }

    fn fold_body(&mut self, event: &Event) {
        match &event.body {
            EventBody::Room { changes, .. } => {
                if let Some(name) = &changes.name {
                    self.name.clone_from(name);
                }
                if let Some(topic) = &changes.topic {
                    self.topic.clone_from(topic);
                }
                self.slow_s = changes.slow_s.unwrap_or(self.slow_s);
                self.frozen = changes.frozen.unwrap_or(self.frozen);
                self.history = changes.history.unwrap_or(self.history);
                self.room_seq = event.seq;
            }
            EventBody::Member {
                user,
                change,
                role,
                until,
                ..
            } => self.fold_member(event.seq, user, *change, (*role, *until)),
            EventBody::Role { user, role } => {
                if let Some(membership) = self.members.get_mut(user) {
                    membership.role = *role;
                }
            }
            EventBody::Msg(message) => self.n = message.n.unwrap_or(self.n),
            EventBody::Read {
                target,
                mark,
                epoch,
                ..
            } => {
                let new = Mark {
                    epoch: *epoch,
                    seq: *mark,
                };
                let old = self.marks.entry(target.clone()).or_default();
                *old = (*old).max(new);
            }
            EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }

    fn fold_member(
        &mut self,
        seq: Seq,
        user: &UserId,
        change: MemberChange,
        (role, until): (Option<Role>, Option<Timestamp>),
    ) {
        let restriction = Restriction { since: seq, until };
        match change {
            MemberChange::Joined | MemberChange::Added => {
                let membership = Membership {
                    role: role.unwrap_or_default(),
                    since: seq,
                    join_n: self.n,
                };
                self.members.entry(user.clone()).or_insert(membership);
            }
            MemberChange::Left | MemberChange::Kicked => {
                self.members.remove(user);
            }
            MemberChange::Banned => {
                self.members.remove(user);
                self.bans.insert(user.clone(), restriction);
            }
            MemberChange::Unbanned => {
                self.bans.remove(user);
            }
            MemberChange::Muted => {
                self.mutes.insert(user.clone(), restriction);
            }
            MemberChange::Unmuted => {
                self.mutes.remove(user);
            }
        }
    }

    /// The user's role, if they are a member.
    #[must_use]
    pub fn role(&self, user: &UserId) -> Option<Role> {
        self.members.get(user).map(|membership| membership.role)
    }

    /// Whether the user is kept out at `now`.
    #[must_use]
    pub fn is_banned(&self, user: &UserId, now: Timestamp) -> bool {
        self.bans.get(user).is_some_and(|ban| ban.holds(now))
    }

    /// Whether the user may not write at `now`.
    #[must_use]
    pub fn is_muted(&self, user: &UserId, now: Timestamp) -> bool {
        self.mutes.get(user).is_some_and(|mute| mute.holds(now))
    }

    /// How many owners it has.
    #[must_use]
    pub fn owner_count(&self) -> usize {
        self.members
            .values()
            .filter(|membership| membership.role == Role::Owner)
            .count()
    }

    /// Whether `user` may read the room at all (protocol, "Who sees what"); `guest` is the token's role.
    #[must_use]
    pub fn may_read(&self, user: &UserId, guest: bool, now: Timestamp) -> bool {
        if self.members.contains_key(user) {
            return true;
        }
        self.kind == RoomKind::Public && !guest && !self.is_banned(user, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cid;
    use crate::event::{Message, RoomChanges};

    fn event(seq: u64, body: EventBody) -> Event {
        Event {
            room: RoomId::parse("r1").unwrap(),
            seq: Seq(seq),
            ts: Timestamp(i64::try_from(seq).unwrap()),
            by: UserId::parse("alice").unwrap(),
            cid: Cid::from_parts(seq, [0; 10]),
            body,
        }
    }

    fn member(seq: u64, user: &str, change: MemberChange) -> Event {
        event(
            seq,
            EventBody::Member {
                user: UserId::parse(user).unwrap(),
                change,
                role: None,
                until: None,
                why: None,
            },
        )
    }

    fn room() -> RoomState {
        let made = event(
            1,
            EventBody::Room {
                kind: Some(RoomKind::Public),
                changes: RoomChanges::default(),
            },
        );
        RoomState::create(&made, Hash::ZERO).unwrap()
    }

    #[test]
    fn a_gap_and_a_repetition_are_refused_and_change_nothing() {
        let mut state = room();
        let before = state.clone();
        for seq in [1, 3] {
            assert!(
                state
                    .apply(&member(seq, "bob", MemberChange::Joined), Hash::ZERO)
                    .is_err()
            );
            assert_eq!(state, before);
        }
    }

    #[test]
    fn a_second_join_does_not_begin_a_new_membership() {
        let mut state = room();
        state
            .apply(&member(2, "bob", MemberChange::Joined), Hash::ZERO)
            .unwrap();
        state
            .apply(&member(3, "bob", MemberChange::Joined), Hash::ZERO)
            .unwrap();
        assert_eq!(state.members.get("bob").map(|m| m.since), Some(Seq(2)));
    }

    #[test]
    fn a_ban_ends_the_membership_and_expires_by_the_clock_alone() {
        let mut state = room();
        let bob = UserId::parse("bob").unwrap();
        state
            .apply(&member(2, "bob", MemberChange::Joined), Hash::ZERO)
            .unwrap();
        let mut ban = member(3, "bob", MemberChange::Banned);
        if let EventBody::Member { until, .. } = &mut ban.body {
            *until = Some(Timestamp(100));
        }
        state.apply(&ban, Hash::ZERO).unwrap();
        assert_eq!(state.role(&bob), None);
        assert!(state.is_banned(&bob, Timestamp(99)));
        assert!(!state.is_banned(&bob, Timestamp(100)));
    }

    #[test]
    fn a_void_jumps_and_nothing_else_does() {
        let mut state = room();
        assert!(
            state
                .apply(&event(10_001, EventBody::Void { from: Seq(2) }), Hash::ZERO)
                .is_ok()
        );
        assert_eq!(state.head, Seq(10_001));
        assert!(
            state
                .apply(
                    &event(10_003, EventBody::Msg(Message::default())),
                    Hash::ZERO
                )
                .is_err()
        );
    }
}
