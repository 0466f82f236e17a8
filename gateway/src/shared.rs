//! What all workers and tasks of one gateway share.

use crate::auth::Auth;
use crate::config::Config;
use crate::connections::Connections;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::rate::Rates;
use crate::ring::{Bounds, Ring};
use crate::takeovers::Takeovers;
use crate::views::Views;
use crate::writes::Writes;
use chassis::Context;
use protocol::{StreamSeq, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One gateway.
#[derive(Debug)]
pub struct Shared {
    /// Its settings.
    pub config: Config,
    /// What every service has.
    pub ctx: Context,
    /// Token checks.
    pub auth: Auth,
    /// The recent past.
    pub ring: Ring,
    /// Who was where.
    pub views: Views,
    /// The open sockets.
    pub connections: Connections,
    /// Command rates.
    pub rates: Rates,
    /// Whether writes get through.
    pub writes: Writes,
    /// When partitions change their owners.
    pub takeovers: Takeovers,
    /// Metrics.
    pub metrics: Metrics,
    /// Cancelled when clients are asked to move.
    pub goaway: CancellationToken,
    /// Cancelled when every socket is closed.
    pub closing: CancellationToken,
    /// The highest position that an owner's answer has told.
    told: AtomicU64,
    started: Instant,
}

impl Shared {
    /// A gateway that has nothing yet.
    #[must_use]
    pub fn new(config: Config, ctx: Context, auth: Auth, metrics: Metrics) -> Self {
        let bounds = Bounds {
            records: config.gateway_ring_records,
            bytes: config.gateway_ring_bytes,
        };
        Self {
            ring: Ring::new(bounds),
            views: Views::default(),
            connections: Connections::default(),
            rates: Rates::new(&config),
            writes: Writes::default(),
            takeovers: Takeovers::default(),
            metrics,
            goaway: CancellationToken::new(),
            closing: CancellationToken::new(),
            told: AtomicU64::new(0),
            started: Instant::now(),
            config,
            ctx,
            auth,
        }
    }

    /// An owner's answer holds as of this position: later reads see at least that.
    pub fn told(&self, position: StreamSeq) {
        self.told.fetch_max(position.0, Ordering::Relaxed);
    }

    /// What a read must have applied, so that whoever was told something finds it.
    #[must_use]
    pub fn at_least(&self, position: StreamSeq) -> StreamSeq {
        position.max(StreamSeq(self.told.load(Ordering::Relaxed)))
    }

    /// Another log: positions of the old one mean nothing.
    pub fn forget_told(&self) {
        self.told.store(0, Ordering::Relaxed);
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment {
            wall: Timestamp(self.ctx.clock.now_ms()),
            ticks: self.ticks(),
        }
    }

    /// Milliseconds since this gateway started.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The instant of a moment in ticks.
    #[must_use]
    pub fn instant(&self, ticks: u64) -> Instant {
        self.started + std::time::Duration::from_millis(ticks)
    }
}
