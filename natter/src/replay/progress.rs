//! How far a replay is: the bar on a terminal, and the patience that ends a run that is stuck.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(500);

impl crate::bench::viewer::Listener for Progress {
    fn delivered(&self) {
        self.moved();
    }

    fn lost_connection(&self) {
        let count = self.reconnects.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_message(format!("{count} reconnects"));
    }
}

/// Shared by everything that runs.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    patience: Duration,
    /// Ms after the start when something last moved.
    moved_ms: AtomicU64,
    reconnects: AtomicU64,
    over: CancellationToken,
}

impl Progress {
    /// Nothing has moved yet; `steps` have to.
    pub(crate) fn new(steps: usize, patience: Duration) -> Arc<Self> {
        let bar = if std::io::stderr().is_terminal() {
            let length = u64::try_from(steps).unwrap_or(u64::MAX);
            let style = "{elapsed_precise} {wide_bar} {pos}/{len} acknowledged  {msg}";
            let style = ProgressStyle::with_template(style);
            ProgressBar::new(length).with_style(style.unwrap_or(ProgressStyle::default_bar()))
        } else {
            ProgressBar::hidden()
        };
        let progress = Arc::new(Self {
            bar,
            started: Instant::now(),
            patience,
            moved_ms: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            over: CancellationToken::new(),
        });
        drop(tokio::spawn(watch(Arc::clone(&progress))));
        progress
    }

    /// A command was acknowledged.
    pub(crate) fn acked(&self) {
        self.bar.inc(1);
        self.moved();
    }

    /// Something moved.
    pub(crate) fn moved(&self) {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.fetch_max(ms, Ordering::Relaxed);
    }

    /// Whether patience has run out.
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Completes when patience has run out.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Waits for `future` while there is patience.
    pub(crate) async fn or_over<T>(&self, future: impl Future<Output = T>) -> anyhow::Result<T> {
        self.over
            .run_until_cancelled(future)
            .await
            .context("nothing has moved for too long")
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
            () = self.over.cancelled() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

async fn watch(progress: Arc<Progress>) {
    loop {
        tokio::time::sleep(TICK).await;
        let moved = Duration::from_millis(progress.moved_ms.load(Ordering::Relaxed));
        if progress.started.elapsed().saturating_sub(moved) > progress.patience {
            progress.over.cancel();
            return;
        }
        progress.bar.tick();
    }
}
