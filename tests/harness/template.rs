//! A data folder with a database cluster already made, copied for each test.
//!
//! Making the cluster takes a second, copying it a tenth of that. Servers that are not installed are
//! fetched here too, once, and not by all tests at the same time.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

/// Folders of failed tests are kept this long to be looked at.
const KEPT: Duration = Duration::from_secs(6 * 3600);

/// The natter binary beside which the tests were built.
///
/// # Panics
///
/// If it was not built.
pub(crate) fn natter() -> PathBuf {
    // The test's own program is in target/PROFILE/deps.
    let tests = std::env::current_exe().expect("a test knows its own program");
    let profile = tests
        .ancestors()
        .nth(2)
        .expect("it is in target/PROFILE/deps");
    let natter = profile.join("natter");
    assert!(
        natter.is_file(),
        "build it first: cargo build --package natter"
    );
    natter
}

/// Where fetched servers are; the same folder as for `./dev run`.
pub(crate) fn tools() -> PathBuf {
    std::env::var_os("NATTER_TOOLS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.natter/tools"),
        PathBuf::from,
    )
}

/// Sees to it that everything that tests start is there.
///
/// # Panics
///
/// If it cannot be fetched or made.
pub(crate) fn prepared() {
    template(&base());
}

/// A new data folder, reachable for the user who runs the servers.
///
/// # Panics
///
/// If it cannot be made.
pub(crate) fn new_data() -> PathBuf {
    let base = base();
    let template = template(&base);
    let data = new_name("");
    let copied = Command::new("cp")
        .args(["--archive", "--reflink=auto"])
        .args([&template, &data])
        .status()
        .expect("cp is everywhere");
    assert!(copied.success(), "copy the template: {copied}");
    // Each gets a signing key of its own, as any two installations have.
    std::fs::remove_file(data.join("dev-jwt.key")).expect("natter dev --prepare makes a key");
    data
}

/// A name in the folder of all data that nobody has: a failed test keeps its folder, and process ids come
/// again.
pub(crate) fn new_name(what: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let base = base();
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{}-{number}{what}", std::process::id()));
        if !path.exists() {
            return path;
        }
    }
}

/// Where the data of tests are.
fn base() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let base = std::env::temp_dir().join(format!("natter-tests-{user}"));
    if !base.is_dir() {
        std::fs::create_dir_all(&base).expect("the temporary folder can be written");
        std::fs::set_permissions(&base, Permissions::from_mode(0o755)).expect("it is ours");
    }
    base
}

/// Made by whoever comes first; the others wait.
fn template(base: &Path) -> PathBuf {
    let source = std::env::var("NATTER_TOOLS").unwrap_or_else(|_| "installed".to_owned());
    let template = base.join(format!("template-{source}"));
    let lock = File::create(base.join("lock")).expect("the folder can be written");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("a file can be locked");
    remove_old(base);
    let prepared = Command::new(natter())
        .args(["dev", "--prepare", "--data"])
        .arg(&template)
        .env("NATTER_TOOLS_DIR", tools())
        .env_remove("NATTER_NATS_URL")
        .env_remove("NATTER_DATABASE_URL")
        .output()
        .expect("natter can be started");
    let said = String::from_utf8_lossy(&prepared.stderr);
    assert!(prepared.status.success(), "natter dev --prepare: {said}");
    template
}

/// What killed or failed tests left, after a while.
fn remove_old(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_data = name
            .split_once('-')
            .is_some_and(|(pid, _)| pid.parse::<u32>().is_ok());
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified
            .ok()
            .and_then(|at| SystemTime::now().duration_since(at).ok());
        if is_data && age.is_some_and(|age| age > KEPT) {
            // Somebody else may be removing it too.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}
