//! What a session needs from the world and what it asks of it, so that it can stay pure.

use crate::auth::Identity;
use crate::ring::record::Record;
use protocol::command::WriteCommand;
use protocol::error::CloseCode;
use protocol::limits::ClientLimits;
use protocol::query::{Query, ReadCounts};
use protocol::request::CommandResult;
use protocol::{DeviceId, LogId, Refusal, RoomId, StreamSeq, UserId};
use serde_json::value::RawValue;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Whether a command may be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Go,
    /// Over the rate: refused, to be tried again after this many ms.
    Wait(u64),
    /// Ten times over the rate: the socket is closed.
    Abuse,
}

/// Records of the log that a session wants: those in `(after, to]`, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Everything up to here is known already.
    pub after: StreamSeq,
    /// The last record wanted.
    pub to: StreamSeq,
    /// How many at most.
    pub max: usize,
}

/// What a session may look at without waiting. All of it is memory of this process.
pub trait Outside {
    /// Whose valid token this is.
    ///
    /// # Errors
    /// `token_expired` or `unauthorized`.
    fn verify(&self, token: &str) -> Result<Identity, Refusal>;
    /// Counts this socket among those of its user and device.
    ///
    /// # Errors
    /// The close code for a socket too many.
    fn admit(&self, user: &UserId, device: Option<&DeviceId>) -> Result<(), CloseCode>;
    /// Counts one command of this user.
    fn rate(&self, user: &UserId) -> Verdict;
    /// The limits that a client is told; those of the protocol unless they are configured.
    fn limits(&self) -> ClientLimits {
        ClientLimits::default()
    }
    /// The log and the newest position that the process has, once it has one.
    fn head(&self) -> Option<(LogId, StreamSeq)>;
    /// Up to here this worker has delivered to every live socket.
    fn position(&self) -> StreamSeq;
    /// The user's rooms after this record, if that and everything later is in memory.
    fn rooms_at(&self, user: &UserId, position: StreamSeq) -> Option<BTreeSet<RoomId>>;
    /// The records of a span that touch these rooms or this user; `None` if some are gone.
    fn wanted(
        &self,
        user: &UserId,
        rooms: &mut dyn Iterator<Item = &RoomId>,
        span: Span,
    ) -> Option<Vec<Arc<Record>>>;
    /// Keeps in mind which rooms the user was in after this record.
    fn remember(&self, user: &UserId, applied: StreamSeq, rooms: &BTreeSet<RoomId>);
}

/// Names what was asked, so that the answer finds its question.
pub type Ticket = u64;

/// Something to be done that takes time; its outcome comes back with the same ticket.
#[derive(Debug)]
pub enum Action {
    /// Ask history.
    Ask {
        /// For the outcome.
        ticket: Ticket,
        /// What.
        query: Box<Query>,
        /// The answer must have applied this record.
        min_seq: StreamSeq,
    },
    /// Send a batch to the owner of a room.
    Send {
        /// For the outcome.
        ticket: Ticket,
        /// The room.
        room: RoomId,
        /// The commands, in order.
        commands: Vec<WriteCommand>,
    },
    /// Make the user's own room.
    Introduce {
        /// For the outcome.
        ticket: Ticket,
    },
}

/// An answer of history.
#[derive(Debug)]
pub struct Answered {
    /// Every record up to here was applied.
    pub applied: StreamSeq,
    /// The answer in JSON.
    pub ok: Box<RawValue>,
}

/// What became of one command of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The owner's word.
    pub result: CommandResult,
    /// With `read`: the counts, if history told them in time.
    pub counts: Option<ReadCounts>,
}

/// What an [`Action`] led to.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Action::Ask`].
    Answer(Result<Answered, Refusal>),
    /// Of [`Action::Send`]: one per command.
    Sent(Result<Vec<Settled>, Refusal>),
    /// Of [`Action::Introduce`]: the room is stored at or before this position.
    Introduced(Result<StreamSeq, Refusal>),
}

/// Which rooms' records a socket is to be given as they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Those of all its rooms.
    All,
    /// None: it catches up by itself.
    Nothing,
    /// One room more.
    Add(RoomId),
    /// One room less.
    Remove(RoomId),
}
