//! RFC 6455, by the cases of the Autobahn testsuite and a driver of our own (`tests/autobahn`).
//!
//! The cases are fetched when the test runs. What does not apply is decided by the driver, in the open:
//! compression, which the gateway does not take, binary messages, which it closes with 1002, messages of
//! more than 64 KiB, which it closes with 1009, and against the gateway itself those in which nothing but
//! an echo is expected. These are run against an echo made of the same reader and writer of frames.

mod echo;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tests::{Stack, figure, not_run};
use tokio::process::Command;

/// Cases of the suite, and one of ours: whether compression is taken.
const CASES: usize = 517 + 1;
/// Those of compression (12 and 13).
const COMPRESSION: usize = 216;
/// All of them take a few seconds.
const WITHIN: Duration = Duration::from_secs(150);

#[derive(Debug, Deserialize)]
struct Outcome {
    case: String,
    behavior: String,
    #[serde(default)]
    close: String,
    why: String,
}

impl Outcome {
    fn is_applicable(&self) -> bool {
        self.behavior != "NOT APPLICABLE"
    }

    /// The suite calls an outcome non-strict that is within the RFC, but not as good as it could be.
    fn is_good(&self) -> bool {
        matches!(
            self.behavior.as_str(),
            "OK" | "NON-STRICT" | "INFORMATIONAL"
        ) && matches!(self.close.as_str(), "OK" | "INFORMATIONAL")
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("autobahn")
        .join(name)
}

/// The suite's wheel, fetched once; nothing but what has the pinned hash.
async fn suite() -> Option<PathBuf> {
    let tools = std::env::var_os("NATTER_TOOLS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.natter/tools"),
        PathBuf::from,
    );
    let folder = tools.join("autobahntestsuite-0.8.2");
    let wheel = folder.join("autobahntestsuite-0.8.2-py2.py3-none-any.whl");
    if wheel.is_file() {
        return Some(wheel);
    }
    // Fetched aside and moved in whole: another test may be fetching it too.
    let aside = tools.join(format!(".autobahn-{}", std::process::id()));
    let fetched = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(["--require-hashes", "--requirement"])
        .arg(file("requirements.txt"))
        .arg("--dest")
        .arg(&aside)
        .output()
        .await
        .expect("python3 is everywhere");
    if !fetched.status.success() {
        let why = String::from_utf8_lossy(&fetched.stderr);
        not_run("WebSocket conformance", why.trim());
        return None;
    }
    if std::fs::rename(&aside, &folder).is_err() {
        std::fs::remove_dir_all(&aside).expect("it was just made");
    }
    Some(wheel)
}

/// Runs the cases against a server; the greeting's token if it is the gateway.
async fn outcomes(wheel: &Path, address: &str, more: &[&str]) -> Vec<Outcome> {
    let driver = Command::new("python3")
        .arg(file("run.py"))
        .arg(wheel)
        .args([address, "/v1/ws"])
        .args(more)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(WITHIN, driver).await;
    let output = ended.expect("in time").expect("python3 is everywhere");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

fn address(stack: &Stack) -> &str {
    stack.url().trim_start_matches("http://")
}

/// Tells how many there were, and asserts that none of those that apply failed.
fn all_are_good(server: &str, outcomes: &[Outcome], applicable: usize) {
    let failed: Vec<String> = outcomes
        .iter()
        .filter(|it| it.is_applicable() && !it.is_good())
        .map(|it| format!("{}: {} {}: {}", it.case, it.behavior, it.close, it.why))
        .collect();
    let count = |behavior| outcomes.iter().filter(|it| it.behavior == behavior).count();
    let passed = outcomes.iter().filter(|it| it.is_good()).count();
    figure(&format!("autobahn.{server}.passed"), passed);
    figure(
        &format!("autobahn.{server}.non_strict"),
        count("NON-STRICT"),
    );
    figure(
        &format!("autobahn.{server}.not_applicable"),
        count("NOT APPLICABLE"),
    );
    figure(&format!("autobahn.{server}.failed"), failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!((outcomes.len(), passed), (CASES, applicable));
}

#[tokio::test]
async fn the_gateway_passes_every_autobahn_case_that_needs_no_echo() {
    let Some(wheel) = suite().await else { return };
    let stack = Stack::start().await;
    let mut bob = stack.user("bob").await;
    let token = stack.tokens().token("alice");
    let outcomes = outcomes(&wheel, address(&stack), &["--token", &token]).await;
    all_are_good("gateway", &outcomes, 156);
    bob.does(serde_json::json!({"op": "unread"})).await;
}

#[tokio::test]
async fn an_echo_over_the_gateways_transport_passes_the_cases_that_need_one() {
    let Some(wheel) = suite().await else { return };
    let address = echo::start().to_string();
    let outcomes = outcomes(&wheel, &address, &[]).await;
    all_are_good("echo", &outcomes, 247);
}

#[tokio::test]
async fn the_conformance_driver_finds_fault_with_a_server_that_answers_otherwise() {
    let Some(wheel) = suite().await else { return };
    let stack = Stack::start().await;
    // Nobody said hello, so the gateway closes instead of sending anything back.
    let outcomes = outcomes(&wheel, address(&stack), &["--only", r"1\.1|6\.2\.|7\.1\.1"]).await;
    let ran: Vec<&Outcome> = outcomes.iter().filter(|it| it.is_applicable()).collect();
    assert_eq!(outcomes.len() - ran.len(), COMPRESSION);
    let good = ran.iter().filter(|it| it.is_good());
    let good: Vec<&str> = good.map(|it| it.case.as_str()).collect();
    // That compression is not taken holds all the same.
    assert_eq!((ran.len(), good), (14, vec!["compression offer"]));
}
