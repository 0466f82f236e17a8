//! Notices that nats-server can no longer write, and when a restart would help.
//!
//! After a full disk a stream stays stuck even when there is room again; only a restart of the server
//! frees it. The server does not tell anybody but its log. Clusters have an alert and a person for
//! this; here the supervisor does it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

/// What the server logs when a write to a stream's file failed.
const FAILED_WRITE: &[u8] = b"failed to store a msg";
/// Read at once, at most; what is beyond is read at the next look.
const LOOK_BYTES_MAX: u64 = 1024 * 1024;
/// Less free room than this would be used up before anybody noticed the restart.
const FREE_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Writes work.
    Fine,
    /// Writes fail and there is no room.
    Full,
    /// Writes failed, and there is room again: a restart helps.
    RestartHelps,
}

/// Reads the server's log as it grows.
#[derive(Debug)]
pub(crate) struct StoreWatch {
    log: PathBuf,
    store: PathBuf,
    read_to: u64,
    stuck: bool,
}

impl StoreWatch {
    /// From the log's present end on.
    pub(crate) fn new(log: PathBuf, store: PathBuf) -> Self {
        let read_to = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        Self {
            log,
            store,
            read_to,
            stuck: false,
        }
    }

    /// Looks at what is new in the log. After [`Look::RestartHelps`] it is fine until told otherwise.
    pub(crate) fn look(&mut self) -> Look {
        // An unreadable log says nothing, and that is all a watcher can make of it.
        self.stuck |= self
            .new_lines()
            .is_ok_and(|bytes| tells_of_failed_write(&bytes));
        if !self.stuck {
            return Look::Fine;
        }
        let free = rustix::fs::statvfs(&self.store)
            .map_or(0, |room| room.f_bavail.saturating_mul(room.f_frsize));
        if free < FREE_BYTES_MIN {
            return Look::Full;
        }
        self.stuck = false;
        Look::RestartHelps
    }

    fn new_lines(&mut self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.log)?;
        if file.metadata()?.len() < self.read_to {
            self.read_to = 0;
        }
        file.seek(SeekFrom::Start(self.read_to))?;
        let mut bytes = Vec::new();
        file.take(LOOK_BYTES_MAX).read_to_end(&mut bytes)?;
        // Half a line is read again when it is whole.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        bytes.truncate(whole);
        self.read_to += u64::try_from(whole).unwrap_or(0);
        Ok(bytes)
    }
}

fn tells_of_failed_write(bytes: &[u8]) -> bool {
    bytes
        .windows(FAILED_WRITE.len())
        .any(|window| window == FAILED_WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_failed_write_is_told_once_and_a_restart_helps_where_there_is_room() {
        let folder = std::env::temp_dir().join(format!("natter-store-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let log = folder.join("nats-server.log");
        std::fs::write(
            &log,
            "[ERR] JetStream failed to store a msg: of an earlier run\n",
        )
        .unwrap();
        let mut watch = StoreWatch::new(log.clone(), folder.clone());
        let before = watch.look();
        let mut file = File::options().append(true).open(&log).unwrap();
        write!(file, "[INF] fine\n[ERR] JetStream failed to store a m").unwrap();
        let half = watch.look();
        writeln!(file, "sg on stream '$G > T': no space left on device").unwrap();
        let (told, after) = (watch.look(), watch.look());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(
            (before, half, told, after),
            (Look::Fine, Look::Fine, Look::RestartHelps, Look::Fine)
        );
    }
}
