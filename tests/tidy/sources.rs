//! What holds for Rust sources and clippy cannot see.

use crate::{File, check};

/// First tokens of natter's own subjects.
const SUBJECTS: &[&str] = &[
    "log.",
    "live.",
    "cmd.",
    "wm.",
    "own.",
    "svc.history",
    "$KV.NATTER",
];

/// The only place that spells subjects.
const GRAMMAR: &str = "protocol/src/subject";

/// Lines of a source before its unit tests, numbered from 1.
fn lines_of_product(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file
        .text
        .lines()
        .zip(1..)
        .map(|(line, number)| (number, line));
    lines.take_while(|(_, line)| !line.trim_start().starts_with("#[cfg(test)]"))
}

fn subject_faults(file: &File) -> Vec<String> {
    let unit_tests = file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
    let product = file.path.contains("/src/") && file.path.ends_with(".rs") && !unit_tests;
    if !product || file.path.starts_with(GRAMMAR) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for (number, line) in lines_of_product(file) {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for subject in SUBJECTS {
            if code.contains(&format!("\"{subject}")) {
                let path = &file.path;
                faults.push(format!(
                    "{path}:{number}: {subject} is spelled by {GRAMMAR}.rs alone"
                ));
            }
        }
    }
    faults
}

/// A module's unit tests in a file of their own say by their name what they are.
fn head_faults(file: &File) -> Vec<String> {
    let unit_tests = file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
    if file.path.ends_with(".rs") && !unit_tests && !file.text.starts_with("//!") {
        return vec![format!(
            "{}: starts without saying what it is for (`//!`)",
            file.path
        )];
    }
    Vec::new()
}

/// A test that is left out proves nothing and looks as if it did.
fn left_out_faults(file: &File) -> Vec<String> {
    let mark = concat!("#[ign", "ore");
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let lines = file.text.lines().zip(1..);
    let hits = lines.filter(|(line, _)| line.trim_start().starts_with(mark));
    hits.map(|(_, number)| format!("{}:{number}: a test is left out", file.path))
        .collect()
}

#[test]
fn only_the_grammar_spells_subjects() {
    check(subject_faults);
}

#[test]
fn every_source_says_what_it_is_for() {
    check(head_faults);
}

#[test]
fn no_test_is_left_out() {
    check(left_out_faults);
}

#[test]
fn planted_faults_of_sources_are_caught() {
    let literal = "//! Docs.\nfn f() -> String { format!(\"cmd.{}\", 3) }\n";
    assert_eq!(
        subject_faults(&crate::planted("gateway/src/x.rs", literal)).len(),
        1
    );
    assert_eq!(
        subject_faults(&crate::planted("protocol/src/subject.rs", literal)).len(),
        0
    );
    let in_test = "//! Docs.\n#[cfg(test)]\nmod tests { const X: &str = \"log.3\"; }\n";
    assert_eq!(
        subject_faults(&crate::planted("gateway/src/x.rs", in_test)).len(),
        0
    );
    assert_eq!(
        head_faults(&crate::planted("a/src/x.rs", "use x;\n")).len(),
        1
    );
    let left_out = format!("//! Docs.\n    {}]\nfn x() {{}}\n", concat!("#[ign", "ore"));
    assert_eq!(
        left_out_faults(&crate::planted("a/src/x.rs", &left_out)).len(),
        1
    );
}
