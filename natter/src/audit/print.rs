//! Short names for events: millions are compared, none is kept.

use protocol::Seq;
use protocol::event::{Event, EventBody, MemberChange, SeqRange};
use protocol::{RoomId, UserId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// A short name for all that an event says, and one for what is left once its message is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Print {
    pub(crate) full: u64,
    pub(crate) header: u32,
}

impl Print {
    /// Of every field of the event.
    pub(crate) fn of(event: &Event) -> Self {
        let full = digest(event);
        let (n, thread, on) = match &event.body {
            EventBody::Msg(message) => (message.n.or(message.tn), message.thread, None),
            EventBody::Edit { on, rev, .. } => (Some(u64::from(*rev)), None, Some(*on)),
            EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Del { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => (None, None, None),
        };
        let header: (&RoomId, Seq, i64) = (&event.room, event.seq, event.ts.0);
        let header = digest(&(
            header,
            &event.by,
            event.cid,
            event.body.kind(),
            n,
            thread,
            on,
        ));
        let [_, _, _, _, a, b, c, d] = header.to_be_bytes();
        Self {
            full,
            header: u32::from_be_bytes([a, b, c, d]),
        }
    }
}

/// An event that somebody was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    /// Rooms of a run stay below 2^32 events, and this is kept by the million.
    seq: u32,
    header: u32,
    full: u64,
}

impl Seen {
    pub(crate) fn new(seq: Seq, print: Print) -> Self {
        Self {
            seq: u32::try_from(seq.0).unwrap_or(u32::MAX),
            header: print.header,
            full: print.full,
        }
    }

    pub(crate) fn of(event: &Event) -> Self {
        Self::new(event.seq, Print::of(event))
    }

    pub(crate) fn seq(self) -> Seq {
        Seq(u64::from(self.seq))
    }

    pub(crate) const fn print(self) -> Print {
        Print {
            full: self.full,
            header: self.header,
        }
    }
}

/// A short name for what a command says, as far as its sender knows it beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Content {
    name: u64,
    /// Whether the answer may be that nothing had to change.
    may_be_noop: bool,
}

impl Content {
    pub(crate) fn said(text: &str, reply_to: Option<Seq>) -> Self {
        Self::named(&("msg", text, reply_to), false)
    }

    pub(crate) fn edited(on: Seq, text: &str) -> Self {
        Self::named(&("edit", on, text), false)
    }

    pub(crate) fn removed(on: &[SeqRange]) -> Self {
        Self::named(&("del", on), true)
    }

    pub(crate) fn member(user: &UserId, change: MemberChange) -> Self {
        Self::named(&("member", user, change), true)
    }

    /// What the event says, if it is one that a command of a run makes.
    pub(crate) fn of(body: &EventBody) -> Self {
        match body {
            EventBody::Msg(message) => Self::said(&message.text, message.reply_to),
            EventBody::Edit { on, text, .. } => Self::edited(*on, text),
            EventBody::Del { on, .. } => Self::removed(on),
            EventBody::Member { user, change, .. } => Self::member(user, *change),
            EventBody::Room { .. }
            | EventBody::Role { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => Self::named(&"other", true),
        }
    }

    pub(crate) const fn may_be_noop(self) -> bool {
        self.may_be_noop
    }

    fn named<T: Serialize>(value: &T, may_be_noop: bool) -> Self {
        Self {
            name: digest(value),
            may_be_noop,
        }
    }
}

/// The first eight bytes of SHA-256 of the value as JSON.
fn digest<T: Serialize>(value: &T) -> u64 {
    short(&serde_json::to_vec(value).expect("an event is JSON"))
}

/// The first eight bytes of SHA-256.
pub(crate) fn short(bytes: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(bytes).into();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
