//! How long an owner's end is felt: killed, asked to stop, and standing still.
//!
//! The time is that of the client who waits longest, over all partitions, until everything has settled:
//! a partition that is taken at once and let go again later has not been taken over.

use std::time::Duration;

use tests::{Part, Rounds, Stack, Twin, figure};
use tokio::time::Instant;

use crate::owners::{are_shared, is_alone, unhurried};
use crate::talk::{Choir, Told};

/// The promises.
const KILLED_MS_MAX: u64 = 1_000;
const ASKED_MS_MAX: u64 = 250;
const FROZEN_MS_MAX: u64 = 5_000;

/// Between two messages of one of the 64 who talk: 80 messages a second in all.
const PACE: Duration = Duration::from_millis(800);
/// The same where nothing but the hand-over is to be measured.
const SLOW_PACE: Duration = Duration::from_millis(1_600);

/// Two owners that both have their share, and people who talk.
///
/// A takeover reads what is younger than a minute, and here not more, or each round would have more to
/// read than the one before: about 5,000 events of all partitions. How long the 100,000 of the promise
/// take depends on the build.
async fn two_owners(pace: Duration) -> (Stack, Twin, Choir) {
    let stack = unhurried()
        .env("NATTER_MESSAGES_DEDUP_AGE_MS", "60000")
        .start()
        .await;
    let twin = stack.twin(Part::Messages).await;
    let choir = Choir::sings(&stack, stack.socket_url(), pace).await;
    (stack, twin, choir)
}

/// The longest wait, and whose it was.
fn longest(told: &[Told], since: Instant) -> &Told {
    told.iter()
        .max_by_key(|told| told.waited_since(since))
        .expect("people talk")
}

/// Prints the worst waits of a round and returns the longest in milliseconds.
fn longest_ms(choir: &Choir, since: Instant) -> u64 {
    let told = choir.told_since(since);
    let worst = longest(&told, since);
    let waited = worst.waited_since(since);
    println!(
        "waited {waited:?} in partition {}, acked {:?} after, {:?}",
        worst.partition,
        worst.acked.duration_since(since),
        worst.errors
    );
    u64::try_from(waited.as_millis()).expect("a test is short")
}

/// The value below which 99 of 100 are, by nearest rank.
fn p99(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times[(times.len() * 99).div_ceil(100) - 1]
}

/// What a soak that was stopped before has nothing of.
fn shows(name: &str, mut times: Vec<u64>, most: u64) {
    if times.is_empty() {
        return;
    }
    let p99 = p99(&mut times);
    let sum: u64 = times.iter().sum();
    figure(&format!("takeover.{name}.p99_ms"), p99);
    figure(
        &format!("takeover.{name}.mean_ms"),
        sum / times.len() as u64,
    );
    assert!(p99 <= most, "{name}: {times:?}");
}

#[tokio::test]
async fn when_one_of_two_owners_is_killed_every_partition_acks_within_a_second() {
    let (stack, mut twin, choir) = two_owners(PACE).await;
    let mut times = Vec::new();
    for _ in Rounds::of("takeover", 20, 200) {
        are_shared(&stack, &twin).await;
        choir.all_told_after(Instant::now()).await;
        let killed = Instant::now();
        twin.dies().await;
        choir.all_told_after(killed).await;
        is_alone(&stack).await;
        choir.all_told_after(Instant::now()).await;
        times.push(longest_ms(&choir, killed));
        twin.starts_again();
        twin.is_ready().await;
    }
    choir.falls_silent().await;
    shows("killed", times, KILLED_MS_MAX);
}

#[tokio::test]
async fn when_one_of_two_owners_is_asked_to_stop_nobody_is_refused() {
    let (stack, mut twin, choir) = two_owners(SLOW_PACE).await;
    let mut times = Vec::new();
    for _ in Rounds::of("takeover.asked", 10, 200) {
        are_shared(&stack, &twin).await;
        choir.all_told_after(Instant::now()).await;
        let asked = Instant::now();
        twin.stops().await;
        is_alone(&stack).await;
        choir.all_told_after(Instant::now()).await;
        times.push(longest_ms(&choir, asked));
        let refused: Vec<Told> = choir.told_since(asked);
        let refused: Vec<&Told> = refused
            .iter()
            .filter(|told| !told.errors.is_empty())
            .collect();
        assert!(refused.is_empty(), "{refused:?}");
        twin.starts_again();
        twin.is_ready().await;
    }
    choir.falls_silent().await;
    shows("asked", times, ASKED_MS_MAX);
}

#[tokio::test]
async fn an_owner_that_stands_still_is_replaced_and_gives_in_when_it_wakes() {
    let (stack, twin, choir) = two_owners(PACE).await;
    let mut times = Vec::new();
    for _ in Rounds::of("takeover.frozen", 5, 100) {
        are_shared(&stack, &twin).await;
        choir.all_told_after(Instant::now()).await;
        let frozen = Instant::now();
        twin.freezes().await;
        choir.all_told_after(frozen).await;
        is_alone(&stack).await;
        choir.all_told_after(Instant::now()).await;
        times.push(longest_ms(&choir, frozen));
        // It wakes in the belief that everything is still its own.
        twin.thaws();
    }
    are_shared(&stack, &twin).await;
    choir.falls_silent().await;
    shows("frozen", times, FROZEN_MS_MAX);
}

mod controls {
    use super::*;

    fn told(sent_ms: u64, acked_ms: u64, start: Instant) -> Told {
        Told {
            partition: 0,
            sent: start + Duration::from_millis(sent_ms),
            acked: start + Duration::from_millis(acked_ms),
            errors: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_wait_counts_from_the_kill_or_from_when_it_was_sent() {
        let start = Instant::now();
        let killed = start + Duration::from_millis(100);
        // One in flight at the kill, one that stalls long after it.
        let told = [told(0, 350, start), told(2_000, 2_900, start)];
        let longest = longest(&told, killed).waited_since(killed);
        assert_eq!(longest, Duration::from_millis(900));
        assert_eq!(told[0].waited_since(killed), Duration::from_millis(250));
    }

    #[test]
    fn of_twenty_the_slowest_counts() {
        let mut times: Vec<u64> = (1..=20).rev().collect();
        assert_eq!(p99(&mut times), 20);
        let mut times: Vec<u64> = (1..=200).collect();
        assert_eq!(p99(&mut times), 198);
    }
}
