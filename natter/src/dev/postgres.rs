//! The private Postgres: its cluster, its command, stale locks, and when it is ready.
//!
//! It listens on the loopback address alone and trusts whoever reaches it there. Durability settings
//! stay at Postgres' own defaults: fsync is on.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::layout::Layout;
use super::supervisor::{Name, Spec};
use super::{PROBE_INTERVAL, tools};
use crate::child::DeathSignal;

/// The name in process files, logs and the banner.
pub(crate) const NAME: Name = Name("postgres");
/// Superuser and database.
const NATTER: &str = "natter";
/// How long an earlier Postgres on the same data may take to stop.
const EARLIER_PATIENCE: Duration = Duration::from_secs(20);

/// The major version an existing cluster was made by.
pub(crate) fn major(layout: &Layout) -> Option<u32> {
    std::fs::read_to_string(layout.postgres().join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Makes the cluster if there is none.
///
/// # Errors
///
/// initdb fails; its words are in the error.
pub(crate) fn initialise(layout: &Layout, programs: &Path) -> anyhow::Result<()> {
    let folder = layout.postgres();
    if folder.join("PG_VERSION").is_file() {
        return layout.identity.give(&folder);
    }
    // Made aside and moved in whole: a half-made cluster is never taken for one.
    let aside = layout.home.join("pg.new");
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::create_dir(&aside)?;
    layout.identity.give(&aside)?;
    let mut initdb = layout
        .identity
        .command(&programs.join("initdb"), DeathSignal::Term);
    // Sort order is ours to choose per query; what a letter is must hold for all of Unicode.
    initdb.args([
        "--username",
        NATTER,
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
    ]);
    initdb.args([
        "--locale",
        "C",
        "--lc-ctype",
        "C.UTF-8",
        "--no-instructions",
        "--pgdata",
    ]);
    initdb.arg(&aside);
    tools::run(&mut initdb).context("make the Postgres cluster")?;
    std::fs::rename(&aside, &folder).context("move in the Postgres cluster")
}

/// The command that runs the server on that cluster.
pub(crate) fn prepare(layout: &Layout, programs: &Path, address: SocketAddr) -> Spec {
    let mut command: Command = layout
        .identity
        .command(&programs.join("postgres"), DeathSignal::Int);
    command.arg("-D").arg(layout.postgres());
    for setting in [
        format!("listen_addresses={}", address.ip()),
        format!("port={}", address.port()),
        // A socket's path may be at most 107 bytes long, a data folder's may be longer.
        "unix_socket_directories=".to_owned(),
        "max_connections=100".to_owned(),
        "log_min_messages=warning".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        // After a kill, file by file took 1.6 to 5.4 s on a busy machine, in one call 0.3 to 0.6 s.
        #[cfg(target_os = "linux")]
        "recovery_init_sync_method=syncfs".to_owned(),
        // Compiling a query takes longer than any of ours runs.
        "jit=off".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    Spec {
        name: NAME,
        command,
        stop: DeathSignal::Int,
        grace: Duration::from_secs(20),
    }
}

/// Waits until nobody works on the data, then removes a lock that names a stranger.
///
/// After `kill -9` of a `natter dev` the old server may still be stopping. And a lock left by a power
/// loss may name a process id that somebody else has by now; Postgres would refuse to start.
///
/// # Errors
///
/// Somebody still works on the data after the patience.
pub(crate) async fn settle(folder: PathBuf) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + EARLIER_PATIENCE;
    while let Some(pid) = occupant(&folder) {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "process {pid} still works on {}",
            folder.display()
        );
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    let lock = folder.join("postmaster.pid");
    if let Some(pid) = lock_owner(&lock)
        && is_stranger(pid)
    {
        std::fs::remove_file(&lock).context("remove the stale postmaster.pid")?;
    }
    Ok(())
}

/// A process whose working directory is the data folder: Postgres' processes all sit there.
fn occupant(folder: &Path) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
        (cwd == folder).then_some(pid)
    })
}

fn lock_owner(lock: &Path) -> Option<u32> {
    std::fs::read_to_string(lock)
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

/// Whether the process lives and is no Postgres. If it does not live, Postgres itself knows what to do.
fn is_stranger(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = Path::new(OsStr::new(std::str::from_utf8(program).unwrap_or_default()));
        !program
            .file_name()
            .is_some_and(|name| name == "postgres" || name == "postmaster")
    })
}

/// Where services connect.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("postgres://{NATTER}@{address}/{NATTER}")
}

/// Returns when the server answers, with natter's database made.
///
/// Cancel safety: may be dropped at any time.
pub(crate) async fn ready(address: SocketAddr) {
    loop {
        let made = tokio::time::timeout(Duration::from_secs(5), make_database(address)).await;
        if matches!(made, Ok(Ok(()))) {
            return;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn make_database(address: SocketAddr) -> Result<(), sqlx::Error> {
    let options = PgConnectOptions::new()
        .host(&address.ip().to_string())
        .port(address.port())
        .username(NATTER)
        .database("postgres");
    let mut connection = PgConnection::connect_with(&options).await?;
    let there: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = 'natter')")
            .fetch_one(&mut connection)
            .await?;
    if !there {
        sqlx::query("create database natter")
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_names_a_living_stranger_is_stale() {
        assert!(is_stranger(std::process::id()));
        assert!(!is_stranger(u32::MAX));
    }

    #[test]
    fn a_process_that_sits_in_a_folder_is_its_occupant() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert!(occupant(&here).is_some());
        assert_eq!(occupant(Path::new("/nowhere/at/all")), None);
    }
}
