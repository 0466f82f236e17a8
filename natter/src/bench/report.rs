//! What a run prints in the end.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::json;

use super::crowd::Done;
use super::stage::Stage;
use super::witness::Known;
use crate::audit::{Evidence, Fault, Verdict, judge};

/// Everything worth telling.
pub(crate) struct Report {
    sent: u64,
    acked: u64,
    seconds: f64,
    latency_us: Histogram<u64>,
    verdict: Verdict,
    notes: Vec<String>,
    slow: Vec<Known>,
    resumes: u64,
    reconnects: u64,
    churned: usize,
    repeated: usize,
    gave_up: bool,
    rooms: Vec<(String, usize)>,
    seed: u64,
}

impl Report {
    /// Judges, and gathers the figures.
    pub(crate) fn new(
        evidence: &[Evidence],
        done: &Done,
        stage: &Stage,
        slow: Vec<Known>,
        seconds: f64,
    ) -> Self {
        let mut verdict = Verdict::default();
        for room in evidence {
            verdict.add(judge(room));
        }
        let mut latency_us = Histogram::new(3).expect("three digits are allowed");
        for sender in &done.senders {
            // Both grow by themselves and have the same precision.
            if latency_us.add(&sender.latency_us).is_err() {
                tracing::debug!("a time could not be added");
            }
        }
        let counts = stage.progress.counts();
        let mut notes = verdict.notes.clone();
        notes.extend(done.notes.iter().cloned());
        Self {
            sent: counts.sent,
            acked: counts.acked,
            seconds,
            latency_us,
            verdict,
            notes,
            slow,
            resumes: done.resumes,
            reconnects: stage.progress.reconnects(),
            churned: done.churned.len(),
            repeated: done.repeats.len(),
            gave_up: stage.progress.gave_up(),
            rooms: evidence
                .iter()
                .map(|room| (room.room.clone(), room.archive.len()))
                .collect(),
            seed: stage.seed,
        }
    }

    /// Whether everything was acknowledged and nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.acked == self.sent && self.acked > 0 && !self.gave_up
    }

    /// Prints it to standard output, for people or for machines.
    ///
    /// # Errors
    /// Standard output is closed.
    pub(crate) fn print(&self, as_json: bool) -> std::io::Result<()> {
        let text = if as_json {
            format!("{}\n", self.to_json())
        } else {
            self.to_text()
        };
        std::io::stdout().write_all(text.as_bytes())
    }

    fn rate(&self) -> f64 {
        let acked = u32::try_from(self.acked).unwrap_or(u32::MAX);
        f64::from(acked) / self.seconds.max(0.001)
    }

    /// Milliseconds with one decimal.
    fn ms(&self, quantile: f64) -> f64 {
        let tenths = self.latency_us.value_at_quantile(quantile) / 100;
        f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
    }

    fn to_json(&self) -> serde_json::Value {
        let sum = |of: fn(&Known) -> u64| self.slow.iter().map(of).sum::<u64>();
        json!({
            "clean": self.is_clean(),
            "sent": self.sent,
            "acked": self.acked,
            "seconds": self.seconds,
            "rate": self.rate(),
            "latency_ms": {
                "p50": self.ms(0.5), "p99": self.ms(0.99), "p999": self.ms(0.999), "max": self.ms(1.0),
            },
            "audit": self.verdict.counters,
            "notes": self.notes,
            "slow": {
                "readers": self.slow.len(),
                "lagged": sum(|known| known.tally.lags),
                "skips": sum(|known| known.tally.skips),
                "connections": sum(|known| known.connections),
                "events": sum(|known| known.tally.events),
            },
            "resumes": self.resumes,
            "reconnects": self.reconnects,
            "churned": self.churned,
            "repeated": self.repeated,
            "stored": self.verdict.stored,
            "events": self.verdict.events,
            "received": self.verdict.received,
            "gave_up": self.gave_up,
            "rooms": self.rooms.iter().map(|(room, events)| json!({"room": room, "events": events})).collect::<Vec<_>>(),
            "seed": self.seed,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!(
            "acked     {} of {} in {:.1} s: {:.0} per second\n\
             latency   p50 {} ms, p99 {} ms, p99.9 {} ms, max {} ms\n\
             archived  {} events in {} rooms; {} were given to those who watch\n\
             churn     {} commands; {} sent twice; {} sockets cut, {} reconnects in all\n",
            self.acked,
            self.sent,
            self.seconds,
            self.rate(),
            self.ms(0.5),
            self.ms(0.99),
            self.ms(0.999),
            self.ms(1.0),
            self.verdict.events,
            self.rooms.len(),
            self.verdict.received,
            self.churned,
            self.repeated,
            self.resumes,
            self.reconnects,
        );
        if !self.slow.is_empty() {
            let lags: u64 = self.slow.iter().map(|known| known.tally.lags).sum();
            text.push_str(&format!(
                "slow      {} readers, lagged {lags} times\n",
                self.slow.len()
            ));
        }
        text.push('\n');
        for fault in Fault::ALL {
            let count = self.verdict.counters.get(fault);
            text.push_str(&format!("{:<20}{count:>8}\n", fault.name()));
        }
        for note in &self.notes {
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

/// Writes everything that was judged.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn keep(file: &Path, evidence: &[Evidence]) -> anyhow::Result<()> {
    let open = File::create(file).with_context(|| format!("make {}", file.display()))?;
    let mut writer = BufWriter::new(open);
    serde_json::to_writer(&mut writer, evidence)?;
    writer.flush()?;
    Ok(())
}
