//! A broker on a disk of its own that is small and can be full.
//!
//! The disk is a tmpfs in a mount namespace of its own, which an ordinary user may make too. The
//! broker is started again whenever it ends, as a supervisor would.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::eventually::{PATIENCE, eventually};
use crate::port::Port;
use crate::stack::{Part, Stack, send};

/// Bytes of the disk: more than a test writes that talks for a minute, so that only the ballast fills it.
const DISK_BYTES: usize = 128 * 1024 * 1024;
/// What the ballast leaves free: less than one large message of each partition.
const LEFT_BYTES: usize = 1024 * 1024;

/// Runs until it is dropped.
#[derive(Debug)]
pub struct SmallBroker {
    keeper: Child,
    url: String,
    _port: Port,
    folder: PathBuf,
    /// Its program is the one that this stack runs.
    _servers: Stack,
}

impl SmallBroker {
    /// Starts it and waits until it takes connections.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub async fn start() -> Self {
        let servers = Stack::builder().servers_only().start().await;
        let program = std::fs::read_link(format!("/proc/{}/exe", servers.pid(Part::NatsServer)));
        let program = program.expect("the broker's program can be read");
        let folder = servers.data().join("small");
        std::fs::create_dir(&folder).expect("the data folder is ours");
        let port = Port::claim();
        let (number, disk) = (port.number, folder.display());
        let configuration = format!(
            "server_name: small\nhost: 127.0.0.1\nport: {number}\nmax_payload: 8MB\npid_file: \"{disk}/pid\"\n\
             jetstream {{ store_dir: \"{disk}/store\", sync_interval: always, max_file_store: 1GB }}\n"
        );
        std::fs::write(servers.data().join("small.conf"), configuration).expect("it is ours");
        let script = format!(
            "mount -t tmpfs -o size={DISK_BYTES} none {disk} || exit 1\n\
             while :; do {} -c {disk}.conf >>{disk}.log 2>&1; done",
            program.display()
        );
        let keeper = Command::new("unshare")
            .args([
                "--map-root-user",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                &script,
            ])
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("unshare is everywhere");
        let url = format!("nats://127.0.0.1:{number}");
        eventually(PATIENCE, async || async_nats::connect(&url).await).await;
        Self {
            keeper,
            url,
            _port: port,
            folder,
            _servers: servers,
        }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its disk, as seen from within.
    fn disk(&self) -> PathBuf {
        let children = format!("/proc/{0}/task/{0}/children", self.keeper.id());
        let children = std::fs::read_to_string(children).expect("the keeper runs");
        let shell = children.split_whitespace().next().expect("it has forked");
        let folder = self.folder.strip_prefix("/").expect("it is absolute");
        PathBuf::from(format!("/proc/{shell}/root")).join(folder)
    }

    /// Fills the disk with something else, but for a little.
    pub fn disk_fills(&self) {
        let disk = self.disk();
        let room = rustix::fs::statvfs(&disk).expect("the disk is mounted");
        let free = usize::try_from(room.f_bavail * room.f_frsize).expect("it is small");
        let ballast = vec![0; free.saturating_sub(LEFT_BYTES)];
        std::fs::write(disk.join("ballast"), ballast).expect("there is as much room");
    }

    /// Makes room again, and has the broker start anew, without which it stays stuck.
    pub fn disk_is_cleared(&self) {
        let disk = self.disk();
        std::fs::remove_file(disk.join("ballast")).expect("it was put there");
        kill_all_in(self.keeper.id(), "nats-server");
    }
}

impl Drop for SmallBroker {
    fn drop(&mut self) {
        send(self.keeper.id(), Signal::KILL);
        drop(self.keeper.wait());
    }
}

/// `kill -9` of the descendants of a process that have this name.
fn kill_all_in(ancestor: u32, name: &str) {
    let descendants = crate::look::descendants(ancestor).into_iter();
    for it in descendants.filter(|it| it.name == name) {
        send(it.pid, Signal::KILL);
    }
}
