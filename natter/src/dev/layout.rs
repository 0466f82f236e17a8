//! Where `natter dev` keeps what: the data folder, and the lock that makes it ours.
//!
//! ```text
//! DATA/dev-jwt.key   signing key of development tokens
//!      lock          held while a `natter dev` runs here
//!      log/          what each child says, NAME.log
//!      run/          NAME.pid of each child; dev.json once everything is ready
//!      tools/        fetched servers
//!      nats/ pg/     the servers' files (elsewhere if their user cannot reach DATA)
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::FlockOperation;

use super::identity::{Identity, make_folder};

/// The folders of one `natter dev`.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The data folder, absolute.
    pub(crate) data: PathBuf,
    /// Where the servers' files are: the data folder, or its stand-in.
    pub(crate) home: PathBuf,
    /// Fetched servers.
    pub(crate) tools: PathBuf,
    /// Who runs the servers.
    pub(crate) identity: Identity,
    /// Held for its lock.
    _lock: File,
}

impl Layout {
    /// Makes the folders and takes the lock; `fresh` forgets everything but fetched tools.
    ///
    /// # Errors
    ///
    /// Another `natter dev` runs here, or a folder cannot be made.
    pub(crate) fn open(data: &Path, fresh: bool) -> anyhow::Result<Self> {
        make_folder(data)?;
        let data = data.canonicalize()?;
        let lock = File::create(data.join("lock")).context("open the lock file")?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("another natter dev runs in {}", data.display()))?;
        let identity = Identity::find();
        let home = identity.reach(&data)?;
        let wanted = std::env::var_os("NATTER_TOOLS_DIR");
        let wanted = wanted.map_or_else(|| data.join("tools"), PathBuf::from);
        make_folder(&wanted)?;
        let tools = identity.reach(&wanted.canonicalize()?)?;
        let layout = Self {
            data,
            home,
            tools,
            identity,
            _lock: lock,
        };
        if fresh {
            layout.forget()?;
        }
        for folder in [layout.logs(), layout.runs()] {
            make_folder(&folder)?;
        }
        // Left by one that was killed; whoever waits for it must not take ours for ready.
        drop(std::fs::remove_file(layout.state_file()));
        drop(std::fs::remove_file(layout.servers_file()));
        Ok(layout)
    }

    /// What the children say.
    pub(crate) fn logs(&self) -> PathBuf {
        self.data.join("log")
    }

    /// Process ids and the state file.
    pub(crate) fn runs(&self) -> PathBuf {
        self.data.join("run")
    }

    /// Addresses of everything, for programs; there exactly while all is ready.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.runs().join("dev.json")
    }

    /// Where broker and database are, from when they run: before the services are ready, and should they
    /// never be.
    pub(crate) fn servers_file(&self) -> PathBuf {
        self.runs().join("servers.json")
    }

    /// Names and passwords of the private broker's users.
    pub(crate) fn users_file(&self) -> PathBuf {
        self.runs().join("broker-users.json")
    }

    /// nats-server's folder.
    pub(crate) fn nats(&self) -> PathBuf {
        self.home.join("nats")
    }

    /// Postgres' data folder.
    pub(crate) fn postgres(&self) -> PathBuf {
        self.home.join("pg")
    }

    fn forget(&self) -> anyhow::Result<()> {
        let key = self.data.join(crate::token::KEY_FILE);
        for path in [self.nats(), self.postgres(), self.logs(), self.runs(), key] {
            let gone = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else if path.exists() {
                std::fs::remove_file(&path)
            } else {
                Ok(())
            };
            gone.with_context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cannot_run_in_one_data_folder() {
        let folder = std::env::temp_dir().join(format!("natter-layout-{}", std::process::id()));
        let first = Layout::open(&folder, false).unwrap();
        let second = Layout::open(&folder, false);
        drop(first);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(
            second
                .unwrap_err()
                .to_string()
                .contains("another natter dev")
        );
    }
}
