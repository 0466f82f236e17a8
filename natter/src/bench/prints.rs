//! Lines of the server and the events in them, parsed once for all who are given the same bytes.
//!
//! A line is known by its SHA-256, so two lines that differ anywhere are never taken for one another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use protocol::frame::server::ServerFrame;
use protocol::{RoomId, Seq};
use sha2::{Digest as _, Sha256};

use crate::audit::Seen;
use protocol::event::EventBody;

/// Lines that are remembered: more than go by between the fastest and the slowest who watches live.
const LINES_MAX: usize = 8_192;

/// A durable event, as far as one who watches needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) room: RoomId,
    pub(crate) seen: Seen,
    /// First of the positions that this event declares lost.
    pub(crate) void_from: Option<Seq>,
}

/// What a line is.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Durable(Known),
    Frame(ServerFrame),
    /// Nothing that a server sends.
    Nonsense,
}

#[derive(Default)]
struct Cache {
    known: HashMap<[u8; 32], Known>,
    order: VecDeque<[u8; 32]>,
}

/// Shared by all who watch.
#[derive(Default)]
pub(crate) struct Prints(Mutex<Cache>);

impl Prints {
    /// Reads a line.
    pub(crate) fn read(&self, line: &str) -> Line {
        if line.starts_with(r#"{"id":"#) {
            return parse(line);
        }
        let name: [u8; 32] = Sha256::digest(line).into();
        if let Some(known) = self.lock().known.get(&name) {
            return Line::Durable(known.clone());
        }
        let parsed = parse(line);
        if let Line::Durable(known) = &parsed {
            let mut cache = self.lock();
            if cache.known.insert(name, known.clone()).is_none() {
                cache.order.push_back(name);
            }
            while cache.order.len() > LINES_MAX
                && let Some(oldest) = cache.order.pop_front()
            {
                cache.known.remove(&oldest);
            }
        }
        parsed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(line: &str) -> Line {
    match ServerFrame::parse(line) {
        Ok(ServerFrame::Durable(event)) => {
            let void_from = match &event.body {
                EventBody::Void { from } => Some(*from),
                EventBody::Room { .. }
                | EventBody::Member { .. }
                | EventBody::Role { .. }
                | EventBody::Msg(_)
                | EventBody::Edit { .. }
                | EventBody::Del { .. }
                | EventBody::Read { .. }
                | EventBody::Unknown(_) => None,
            };
            Line::Durable(Known {
                seen: Seen::of(&event),
                room: event.room,
                void_from,
            })
        }
        Ok(frame) => Line::Frame(frame),
        Err(error) => {
            tracing::warn!(%error, "a line of the server is no frame");
            Line::Nonsense
        }
    }
}
