//! Keeps this process's leases: renews, takes, hands over, and starts and ends the writers.
//!
//! One task; everything that takes long runs beside it and reports back.

use super::launch::run_takeover;
use super::probe::{orphans, probed};
use super::slot::{self, Claim};
use super::{Board, Dead, Move, home, plan};
use crate::shared::Shared;
use crate::writer::{Ended, Orders};
use async_nats::{HeaderMap, Subscriber};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use protocol::Partition;
use protocol::limits::LEASE_RENEW_MS;
use protocol::subject::Subject;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two renewals and looks at the bucket.
const SWEEP: Duration = Duration::from_millis(LEASE_RENEW_MS);
/// A partition without a lease for this long is anyone's.
const FREE_LONG: Duration = Duration::from_secs(2);
/// How long all writers together may take to drain at the end.
const GOODBYE: Duration = Duration::from_secs(4);
/// Between two attempts to take a partition that was found unusable.
const STOPPED_PAUSE: Duration = Duration::from_secs(10);

/// How long a takeover waits for others that come at the same time, to read their tails together.
const GATHER: Duration = Duration::from_millis(5);

/// How long whoever handed a partition over leaves it to whom it belongs to.
const HANDED_OVER_PAUSE: Duration = Duration::from_secs(3);

/// What the keeper hears.
pub(super) enum Heard {
    Opened(Partition, Instant),
    Ended(Partition, Ended),
    /// A lease that was handed over, as we left it.
    GivenBack(Partition, Option<u64>),
    /// Nobody listens; whether this process is the first in line for it.
    Silent(Partition, bool),
    /// Those of `asked` that have no owner any more.
    Orphans {
        asked: Vec<Partition>,
        orphans: Vec<Partition>,
    },
    Probed(Partition),
    Got(Partition, u64),
}

/// A lease that this process holds.
struct Held {
    revision: u64,
    orders: Orders,
    opened: bool,
}

/// A partition that was handed over.
#[derive(Clone, Copy, Debug)]
struct Left {
    until: Instant,
    /// Its lease as we gave it back: whatever else is there, somebody else had it since.
    revision: Option<u64>,
}

/// What the service shows of its leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Partitions held.
    pub(crate) held: usize,
    /// Partitions held that admit commands.
    pub(crate) open: usize,
    /// Partitions that nobody holds.
    pub(crate) orphans: usize,
    /// The bucket could be read and every lease renewed lately.
    pub(crate) connected: bool,
}

/// Keeps the leases of one process.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    held: BTreeMap<Partition, Held>,
    /// Held, and about to be taken over together.
    starting: BTreeMap<Partition, Orders>,
    start_at: Option<Instant>,
    alive_revision: u64,
    free_since: BTreeMap<Partition, Instant>,
    not_before: BTreeMap<Partition, Instant>,
    /// Handed over, and left to whom it belongs to until that has taken it, or for a while.
    left: BTreeMap<Partition, Left>,
    probing: BTreeSet<Partition>,
    /// Those that are looked at together with others of their holder.
    suspected: BTreeSet<Partition>,
    board: Board,
    dead: Dead,
    first_look: bool,
    connected: bool,
    sender: mpsc::Sender<Heard>,
    receiver: mpsc::Receiver<Heard>,
    standing: watch::Sender<Standing>,
}

impl Keeper {
    pub(crate) fn new(shared: Arc<Shared>, standing: watch::Sender<Standing>) -> Self {
        // Each partition reports a handful of things; the keeper never lets them wait long.
        let (sender, receiver) = mpsc::channel(1_024);
        Self {
            shared,
            held: BTreeMap::new(),
            starting: BTreeMap::new(),
            start_at: None,
            alive_revision: 0,
            free_since: BTreeMap::new(),
            not_before: BTreeMap::new(),
            left: BTreeMap::new(),
            probing: BTreeSet::new(),
            suspected: BTreeSet::new(),
            board: Board::default(),
            dead: Dead::default(),
            first_look: true,
            connected: false,
            sender,
            receiver,
            standing,
        }
    }

    /// Runs until `stop`, then hands everything over.
    pub(crate) async fn run(mut self, mut hints: Subscriber, stop: CancellationToken) {
        let mut next_sweep = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // First, or a flood of hints could let the leases end.
                () = tokio::time::sleep_until(next_sweep) => {
                    self.sweep().await;
                    next_sweep = Instant::now() + SWEEP;
                }
                () = due(self.start_at) => self.launch(),
                Some(heard) = self.receiver.recv() => self.hear(heard).await,
                Some(hint) = hints.next() => {
                    if let Ok(Subject::Hint(partition)) = Subject::parse(&hint.subject) {
                        self.probe(partition);
                    }
                }
            }
            self.show();
        }
        self.launch();
        self.say_goodbye().await;
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Opened(partition, since) => {
                if let Some(held) = self.held.get_mut(&partition) {
                    held.opened = true;
                    self.shared.metrics.takeovers_total.inc();
                    let seconds = since.elapsed().as_secs_f64();
                    self.shared.metrics.takeover_seconds.observe(seconds);
                    tracing::debug!(
                        partition = partition.number(),
                        duration_ms = since.elapsed().as_millis(),
                        "partition {partition} is open"
                    );
                }
            }
            Heard::Ended(partition, why) => self.ended(partition, why).await,
            Heard::GivenBack(partition, revision) => {
                if let Some(left) = self.left.get_mut(&partition) {
                    left.revision = revision;
                }
            }
            Heard::Probed(partition) => {
                self.probing.remove(&partition);
            }
            Heard::Got(partition, revision) => {
                self.probing.remove(&partition);
                if !self.held.contains_key(&partition) {
                    self.start(vec![(partition, revision)]);
                }
            }
            Heard::Silent(partition, first_in_line) => {
                self.probing.remove(&partition);
                self.suspect(partition, first_in_line).await;
            }
            Heard::Orphans { asked, orphans } => {
                self.suspected.retain(|it| !asked.contains(it));
                self.bury(&asked, &orphans);
                let free = orphans.into_iter().filter(|it| !self.held.contains_key(it));
                self.take(free.collect(), true).await;
            }
        }
    }

    /// Notes who is dead: who was asked for several partitions, or for its only one, and has left all.
    fn bury(&mut self, asked: &[Partition], orphans: &[Partition]) {
        let holder = asked.first().and_then(|it| self.board.leases.get(it));
        let Some(holder) = holder
            .filter(|holder| **holder != self.shared.instance)
            .cloned()
        else {
            return;
        };
        let others = self.board.leases.iter().filter(|(it, who)| {
            **who == holder && !asked.contains(it) && !self.held.contains_key(it)
        });
        if asked.len() == orphans.len() && (asked.len() > 1 || others.count() == 0) {
            tracing::info!(instance = %holder, "{holder} is dead");
            self.dead.insert(holder, &mut self.board);
        }
    }

    async fn ended(&mut self, partition: Partition, why: Ended) {
        let Some(held) = self.held.remove(&partition) else {
            return;
        };
        let key = partition.lease_key();
        match why {
            Ended::Told => {
                let until = Instant::now() + HANDED_OVER_PAUSE;
                let revision = None;
                self.left.insert(partition, Left { until, revision });
                // Beside the keeper: many are handed over at once, and clients wait.
                let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
                self.shared.tasks.spawn("give-back", async move {
                    let revision = give_back(&shared, partition, held.revision).await;
                    tell(&sender, Heard::GivenBack(partition, revision)).await;
                });
            }
            Ended::Stopped => {
                let until = Instant::now() + STOPPED_PAUSE;
                self.not_before.insert(partition, until);
                give_back(&self.shared, partition, held.revision).await;
            }
            Ended::Overtaken => {
                // Somebody wrote; whether the lease is still ours tells who goes on.
                let (nats, me) = (&self.shared.nats, &self.shared.instance);
                if let Claim::Ours(revision) = slot::renew(nats, &key, me, held.revision).await {
                    self.start(vec![(partition, revision)]);
                }
            }
        }
    }

    /// Whether it is too early to take a partition.
    fn is_early(&self, partition: Partition) -> bool {
        let now = Instant::now();
        let not_before = self.not_before.get(&partition);
        let left = self.left.get(&partition);
        not_before.is_some_and(|until| now < *until) || left.is_some_and(|left| now < left.until)
    }

    /// Renews everything, reads the bucket, and acts by the plan.
    async fn sweep(&mut self) {
        let (nats, me) = (&self.shared.nats, &self.shared.instance);
        let alive = slot::instance_key(me);
        let renewals = self.held.iter().map(|(partition, held)| async move {
            let key = partition.lease_key();
            (*partition, slot::renew(nats, &key, me, held.revision).await)
        });
        let (claims, alive) = tokio::join!(
            join_all(renewals),
            slot::renew(nats, &alive, me, self.alive_revision),
        );
        let mut connected = matches!(alive, Claim::Ours(_));
        if let Claim::Ours(revision) = alive {
            self.alive_revision = revision;
        }
        for (partition, claim) in claims {
            let Some(held) = self.held.get_mut(&partition) else {
                continue;
            };
            match claim {
                Claim::Ours(revision) => held.revision = revision,
                Claim::Theirs => {
                    held.orders.stop.cancel();
                    self.held.remove(&partition);
                }
                // The compare-and-set on the log is what protects; working on is right.
                Claim::Left | Claim::Unknown => connected = false,
            }
        }
        match slot::board(nats).await {
            Some(board) => self.see(board),
            None => connected = false,
        }
        self.connected = connected;
        if connected {
            self.act().await;
        }
    }

    /// Takes in what the bucket says.
    fn see(&mut self, board: Board) {
        let now = Instant::now();
        self.board = board;
        self.dead.strike(&mut self.board);
        self.board.instances.insert(self.shared.instance.clone());
        for partition in Partition::all() {
            if let Some(holder) = self.board.leases.get(&partition) {
                self.free_since.remove(&partition);
                if *holder != self.shared.instance {
                    self.left.remove(&partition);
                }
            } else {
                self.free_since.entry(partition).or_insert(now);
            }
        }
    }

    async fn act(&mut self) {
        let now = Instant::now();
        if self.shared.view.borrow().is_unfit() {
            for held in self.held.values() {
                held.orders.drain.cancel();
            }
            return;
        }
        let free_long = self.free_since.iter();
        let free_long = free_long
            .filter(|(_, since)| now.duration_since(**since) >= FREE_LONG)
            .map(|(partition, _)| *partition)
            .collect();
        let mut wanted = Vec::new();
        for step in plan(&self.board, &self.shared.instance, &free_long) {
            match step {
                Move::Take(partition) => {
                    if !self.is_early(partition) && !self.held.contains_key(&partition) {
                        wanted.push(partition);
                    }
                }
                Move::HandOver(partition) => {
                    if let Some(held) = self.held.get(&partition) {
                        held.orders.drain.cancel();
                    }
                }
            }
        }
        self.take(wanted, false).await;
        if std::mem::take(&mut self.first_look) {
            // A process that was killed and is back need not wait for its old leases to end.
            let others: Vec<Partition> = self.board.leases.keys().copied().collect();
            for partition in others {
                self.probe(partition);
            }
        }
    }

    /// Takes leases, and the partitions of those that were got.
    async fn take(&mut self, partitions: Vec<Partition>, force: bool) {
        let (nats, me) = (&self.shared.nats, &self.shared.instance);
        let claims = partitions.into_iter().map(|partition| async move {
            let key = partition.lease_key();
            (partition, slot::claim(nats, &key, me, force).await)
        });
        let got = join_all(claims)
            .await
            .into_iter()
            .filter_map(|(partition, claim)| match claim {
                Claim::Ours(revision) => Some((partition, revision)),
                Claim::Theirs | Claim::Left | Claim::Unknown => None,
            });
        self.start(got.collect());
    }

    /// Takes partitions over whose leases are ours.
    fn start(&mut self, leases: Vec<(Partition, u64)>) {
        for (partition, revision) in leases {
            let orders = Orders::default();
            self.starting.insert(partition, orders.clone());
            let held = Held {
                revision,
                orders,
                opened: false,
            };
            self.held.insert(partition, held);
            self.start_at.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }

    /// Begins the takeover of what has gathered.
    fn launch(&mut self) {
        self.start_at = None;
        let taken = std::mem::take(&mut self.starting);
        if taken.is_empty() {
            return;
        }
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        self.shared.tasks.spawn("takeover", async move {
            run_takeover(shared, taken, sender).await;
        });
    }

    /// Looks whether a partition can be taken, beside the keeper.
    fn probe(&mut self, partition: Partition) {
        let unfit = self.shared.view.borrow().is_unfit();
        let left = self.left.get(&partition).and_then(|left| left.revision);
        let busy = unfit
            || (self.is_early(partition) && left.is_none())
            || self.held.contains_key(&partition)
            || self.suspected.contains(&partition);
        if busy || !self.probing.insert(partition) {
            return;
        }
        let first_in_line = self.is_first_in_line(partition);
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        self.shared.tasks.spawn("probe", async move {
            let heard = probed(&shared, partition, (first_in_line, left)).await;
            tell(&sender, heard).await;
        });
    }

    /// Whether this process is the one to take a partition if its holder is dead.
    fn is_first_in_line(&self, partition: Partition) -> bool {
        let mut others = self.board.instances.clone();
        if let Some(holder) = self.board.leases.get(&partition) {
            others.remove(holder);
        }
        others.insert(self.shared.instance.clone());
        home(partition, &others) == Some(&self.shared.instance)
    }

    /// Looks once more at a partition for which nobody listens, and at the others of its holder that
    /// this process would have to take.
    async fn suspect(&mut self, partition: Partition, first_in_line: bool) {
        if self.suspected.contains(&partition) || self.held.contains_key(&partition) {
            return;
        }
        // Leases may have changed hands since the last look.
        if let Some(board) = slot::board(&self.shared.nats).await {
            self.see(board);
        }
        let busy = |it: &Partition| {
            self.suspected.contains(it) || self.held.contains_key(it) || self.is_early(*it)
        };
        if busy(&partition) {
            return;
        }
        let holder = self.board.leases.get(&partition);
        let others = self.board.leases.iter().filter(|(it, who)| {
            first_in_line
                && Some(*who) == holder
                && **it != partition
                && !busy(it)
                && self.is_first_in_line(**it)
        });
        let mut partitions = vec![partition];
        partitions.extend(others.map(|(it, _)| *it));
        self.suspected.extend(&partitions);
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        self.shared.tasks.spawn("probe", async move {
            let heard = orphans(&shared, partitions, first_in_line).await;
            tell(&sender, heard).await;
        });
    }

    fn show(&self) {
        let conditions = self.shared.conditions();
        let open = conditions.values().filter(|c| c.open).count();
        drop(conditions);
        let orphans = Partition::all().filter(|partition| {
            !self.held.contains_key(partition) && !self.board.leases.contains_key(partition)
        });
        let (held, orphans) = (self.held.len(), orphans.count());
        self.shared
            .metrics
            .partitions
            .set(i64::try_from(held).unwrap_or(i64::MAX));
        self.standing.send_if_modified(|standing| {
            let next = Standing {
                held,
                open,
                orphans,
                connected: self.connected,
            };
            std::mem::replace(standing, next) != next
        });
    }

    /// Drains all writers and gives every lease back.
    async fn say_goodbye(mut self) {
        let alone = self.board.instances.len() <= 1;
        for held in self.held.values() {
            if alone {
                held.orders.alone.cancel();
            }
            held.orders.drain.cancel();
        }
        let until = Instant::now() + GOODBYE;
        while !self.held.is_empty() {
            let Ok(Some(first)) = tokio::time::timeout_at(until, self.receiver.recv()).await else {
                break;
            };
            // Most end at the same time, and the clients of each wait for its next owner.
            let mut heard = vec![first];
            while let Ok(next) = self.receiver.try_recv() {
                heard.push(next);
            }
            let ended: Vec<(Partition, u64)> = heard
                .iter()
                .filter_map(|heard| match heard {
                    Heard::Ended(partition, _) => {
                        let held = self.held.remove(partition)?;
                        Some((*partition, held.revision))
                    }
                    Heard::Opened(..)
                    | Heard::GivenBack(..)
                    | Heard::Silent(..)
                    | Heard::Orphans { .. }
                    | Heard::Probed(_)
                    | Heard::Got(..) => None,
                })
                .collect();
            let shared = &self.shared;
            let all = ended
                .iter()
                .map(|(partition, revision)| give_back(shared, *partition, *revision));
            join_all(all).await;
        }
        for held in self.held.values() {
            held.orders.stop.cancel();
        }
        let key = slot::instance_key(&self.shared.instance);
        slot::release(&self.shared.nats, &key, self.alive_revision).await;
    }
}

/// Gives a lease back; returns its revision then.
async fn give_back(shared: &Shared, partition: Partition, revision: u64) -> Option<u64> {
    let nats = &shared.nats;
    let revision = slot::release(nats, &partition.lease_key(), revision).await;
    // Whoever it belongs to need not wait for its next look.
    let hint = Subject::Hint(partition).to_string();
    let sent = nats.publish(hint, HeaderMap::new(), bytes::Bytes::new());
    if let Err(error) = sent.await {
        tracing::debug!(%error, "a hint could not be sent");
    }
    revision
}

/// Returns when it is time; never, if it is not set.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn tell(sender: &mpsc::Sender<Heard>, heard: Heard) {
    if sender.send(heard).await.is_err() {
        tracing::debug!("the keeper has ended");
    }
}
