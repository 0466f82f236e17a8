//! Three brokers with three replicas: leaders are killed, nodes are cut off from their peers.
//!
//! Nothing may be lost, repeated, left out or reordered, as the auditor of `natter bench` sees it; and
//! everything goes on with two of three.

mod load;

use std::time::Duration;

use chassis::config::NatsArgs;
use chassis::health::Health;
use tests::program::run;
use tests::{Cluster, Rounds, Stack, Weather, figure};
use tokio::time::Instant;

use self::load::Load;
use crate::store_talk::stack_on;

/// Messages of one round, and how many of them per second.
const MESSAGES: usize = 1_500;
const RATE: usize = 150;
/// A fault comes when so many are stored, and ends when so many more are.
const BEFORE: u64 = 300;
const AFTER: u64 = 300;
/// The log.
const LOG: &str = "NATTER_LOG";

async fn stack_of(cluster: &Cluster) -> Stack {
    let stack = stack_on(&cluster.url()).env("NATTER_STREAM_REPLICAS", "3");
    let stack = stack.start().await;
    cluster.is_current().await;
    stack
}

/// A fault in the middle of a round.
trait Fault {
    async fn begins(&self, cluster: &mut Cluster);
    async fn ends(&self, cluster: &mut Cluster);
}

/// `kill -9` of a node, which comes back later.
struct Killed(usize);

impl Fault for Killed {
    async fn begins(&self, cluster: &mut Cluster) {
        cluster.dies(self.0);
    }

    async fn ends(&self, cluster: &mut Cluster) {
        cluster.starts_again(self.0);
    }
}

/// A node that its peers do not reach, though its clients do.
struct CutOff(usize, Weather);

impl Fault for CutOff {
    async fn begins(&self, cluster: &mut Cluster) {
        cluster.is_cut_off(self.0, self.1);
    }

    async fn ends(&self, cluster: &mut Cluster) {
        cluster.is_whole_again(self.0);
    }
}

/// People talk, it happens, they go on, it ends; nothing may be wrong. Returns how many are stored and how
/// long nothing was.
async fn a_round(cluster: &mut Cluster, stack: &Stack, fault: impl Fault) -> (u64, Duration) {
    let load = Load::begins(stack, MESSAGES, RATE);
    load.has_stored(BEFORE).await;
    let since = Instant::now();
    fault.begins(cluster).await;
    let at = load.stored();
    load.has_stored(at + AFTER).await;
    let stood = since.elapsed();
    fault.ends(cluster).await;
    let (stored, rooms) = load.ends_clean().await;
    cluster.is_current().await;
    stack.is_ready().await;
    assert!(!rooms.is_empty());
    for room in rooms {
        is_proven(stack, &room).await;
    }
    (stored, stood)
}

/// The room's chain is whole in the archive and in the log, and both are one.
async fn is_proven(stack: &Stack, room: &str) {
    let data = stack.data().display().to_string();
    let said = run(stack.natter(&["verify", room, "--data", &data])).await;
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_of_the_log_are_killed_and_nothing_is_lost() {
    let mut cluster = Cluster::start().await;
    let stack = stack_of(&cluster).await;
    let mut stored = 0;
    for round in Rounds::of("cluster-kills", 3, 30) {
        let leader = cluster.leader_of(LOG).await;
        let (count, stood) = a_round(&mut cluster, &stack, Killed(leader)).await;
        println!("round {round}: n{leader} killed, {count} stored, {AFTER} more after {stood:?}");
        stored += count;
    }
    figure("cluster.kills.stored", stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_cut_off_and_nothing_is_lost() {
    let mut cluster = Cluster::start().await;
    let stack = stack_of(&cluster).await;
    let mut stored = 0;
    for round in Rounds::of("cluster-partitions", 2, 20) {
        // The leader, without anybody being told; then the node of each service, and the other way too.
        let leader = cluster.leader_of(LOG).await;
        let (node, whose) = match round % 4 {
            0 => (leader, "the leader"),
            1 => (cluster.node_of("messages").await, "messages"),
            2 => (cluster.node_of("gateway").await, "gateway"),
            _ => (cluster.node_of("history").await, "history"),
        };
        let weather = if (round + round / 4).is_multiple_of(2) {
            Weather::Silent
        } else {
            Weather::Cut
        };
        let (count, stood) = a_round(&mut cluster, &stack, CutOff(node, weather)).await;
        println!(
            "round {round}: n{node} of {whose} cut off ({weather:?}), n{leader} led, {count} stored, {AFTER} more after {stood:?}"
        );
        stored += count;
    }
    figure("cluster.partitions.stored", stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_cut_off_is_not_believed() {
    let cluster = Cluster::start().await;
    let _stack = stack_of(&cluster).await;
    let leader = cluster.leader_of(LOG).await;
    let arguments = NatsArgs::to(cluster.url_of(leader));
    let nats = chassis::nats::connect(&arguments, "reader", &Health::new()).await;
    let nats = nats.expect("it can be set up");
    nats.connected().await;
    let subject = "log.7";
    let before = nats
        .last_for_subject(LOG, subject)
        .await
        .expect("it answers");
    assert!(nats.leader_is_proven(LOG).await.expect("it answers"));
    cluster.is_cut_off(leader, Weather::Silent);
    cluster.has_another_leader(LOG, leader).await;
    // It does not know yet, and tells what may be long past.
    let stale = nats.last_for_subject(LOG, subject).await;
    println!("it answers: {}", stale.is_ok());
    if let Ok(stale) = stale {
        assert_eq!(stale.map(|it| it.seq), before.map(|it| it.seq));
    }
    let proven = nats.leader_is_proven(LOG).await;
    assert!(!matches!(proven, Ok(true)), "it is believed");
}
