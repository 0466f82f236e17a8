//! Ports that are free, and stay ours between looking and binding.
//!
//! Two `natter dev` that look at the same moment would both find a port free and one would fail
//! later, so each claims a port by a lock file that the kernel drops when the process ends. Other
//! programs do not know of the locks; against them only the look helps.

use std::fs::{File, OpenOptions, Permissions};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

/// Ports from here on are given by the kernel to outgoing connections; collisions were seen.
const EPHEMERAL_FROM: u16 = 32768;
/// Ports tried before giving up; more taken in a row means something else is wrong.
const TRIES_MAX: u16 = 500;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// Held for its lock.
    _lock: Option<File>,
}

/// Claims the wanted address, or the same with the next free port.
///
/// # Errors
///
/// No port is free, or the address is none of this machine's.
pub(crate) fn claim(wanted: SocketAddr) -> anyhow::Result<Claim> {
    let last = wanted.port().saturating_add(TRIES_MAX);
    let last = if wanted.port() < EPHEMERAL_FROM {
        last.min(EPHEMERAL_FROM - 1)
    } else {
        last
    };
    let mut refusal = None;
    for port in wanted.port()..=last {
        match try_claim(wanted.ip(), port) {
            Ok(Some(claim)) => return Ok(claim),
            Ok(None) => {}
            Err(error) => refusal = Some(error),
        }
    }
    let why = refusal.map_or_else(|| "all are claimed".to_owned(), |error| error.to_string());
    anyhow::bail!(
        "no free port on {} from {} to {last}: {why}",
        wanted.ip(),
        wanted.port()
    )
}

/// `None`: another `natter dev` has it.
fn try_claim(ip: IpAddr, port: u16) -> std::io::Result<Option<Claim>> {
    let lock = open_lock(port).ok();
    if let Some(lock) = &lock
        && rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(None);
    }
    let address = SocketAddr::new(ip, port);
    drop(TcpListener::bind(address)?);
    Ok(Some(Claim {
        address,
        _lock: lock,
    }))
}

fn open_lock(port: u16) -> std::io::Result<File> {
    let folder = std::env::temp_dir().join("natter-ports");
    if !folder.is_dir() {
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o1777))?;
    }
    let path: PathBuf = folder.join(port.to_string());
    // Another user's file cannot be written, but reading is enough for a lock.
    File::open(&path).or_else(|_| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_not_given_twice_though_nobody_listens() {
        let wanted = SocketAddr::from(([127, 0, 0, 1], 17_390));
        let first = claim(wanted).unwrap();
        let second = claim(wanted).unwrap();
        assert_ne!(first.address.port(), second.address.port());
    }

    #[test]
    fn a_port_that_another_program_uses_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        if address.port() < u16::MAX {
            let claim = claim(address).unwrap();
            assert!(claim.address.port() > address.port());
        }
    }
}
