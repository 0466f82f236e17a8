//! The committed corpora: a file for each input, whose name is only for people.

use std::path::Path;

/// Every input of a target, in the order of their names.
///
/// # Panics
///
/// If there are none.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/fuzz")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("each target has a corpus");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| std::fs::read(path).expect("it can be read");
    files.iter().map(read).collect()
}
