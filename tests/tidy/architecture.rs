//! Who may depend on whom: the whole architecture in one table, checked against cargo's own view.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Package, and the workspace members that it may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("chassis", &["protocol"]),
    ("gateway", &["protocol", "chassis"]),
    ("messages", &["protocol", "chassis"]),
    ("history", &["protocol", "chassis"]),
    ("client", &["protocol"]),
    (
        "natter",
        &[
            "protocol", "chassis", "gateway", "messages", "history", "client",
        ],
    ),
    (
        "tests",
        &[
            "protocol", "chassis", "gateway", "messages", "history", "client", "natter",
        ],
    ),
];

/// What `protocol` may use of others: nothing that does I/O, reads a clock or throws dice.
const PURE: &[&str] = &[
    "base64",
    "crdts",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "unicode-segmentation",
    "uuid",
];

/// Errors of libraries are for callers to act on, so they have types.
const ANYHOW: &[&str] = &["natter", "tests"];

/// Dependencies of each package: name and kind (`dev`, `build` or nothing).
type Packages = BTreeMap<String, Vec<(String, String)>>;

fn packages() -> Packages {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(super::root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let dependencies = list(&package["dependencies"]);
            let pairs = dependencies
                .iter()
                .map(|dep| (text(&dep["name"]), text(&dep["kind"])));
            (text(&package["name"]), pairs.collect())
        })
        .collect()
}

fn faults(packages: &Packages) -> Vec<String> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ALLOWED
        .iter()
        .map(|(name, deps)| (*name, deps.iter().copied().collect()))
        .collect();
    let mut faults = Vec::new();
    for (name, dependencies) in packages {
        let Some(may) = allowed.get(name.as_str()) else {
            faults.push(format!(
                "{name} is not in the table of tests/tidy/architecture.rs"
            ));
            continue;
        };
        for (dependency, kind) in dependencies {
            let dependency = dependency.as_str();
            if allowed.contains_key(dependency) && !may.contains(dependency) {
                faults.push(format!("{name} may not import {dependency}"));
            }
            if name == "protocol" && kind != "dev" && !PURE.contains(&dependency) {
                faults.push(format!("protocol is pure and may not import {dependency}"));
            }
            if dependency == "anyhow" && !ANYHOW.contains(&name.as_str()) {
                faults.push(format!("{name} is a library and may not use anyhow"));
            }
        }
    }
    let missing = allowed.keys().filter(|name| !packages.contains_key(**name));
    faults.extend(missing.map(|name| format!("{name} stands in the table and nowhere else")));
    faults
}

#[test]
fn crates_import_only_what_the_table_allows() {
    assert_eq!(faults(&packages()), Vec::<String>::new());
}

#[test]
fn a_planted_import_is_caught() {
    let plant = |name: &str, dependency: &str, kind: &str| {
        let mut packages = packages();
        let pair = (dependency.to_owned(), kind.to_owned());
        packages.entry(name.to_owned()).or_default().push(pair);
        faults(&packages)
    };
    assert_eq!(
        plant("gateway", "history", ""),
        ["gateway may not import history"]
    );
    assert_eq!(
        plant("messages", "gateway", "dev"),
        ["messages may not import gateway"]
    );
    assert_eq!(
        plant("client", "chassis", ""),
        ["client may not import chassis"]
    );
    assert_eq!(
        plant("protocol", "tokio", ""),
        ["protocol is pure and may not import tokio"]
    );
    assert_eq!(plant("protocol", "proptest", "dev"), Vec::<String>::new());
    assert_eq!(
        plant("history", "anyhow", ""),
        ["history is a library and may not use anyhow"]
    );
    let stranger = plant("stranger", "serde", "");
    assert_eq!(
        stranger,
        ["stranger is not in the table of tests/tidy/architecture.rs"]
    );
}
