//! What a client tells its application.

use crate::connection::ConnectionState;
use crate::outbox::Delivery;
use protocol::event::{Event, SeqRange};
use protocol::frame::HelloOk;
use protocol::{Cid, RoomId, Seq};
use std::sync::Arc;

/// Something an application may want to show, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Update {
    /// The connection's state changed.
    Connection(ConnectionState),
    /// The server has said who we are.
    Hello(Arc<HelloOk>),
    /// Everything missed is here; from now on it is live.
    Live,
    /// A room is new, or known afresh: read its view.
    Room(RoomId),
    /// The next event of a room; per room dense and in order, each once.
    Event(Arc<Event>),
    /// A range was replaced by the room's present state.
    Skipped {
        /// Which room.
        room: RoomId,
        /// First seq that was not delivered.
        from: Seq,
        /// Last such seq.
        to: Seq,
        /// Older messages whose shown state changed; they were dropped from the timeline.
        dirty: Vec<SeqRange>,
    },
    /// A range that this user may not read, or that is lost for everybody.
    Missing {
        /// Which room.
        room: RoomId,
        /// First seq.
        from: Seq,
        /// Last seq.
        to: Seq,
    },
    /// The room is not ours any more.
    Gone(RoomId),
    /// A command of this client got further.
    Delivery {
        /// Its name.
        cid: Cid,
        /// The room it names, if any.
        room: Option<RoomId>,
        /// How far it is.
        delivery: Delivery,
    },
}

/// How closely a client follows its rooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// Keeps a timeline of each room; a long absence is skipped over, as the server offers.
    #[default]
    Timeline,
    /// Gets every event of every room from its first on, through `history` where the server skips.
    Everything,
    /// Ignores events: for senders that only want their answers.
    Nothing,
}
