//! How far a run is: counted by all that run, shown while it goes on, and ended when nothing moves.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two lines of progress.
const SHOW_INTERVAL: Duration = Duration::from_millis(250);

/// The counts that a line of progress shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) acked: u64,
    pub(crate) sent: u64,
    pub(crate) in_flight: u64,
    pub(crate) delivered: u64,
}

/// Shared by everything that runs.
pub(crate) struct Progress {
    started: Instant,
    patience: Duration,
    json: bool,
    sent: AtomicU64,
    acked: AtomicU64,
    /// Refused for good: neither acknowledged nor in flight.
    refused: AtomicU64,
    delivered: AtomicU64,
    reconnects: AtomicU64,
    /// Ms after the start when something last moved.
    moved_ms: AtomicU64,
    /// Ms after the start of the last acknowledgement.
    acked_ms: AtomicU64,
    /// Whether patience has run out.
    over: watch::Sender<bool>,
    gave_up: AtomicBool,
}

impl Progress {
    /// Nothing has moved yet.
    pub(crate) fn new(patience: Duration, json: bool) -> Arc<Self> {
        let progress = Arc::new(Self {
            started: Instant::now(),
            patience,
            json,
            sent: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            moved_ms: AtomicU64::new(0),
            acked_ms: AtomicU64::new(0),
            over: watch::Sender::new(false),
            gave_up: AtomicBool::new(false),
        });
        drop(tokio::spawn(watch(Arc::clone(&progress))));
        progress
    }

    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn acked(&self) {
        self.acked.fetch_add(1, Ordering::Relaxed);
        self.moved();
        self.acked_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    /// When the last acknowledgement came.
    pub(crate) fn last_ack(&self) -> Instant {
        self.started + Duration::from_millis(self.acked_ms.load(Ordering::Relaxed))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.moved();
    }

    pub(crate) fn delivered(&self, events: u64) {
        if events > 0 {
            self.delivered.fetch_add(events, Ordering::Relaxed);
            self.moved();
        }
    }

    pub(crate) fn lost_connection(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    /// How often connections were lost.
    pub(crate) fn reconnects(&self) -> u64 {
        self.reconnects.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        let acked = self.acked.load(Ordering::Relaxed);
        let sent = self.sent.load(Ordering::Relaxed);
        let done = acked + self.refused.load(Ordering::Relaxed);
        Counts {
            acked,
            sent,
            in_flight: sent.saturating_sub(done),
            delivered: self.delivered.load(Ordering::Relaxed),
        }
    }

    /// Something moved.
    pub(crate) fn moved(&self) {
        self.moved_ms.fetch_max(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether patience has run out.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Completes when patience has run out.
    pub(crate) async fn over(&self) {
        let over = self.over.subscribe().wait_for(|over| *over).await.is_ok();
        debug_assert!(over, "the sender lives in this very struct");
    }

    /// Whether patience has run out at any time.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// The next part of a run has a patience of its own: what is there is still to be judged.
    pub(crate) fn take_heart(&self) {
        self.moved();
        self.over.send_replace(false);
    }

    /// Waits for `future` while there is patience.
    pub(crate) async fn or_over<T>(&self, future: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::select! {
            value = future => Ok(value),
            () = self.over() => anyhow::bail!("nothing has moved for too long"),
        }
    }

    /// Looks at `state` until it holds or patience has run out.
    pub(crate) async fn until(&self, interval: Duration, mut state: impl FnMut() -> bool) {
        while !state() && !self.is_over() {
            self.pause(interval).await;
        }
    }

    /// Waits between two looks.
    pub(crate) async fn pause(&self, interval: Duration) {
        tokio::select! {
            () = self.over() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }

    fn show(&self, is_terminal: bool) {
        let counts = self.counts();
        let line = if self.json {
            serde_json::to_string(&counts).expect("counts are JSON")
        } else {
            format!(
                "{:6.1} s  acked {}  in flight {}  delivered {}  reconnects {}",
                self.started.elapsed().as_secs_f64(),
                counts.acked,
                counts.in_flight,
                counts.delivered,
                self.reconnects(),
            )
        };
        // A line on a terminal takes the place of the one before it; nobody may be reading.
        let (before, after) = if is_terminal && !self.json {
            ("\r\x1b[2K", "")
        } else {
            ("", "\n")
        };
        drop(write!(std::io::stderr(), "{before}{line}{after}"));
    }

    /// Takes the line of progress away.
    pub(crate) fn finish(&self) {
        self.show(false);
    }
}

async fn watch(progress: Arc<Progress>) {
    let is_terminal = std::io::stderr().is_terminal();
    let every = if progress.json || is_terminal { 1 } else { 20 };
    let mut ticks = 0_u64;
    loop {
        tokio::time::sleep(SHOW_INTERVAL).await;
        ticks += 1;
        if ticks.is_multiple_of(every) {
            progress.show(is_terminal);
        }
        let moved = Duration::from_millis(progress.moved_ms.load(Ordering::Relaxed));
        if progress.started.elapsed().saturating_sub(moved) > progress.patience {
            progress.gave_up.store(true, Ordering::Relaxed);
            progress.over.send_replace(true);
        }
    }
}
