//! Everything around the cores: who does what next, decided by the seed.

mod delivery;
mod owners;

use crate::archive::Archive;
use crate::broker::Broker;
use crate::client::{Attempt, Client};
use crate::faults::{Fault, Weather};
use crate::people::PEOPLE;
use crate::rng::Rng;
use crate::shell::{Packet, Shell};
use messages::rate::Rate;
use messages::sequencer::{Config, Request};
use protocol::request::CommandRequest;
use protocol::subject::Door;
use protocol::{RoomId, Seq, Timestamp};
use std::collections::BTreeMap;

/// Owners that may live at once.
const SLOTS: usize = 3;
/// How long an owner may begin a request.
const DEADLINE_MS: i64 = 5_000;
/// Steps within which everything must be answered once the weather is fine.
const CALM_STEPS: u32 = 6_000;

/// How an error begins that says that nothing goes on.
pub const STUCK: &str = "somebody waits for ever";

/// What happened, for judging whether a run was worth anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub stored: u64,
    pub conflicts: u64,
    pub unknown: u64,
    pub takeovers: u64,
    pub repeats: u64,
    pub refused: u64,
    pub lookups: u64,
}

impl Summary {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.takeovers += other.takeovers;
        self.repeats += other.repeats;
        self.refused += other.refused;
        self.lookups += other.lookups;
    }
}

/// One seed's world.
#[derive(Debug)]
pub struct World {
    rng: Rng,
    fault: Option<Fault>,
    weather: Weather,
    config: Config,
    now_ms: i64,
    skew_ms: i64,
    pub broker: Broker,
    /// Two replicas of history, of which the second is slow.
    archives: [Archive; 2],
    slots: [Option<Shell>; SLOTS],
    lives: u64,
    pub clients: Vec<Client>,
    packets: Vec<Packet>,
    attempts: u64,
    /// Whose attempt it is, and for which room.
    addresses: BTreeMap<u64, (usize, RoomId)>,
    summary: Summary,
    calm: bool,
    /// Whether every packet is printed.
    traced: bool,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng(seed);
        let skew_ms = if rng.chance(70) { 400 } else { 9_000 };
        let config = Config {
            rate: rng.chance(30).then_some(Rate {
                per_second: 5,
                burst: 3,
            }),
            dedup_age_ms: *rng.pick(&[1_000, 60_000, 900_000]),
            dedup_commands_max: *rng.pick(&[1, 5, 1_000]),
            events_soft_max: *rng.pick(&[0, 10, 1_000]),
            room_idle_ms: *rng.pick(&[0, 5_000, 600_000]),
            pending_max: *rng.pick(&[4, 100]),
            renew_after_ms: *rng.pick(&[60_000, 86_400_000]),
            ..Config::default()
        };
        let weather = Weather {
            lost: rng.below(15),
            appends_lost: rng.below(15),
            answers_lost: rng.below(20),
            unanswered: rng.below(15),
        };
        let clients = PEOPLE
            .iter()
            .map(|user| Client::new(user.clone(), rng.below(40_000) as i64 - 15_000))
            .collect();
        let mut broker = Broker::default();
        broker.clock_offset_ms = rng.below(4_000) as i64 - 2_000;
        Self {
            rng,
            fault,
            weather,
            config,
            now_ms: 1_800_000_000_000,
            skew_ms,
            broker,
            archives: [Archive::default(), Archive::default()],
            slots: [None, None, None],
            lives: 0,
            clients,
            packets: Vec::new(),
            attempts: 0,
            addresses: BTreeMap::new(),
            summary: Summary::default(),
            calm: false,
            traced: std::env::var("SIM_TRACE").is_ok(),
        }
    }

    /// What happened.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// One thing happens.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn step(&mut self) -> Result<(), String> {
        self.time_passes();
        for _ in 0..2 {
            self.deliver()?;
        }
        match self.rng.below(100) {
            0..=24 => self.deliver(),
            25..=44 => self.client_makes(),
            45..=69 => self.client_sends(),
            70..=79 => {
                let count = self.rng.index(6);
                let replica = self.rng.pick(&[0, 0, 0, 1]);
                self.archives[*replica].apply(&self.broker, count);
                Ok(())
            }
            80..=87 => self.tick(),
            88..=91 => self.time_out(),
            92 => self.crash(),
            93..=97 => self.take_over(),
            _ => {
                self.weather_changes();
                Ok(())
            }
        }
    }

    fn time_passes(&mut self) {
        let most_ms = match self.rng.below(100) {
            0..=69 => 30,
            70..=94 => 500,
            95..=98 => 5_000,
            _ => 1_200_000,
        };
        self.now_ms += self.rng.below(most_ms) as i64;
    }

    fn weather_changes(&mut self) {
        self.broker.other_subject();
        self.broker.full = self.rng.chance(10);
        if self.rng.chance(10) {
            // Another leader, another clock.
            self.broker.clock_offset_ms = self.rng.below(4_000) as i64 - 2_000;
        }
    }

    fn client_makes(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.clients.len());
        let shared = self.broker.heads.iter();
        let shared = shared.filter(|(room, _)| !room.is_own() && !room.as_str().starts_with('d'));
        let rooms: Vec<(RoomId, Seq)> = shared.map(|(room, seq)| (room.clone(), *seq)).collect();
        let client = &mut self.clients[index];
        if self.rng.chance(15) {
            client.repeat(&mut self.rng);
        } else {
            client.make(&mut self.rng, self.now_ms, &rooms);
        }
        Ok(())
    }

    /// One client sends what waits for one room, or sends it again.
    fn client_sends(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.clients.len());
        let ready: Vec<RoomId> = self.clients[index]
            .outboxes
            .iter()
            .filter(|(_, outbox)| {
                let waits = outbox
                    .attempt
                    .as_ref()
                    .is_some_and(|attempt| self.now_ms < attempt.give_up_ms);
                !outbox.queue.is_empty() && !waits && self.now_ms >= outbox.wait_until_ms
            })
            .map(|(room, _)| room.clone())
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let room = self.rng.pick(&ready).clone();
        self.attempts += 1;
        let (attempt, count_max) = (self.attempts, 1 + self.rng.index(4));
        let client = &mut self.clients[index];
        let Some(outbox) = client.outboxes.get_mut(&room) else {
            return Ok(());
        };
        let count = outbox.queue.len().min(count_max);
        let deadline_ms = self.now_ms + DEADLINE_MS;
        outbox.attempt = Some(Attempt {
            id: attempt,
            give_up_ms: deadline_ms + self.skew_ms + 500,
        });
        let request = Request {
            door: Door::User,
            actor: client.user.clone(),
            room: room.clone(),
            body: CommandRequest {
                deadline: Timestamp(deadline_ms),
                guest: false,
                commands: outbox.queue.iter().take(count).cloned().collect(),
            },
        };
        self.addresses.insert(attempt, (index, room));
        let slot = self.owner_believed();
        self.packets.push(Packet::Request {
            slot,
            attempt,
            request,
        });
        Ok(())
    }

    /// Mostly the youngest owner, sometimes any.
    fn owner_believed(&mut self) -> usize {
        let youngest = (0..SLOTS).max_by_key(|slot| self.slots[*slot].as_ref().map(|s| s.life));
        if !self.calm && self.rng.chance(30) {
            return self.rng.index(SLOTS);
        }
        youngest.unwrap_or(0)
    }

    /// The weather clears: one owner, a history that follows, nothing lost.
    ///
    /// # Errors
    /// Somebody still waits at the end, or a promise is broken.
    pub fn calm_down(&mut self) -> Result<(), String> {
        self.calm = true;
        self.broker.full = false;
        self.slots = [None, None, None];
        self.take_over_at(0)?;
        for step in 0..CALM_STEPS {
            self.now_ms += 60;
            for archive in &mut self.archives {
                archive.apply(&self.broker, usize::MAX);
            }
            for _ in 0..4 {
                self.deliver()?;
            }
            self.client_sends()?;
            if step % 8 == 0 {
                self.tick_at(0)?;
                self.time_out_if_lost()?;
            }
            let is_quiet = self.clients.iter().all(|client| {
                let mut outboxes = client.outboxes.values();
                outboxes.all(|outbox| outbox.queue.is_empty())
            });
            if is_quiet && self.packets.is_empty() {
                return Ok(());
            }
        }
        let waiting: Vec<_> = self
            .clients
            .iter()
            .flat_map(|client| &client.outboxes)
            .filter(|(_, outbox)| !outbox.queue.is_empty())
            .collect();
        Err(format!("{STUCK}: {waiting:?}"))
    }

    /// Nothing of the awaited append is under way any more.
    fn time_out_if_lost(&mut self) -> Result<(), String> {
        let Some(shell) = &self.slots[0] else {
            return self.take_over_at(0);
        };
        let life = shell.life;
        let under_way = self.packets.iter().any(|packet| match packet {
            Packet::Append { life: of, .. } | Packet::Appended { life: of, .. } => *of == life,
            Packet::Request { .. }
            | Packet::Reply { .. }
            | Packet::Fetch { .. }
            | Packet::Fetched { .. }
            | Packet::Ask { .. }
            | Packet::Answered { .. } => false,
        });
        if under_way {
            return Ok(());
        }
        self.time_out_at(0)
    }
}
