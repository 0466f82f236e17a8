//! The broker's store takes nothing: its disk is full, or what is written cannot be synced.
//!
//! Nobody is told that something is stored that is not; writes are put off, readiness says so, and soon
//! after the store is mended everything goes on. nats-server itself stays stuck until it is restarted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::{
    Folder, NatsServer, NatsSettings, PATIENCE, Part, Rounds, SmallBroker, Stack, User, eventually,
    figure, message, not_run, tool,
};
use tokio::time::Instant;

use crate::store_talk::{Talk, lost, messages_in_log, stack_on};

/// People who talk at once.
const PEOPLE: usize = 4;
/// Characters of a long message: with them a small disk is soon full.
const LONG: usize = 6_000;
/// After the store is mended everything goes on within this time.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);

/// Waits until nothing is stored any more and everybody is told so.
async fn is_refused(stack: &Stack, prober: &mut User, room: &str) {
    let text = "x".repeat(LONG);
    eventually(PATIENCE, async || {
        let err = match prober.asks(message(room, &text)).await {
            Ok(ok) => return Err(ok),
            Err(err) => err,
        };
        assert_eq!(err["temp"], true, "{err}");
        // Before it is found out that nothing is stored, the outcome is unknown.
        if err["code"] == "unavailable" && err["retry_after_ms"].is_u64() {
            Ok(())
        } else {
            Err(err)
        }
    })
    .await;
    for part in [Part::Gateway, Part::Messages] {
        stack.reports(part, "not ready", |it| !it.ready).await;
    }
}

/// Waits until all go on whose store is mended now, and says how long that took.
async fn is_resumed(name: &str, talk: &Talk) {
    let mended = Instant::now();
    talk.goes_on().await;
    let took = mended.elapsed();
    figure(&format!("store.{name}.resumed_ms"), took.as_millis());
    assert!(took <= RESUMED_WITHIN, "{name}: it took {took:?}");
}

/// Everything of which anybody was told that it is stored is in the log and in the archive.
async fn nothing_was_promised_in_vain(stack: &Stack, nats_url: &str, talk: Talk) {
    let stored = talk.stored();
    let (log, _) = messages_in_log(nats_url).await;
    assert_eq!(lost(&stored, &log), [], "told to be stored");
    let count = talk.ends_kept(stack).await;
    println!("{count} stored");
}

async fn prober(stack: &Stack) -> (User, String) {
    let mut prober = stack.user("prober").await;
    let room = prober.creates_room("probe").await;
    (prober, room)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_nothing_is_promised_in_vain() {
    for _ in Rounds::of("store-full", 1, 10) {
        // A new disk each time: it is small.
        let broker = SmallBroker::start().await;
        let stack = stack_on(broker.url()).start().await;
        let (mut prober, room) = prober(&stack).await;
        let talk = Talk::begins_at_length(&stack, PEOPLE, LONG).await;
        talk.goes_on().await;
        broker.disk_fills();
        is_refused(&stack, &mut prober, &room).await;
        broker.disk_is_cleared();
        is_resumed("disk_full", &talk).await;
        stack.is_ready().await;
        nothing_was_promised_in_vain(&stack, broker.url(), talk).await;
    }
}

/// strace that makes every sync of a process fail, until it is dropped.
struct BadDisk(Child);

impl BadDisk {
    /// Waits until it has its hands on the process; none if it may not.
    async fn of(strace: &Path, pid: u32, notes: &Path) -> Option<Self> {
        let child = Command::new(strace)
            .args(["-f", "-q", "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:error=EIO"])
            .arg("-o")
            .arg(notes)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut disk = Self(child.expect("strace can be started"));
        let held = eventually(PATIENCE, async || {
            if let Ok(Some(_)) = disk.0.try_wait() {
                return Ok(false);
            }
            let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
            let threads = threads.map_err(|error| error.to_string())?;
            let statuses = threads.filter_map(|thread| {
                std::fs::read_to_string(thread.ok()?.path().join("status")).ok()
            });
            let free = statuses.filter(|it| it.contains("TracerPid:\t0\n")).count();
            if free == 0 {
                Ok(true)
            } else {
                Err(format!("{free} threads run free"))
            }
        })
        .await;
        held.then_some(disk)
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        // Asked to end, it lets go of the process; it may have ended with it.
        kill_process(pid.expect("a process id is positive"), Signal::TERM).ok();
        drop(self.0.wait());
    }
}

/// strace, if it is there and may look at other processes.
async fn bad_disk(pid: u32, notes: &Path) -> Option<BadDisk> {
    let Some(strace) = tool("strace") else {
        not_run("a disk that cannot sync", "strace is not installed");
        return None;
    };
    let disk = BadDisk::of(&strace, pid, notes).await;
    if disk.is_none() {
        not_run(
            "a disk that cannot sync",
            "strace may not trace other processes",
        );
    }
    disk
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_synced_is_not_promised() {
    let folder = Folder::new("sync");
    let mut broker = NatsServer::start(folder.path(), NatsSettings::default()).await;
    let stack = stack_on(&broker.url()).start().await;
    let (mut prober, room) = prober(&stack).await;
    let talk = Talk::begins(&stack, PEOPLE).await;
    for _ in Rounds::of("store-sync", 1, 10) {
        talk.goes_on().await;
        let notes = folder.path().join("notes");
        let Some(disk) = bad_disk(broker.pid(), &notes).await else {
            talk.breaks_off();
            return;
        };
        is_refused(&stack, &mut prober, &room).await;
        // It syncs again, and the broker does not believe it: only a restart helps.
        drop(disk);
        let notes = std::fs::read_to_string(notes).expect("strace has made notes");
        assert!(notes.contains("(INJECTED)"), "nothing has failed");
        let err = prober.asks(message(&room, "still")).await;
        assert_eq!(err.expect_err("it is stuck")["temp"], Value::Bool(true));
        broker.dies();
        broker.starts_again().await;
        is_resumed("sync_error", &talk).await;
        stack.is_ready().await;
    }
    nothing_was_promised_in_vain(&stack, &broker.url(), talk).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn natter_dev_mends_a_broker_that_could_not_sync() {
    let stack = Stack::builder().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "before").await;
    let broken = stack.pid(Part::NatsServer);
    let folder = Folder::new("dev-sync");
    let notes = folder.path().join("notes");
    let Some(_disk) = bad_disk(broken, &notes).await else {
        return;
    };
    let stored = alice.insists(message(&room, "during")).await;
    assert!(stored.expect("it is stored in the end")["seq"].is_u64());
    stack.is_started_again(Part::NatsServer, broken).await;
    stack.is_ready().await;
    let archive = alice.archive(&room).await;
    let texts: Vec<&str> = archive
        .iter()
        .filter_map(|it| it["text"].as_str())
        .collect();
    assert_eq!(texts, ["before", "during"]);
}
