//! What one run of the checker is about: who is there, what may go wrong how often, and which rule is left out.

use crate::script::{Client, Does};

/// How often each thing may happen in one run; a state space is finite because these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A process takes the partition over, whether its owner still lives or not.
    pub takeovers: u8,
    /// A takeover reads a log that lags by one record.
    pub lags: u8,
    /// An owner is killed.
    pub crashes: u8,
    /// An owner is told that its lease is lost.
    pub stops: u8,
    /// An append has no answer in time; what it carries may be stored, or may be stored later.
    pub timeouts: u8,
    /// An append is stored and answered with an error that means "unknown".
    pub echoes: u8,
    /// The answer to an append, a read or a question is held back, perhaps for ever; all others arrive
    /// as soon as they are given. (That loses no order of events: whoever waits for the answer could as
    /// well be waiting for the act itself.)
    pub late_answers: u8,
    /// An owner is told the time and how far history is; it forgets what history has.
    pub ticks: u8,
    /// A read of the leader fails.
    pub failed_reads: u8,
    /// History does not answer.
    pub failed_asks: u8,
    /// A request stays on its way, perhaps for ever.
    pub late_requests: u8,
    /// A reply is lost.
    pub lost_replies: u8,
    /// A client sends the same commands again.
    pub resends: u8,
}

impl Budget {
    /// Everything arrives, everybody lives.
    pub const NONE: Self = Self {
        takeovers: 0,
        lags: 0,
        crashes: 0,
        stops: 0,
        timeouts: 0,
        echoes: 0,
        late_answers: 0,
        ticks: 0,
        failed_reads: 0,
        failed_asks: 0,
        late_requests: 0,
        lost_replies: 0,
        resends: 0,
    };
}

/// A plausible shortcut, planted in what surrounds the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// The broker stores whatever comes.
    NoCompare,
    /// After a conflict the same batch is appended at the new end.
    RepublishAfterConflict,
    /// After a timeout the same batch is appended at the new end.
    RepublishAfterTimeout,
    /// After a conflict the clients are told that nothing was stored.
    RefuseAfterConflict,
    /// After a timeout the clients are told that nothing was stored.
    RefuseAfterTimeout,
    /// A copy of what is in flight is answered at once, with the seq that it will have.
    AnswerCopyInFlight,
    /// An append is acknowledged to the client when it is sent.
    AckBeforeStored,
    /// A takeover begins at the log's end and takes every cid for a new one.
    ForgetOnTakeover,
    /// The window holds one command, and nobody else is asked about older ones.
    TinyWindow,
    /// Reads go to a replica that lags by one record.
    LaggingReads,
    /// A refusal is told without a proof.
    RefuseFromMemory,
    /// While an own append may yet arrive, a read is taken for a proof.
    ReadProvesWhileFloating,
    /// History's base is used whatever position it was read at.
    OldBase,
    /// A takeover writes no epoch record.
    NoEpochRecord,
    /// A takeover takes requests in before its epoch record is stored, which the owner before may also
    /// have got and answered. Caution with old copies would hide that: it is left out too.
    ListenBeforeFence,
    /// The commands of a batch are sent as requests of their own.
    SplitBatch,
    /// An owner does not know when a request's sender gives up.
    NoDeadline,
    /// An owner does not remember what it has refused.
    ForgetRefusals,
    /// An owner begins what came before its predecessor's last changes like everything else.
    TrustAfterTakeover,
}

/// Something that a run must have met, or it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Sight {
    /// Two owners at the same time.
    TwoOwners,
    /// An append was refused by the compare.
    Conflict,
    /// What was stored was answered with a timeout.
    StoredButTimedOut,
    /// What was stored was answered with a conflict.
    StoredButConflict,
    /// An append arrived after its owner had given it up, or was gone.
    FloatStored,
    /// A repeat was told the original answer.
    Repeat,
    /// A final refusal was proven by a read of the leader.
    DeniedByRead,
    /// A final refusal was proven by a later record.
    DeniedByRecord,
    /// An owner found that it had been overtaken.
    Overtaken,
    /// A request was told a temporary error.
    Later,
    /// A copy arrived after its client had sent another one.
    LateArrival,
    /// A base was asked for.
    ColdRoom,
    /// An answer was too old, and the question was asked again.
    AskedAgain,
    /// A request came after its sender had given up.
    BehindDeadline,
}

impl Sight {
    pub const COUNT: usize = Self::BehindDeadline as usize + 1;
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub name: &'static str,
    pub clients: &'static [Client],
    /// Members of the room beside its owner.
    pub members: &'static [&'static str],
    /// What happened before the first step.
    pub past: &'static [(&'static str, Does)],
    /// The moments that the clock shows one after the other, in ms; in the first one there is only a
    /// takeover.
    pub clock: &'static [i64],
    /// Processes that may own the partition; the first one does at the first step.
    pub writers: usize,
    /// Takeovers begin at history's cursor, so rooms, messages and cids must be looked up.
    pub cold: bool,
    /// Memory is so short that owners forget as much as they may.
    pub forgets: bool,
    pub budget: Budget,
    pub shortcut: Option<Shortcut>,
    /// What must have been met.
    pub sights: &'static [Sight],
}

impl Setup {
    /// The same with a rule left out.
    pub fn with(self, shortcut: Shortcut) -> Self {
        Self {
            shortcut: Some(shortcut),
            ..self
        }
    }
}
