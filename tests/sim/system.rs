//! The whole system in one thread: clients, gateways, owners, history, and a network between them.
//!
//! The cores are the real ones: `client::core` with its store, `gateway`'s feed, ring, views and
//! sessions, `messages`' sequencers, `history`'s projector and resume plan over tables in memory.
//! A seed decides everything else: what people want, what is lost, late, reordered or cut, who dies and
//! comes back, whose clock is wrong, how far history is. Promises are checked as it goes ([`wire`] per
//! socket, [`device`] per application, [`stream`] for the log); then the weather clears, and everybody
//! must come to have the same ([`check`]).
//!
//! What is assumed beside what the crate's root says: a request that is under way when its gateway
//! dies arrives or is lost before its client comes back with a copy.

mod check;
mod device;
pub mod faults;
mod gateway;
mod runs;
mod stream;
mod tables;
mod wire;
mod world;

use faults::Fault;
use world::World;

/// Steps of one seed before the weather clears.
pub const STEPS: u32 = 100;
/// Steps of a seed that is kept: most were found in longer runs.
pub const STEPS_KEPT: u32 = 220;

/// What happened in some seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Around the cores.
    pub world: world::Counts,
    /// In gateways.
    pub gateways: gateway::Counts,
    /// In devices.
    pub devices: device::Counts,
}

/// Runs one seed for so many steps.
///
/// # Errors
/// Says which promise is broken, and where.
pub fn run(seed: u64, fault: Option<Fault>, steps: u32) -> Result<Summary, String> {
    let mut world = World::new(seed, fault);
    for _ in 0..steps {
        world.step()?;
    }
    world.calm_down()?;
    check::settled(&world)?;
    Ok(world.summary())
}

macro_rules! add {
    ($to:expr, $from:expr, $($field:ident),+) => { $( $to.$field += $from.$field; )+ };
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        add!(
            self.world,
            other.world,
            stored,
            conflicts,
            unknown,
            takeovers,
            lookups,
            questions,
            gateways_died,
            cuts,
            live_lost,
            gaps_refused,
            overlaps
        );
        add!(self.gateways, other.gateways, filled, jumps, lost, evicted);
        self.devices.add(&other.devices);
    }
}

impl device::Counts {
    /// Adds another device's.
    pub fn add(&mut self, other: &Self) {
        add!(
            self, other, shown, skips, acked, repeats, refused, resumes, anew, restarts, gone,
            lagged, missing, reads
        );
    }
}

impl World {
    fn summary(&self) -> Summary {
        let mut summary = Summary {
            world: self.counts,
            gateways: self.gateway_counts,
            ..Summary::default()
        };
        for gateway in self.gateways.iter().flatten() {
            let counts = gateway.counts;
            add!(summary.gateways, counts, filled, jumps, lost, evicted);
        }
        for device in &self.devices {
            summary.devices.add(&device.counts);
        }
        summary
    }
}
