//! Power loss: the broker is killed, and of its files only what was synced is left.
//!
//! What anybody was told is stored must be there, and everything goes on. On nats-server's default, which
//! syncs every two minutes, it is not: so the test can fail.

mod image;

use std::path::{Path, PathBuf};

use tests::{
    Folder, NatsServer, NatsSettings, PATIENCE, Part, Rounds, Stack, eventually, figure, not_run,
    tool,
};

use self::image::{CALLS, Image};
use crate::store_talk::{Stored, Talk, lost, messages_in_log, stack_on};

/// Messages that are stored before the power goes.
const STORED_MIN: usize = 400;
/// People who talk at once.
const PEOPLE: usize = 6;

/// A broker that is watched, in the stack's own folder so that both are removed together.
async fn watched(folder: &Path, strace: &Path, sync_always: bool) -> (NatsServer, PathBuf) {
    let notes = folder.join("notes");
    let through = [
        &strace.display().to_string(),
        // The tracer is the grandchild, so that the server is ours to kill.
        "-D",
        "--seccomp-bpf",
        "-f",
        "-y",
        "-q",
        "-s",
        "0",
        "-e",
        CALLS,
        "-o",
        &notes.display().to_string(),
    ];
    let settings = NatsSettings {
        sync_always,
        through: through.map(str::to_owned).to_vec(),
        ..NatsSettings::default()
    };
    (NatsServer::start(folder, settings).await, notes)
}

/// Kills the broker in the middle of everything and cuts its files; returns how many bytes are lost.
async fn loses_power(broker: &mut NatsServer, notes: &Path) -> u64 {
    let pid = broker.pid();
    broker.dies();
    let notes = eventually(PATIENCE, async || {
        let text = std::fs::read_to_string(notes).map_err(|error| error.to_string())?;
        if Image::is_of_killed(&text, pid) {
            Ok(text)
        } else {
            Err(format!("the notes of {pid} are not complete"))
        }
    })
    .await;
    let lost = Image::of(&notes).power_is_lost(&broker.store());
    broker.is_configured(NatsSettings::default());
    lost
}

/// A round: people talk, the power goes, the broker comes back.
struct Outage {
    stack: Stack,
    talk: Talk,
    /// What had been stored when the power went, as far as anybody was told.
    stored: Vec<Stored>,
    /// What the log does not have of it.
    lost: Vec<Stored>,
    _broker: NatsServer,
    _folder: Folder,
}

impl Outage {
    async fn happens(strace: &Path, sync_always: bool) -> Self {
        let folder = Folder::new("power");
        let (mut broker, notes) = watched(folder.path(), strace, sync_always).await;
        let stack = stack_on(&broker.url()).start().await;
        let talk = Talk::begins(&stack, PEOPLE).await;
        talk.has_stored(STORED_MIN).await;
        let bytes = loses_power(&mut broker, &notes).await;
        // Nothing can be stored before it is back.
        let stored = talk.stored();
        broker.starts_again().await;
        let (log, last) = messages_in_log(&broker.url()).await;
        let lost = lost(&stored, &log);
        println!(
            "{} stored, {} lost, {bytes} bytes cut, the log ends at {last}",
            stored.len(),
            lost.len()
        );
        Self {
            stack,
            talk,
            stored,
            lost,
            _broker: broker,
            _folder: folder,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_survives_a_power_loss() {
    let Some(strace) = tool("strace") else {
        not_run("power loss", "strace is not installed");
        return;
    };
    let mut stored = 0;
    for _ in Rounds::of("power", 3, 50) {
        let outage = Outage::happens(&strace, true).await;
        assert_eq!(outage.lost, [], "it was stored, and is lost");
        stored += outage.stored.len();
        outage.talk.goes_on().await;
        outage.talk.ends_kept(&outage.stack).await;
    }
    figure("power_loss.stored", stored);
    figure("power_loss.lost", 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_brokers_default_a_power_loss_loses_what_was_stored_and_is_noticed() {
    let Some(strace) = tool("strace") else {
        not_run("power loss on the default", "strace is not installed");
        return;
    };
    let outage = Outage::happens(&strace, false).await;
    figure("power_loss.default.stored", outage.stored.len());
    figure("power_loss.default.lost", outage.lost.len());
    assert!(!outage.lost.is_empty(), "the test can lose nothing");
    for part in [Part::Messages, Part::History] {
        let why = "natter reseed";
        let refuses = |it: &tests::Report| !it.ready && it.body.to_string().contains(why);
        outage.stack.reports(part, why, refuses).await;
    }
    outage.talk.breaks_off();
}
