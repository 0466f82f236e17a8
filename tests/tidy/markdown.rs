//! One sentence per line in Markdown, so that a diff shows what changed.
//!
//! A heuristic: it looks for an end of a sentence followed by a capital, outside code, tables and links.

use crate::{File, check};

/// Words whose full stop ends no sentence.
const ABBREVIATIONS: &[&str] = &["e.g.", "i.e.", "etc.", "vs.", "cf.", "No.", "St."];

/// The line without what stands in backticks, so that code is not read as prose.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("code")
}

fn holds_two_sentences(line: &str) -> bool {
    let line = without_code(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).enumerate().any(|(index, pair)| {
        let (end, next) = (pair[0], pair[1]);
        let ends = end.ends_with(['.', '!', '?']) || end.ends_with(".)") || end.ends_with(".\"");
        let numbered = index == 0 && end.trim_end_matches('.').parse::<u32>().is_ok();
        let capital = next
            .trim_start_matches(['"', '(', '*', '_'])
            .starts_with(char::is_uppercase);
        ends && capital && !numbered && !ABBREVIATIONS.contains(&end) && !end.ends_with("...")
    })
}

fn faults(file: &File) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let mut faults = Vec::new();
    let mut in_code = false;
    for (line, number) in file.text.lines().zip(1..) {
        let start = line.trim_start();
        if start.starts_with("```") || start.starts_with("~~~") {
            in_code = !in_code;
        }
        if !in_code && !start.starts_with(['|', '#']) && holds_two_sentences(line) {
            faults.push(format!(
                "{}:{number}: more than one sentence on a line",
                file.path
            ));
        }
    }
    faults
}

#[test]
fn markdown_has_one_sentence_per_line() {
    check(faults);
}

#[test]
fn planted_paragraphs_are_caught_and_ordinary_lines_are_not() {
    let bad = [
        "One thing. Another thing.",
        "Is it so? Yes.",
        "- Done (at last.) Then more.",
    ];
    for line in bad {
        assert_eq!(faults(&crate::planted("a.md", line)).len(), 1, "{line}");
    }
    let good = [
        "One sentence, with e.g. Rust in it.",
        "1. Numbered items are fine.",
        "| a cell. Another | is a table |",
        "Run `x. Y` now.",
        "Version 2.15 of it: Fine.",
        "```\nOne. Two.\n```",
    ];
    for text in good {
        assert_eq!(
            faults(&crate::planted("a.md", text)),
            Vec::<String>::new(),
            "{text}"
        );
    }
    assert_eq!(faults(&crate::planted("a.txt", "One. Two.")).len(), 0);
}
