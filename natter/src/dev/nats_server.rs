//! The private nats-server: its configuration, its command, and when it is ready.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;

use super::broker_users::BrokerUsers;
use super::identity::make_folder;
use super::layout::Layout;
use super::supervisor::{Name, Spec};
use crate::child::DeathSignal;

/// The name in process files, logs and the banner.
pub(crate) const NAME: Name = Name("nats-server");
/// Streams of the in-memory kind: leases and presence, a few megabytes; this never binds.
const MEMORY_STORE: &str = "1GB";
/// The log is cut by age; this only keeps nats-server from deriving a limit from a full disk.
const FILE_STORE: &str = "256GB";

/// Writes the configuration and returns the command.
///
/// # Errors
///
/// A folder or file cannot be written.
pub(crate) fn prepare(
    layout: &Layout,
    program: &Path,
    address: SocketAddr,
    users: &BrokerUsers,
) -> anyhow::Result<Spec> {
    let folder = layout.nats();
    make_folder(&folder)?;
    let path = folder.join("nats.conf");
    let text = configuration(&folder, address) + &users.configuration();
    write_secret(&path, &text).with_context(|| format!("write {}", path.display()))?;
    layout.identity.give(&path)?;
    layout.identity.give(&folder)?;
    let mut command = layout.identity.command(program, DeathSignal::Term);
    command.arg("--config").arg(&path);
    Ok(Spec {
        name: NAME,
        command,
        stop: DeathSignal::Term,
        grace: Duration::from_secs(10),
    })
}

/// Only the server's user can read it: it holds passwords.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// `max_payload`: history answers with the state of a room of 20,000 members in one message; nats-server
/// itself advises against more than this. `sync_interval: always`: a simulated power loss cost 200 of 200 acknowledged messages without it
/// and none with it.
fn configuration(folder: &Path, address: SocketAddr) -> String {
    let store = folder.join("store");
    format!(
        "# Written by natter dev at each start.\n\
         server_name: natter-dev\n\
         host: \"{host}\"\n\
         port: {port}\n\
         max_payload: 8MB\n\
         jetstream {{\n\
         \x20 store_dir: \"{store}\"\n\
         \x20 sync_interval: always\n\
         \x20 max_memory_store: {MEMORY_STORE}\n\
         \x20 max_file_store: {FILE_STORE}\n\
         }}\n",
        host = address.ip(),
        port = address.port(),
        store = store.display(),
    )
}

/// Returns when the server greets a connection.
///
/// Cancel safety: may be dropped at any time.
pub(crate) async fn ready(address: SocketAddr) {
    loop {
        let greeting = tokio::time::timeout(Duration::from_secs(1), greeting(address)).await;
        if matches!(greeting, Ok(Ok(line)) if line.starts_with("INFO ")) {
            return;
        }
        tokio::time::sleep(super::PROBE_INTERVAL).await;
    }
}

async fn greeting(address: SocketAddr) -> std::io::Result<String> {
    let mut line = String::new();
    BufReader::new(TcpStream::connect(address).await?)
        .read_line(&mut line)
        .await?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_synced_before_it_is_acknowledged() {
        let text = configuration(
            Path::new("/data/nats"),
            SocketAddr::from(([127, 0, 0, 1], 1)),
        );
        assert!(text.contains("sync_interval: always"), "{text}");
        assert!(text.contains("store_dir: \"/data/nats/store\""), "{text}");
    }
}
