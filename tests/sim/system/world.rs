//! Everything around the cores: who does what next, decided by the seed.

mod acts;
mod network;
mod owners;
mod services;

use super::device::{Death, Device};
use super::faults::{Fault, Weather};
use super::gateway::{Gateway, SocketId, Start, Wish};
use super::stream::Stream;
use super::tables::Tables;
use super::wire::Heard;
use crate::people::PEOPLE;
use crate::rng::Rng;
use crate::shell::{self, Shell};
use client::Follow;
use client::connection::LinkId;
use gateway::session::outside::{Answered, Ticket};
use messages::rate::Rate;
use messages::sequencer::{Config, Request};
use protocol::query::{Query, ReadCounts};
use protocol::{Cid, Partition, Refusal, StreamSeq};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Owners of one partition that may live at once.
const SLOTS: usize = 2;
/// Gateways.
pub const GATEWAYS: usize = 2;
/// How long a batch may take, as `gateway::batches` says.
const BATCH_MS: i64 = 2_800;
/// How long a question to history may take, as `gateway::questions` says.
const QUESTION_MS: i64 = 4_000;
/// A request is under way no longer than a client needs to come back with a copy of it.
const REQUEST_MS_MAX: i64 = 450;
/// Rounds within which everything must be answered and alike once the weather is fine.
const CALM_ROUNDS: u32 = 3_000;

/// What happened, for judging whether a run was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Events stored.
    pub stored: u64,
    /// Appends that lost the compare.
    pub conflicts: u64,
    /// Appends whose outcome was not known.
    pub unknown: u64,
    /// Owners that took over.
    pub takeovers: u64,
    /// Questions of owners.
    pub lookups: u64,
    /// Questions of gateways.
    pub questions: u64,
    /// Gateways that died.
    pub gateways_died: u64,
    /// Sockets that were cut.
    pub cuts: u64,
    /// Records that the live feed lost.
    pub live_lost: u64,
    /// Batches that history was given and refused, because one was missing before them.
    pub gaps_refused: u64,
    /// Batches that history was given and had in part.
    pub overlaps: u64,
}

/// Something on its way.
#[derive(Debug)]
enum Packet {
    /// Between owners and what is around them.
    Owner(Partition, shell::Packet),
    /// To history, from a gateway.
    Question(u64, Box<Query>, StreamSeq),
    /// Back from it.
    Answer(u64, Result<Answered, Refusal>),
    /// To the log, from a gateway of this life.
    Wish(usize, u64, Wish),
    /// From an owner, to a gateway of this life.
    Beacon(usize, u64, StreamSeq),
}

/// Where an outcome belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    gateway: usize,
    life: u64,
    socket: SocketId,
    ticket: Ticket,
}

/// A batch that a gateway has sent.
#[derive(Debug)]
struct Attempt {
    to: Address,
    request: Request,
    counts: Vec<Option<ReadCounts>>,
    /// Whether it makes a user's own room.
    introduces: bool,
    sent_ms: i64,
    deadline_ms: i64,
}

/// One socket between a device and a gateway.
#[derive(Debug, Default)]
struct Link {
    gateway: usize,
    life: u64,
    socket: SocketId,
    open: bool,
    up: VecDeque<String>,
    down: VecDeque<String>,
    heard: Heard,
    /// The peer takes nothing before this moment.
    stalled_until_ms: i64,
    /// The server's end is gone, with this code if it could still say one.
    closed: Option<Option<u16>>,
}

/// One seed's world.
pub struct World {
    rng: Rng,
    fault: Option<Fault>,
    weather: Weather,
    config: Config,
    skew_ms: i64,
    now_ms: i64,
    calm: bool,
    /// The log.
    pub stream: Stream,
    /// What history has of it.
    pub tables: Tables,
    history_down: bool,
    answer_bytes_max: usize,
    owners: BTreeMap<Partition, [Option<Shell>; SLOTS]>,
    lives: u64,
    acked: BTreeMap<u64, StreamSeq>,
    /// The gateways; `None` while one is down.
    pub gateways: [Option<Gateway>; GATEWAYS],
    /// The devices.
    pub devices: Vec<Device>,
    links: BTreeMap<(usize, LinkId), Link>,
    /// Sockets whose clients are gone, of which their gateways do not know yet.
    orphans: Vec<(usize, u64, SocketId)>,
    sockets: u64,
    packets: Vec<Packet>,
    later: Vec<(i64, Packet)>,
    attempts: BTreeMap<u64, Attempt>,
    questions: BTreeMap<u64, (Address, i64)>,
    next: u64,
    /// Commands that an owner refused for good, whether or not their makers heard of it.
    pub refused: BTreeSet<Cid>,
    /// What happened.
    pub counts: Counts,
    /// Counts of gateways that are gone.
    pub gateway_counts: super::gateway::Counts,
    traced: bool,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng(seed ^ 0x5157_0000_0000_0000);
        let weather = Weather::of(&mut rng);
        let skew_ms = if rng.chance(70) { 300 } else { 9_000 };
        let config = Config {
            rate: rng.chance(20).then_some(Rate {
                per_second: 5,
                burst: 3,
            }),
            dedup_age_ms: *rng.pick(&[1_000, 60_000, 900_000]),
            dedup_commands_max: *rng.pick(&[1, 5, 1_000]),
            events_soft_max: *rng.pick(&[0, 10, 1_000]),
            room_idle_ms: *rng.pick(&[0, 5_000, 600_000]),
            pending_max: 100,
            renew_after_ms: 86_400_000,
            ..Config::default()
        };
        let device = |index: usize, follow| Device::new(PEOPLE[index].clone(), follow, fault);
        let mut devices = vec![
            device(0, Follow::Timeline),
            device(1, Follow::Timeline),
            device(2, Follow::Timeline),
            device(1, Follow::Everything),
        ];
        for device in &mut devices {
            device.clock_offset_ms = rng.below(40_000) as i64 - 15_000;
        }
        let mut stream = Stream::default();
        stream.clock_offset_ms = rng.below(2_000) as i64 - 1_000;
        let answer_bytes_max = *rng.pick(&[1 << 20, 1 << 20, 16_000, 4_000]);
        let mut world = Self {
            rng,
            fault,
            weather,
            config,
            skew_ms,
            now_ms: 1_800_000_000_000,
            calm: false,
            stream,
            tables: Tables::default(),
            history_down: false,
            answer_bytes_max,
            owners: BTreeMap::new(),
            lives: 0,
            acked: BTreeMap::new(),
            gateways: [None, None],
            devices,
            links: BTreeMap::new(),
            orphans: Vec::new(),
            sockets: 0,
            packets: Vec::new(),
            later: Vec::new(),
            attempts: BTreeMap::new(),
            questions: BTreeMap::new(),
            next: 0,
            refused: BTreeSet::new(),
            counts: Counts::default(),
            gateway_counts: super::gateway::Counts::default(),
            traced: std::env::var("SIM_TRACE").is_ok(),
        };
        (0..GATEWAYS).for_each(|index| world.start_gateway(index));
        (0..world.devices.len()).for_each(|index| world.start_device(index));
        world
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            println!("{} {}", self.now_ms - 1_800_000_000_000, what());
        }
    }

    fn name(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_lost(&mut self, percent: u64) -> bool {
        !self.calm && self.rng.chance(percent)
    }

    fn start_gateway(&mut self, index: usize) {
        self.lives += 1;
        let start = Start {
            life: self.lives,
            ring_records: *self.rng.pick(&[4, 12, 60, 1_000]),
            clock_offset_ms: self.rng.below(600) as i64 - 300,
            fault: self.fault,
        };
        self.gateways[index] = Some(Gateway::start(&start, self.now_ms, &self.stream));
    }

    fn start_device(&mut self, index: usize) {
        let seed = self.rng.next();
        self.devices[index].start(self.now_ms, seed);
    }

    /// One thing happens, and what follows from it.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn step(&mut self) -> Result<(), String> {
        let most_ms = match self.rng.below(100) {
            0..=74 => 40,
            75..=96 => 400,
            97..=98 => 5_000,
            _ => 90_000,
        };
        self.now_ms += self.rng.below(most_ms) as i64;
        self.act()?;
        for _ in 0..3 {
            self.deliver()?;
            self.move_link()?;
        }
        for index in 0..GATEWAYS {
            if self.rng.chance(60) {
                self.hear_live(index);
            }
            if self.rng.chance(50) {
                let count = 1 + self.rng.index(8);
                self.work(index, count)?;
            }
        }
        self.timers()
    }

    /// The weather clears: everything runs, nothing but the live feed loses anything, and nothing new is
    /// asked for.
    ///
    /// # Errors
    /// Somebody still waits at the end or has not what the others have, or a promise is broken.
    pub fn calm_down(&mut self) -> Result<(), String> {
        self.calm = true;
        self.stream.full = false;
        self.history_down = false;
        for index in 0..GATEWAYS {
            if self.gateways[index].is_none() {
                self.start_gateway(index);
            }
        }
        for device in 0..self.devices.len() {
            self.devices[device].dies = None;
            if self.devices[device].core.is_none() {
                self.start_device(device);
            }
        }
        let mut what = String::new();
        for round in 0..CALM_ROUNDS {
            self.now_ms += if round < 80 { 20 } else { 250 };
            self.run_owners(round)?;
            self.tables.apply_all(&self.stream, self.fault)?;
            for _ in 0..self.packets.len().min(40) {
                self.deliver()?;
            }
            for index in 0..GATEWAYS {
                self.hear_live(index);
                self.work(index, usize::MAX)?;
            }
            for _ in 0..self.links.len() * 2 {
                self.move_link()?;
            }
            self.timers()?;
            if round % 8 == 7 {
                match super::check::unsettled(self) {
                    None => return Ok(()),
                    Some(still) => what = still,
                }
            }
        }
        Err(format!("it does not settle: {what}"))
    }

    /// Whether nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.attempts.is_empty() && self.questions.is_empty()
    }

    /// What is due by time alone.
    fn timers(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms;
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, _)| *at <= now_ms);
        self.later = later;
        let due: Vec<(i64, Packet)> = due;
        self.packets
            .extend(due.into_iter().map(|(_, packet)| packet));
        self.expire()?;
        for index in 0..GATEWAYS {
            let Some(gateway) = &self.gateways[index] else {
                continue;
            };
            let due = gateway.due(now_ms);
            if let Some(gateway) = &mut self.gateways[index] {
                for socket in due {
                    gateway.step(now_ms, socket, |session, now, outside| {
                        session.handle_tick(now, outside);
                    });
                }
            }
            self.settle(index)?;
        }
        for index in 0..self.devices.len() {
            let device = &mut self.devices[index];
            let now = device.now(now_ms);
            if let Some(core) = &mut device.core
                && core.poll_timeout(now).is_some_and(|at| at <= now)
            {
                core.handle_timeout(now);
            }
            self.device_acts(index)?;
        }
        Ok(())
    }

    /// Somebody dies, now or in the middle of what comes next.
    fn device_dies(&mut self, index: usize) {
        if self.rng.chance(50) {
            self.devices[index].dies =
                Some(*self.rng.pick(&[Death::BeforeStoring, Death::AfterStoring]));
        } else if self.devices[index].core.is_some() {
            self.devices[index].stop();
            self.drop_links_of(index);
        }
    }
}
