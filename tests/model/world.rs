//! A state of the model, and what can happen next.

use crate::log::Entry;
use crate::owner::{Answer, Copy, Told};
use crate::script::Id;
use crate::setup::Budget;
use crate::truth::Truth;

/// Everything that is not the same in all states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The subject, as its leader has it.
    pub log: Vec<Entry>,
    pub truth: Truth,
    pub writers: Vec<Option<Writer>>,
    /// Appends that nobody waits for any more but that may yet be stored. Sorted.
    pub floats: Vec<Float>,
    /// Requests that are still on their way. Sorted.
    pub late: Vec<Copy>,
    /// Replies that are about to arrive or to be lost, before anything else happens: one that comes
    /// later is one whose client acts later.
    pub replies: Vec<(Copy, Vec<Told>)>,
    pub clients: Vec<ClientState>,
    /// What clients were told, with the seq.
    pub acked: Vec<(Id, u8)>,
    /// A bit for each command whose client was told that it is not and never will be stored.
    pub denied: u16,
    /// How many records history has applied.
    pub cursor: u8,
    /// Which moment the clock shows.
    pub moment: u8,
    pub left: Budget,
}

/// A process that owns the partition, or thinks so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its number in the book.
    pub owner: u32,
    pub append: Option<Append>,
    pub read: Option<Reading>,
    /// One for each open question: as of how many records it was answered.
    pub asks: Vec<Option<u8>>,
    /// Requests reach it: its epoch record is stored.
    pub listens: bool,
    /// Its last append's outcome is unknown, and no read has told yet.
    pub unsure: bool,
}

/// An append on its way, or its answer on the way back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    pub record: u32,
    /// How many records it expects before it.
    pub expected: u8,
    pub answer: Option<Answer>,
}

/// A read on its way, or its answer on the way back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// It asks for what lies behind that many records.
    pub after: u8,
    /// How many there were when it was read.
    pub seen: Option<u8>,
}

/// An append without an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Float {
    pub record: u32,
    pub expected: u8,
}

/// Where a client stands in its part of the script.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientState {
    /// Its first command that is not settled.
    pub next: Id,
    /// The copy whose reply it waits for.
    pub out: Option<u8>,
    /// Copies sent so far.
    pub copies: u8,
    /// Whether something of the present batch was sent before.
    pub tried: bool,
}

/// Where a request goes: all who listen have subscribed to the same subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To all of them.
    All,
    /// To this one alone; the others have not begun to listen, or lose it.
    One(u8),
    /// Nowhere yet: the network holds it back.
    Nobody,
}

/// One thing that happens. Writers, clients, floats and late requests are named by their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A client sends its commands.
    Send {
        client: u8,
        to: To,
    },
    /// A request that was held back arrives.
    Arrive {
        late: u8,
        at: u8,
    },
    ReplyArrives,
    ReplyLost,
    Takeover {
        writer: u8,
        lag: u8,
    },
    Crash(u8),
    Stop(u8),
    Tick(u8),
    /// The broker takes an append.
    Store {
        writer: u8,
        echo: bool,
        held: bool,
    },
    FloatStores(u8),
    /// The answer to an append that was held back arrives.
    Published(u8),
    Timeout(u8),
    /// The leader answers a read.
    Read {
        writer: u8,
        lag: u8,
        held: bool,
    },
    /// That answer, held back, arrives.
    Tail(u8),
    ReadFails(u8),
    /// History answers a question.
    Ask {
        writer: u8,
        ask: u8,
        held: bool,
    },
    /// That answer, held back, arrives.
    Answer {
        writer: u8,
        ask: u8,
    },
    AskFails {
        writer: u8,
        ask: u8,
    },
    /// History applies what is in the log.
    Apply,
    /// The clock shows the next moment.
    Clock,
}
