//! What one socket of a client hears, judged as the contract says: nothing twice, nothing left out,
//! nothing from outside the membership.

use super::stream::Stream;
use protocol::{RoomId, Seq, UserId};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The head of a line of the server; what is no event has no `ev`.
#[derive(Deserialize)]
struct Line<'a> {
    ev: Option<&'a str>,
    room: Option<RoomId>,
    seq: Option<Seq>,
    at: Option<Seq>,
    to: Option<serde_json::Value>,
}

/// What was heard on one socket.
#[derive(Debug, Default)]
pub struct Heard {
    last: BTreeMap<RoomId, Seq>,
}

/// Who hears, and what they had before.
pub struct Listener<'a> {
    /// The user.
    pub user: &'a UserId,
    /// The last event that the device has shown, by room.
    pub seen: &'a BTreeMap<RoomId, Seq>,
    /// Whether the device shows what it is told; one that follows everything first fetches what was
    /// before, so it may have shown less than it was told.
    pub shows_as_told: bool,
    /// Whether a gateway had to go on without records that were nowhere: then gaps are told, and
    /// clients fetch them.
    pub forgives_gaps: bool,
}

impl Heard {
    /// Judges a text of the server; returns how often it says that the socket lags.
    ///
    /// # Errors
    /// The contract is broken.
    pub fn hear(
        &mut self,
        text: &str,
        listener: &Listener<'_>,
        stream: &Stream,
    ) -> Result<u64, String> {
        let mut lagged = 0;
        for line in text.split('\n').filter(|line| line.starts_with(r#"{""#)) {
            if line.starts_with(r#"{"id":"#) {
                continue;
            }
            let parsed: Line<'_> =
                serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
            lagged += u64::from(parsed.ev == Some("lagged"));
            self.hear_line(parsed, listener, stream)
                .map_err(|what| format!("{} hears {what}: {line}", listener.user))?;
        }
        Ok(lagged)
    }

    fn hear_line(
        &mut self,
        line: Line<'_>,
        listener: &Listener<'_>,
        stream: &Stream,
    ) -> Result<(), &'static str> {
        let (Some(ev), Some(room)) = (line.ev, line.room) else {
            return Ok(());
        };
        match (ev, line.seq, line.at) {
            ("gone", _, _) => {
                self.last.remove(&room);
                Ok(())
            }
            ("state", _, Some(at)) => {
                self.last.insert(room.clone(), at);
                inside(&room, at, listener, stream)
            }
            ("skip", _, Some(at)) => {
                if line.to.and_then(|to| to.as_u64()) != Some(at.0) {
                    return Err("a skip that does not end at its state");
                }
                self.last.insert(room.clone(), at);
                inside(&room, at, listener, stream)
            }
            (_, Some(seq), _) => self.hear_event(&room, seq, listener, stream),
            (_, None, _) => Ok(()),
        }
    }

    fn hear_event(
        &mut self,
        room: &RoomId,
        seq: Seq,
        listener: &Listener<'_>,
        stream: &Stream,
    ) -> Result<(), &'static str> {
        inside(room, seq, listener, stream)?;
        let before = self.last.insert(room.clone(), seq);
        let forgives_resumes = listener.forgives_gaps || !listener.shows_as_told;
        match (before, listener.seen.get(room)) {
            (Some(before), _) if seq <= before => Err("an event for the second time"),
            (Some(before), _) if seq > before.next() && !listener.forgives_gaps => {
                Err("an event behind a gap")
            }
            // The first one on this socket.
            (None, Some(seen)) if seq > seen.next() && !forgives_resumes => {
                Err("an event behind a gap after a resume")
            }
            // A membership that ended is told by its end to whoever does not know the room: its state
            // was not told yet, or its end was told before.
            (None, None) if stream.lasts(room, listener.user, seq) => {
                Err("an event of a room that it was not told")
            }
            (Some(_), _) | (None, _) => Ok(()),
        }
    }
}

fn inside(
    room: &RoomId,
    seq: Seq,
    listener: &Listener<'_>,
    stream: &Stream,
) -> Result<(), &'static str> {
    if stream.covers(room, listener.user, seq) {
        Ok(())
    } else {
        Err("something from outside its membership")
    }
}
