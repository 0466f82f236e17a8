//! The same test twice: short in `./dev test`, long in `./dev soak PART`.
//!
//! A soak is stopped at any time and goes on with the round that it was in: how far it came is kept in
//! a file of its part. What a machine cannot run is said, never skipped in silence.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where a soak keeps how far it came; set by `./dev soak`, and only then does a test run long.
const SOAK_FOLDER: &str = "NATTER_SOAK_DIR";
/// Where measured figures are gathered.
const FIGURES: &str = "NATTER_FIGURES";
/// Where is gathered what could not be run.
const NOT_RUN: &str = "NATTER_NOT_RUN";

/// Whether this is `./dev soak`.
#[must_use]
pub fn is_soak() -> bool {
    std::env::var_os(SOAK_FOLDER).is_some()
}

/// One of two values: that of `./dev test`, or that of `./dev soak`.
pub fn either<T>(test: T, soak: T) -> T {
    if is_soak() { soak } else { test }
}

/// The rounds of a part: all of them in a test, in a soak those that are not done yet.
///
/// A round counts as done when the next one is asked for, so one that failed is run again.
#[derive(Debug)]
pub struct Rounds {
    state: Option<PathBuf>,
    next: u64,
    end: u64,
}

impl Rounds {
    /// As many as `test` says, or `soak` in a soak of `part`.
    ///
    /// # Panics
    ///
    /// If what the part's file holds is no number.
    #[must_use]
    pub fn of(part: &str, test: u64, soak: u64) -> Self {
        let folder = std::env::var_os(SOAK_FOLDER);
        let state = folder.map(|folder| Path::new(&folder).join(part));
        let end = if state.is_some() { soak } else { test };
        Self::kept(state, end)
    }

    fn kept(state: Option<PathBuf>, end: u64) -> Self {
        let done = state
            .as_deref()
            .and_then(|path| fs::read_to_string(path).ok());
        let next = done.map_or(0, |done| done.trim().parse().expect("rounds that are done"));
        Self { state, next, end }
    }
}

impl Iterator for Rounds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if let Some(state) = &self.state {
            fs::write(state, self.next.to_string()).expect("the soak's folder can be written");
        }
        if self.next >= self.end {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

/// Says a measured figure, and keeps it if figures are gathered.
///
/// # Panics
///
/// If the file of figures cannot be written.
pub fn figure(name: &str, value: impl Display) {
    println!("FIGURE {name} {value}");
    keep(FIGURES, &format!("{name} {value}"));
}

/// Says that something could not be run here; `./dev test` lists it last.
///
/// # Panics
///
/// If the list cannot be written.
pub fn not_run(what: &str, why: &str) {
    println!("NOT RUN {what}: {why}");
    keep(NOT_RUN, &format!("{what}: {why}"));
}

fn keep(variable: &str, line: &str) {
    let Some(path) = std::env::var_os(variable) else {
        return;
    };
    let file = OpenOptions::new().append(true).create(true).open(path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.expect("the file that was named can be written");
}

/// Where a program is that not every machine has.
#[must_use]
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_goes_on_with_the_round_that_it_was_in() {
        let folder = std::env::temp_dir().join(format!("natter-rounds-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let part = folder.join("part");
        let mut first = Rounds::kept(Some(part.clone()), 4);
        assert_eq!((first.next(), first.next()), (Some(0), Some(1)));
        // Stopped in the second round: that one is run again.
        let again: Vec<u64> = Rounds::kept(Some(part.clone()), 4).collect();
        assert_eq!(again, [1, 2, 3]);
        assert_eq!(Rounds::kept(Some(part), 4).next(), None);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_test_has_all_its_rounds() {
        assert_eq!(Rounds::kept(None, 3).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
