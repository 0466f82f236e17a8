//! Ports for what tests start themselves: free, and nobody else's as long as they are held.
//!
//! The lock files are those of `natter dev`, so tests and stacks on one machine leave each other alone.

use std::fs::{File, OpenOptions, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::FlockOperation;

/// Below the ports that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 17_800..18_000;

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Port {
    /// Its number, on the loopback address.
    pub(crate) number: u16,
    _lock: File,
}

impl Port {
    /// Claims any free one.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn claim() -> Self {
        let start = rand::random_range(PORTS);
        let mut ports = (start..PORTS.end).chain(PORTS.start..start);
        ports
            .find_map(Self::try_claim)
            .expect("one of many ports is free")
    }

    fn try_claim(number: u16) -> Option<Self> {
        let folder = std::env::temp_dir().join("natter-ports");
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder).ok()?;
            std::fs::set_permissions(&folder, Permissions::from_mode(0o1777)).ok()?;
        }
        let path = folder.join(number.to_string());
        // Another user's file cannot be written, but reading is enough for a lock.
        let lock = File::open(&path).or_else(|_| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
        });
        let lock = lock.ok()?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        drop(TcpListener::bind(("127.0.0.1", number)).ok()?);
        Some(Self {
            number,
            _lock: lock,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_given_twice() {
        let ports: Vec<Port> = (0..5).map(|_| Port::claim()).collect();
        let numbers: std::collections::BTreeSet<u16> = ports.iter().map(|it| it.number).collect();
        assert_eq!(numbers.len(), ports.len());
    }
}
