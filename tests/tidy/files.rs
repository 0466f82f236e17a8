//! What holds for every committed file: its size, its name, and nothing of one machine in it.

use crate::{File, check};

/// Beyond this a file is more than one idea.
const LINES_MAX: usize = 700;
/// Kinds of files that people write and read line by line.
const WRITTEN: &[&str] = &["rs", "ts", "tsx", "sql", "sh", "py", "js"];

fn extension(file: &File) -> &str {
    file.path
        .rsplit_once('.')
        .map_or("", |(_, extension)| extension)
}

fn size_faults(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    if WRITTEN.contains(&extension(file)) && lines > LINES_MAX {
        return vec![format!("{}: {lines} lines, {LINES_MAX} at most", file.path)];
    }
    Vec::new()
}

fn name_faults(file: &File) -> Vec<String> {
    if file.path.ends_with("/mod.rs") {
        return vec![format!("{}: use room.rs beside room/", file.path)];
    }
    Vec::new()
}

/// Folders of one machine, and addresses that a lock file must not carry. In pieces, so that this file
/// does not find itself.
const PLACES: &[&str] = &[
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("files.python", "hosted.org"),
    concat!("registry.npm", "js.org"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
];

fn place_faults(file: &File) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for place in PLACES {
            if line.contains(place) {
                faults.push(format!("{}:{}: names {place}", file.path, index + 1));
            }
        }
    }
    faults
}

#[test]
fn no_file_is_longer_than_one_idea() {
    check(size_faults);
}

#[test]
fn no_module_hides_its_name_in_mod_rs() {
    check(name_faults);
}

#[test]
fn no_file_names_a_machine_or_a_download_address() {
    check(place_faults);
}

#[test]
fn planted_faults_of_files_are_caught() {
    let long = "\n".repeat(LINES_MAX + 1);
    assert_eq!(size_faults(&crate::planted("a/b.rs", &long)).len(), 1);
    assert_eq!(size_faults(&crate::planted("a/b.json", &long)).len(), 0);
    assert_eq!(
        name_faults(&crate::planted("a/src/room/mod.rs", "")).len(),
        1
    );
    let text = format!("first\nsee {}me/x\n", concat!("/ro", "ot/"));
    assert_eq!(place_faults(&crate::planted("a.md", &text)).len(), 1);
    for place in PLACES {
        assert_eq!(
            place_faults(&crate::planted("a", place)).len(),
            1,
            "{place}"
        );
    }
}
