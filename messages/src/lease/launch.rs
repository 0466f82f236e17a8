//! Takes partitions over whose leases are ours, and starts their writers.

use super::keeper::{self, Heard};
use crate::sequencer::Sequencer;
use crate::shared::Shared;
use crate::takeover::take_over;
use crate::writer::{Ended, Inlets, Orders, Writer};
use chassis::backoff::{Backoff, INFRASTRUCTURE};
use futures_util::future::join_all;
use protocol::Partition;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Reads the tails and starts the writers; tries again until it succeeds or is told to end.
pub(super) async fn run_takeover(
    shared: Arc<Shared>,
    mut taken: BTreeMap<Partition, Orders>,
    sender: mpsc::Sender<Heard>,
) {
    let since = Instant::now();
    let mut inlets: BTreeMap<Partition, Inlets> = BTreeMap::new();
    let mut backoff = Backoff::new(INFRASTRUCTURE);
    let sequencers = loop {
        // A lease that was lost or is to be handed over meanwhile needs no tail.
        let told = |orders: &Orders| orders.stop.is_cancelled() || orders.drain.is_cancelled();
        let gone: Vec<Partition> = taken
            .iter()
            .filter(|(_, orders)| told(orders))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in gone {
            taken.remove(&partition);
            keeper::tell(&sender, Heard::Ended(partition, Ended::Told)).await;
        }
        if taken.is_empty() {
            return;
        }
        match prepare(&shared, &taken, &mut inlets).await {
            Ok(sequencers) => break sequencers,
            Err(error) => {
                let wait = backoff.next_wait();
                tracing::warn!(
                    error = %chassis::tasks::chain(&*error),
                    retry_in_ms = wait.as_millis(),
                    "taking partitions over failed"
                );
                tokio::time::sleep(wait).await;
            }
        }
    };
    for (partition, sequencer) in sequencers {
        let Some((orders, inlets)) = taken.remove(&partition).zip(inlets.remove(&partition)) else {
            continue;
        };
        let writer = Writer {
            shared: Arc::clone(&shared),
            partition,
            sequencer,
            inlets,
            orders,
            counted: None,
        };
        let sender = sender.clone();
        shared.tasks.spawn("writer", async move {
            let opened = {
                let sender = sender.clone();
                move || {
                    // Never full: the keeper hears a handful of things from each partition.
                    if sender.try_send(Heard::Opened(partition, since)).is_err() {
                        tracing::debug!("the keeper does not listen");
                    }
                }
            };
            let (shared, alone) = (Arc::clone(&writer.shared), writer.orders.alone.clone());
            let (ended, inlets) = writer.run(opened).await;
            keeper::tell(&sender, Heard::Ended(partition, ended)).await;
            inlets
                .hand_over(&shared, partition, alone.is_cancelled())
                .await;
        });
    }
}

async fn prepare(
    shared: &Shared,
    taken: &BTreeMap<Partition, Orders>,
    inlets: &mut BTreeMap<Partition, Inlets>,
) -> Result<BTreeMap<Partition, Sequencer>, Box<dyn std::error::Error + Send + Sync>> {
    let missing: Vec<Partition> = taken
        .keys()
        .filter(|partition| !inlets.contains_key(partition))
        .copied()
        .collect();
    let opened = join_all(missing.iter().map(|p| Inlets::open(shared, *p))).await;
    for (partition, opened) in missing.into_iter().zip(opened) {
        inlets.insert(partition, opened?);
    }
    let partitions: Vec<Partition> = taken.keys().copied().collect();
    Ok(take_over(shared, &partitions).await?)
}
