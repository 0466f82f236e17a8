//! The database is gone for a minute: warm rooms go on all the time, nothing is acknowledged that is not
//! stored, and the rest comes back by itself.

use std::time::Duration;

use serde_json::json;
use tests::{PATIENCE, Part, Proxy, Rounds, Stack, User, eventually, figure, message};
use tokio::time::Instant;

use crate::owners::unhurried;

/// How long it is gone.
const GONE: Duration = Duration::from_secs(60);
/// Between two messages.
const PACE: Duration = Duration::from_millis(100);
/// The longest that a warm room may take meanwhile: nothing of it needs the database.
const WARM_MS_MAX: u128 = 1_000;
/// The promise for the rest.
const HEALED_MS_MAX: u128 = 5_000;

/// Says the next thing; how long that took.
async fn says(alice: &mut User, room: &str, said: &mut Vec<String>) -> Duration {
    let text = format!("line {}", said.len());
    let since = Instant::now();
    alice.does(message(room, &text)).await;
    said.push(text);
    since.elapsed()
}

async fn round(stack: &Stack, cable: &Proxy, number: u64) -> (u128, u128) {
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("warm").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    bob.renews_cursor().await;
    let (mut said, mut longest) = (Vec::new(), Duration::ZERO);
    says(&mut alice, &room, &mut said).await;
    cable.is_cut();
    let gone = Instant::now();
    stack
        .reports(Part::History, "not ready", |report| !report.ready)
        .await;
    while gone.elapsed() < GONE {
        let next = Instant::now() + PACE;
        longest = longest.max(says(&mut alice, &room, &mut said).await);
        // Read along, as an application does.
        bob.sees(&room, said.last().expect("something is said"))
            .await;
        tokio::time::sleep_until(next).await;
    }
    alice
        .is_refused(json!({"op": "history", "room": room}), "unavailable")
        .await;
    cable.is_mended();
    let healed = Instant::now();
    let newcomer = format!("newcomer{number}");
    let reads = async {
        // An asker behind `min_seq` is told all, or to wait.
        alice.archive(&room).await
    };
    let comes = async {
        let mut carol = stack.user(&newcomer).await;
        carol.joins(&room).await;
        carol.enters(&room).await;
    };
    let (archive, ()) = tokio::join!(reads, comes);
    stack.is_ready().await;
    let healed = healed.elapsed();
    let texts: Vec<&str> = archive
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    assert_eq!(texts, said, "all that was acknowledged, once and in order");
    assert_eq!(bob.texts(&room), said);
    (longest.as_millis(), healed.as_millis())
}

#[tokio::test]
async fn without_the_database_for_a_minute_warm_rooms_go_on_and_the_rest_heals() {
    let servers = Stack::builder().servers_only().start().await;
    let cable = Proxy::to(servers.database_url());
    let url = cable.url(servers.database_url());
    let stack = unhurried()
        .argument("--database-url")
        .argument(&url)
        .start()
        .await;
    for number in Rounds::of("postgres", 1, 10) {
        let (longest, healed) = round(&stack, &cable, number).await;
        figure("postgres.warm_longest_ms", longest);
        figure("postgres.healed_ms", healed);
        assert!(longest <= WARM_MS_MAX, "a warm room took {longest} ms");
        assert!(healed <= HEALED_MS_MAX, "healing took {healed} ms");
    }
}

/// The control: what the test relies on is really cut off.
#[tokio::test]
async fn a_cut_cable_is_felt() {
    let servers = Stack::builder().servers_only().start().await;
    let cable = Proxy::to(servers.database_url());
    let url = cable.url(servers.database_url());
    cable.is_cut();
    let mut command = tests::program::natter(&["migrate"]);
    command.env("NATTER_DATABASE_URL", &url);
    let refused = tokio::time::timeout(PATIENCE, command.output()).await;
    assert!(!refused.is_ok_and(|output| output.is_ok_and(|it| it.status.success())));
    cable.is_mended();
    eventually(PATIENCE, async || {
        let mut command = tests::program::natter(&["migrate"]);
        command.env("NATTER_DATABASE_URL", &url);
        let output = command.output().await.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{output:?}"))
        }
    })
    .await;
}
