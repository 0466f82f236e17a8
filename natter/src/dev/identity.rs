//! As whom the private servers run, and where they can then keep their files.
//!
//! Postgres refuses to run as root. As root we give both servers to `nobody`, whose way to the data
//! folder must be open; where root may not change its user (a container with one mapped user),
//! a new user namespace hides that it is root. An ordinary user simply stays who they are.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::child::DeathSignal;

/// `nobody` on every Linux; a number, because the name is not everywhere in the user database.
const NOBODY: u32 = 65534;
/// Where servers' files go when `nobody` cannot reach the data folder. It outlives a reboot.
const OPEN_FOLDER: &str = "/var/tmp";

/// As whom the private servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// As the user who started us.
    Me,
    /// We are root and they run as `nobody`.
    Nobody,
    /// We are root and cannot be anyone else: they run in a user namespace that maps nobody.
    Unshared,
}

impl Identity {
    /// Finds out what this machine allows.
    pub(crate) fn find() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Me;
        }
        let mut probe = Command::new(ourselves());
        probe
            .arg("--version")
            .uid(NOBODY)
            .gid(NOBODY)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match probe.status() {
            Ok(status) if status.success() => Self::Nobody,
            Ok(_) | Err(_) => Self::Unshared,
        }
    }

    /// A command that runs `program` as this identity and dies with us by `die`.
    ///
    /// It gets a process group of its own, so that Ctrl-C in the terminal reaches only us and the
    /// children are stopped in order.
    pub(crate) fn command(self, program: &Path, die: DeathSignal) -> Command {
        let mut command = match self {
            Self::Me | Self::Nobody => Command::new(ourselves()),
            Self::Unshared => {
                let mut command = Command::new("unshare");
                command
                    .arg("--user")
                    .arg(std::env::current_exe().unwrap_or_else(|_| ourselves()));
                command
            }
        };
        if self == Self::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
            .args([
                "child",
                "--parent",
                &std::process::id().to_string(),
                "--die",
                die.word(),
                "--",
            ])
            .arg(program)
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    /// `path` if this identity can get there, else a folder that stands in for it.
    ///
    /// # Errors
    ///
    /// The stand-in cannot be made, or somebody else made it.
    pub(crate) fn reach(self, path: &Path) -> anyhow::Result<PathBuf> {
        if self != Self::Nobody || open_to_nobody(path) {
            return Ok(path.to_path_buf());
        }
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let name = digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let stand_in = Path::new(OPEN_FOLDER).join(format!("natter-{name}"));
        make_folder(&stand_in)?;
        let metadata = std::fs::symlink_metadata(&stand_in)?;
        anyhow::ensure!(
            metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw(),
            "{} is not ours, remove it",
            stand_in.display()
        );
        Ok(stand_in)
    }

    /// Gives `path` and all below to this identity; cheap if it has it already.
    ///
    /// # Errors
    ///
    /// The owner cannot be changed.
    pub(crate) fn give(self, path: &Path) -> anyhow::Result<()> {
        let owner = match self {
            Self::Me => return Ok(()),
            Self::Nobody => NOBODY,
            Self::Unshared => 0,
        };
        if std::fs::symlink_metadata(path)?.uid() == owner {
            return Ok(());
        }
        give_tree(path, owner).with_context(|| format!("give {} to user {owner}", path.display()))
    }
}

/// This very program, also for a user who cannot walk the path to it.
fn ourselves() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        return link.to_path_buf();
    }
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("natter"))
}

/// Whether `nobody` may pass through every folder down to and including `path`.
pub(crate) fn open_to_nobody(path: &Path) -> bool {
    path.ancestors()
        .all(|folder| match std::fs::metadata(folder) {
            Ok(metadata) if metadata.uid() == NOBODY => metadata.mode() & 0o100 != 0,
            Ok(metadata) => metadata.mode() & 0o001 != 0,
            Err(_) => false,
        })
}

/// Makes a folder that everybody may pass through, whatever the umask says.
///
/// # Errors
///
/// The folder cannot be made.
pub(crate) fn make_folder(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let made = || -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o755))
    };
    made().with_context(|| format!("make the folder {}", path.display()))
}

fn give_tree(path: &Path, owner: u32) -> std::io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_tree(&entry?.path(), owner)?;
        }
    }
    // Last, so that a walk that was interrupted is seen as unfinished by `give`.
    std::os::unix::fs::lchown(path, Some(owner), Some(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_on_the_way_is_noticed() {
        let folder = std::env::temp_dir().join(format!("natter-identity-{}", std::process::id()));
        let inner = folder.join("closed/inner");
        make_folder(&inner).unwrap();
        make_folder(&folder.join("closed")).unwrap();
        std::fs::set_permissions(folder.join("closed"), Permissions::from_mode(0o755)).unwrap();
        let before = open_to_nobody(&inner);
        std::fs::set_permissions(folder.join("closed"), Permissions::from_mode(0o700)).unwrap();
        let after = open_to_nobody(&inner);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(before && !after);
    }
}
