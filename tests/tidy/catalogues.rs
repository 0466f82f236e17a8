//! Catalogues in `docs/` name exactly what the code has: error codes and metrics.

use crate::root;
use protocol::ErrorCode;
use std::collections::BTreeSet;

/// Every name in the first column of a document's tables.
fn first_column(markdown: &str) -> BTreeSet<String> {
    markdown
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The names that `metrics!` blocks declare: the prefix of a struct and its fields.
fn declared_metrics(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut prefix = None;
    for line in source.lines().map(str::trim) {
        if let Some((_, rest)) = line.split_once("pub struct ") {
            prefix = rest.split('"').nth(1).map(str::to_owned);
        } else if line == "}" {
            prefix = None;
        } else if let Some(prefix) = &prefix
            && let Some((name, kind)) = line.split_once(": ")
            && ["Gauge", "Counter", "Histogram"]
                .iter()
                .any(|known| kind.starts_with(known))
        {
            names.insert(format!("{prefix}_{name}"));
        }
    }
    names
}

fn document(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn every_error_code_is_in_the_catalogue_with_its_meaning() {
    let text = document("docs/errors.md");
    let documented = first_column(&text);
    let known: BTreeSet<String> = ErrorCode::ALL
        .iter()
        .map(|code| code.slug().to_owned())
        .collect();
    assert_eq!(documented, known);
    for code in ErrorCode::ALL {
        let row = format!(
            "| `{}` | {} | {} | {} | {} |",
            code.slug(),
            code.http_status(),
            if code.is_temporary() { "yes" } else { "no" },
            code.meaning(),
            code.remedy()
        );
        assert!(text.contains(&row), "docs/errors.md lacks\n{row}");
    }
}

#[test]
fn every_metric_is_in_the_catalogue() {
    let sources = ["gateway", "messages", "history"];
    let declared: BTreeSet<String> = sources
        .iter()
        .flat_map(|service| declared_metrics(&document(&format!("{service}/src/metrics.rs"))))
        .collect();
    assert!(declared.len() > 20, "the declarations are found");
    let documented: BTreeSet<String> = first_column(&document("docs/metrics.md"))
        .into_iter()
        .filter(|name| !name.contains(['(', '/', '{', ' ']))
        .collect();
    assert_eq!(documented, declared);
}

#[test]
fn a_missing_name_is_noticed() {
    let source = "pub struct Metrics: \"natter_x\" {\n/// Help.\nrooms: Gauge,\nread_total: Counter[Kind],\n}\nother: Gauge,";
    let names: Vec<String> = declared_metrics(source).into_iter().collect();
    assert_eq!(names, ["natter_x_read_total", "natter_x_rooms"]);
    let table = "| `a` | x |\n| b | `c` |\n";
    assert_eq!(first_column(table), BTreeSet::from(["a".to_owned()]));
}
