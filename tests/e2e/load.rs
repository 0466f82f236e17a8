//! `natter bench` on a real stack: zeros where nothing is wrong, and each fault found that is planted.

use std::net::SocketAddr;

use serde_json::Value;
use tests::program::{Said, run};
use tests::{Lie, PATIENCE, Part, Stack, Tamperer, eventually};
use tokio::process::Command;

use crate::settings::unhurried;

/// A short run at this address.
fn bench(stack: &Stack, url: &str, arguments: &[&str]) -> Command {
    let mut command = stack.natter(&["bench", "--json", "--patience-s", "20", "--url", url]);
    command.args(arguments);
    command
}

/// What it printed in the end.
fn report(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The counters that are not zero.
fn faults(report: &Value) -> Vec<&str> {
    let audit = report["audit"].as_object().expect("every counter");
    assert_eq!(audit.len(), 11, "{report}");
    let wrong = audit.iter().filter(|(_, count)| **count != 0);
    wrong.map(|(name, _)| name.as_str()).collect()
}

/// Long messages: what is slow to read soon fills every buffer on the way.
fn long_corpus(stack: &Stack) -> String {
    let file = stack.data().join("long.txt");
    let line = |number| format!("[12:00] <ann> {number} {}\n", "\u{1f600}".repeat(7_900));
    let text: String = (0..4).map(line).collect();
    std::fs::write(&file, text).expect("the folder is ours");
    file.display().to_string()
}

#[tokio::test]
async fn a_run_with_churn_resumes_and_edits_ends_with_zeros() {
    let stack = unhurried().separate().start().await;
    // Who loses a socket resumes at the other gateway.
    let twin = stack.twin(Part::Gateway).await;
    let (url, other) = (stack.socket_url(), twin.socket_url());
    let nats = stack.nats_url();
    let arguments = [
        "--rooms",
        "3",
        "--members",
        "4",
        "--messages",
        "1500",
        "--rate",
        "250",
        "--edits",
        "20",
        "--churn",
        "6",
        "--resumes",
        "6",
        "--slow",
        "1",
        "--nats-url",
        nats,
        "--url",
        &other,
    ];
    let said = run(bench(&stack, url, &arguments)).await;
    let report = report(&said);
    assert_eq!(faults(&report), Vec::<&str>::new(), "{report}");
    assert_eq!(said.code, Some(0), "{report}");
    assert_eq!(
        (&report["acked"], &report["sent"]),
        (&1500.into(), &1500.into())
    );
    for happened in ["churned", "resumes", "reconnects"] {
        assert!(report[happened].as_u64() > Some(3), "{happened}: {report}");
    }
    // Edits and removals are among them.
    let kinds = stack
        .number("select count(distinct kind) from events where kind in ('msg', 'edit', 'del', 'member')")
        .await;
    assert_eq!(kinds, 4);
    let last = said.err.lines().rfind(|line| line.starts_with('{'));
    let progress: Value = serde_json::from_str(last.expect("progress")).expect("JSON");
    assert_eq!(
        (&progress["acked"], &progress["in_flight"]),
        (&1500.into(), &0.into())
    );
    assert!(progress["delivered"].as_u64() > Some(1500), "{progress}");
}

#[tokio::test]
async fn a_run_with_readers_that_lag_ends_with_zeros() {
    let stack = unhurried().start().await;
    let corpus = long_corpus(&stack);
    let arguments = [
        "--rooms",
        "1",
        "--members",
        "4",
        "--observers",
        "2",
        "--messages",
        "120",
        "--rate",
        "0",
        "--slow",
        "2",
        "--corpus",
        &corpus,
    ];
    let said = run(bench(&stack, stack.socket_url(), &arguments)).await;
    let report = report(&said);
    assert_eq!(faults(&report), Vec::<&str>::new(), "{report}");
    assert_eq!(said.code, Some(0), "{report}");
    assert!(report["slow"]["lagged"].as_u64() > Some(0), "{report}");
}

#[tokio::test]
async fn a_client_is_told_the_rate_that_holds() {
    let stack = Stack::builder()
        .env("NATTER_GATEWAY_USER_RATE", "7")
        .env("NATTER_GATEWAY_USER_BURST", "9")
        .start()
        .await;
    let limits = &stack.user("alice").await.hello["limits"];
    assert_eq!(
        (&limits["user_rate"], &limits["user_burst"]),
        (&7.into(), &9.into())
    );
}

/// Waits until the latest room has that many messages in the archive.
async fn are_archived(stack: &Stack, messages: u64) {
    eventually(PATIENCE, async || {
        let archived = stack
            .number("select count(*) from events where kind = 'msg'")
            .await;
        match archived {
            enough if enough >= messages => Ok(()),
            some => Err(format!("{some} messages")),
        }
    })
    .await;
}

/// The first message of the archive, as a condition.
const FIRST: &str = "(room, seq) = (select room, seq from events where kind = 'msg' order by stream_seq, idx limit 1)";

/// Runs while the database is changed by hand, and says what was found.
async fn found_after(statement: &str) -> Vec<String> {
    let stack = unhurried().start().await;
    let arguments = [
        "--rooms",
        "1",
        "--members",
        "2",
        "--observers",
        "2",
        "--messages",
        "300",
        "--rate",
        "150",
        "--edits",
        "0",
    ];
    let forging = async {
        are_archived(&stack, 20).await;
        assert_eq!(stack.sql(format!("{statement} where {FIRST}")).await, 1);
    };
    let (said, ()) = tokio::join!(run(bench(&stack, stack.socket_url(), &arguments)), forging);
    assert_eq!(said.code, Some(1), "{said:?}");
    let report = report(&said);
    assert!(!report["notes"].as_array().expect("a list").is_empty());
    faults(&report).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_row_that_is_forged_during_the_run_is_found() {
    let found =
        found_after(r#"update events set line = replace(line, '"text":"', '"text":"forged ')"#)
            .await;
    assert_eq!(found, ["archive_differs"]);
}

#[tokio::test]
async fn a_row_that_is_taken_away_during_the_run_is_found() {
    let found = found_after("delete from events").await;
    assert_eq!(found, ["archive_differs", "gaps", "lost", "unread_differs"]);
}

#[tokio::test]
async fn a_count_that_is_wrong_is_found() {
    let found = found_after("update messages set deleted = true").await;
    assert_eq!(found, ["archive_differs", "unread_differs"]);
}

#[tokio::test]
async fn a_lie_to_one_who_watches_is_found() {
    let stack = unhurried().start().await;
    let server: SocketAddr = stack
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("the stack is named by address");
    for (lie, expected) in [
        (Lie::Drop, vec!["gaps", "lost"]),
        (Lie::Repeat, vec!["duplicated"]),
        (Lie::Swap, vec!["disorder", "gaps"]),
        (Lie::Change, vec!["archive_differs", "disagree"]),
    ] {
        let liar = Tamperer::to(server, "natter-bench-witness", lie);
        let arguments = [
            "--rooms",
            "1",
            "--members",
            "2",
            "--observers",
            "2",
            "--messages",
            "100",
            "--rate",
            "200",
            "--edits",
            "0",
        ];
        let said = run(bench(&stack, &liar.url(), &arguments)).await;
        let report = report(&said);
        assert!(liar.has_lied(), "{lie:?}: {report}");
        assert_eq!(faults(&report), expected, "{lie:?}: {report}");
        assert_eq!(said.code, Some(1), "{lie:?}");
    }
}
