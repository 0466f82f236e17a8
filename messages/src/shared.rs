//! What all tasks of this process share: connection, clock, metrics, settings, and a few counters.

use crate::config::Config;
use crate::history::{History, View};
use crate::metrics::{Metrics, SyncMetrics};
use crate::partition::Load;
use crate::sequencer::{self, Pressure};
use chassis::clock::Clock;
use chassis::nats::Nats;
use chassis::tasks::Tasks;
use protocol::limits::PROCESS_EVENTS_MAX;
use protocol::{InstanceId, Partition, StreamSeq, Timestamp};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// How one owned partition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Commands are admitted.
    pub(crate) open: bool,
    /// The log takes no records.
    pub(crate) in_trouble: bool,
    /// What it holds in memory.
    pub(crate) load: Load,
}

/// Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) nats: Nats,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) sync: SyncMetrics,
    pub(crate) config: Config,
    pub(crate) sequencer: sequencer::Config,
    pub(crate) instance: InstanceId,
    pub(crate) history: History,
    pub(crate) view: watch::Receiver<View>,
    conditions: Mutex<BTreeMap<Partition, Condition>>,
    acked: AtomicU64,
    epochs: AtomicU64,
}

/// What a [`Shared`] is made from beside its counters.
pub(crate) struct Parts {
    pub(crate) nats: Nats,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) sync: SyncMetrics,
    pub(crate) config: Config,
    pub(crate) sequencer: sequencer::Config,
    pub(crate) instance: InstanceId,
    pub(crate) history: History,
    pub(crate) view: watch::Receiver<View>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            nats: parts.nats,
            clock: parts.clock,
            tasks: parts.tasks,
            metrics: parts.metrics,
            sync: parts.sync,
            config: parts.config,
            sequencer: parts.sequencer,
            instance: parts.instance,
            history: parts.history,
            view: parts.view,
            conditions: Mutex::default(),
            acked: AtomicU64::new(0),
            epochs: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.clock.now_ms())
    }

    /// A number for a takeover that no other of this process has.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A record of this process is durable at this position.
    pub(crate) fn acknowledged(&self, position: StreamSeq) {
        self.acked.fetch_max(position.0, Ordering::Relaxed);
    }

    /// The greatest position that this process had acknowledged.
    pub(crate) fn acked(&self) -> StreamSeq {
        StreamSeq(self.acked.load(Ordering::Relaxed))
    }

    pub(crate) fn set_condition(&self, partition: Partition, condition: Condition) {
        self.conditions().insert(partition, condition);
    }

    pub(crate) fn forget_condition(&self, partition: Partition) {
        self.conditions().remove(&partition);
    }

    pub(crate) fn conditions(&self) -> std::sync::MutexGuard<'_, BTreeMap<Partition, Condition>> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What all partitions together hold.
    pub(crate) fn load(&self) -> (usize, usize) {
        self.conditions()
            .values()
            .fold((0, 0), |(pieces, bytes), condition| {
                (
                    pieces + condition.load.pieces(),
                    bytes + condition.load.bytes(),
                )
            })
    }

    /// How full the process is.
    pub(crate) fn pressure(&self) -> Pressure {
        let (pieces, bytes) = self.load();
        let bytes_max = usize::try_from(self.config.messages_memory_bytes).unwrap_or(usize::MAX);
        let passes = |percent: usize| {
            pieces >= PROCESS_EVENTS_MAX / 100 * percent || bytes >= bytes_max / 100 * percent
        };
        if passes(100) {
            Pressure::Full
        } else if passes(80) {
            Pressure::High
        } else {
            Pressure::Low
        }
    }
}
