//! What a replay prints in the end.

use std::io::Write as _;

use protocol::{RoomId, Seq};

use super::script::Counts;
use crate::audit::{Fault, Verdict};

/// Refusals that are shown in words.
const REFUSALS_MAX: usize = 10;

/// Everything worth telling.
pub(crate) struct Report {
    pub(crate) files: usize,
    pub(crate) counts: Counts,
    pub(crate) users: usize,
    pub(crate) connections: usize,
    /// Name, id and head of each room.
    pub(crate) rooms: Vec<(String, RoomId, Seq)>,
    pub(crate) seconds: f64,
    /// Whether it ended because nothing moved.
    pub(crate) gave_up: bool,
    pub(crate) refused: Vec<String>,
    pub(crate) ack_ms: (u64, u64, u64),
    pub(crate) verdict: Verdict,
}

impl Report {
    /// Prints it to standard output, for people or for machines.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn print(&self, json: bool) -> std::io::Result<()> {
        let text = if json {
            format!("{:#}\n", self.to_json())
        } else {
            self.to_text()
        };
        std::io::stdout().write_all(text.as_bytes())
    }

    fn is_clean(&self) -> bool {
        self.verdict.is_clean() && !self.gave_up
    }

    fn to_json(&self) -> serde_json::Value {
        let rooms = self
            .rooms
            .iter()
            .map(|(name, id, head)| serde_json::json!({ "name": name, "room": id, "head": head }));
        let (p50, p99, max) = self.ack_ms;
        serde_json::json!({
            "clean": self.is_clean(),
            "gave_up": self.gave_up,
            "files": self.files,
            "lines": self.counts,
            "users": self.users,
            "connections": self.connections,
            "rooms": rooms.collect::<Vec<_>>(),
            "seconds": self.seconds,
            "ack_ms": { "p50": p50, "p99": p99, "max": max },
            "refused": self.refused,
            "verdict": {
                "sent": self.verdict.sent,
                "acked": self.verdict.acked,
                "stored": self.verdict.stored,
                "events": self.verdict.events,
                "received": self.verdict.received,
                "audit": self.verdict.counters,
                "notes": self.verdict.notes,
            },
        })
    }

    fn to_text(&self) -> String {
        let (counts, verdict) = (&self.counts, &self.verdict);
        let (p50, p99, max) = self.ack_ms;
        let mut text = format!(
            "{} files, {} lines: {} messages ({} actions, {} replies), {} joins, {} leaves, \
             {} renames, {} blank and {} other lines skipped\n{} users, {} sockets at once, {:.1} s\n",
            self.files,
            counts.lines,
            counts.messages,
            counts.actions,
            counts.replies,
            counts.joins,
            counts.leaves,
            counts.renames,
            counts.blank,
            counts.other,
            self.users,
            self.connections,
            self.seconds,
        );
        for (name, id, head) in &self.rooms {
            text.push_str(&format!("room {id} ({name}), head {head}\n"));
        }
        text.push_str(&format!(
            "\nsent          {:>8}\nacked         {:>8}   p50 {p50} ms, p99 {p99} ms, max {max} ms from queued, connecting and \
             rate limits included\nstored        {:>8}   of {} events\nreceived      {:>8}\n\n",
            verdict.sent, verdict.acked, verdict.stored, verdict.events, verdict.received,
        ));
        for fault in Fault::ALL {
            let count = verdict.counters.get(fault);
            text.push_str(&format!("{:<20}{count:>8}\n", fault.name()));
        }
        for refusal in self.refused.iter().take(REFUSALS_MAX) {
            text.push_str(&format!("refused: {refusal}\n"));
        }
        for note in &verdict.notes {
            text.push_str(&format!("wrong: {note}\n"));
        }
        if self.gave_up {
            text.push_str("gave up: nothing moved for too long\n");
        }
        text.push_str(if self.is_clean() {
            "\nall zero\n"
        } else {
            "\nNOT CLEAN\n"
        });
        text
    }
}
