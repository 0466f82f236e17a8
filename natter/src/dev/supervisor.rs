//! Children: started, watched, started again when they die, stopped in order.
//!
//! It runs on the main thread, because a child's death signal is tied to the thread that spawned it.
//! While everything starts, a child that keeps dying ends the whole; once all was ready nothing does,
//! since Postgres or a service may come back at any time.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::time::Instant;

use super::layout::Layout;
use super::store_watch::{Look, StoreWatch};
use super::{banner, nats_server, postgres};
use crate::child::DeathSignal;

/// A child that lived this long is not failing to start.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Longest pause before another start; the promise is two seconds until it runs again.
const PAUSE_MAX: Duration = Duration::from_millis(1000);
/// Deaths in a row, while all starts, after which it is no use.
const START_DEATHS_MAX: u32 = 6;
/// A log that has grown beyond this is moved to `NAME.log.1` at the next start.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Lines of a dead child's log in the error.
const LOG_TAIL_LINES: usize = 15;

/// A second request to stop within this is the same one: some send it to the process and to its group.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// How often the broker's log is looked at.
const STORE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A child's name: of its process file, its log and in the banner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) &'static str);

/// How to run one child.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name.
    pub(crate) name: Name,
    /// What to run.
    pub(crate) command: Command,
    /// What asks it to stop in order.
    pub(crate) stop: DeathSignal,
    /// How long it may take for that; then it is killed.
    pub(crate) grace: Duration,
}

/// Why the watch ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The user or the system asked.
    Asked,
    /// A child keeps dying before everything was ready.
    Hopeless(anyhow::Error),
}

/// All children, in the order in which they were started.
#[derive(Debug)]
pub(crate) struct Supervisor {
    slots: Vec<Slot>,
    logs: PathBuf,
    runs: PathBuf,
    postgres: PathBuf,
    asked: [SignalStream; 3],
    died: SignalStream,
    all_ready: bool,
    store: StoreWatch,
    store_look_at: Instant,
    store_full: bool,
    impatient_from: Instant,
}

#[derive(Debug)]
struct Slot {
    spec: Spec,
    child: Option<Child>,
    started_at: Instant,
    quick_deaths: u32,
    start_at: Option<Instant>,
}

impl Supervisor {
    /// Watches nothing yet; from here on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    ///
    /// Signals cannot be watched.
    pub(crate) fn new(layout: &Layout) -> anyhow::Result<Self> {
        let asked = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Self {
            slots: Vec::new(),
            logs: layout.logs(),
            runs: layout.runs(),
            postgres: layout.postgres(),
            asked,
            died: signal(SignalKind::child())?,
            all_ready: false,
            store: StoreWatch::new(
                layout.logs().join(format!("{}.log", nats_server::NAME.0)),
                layout.nats(),
            ),
            store_look_at: Instant::now(),
            store_full: false,
            impatient_from: Instant::now(),
        })
    }

    /// Adds a child; [`Self::watch`] starts it at once and keeps it alive.
    pub(crate) fn add(&mut self, spec: Spec) {
        let now = Instant::now();
        self.slots.push(Slot {
            spec,
            child: None,
            started_at: now,
            quick_deaths: 0,
            start_at: Some(now),
        });
    }

    /// From now on no death of a child ends the whole.
    pub(crate) fn all_ready(&mut self) {
        self.all_ready = true;
    }

    /// Keeps all children alive until there is a reason to stop.
    ///
    /// Cancel safety: may be dropped and called again; children live on meanwhile.
    pub(crate) async fn watch(&mut self) -> Ended {
        loop {
            if let Err(error) = self.start_due().await.and_then(|()| self.reap()) {
                return Ended::Hopeless(error);
            }
            self.look_at_store();
            let next = self.slots.iter().filter_map(|slot| slot.start_at).min();
            let next = next.map_or(self.store_look_at, |at| at.min(self.store_look_at));
            let [interrupt, terminate, hangup] = &mut self.asked;
            tokio::select! {
                biased;
                _ = interrupt.recv() => return Ended::Asked,
                _ = terminate.recv() => return Ended::Asked,
                _ = hangup.recv() => return Ended::Asked,
                _ = self.died.recv() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Starts what is due.
    async fn start_due(&mut self) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            let now = Instant::now();
            if slot.start_at.is_none_or(|at| at > now) {
                continue;
            }
            if slot.spec.name == postgres::NAME {
                postgres::settle(self.postgres.clone()).await?;
            }
            let log = open_log(&self.logs, slot.spec.name)?;
            slot.spec.command.stdout(log.try_clone()?).stderr(log);
            let name = slot.spec.name.0;
            let child = slot
                .spec
                .command
                .spawn()
                .with_context(|| format!("start {name}"))?;
            let pid_file = self.runs.join(format!("{name}.pid"));
            std::fs::write(&pid_file, child.id().to_string())
                .with_context(|| format!("write {}", pid_file.display()))?;
            slot.child = Some(child);
            slot.started_at = now;
            slot.start_at = None;
        }
        Ok(())
    }

    /// Notes who died and plans their next start.
    fn reap(&mut self) -> anyhow::Result<()> {
        for slot in &mut self.slots {
            let Some(child) = &mut slot.child else {
                continue;
            };
            let Some(status) = child.try_wait()? else {
                continue;
            };
            slot.child = None;
            let name = slot.spec.name;
            let lived = slot.started_at.elapsed();
            slot.quick_deaths = if lived < SETTLED_AFTER {
                slot.quick_deaths + 1
            } else {
                0
            };
            if !self.all_ready && slot.quick_deaths >= START_DEATHS_MAX {
                let tail = tail(&self.logs, name);
                anyhow::bail!(
                    "{} keeps ending ({status}); its last words:\n{tail}",
                    name.0
                );
            }
            let pause = pause(slot.quick_deaths);
            slot.start_at = Some(Instant::now() + pause);
            if self.all_ready {
                banner::note(&format!(
                    "{} ended ({status}); starting it again in {} ms",
                    name.0,
                    pause.as_millis()
                ));
            }
        }
        Ok(())
    }

    /// Ends a broker that is stuck after a full disk, once there is room; it is then started again.
    fn look_at_store(&mut self) {
        let now = Instant::now();
        if now < self.store_look_at {
            return;
        }
        self.store_look_at = now + STORE_LOOK_INTERVAL;
        let look = self.store.look();
        let broker = self
            .slots
            .iter()
            .find(|slot| slot.spec.name == nats_server::NAME);
        match (look, broker.and_then(|slot| slot.child.as_ref())) {
            (Look::Full, _) if !self.store_full => {
                banner::note("the disk is full; nothing is stored until there is room");
            }
            // Everything acknowledged is synced, so it may be killed; stuck, it might not stop.
            (Look::RestartHelps, Some(child)) => {
                banner::note("nats-server is stuck after a failed write");
                send(child, Signal::KILL);
            }
            (Look::Fine | Look::Full | Look::RestartHelps, _) => {}
        }
        self.store_full = look == Look::Full;
    }

    /// Stops all children, last started first. Asked a second time, it kills what is left.
    pub(crate) async fn stop(mut self) {
        self.impatient_from = Instant::now() + SAME_REQUEST;
        let mut patient = true;
        while let Some(mut slot) = self.slots.pop() {
            let Some(mut child) = slot.child.take() else {
                continue;
            };
            let name = slot.spec.name.0;
            if patient {
                send(&child, slot.spec.stop.signal());
                patient = self.wait_for(&mut child, slot.spec.grace).await;
            }
            if matches!(child.try_wait(), Ok(None)) {
                banner::note(&format!("killing {name}, which has not stopped"));
                send(&child, Signal::KILL);
                self.wait_for(&mut child, slot.spec.grace).await;
            }
            // Gone already if the folder was removed under us.
            drop(std::fs::remove_file(self.runs.join(format!("{name}.pid"))));
        }
    }

    /// Returns when the child has ended, or false when the user lost patience.
    async fn wait_for(&mut self, child: &mut Child, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            let [interrupt, terminate, _] = &mut self.asked;
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = self.died.recv() => continue,
                () = tokio::time::sleep_until(deadline) => continue,
            }
            if Instant::now() >= self.impatient_from {
                return false;
            }
        }
        true
    }
}

/// Pause before the next start, by deaths soon after a start: none, then doubling.
fn pause(quick_deaths: u32) -> Duration {
    match quick_deaths.checked_sub(1) {
        None => Duration::ZERO,
        Some(exponent) => {
            PAUSE_MAX.min(Duration::from_millis(50).saturating_mul(1 << exponent.min(10)))
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended a moment ago, which is what we want.
        rustix::process::kill_process(pid, signal).ok();
    }
}

fn open_log(folder: &Path, name: Name) -> anyhow::Result<File> {
    let path = folder.join(format!("{}.log", name.0));
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, folder.join(format!("{}.log.1", name.0)))?;
    }
    let mut options = OpenOptions::new();
    options
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}

/// The last lines of a child's log.
fn tail(folder: &Path, name: Name) -> String {
    let bytes = std::fs::read(folder.join(format!("{}.log", name.0))).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(LOG_TAIL_LINES)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ran_for_long_is_started_again_at_once() {
        assert_eq!(pause(0), Duration::ZERO);
    }

    #[test]
    fn a_child_that_keeps_dying_is_started_within_the_promised_two_seconds() {
        for deaths in 0..1000 {
            assert!(pause(deaths) < Duration::from_secs(2));
            assert!(pause(deaths) <= pause(deaths + 1));
        }
    }
}
