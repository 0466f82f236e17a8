//! Properties of the repository itself.
//!
//! Each check is a function from text to faults, so that the checkers are tested on planted faults
//! and not only on a repository that happens to be clean.

mod architecture;
mod catalogues;
mod files;
mod markdown;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A committed text file.
struct File {
    /// Relative to the repository's root, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// Every text file that git knows or would add.
fn files() -> Vec<File> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is needed to list the files");
    assert!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let paths = String::from_utf8(listed.stdout).unwrap();
    // A file may be listed and gone, and what is no text has no lines to check.
    let read = |path: &str| std::fs::read_to_string(root().join(path)).ok();
    paths
        .lines()
        .filter_map(|path| {
            Some(File {
                path: path.to_owned(),
                text: read(path)?,
            })
        })
        .collect()
}

/// Runs one check over all files and shows every fault at once.
fn check(faults_of: impl Fn(&File) -> Vec<String>) {
    let files = files();
    assert!(
        files.iter().any(|file| file.path == "tests/tidy/main.rs"),
        "found no files"
    );
    let faults: Vec<String> = files.iter().flat_map(faults_of).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A file for a test of a checker.
#[cfg(test)]
fn planted(path: &str, text: &str) -> File {
    File {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}
