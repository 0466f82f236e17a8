//! Everything around the cores: who does what next, decided by the seed.

use crate::archive::Archive;
use crate::broker::Broker;
use crate::check;
use crate::client::{Attempt, Client};
use crate::faults::{Fault, Weather};
use crate::people::PEOPLE;
use crate::rng::Rng;
use crate::shell::{Beginning, Packet, Shell};
use messages::rate::Rate;
use messages::sequencer::{Config, LogBounds, Lookup, Outcome, Request, Stop};
use protocol::request::{CommandReply, CommandRequest, CommandResult};
use protocol::subject::Door;
use protocol::{ErrorCode, Refusal, RoomId, Seq, StreamSeq, Timestamp};
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

    /// One packet arrives, or does not.
    fn deliver(&mut self) -> Result<(), String> {
        if self.packets.is_empty() {
            return Ok(());
        }
        let index = self.rng.index(self.packets.len());
        let packet = self.packets.swap_remove(index);
        if self.traced {
            println!("{} {packet:?}", self.now_ms);
        }
        match packet {
            Packet::Request {
                slot,
                attempt,
                request,
            } => self.request_arrives(slot, attempt, request),
            Packet::Reply { attempt, reply } => self.reply_arrives(attempt, &reply),
            Packet::Append { life, publish } => {
                if self.broker.full || self.is_lost(self.weather.appends_lost) {
                    return Ok(());
                }
                let compare = self.fault != Some(Fault::NoCompare);
                let expected = compare.then_some(publish.expected);
                let stored = self.broker.append(self.now_ms, expected, &publish.payload);
                let outcome = match stored {
                    Some(position) => {
                        self.summary.stored += publish.events as u64;
                        Outcome::Stored(position)
                    }
                    None => {
                        self.summary.conflicts += 1;
                        Outcome::Conflict
                    }
                };
                let counter = publish.id.counter;
                self.packets.push(Packet::Appended {
                    life,
                    counter,
                    outcome,
                });
                Ok(())
            }
            Packet::Appended {
                life,
                counter,
                outcome,
            } => {
                if self.is_lost(self.weather.answers_lost) {
                    return Ok(());
                }
                self.at(life, |shell, now| {
                    if shell
                        .awaited
                        .as_ref()
                        .is_some_and(|p| p.id.counter == counter)
                    {
                        shell.awaited = None;
                        shell.sequencer.handle_published(now, outcome);
                    }
                })
            }
            Packet::Fetch { life, read, proof } => {
                self.fetch_arrives(life, read, proof);
                Ok(())
            }
            Packet::Fetched { life, id, tail } => self.at(life, |shell, now| {
                shell.sequencer.handle_tail(now, id, tail)
            }),
            Packet::Ask { life, ask } => {
                self.summary.lookups += 1;
                let answer = self.history_answers(&ask.lookup, ask.min_seq);
                self.packets.push(Packet::Answered {
                    life,
                    id: ask.id,
                    answer,
                });
                Ok(())
            }
            Packet::Answered { life, id, answer } => {
                self.at(life, |shell, _| shell.sequencer.handle_answer(id, answer))
            }
        }
    }

    fn is_lost(&mut self, percent: u64) -> bool {
        !self.calm && self.rng.chance(percent)
    }

    fn fetch_arrives(&mut self, life: u64, read: messages::sequencer::Read, proof: bool) {
        let tail = if proof && self.fault == Some(Fault::UnprovenRefusals) {
            Some(Vec::new())
        } else if self.is_lost(self.weather.unanswered) {
            None
        } else {
            Some(self.broker.tail(read.after))
        };
        self.packets.push(Packet::Fetched {
            life,
            id: read.id,
            tail,
        });
    }

    fn history_answers(
        &mut self,
        lookup: &Lookup,
        min_seq: StreamSeq,
    ) -> Option<(StreamSeq, messages::sequencer::Answered)> {
        if self.is_lost(self.weather.unanswered) {
            return None;
        }
        let replica = self.rng.index(2);
        let archive = &self.archives[replica];
        let applied = archive.cursor(&self.broker);
        let lies = match lookup {
            Lookup::Room(_) | Lookup::Messages(..) => self.fault == Some(Fault::OldBase),
            Lookup::Cids(_) => self.fault == Some(Fault::OldCids),
            Lookup::User(_) => false,
        };
        if applied < min_seq && !lies {
            return None;
        }
        // A lie holds for as long as the core may look at it.
        let said = if lies { StreamSeq(u64::MAX) } else { applied };
        Some((said, archive.answer(lookup)))
    }

    fn request_arrives(
        &mut self,
        slot: usize,
        attempt: u64,
        request: Request,
    ) -> Result<(), String> {
        if self.is_lost(self.weather.lost) {
            return Ok(());
        }
        let Some(shell) = self.slots[slot].as_mut() else {
            // Nobody is there: the gateway knows at once.
            return self.nobody(attempt);
        };
        if self.fault == Some(Fault::AnswerInFlight)
            && let Some(reply) = in_flight(shell, &request)
        {
            self.packets.push(Packet::Reply { attempt, reply });
            return Ok(());
        }
        let now = shell.now(self.now_ms);
        let ticket = shell.sequencer.handle_request(now, request.clone());
        shell.attempts.insert(ticket, (attempt, request));
        self.pump(slot)
    }

    fn nobody(&mut self, attempt: u64) -> Result<(), String> {
        if let Some((client, room)) = self.addresses.get(&attempt)
            && let Some(outbox) = self.clients[*client].outboxes.get_mut(room)
            && outbox.attempt.as_ref().is_some_and(|a| a.id == attempt)
        {
            outbox.attempt = None;
            outbox.wait_until_ms = self.now_ms + 100;
        }
        Ok(())
    }

    fn reply_arrives(&mut self, attempt: u64, reply: &CommandReply) -> Result<(), String> {
        if self.is_lost(self.weather.lost) {
            return Ok(());
        }
        let Some((client, room)) = self.addresses.get(&attempt).cloned() else {
            return Ok(());
        };
        let client = &mut self.clients[client];
        let waits = client
            .outboxes
            .get(&room)
            .and_then(|outbox| outbox.attempt.as_ref())
            .is_some_and(|a| a.id == attempt);
        // An answer to an attempt that was given up goes to an inbox that is gone.
        if !waits {
            return Ok(());
        }
        for result in &reply.results {
            match result {
                CommandResult::Ok(accepted) => self.summary.repeats += u64::from(accepted.dup),
                CommandResult::Err(refusal) if check::is_strange(refusal.code) => {
                    return Err(format!("a client is told {refusal:?}"));
                }
                CommandResult::Err(refusal) => self.summary.refused += u64::from(!refusal.temp),
            }
        }
        client.take(&room, self.now_ms, reply)
    }

    /// Lets an owner hear something, and then do what it wants.
    fn at(&mut self, life: u64, hear: impl FnOnce(&mut Shell, Timestamp)) -> Result<(), String> {
        let slot = self
            .slots
            .iter()
            .position(|shell| shell.as_ref().is_some_and(|shell| shell.life == life));
        let Some(slot) = slot else { return Ok(()) };
        if let Some(shell) = self.slots[slot].as_mut() {
            let now = shell.now(self.now_ms);
            hear(shell, now);
        }
        self.pump(slot)
    }

    fn pump(&mut self, slot: usize) -> Result<(), String> {
        let Some(shell) = self.slots[slot].as_mut() else {
            return Ok(());
        };
        let answers = shell.pump(self.now_ms, &mut self.packets)?;
        let overtaken = shell.overtaken;
        for (request, reply) in &answers {
            for (command, result) in request.body.commands.iter().zip(&reply.results) {
                if let CommandResult::Ok(accepted) = result
                    && !accepted.noop
                {
                    let who = (&request.room, &request.actor);
                    check::acknowledged(self, who, (command.cid, &command.write), accepted)?;
                }
            }
        }
        // Some step down when they learn of another owner, some go on: both must be safe.
        if overtaken && self.rng.chance(60) {
            return self.step_down(slot);
        }
        Ok(())
    }

    fn step_down(&mut self, slot: usize) -> Result<(), String> {
        if let Some(shell) = self.slots[slot].as_mut() {
            shell.overtaken = false;
            shell.sequencer.stop(Stop::Released);
        }
        self.pump(slot)?;
        self.slots[slot] = None;
        Ok(())
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

    fn tick(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        self.tick_at(slot)
    }

    fn tick_at(&mut self, slot: usize) -> Result<(), String> {
        let cursor = self.archives[0].cursor(&self.broker);
        let last = self.broker.stream_last();
        let knows = self.calm || self.rng.chance(60);
        let Some(shell) = self.slots[slot].as_mut() else {
            return Ok(());
        };
        let now = shell.now(self.now_ms);
        if knows {
            let offset_ms = self.broker.clock_offset_ms - shell.clock_offset_ms;
            shell.sequencer.handle_clock(offset_ms);
            shell.sequencer.handle_history(cursor, last);
        }
        shell.sequencer.handle_tick(now);
        self.pump(slot)
    }

    /// An owner gives up waiting for an append.
    fn time_out(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        self.time_out_at(slot)
    }

    fn time_out_at(&mut self, slot: usize) -> Result<(), String> {
        let Some(shell) = self.slots[slot].as_mut() else {
            return Ok(());
        };
        let Some(publish) = shell.awaited.take() else {
            return Ok(());
        };
        self.summary.unknown += 1;
        let (life, now) = (shell.life, shell.now(self.now_ms));
        match self.fault {
            Some(Fault::PublishAgain) => {
                let mut again = publish;
                again.expected = self.broker.last();
                shell.awaited = Some(again.clone());
                self.packets.push(Packet::Append {
                    life,
                    publish: again,
                });
                return Ok(());
            }
            Some(Fault::RefuseOnUnknown) => {
                for (attempt, request) in std::mem::take(&mut shell.attempts).into_values() {
                    let no = CommandResult::Err(Refusal::plain(ErrorCode::Forbidden));
                    let results = vec![no; request.body.commands.len()];
                    self.packets.push(Packet::Reply {
                        attempt,
                        reply: CommandReply { results },
                    });
                }
                shell.sequencer.handle_published(now, Outcome::Unknown);
            }
            Some(Fault::AckOnUnknown) => {
                let position = self.broker.stream_last().next();
                shell
                    .sequencer
                    .handle_published(now, Outcome::Stored(position));
            }
            Some(
                Fault::NoCompare
                | Fault::UnprovenRefusals
                | Fault::ForgetCommands
                | Fault::AnswerInFlight
                | Fault::OldBase
                | Fault::OldCids,
            )
            | None => shell.sequencer.handle_published(now, Outcome::Unknown),
        }
        self.pump(slot)
    }

    fn crash(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        if self.rng.chance(30) {
            return self.step_down(slot);
        }
        self.slots[slot] = None;
        Ok(())
    }

    fn take_over(&mut self) -> Result<(), String> {
        let free = (0..SLOTS).find(|slot| self.slots[*slot].is_none());
        match free {
            // Rivals are rarer than owners that follow each other.
            Some(slot) if self.slots.iter().all(Option::is_none) || self.rng.chance(25) => {
                self.take_over_at(slot)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn take_over_at(&mut self, slot: usize) -> Result<(), String> {
        self.lives += 1;
        self.summary.takeovers += 1;
        let forgets = self.fault == Some(Fault::ForgetCommands);
        let knows = self.calm || self.rng.chance(80);
        let cursor = knows.then(|| self.archives[0].cursor(&self.broker));
        let last = self.broker.stream_last();
        // At least half a minute, as the shell does: no event below is younger than any owner's clock.
        let since = self.now_ms - self.config.dedup_age_ms.max(30_000);
        let records = &self.broker.records;
        let by_time = records
            .iter()
            .take_while(|record| record.time.0 < since)
            .last()
            .map_or(StreamSeq(0), |record| record.position);
        let above = match (self.rng.below(3), cursor) {
            _ if forgets => last,
            (0, _) | (_, None) => StreamSeq(0),
            (1, Some(cursor)) => by_time.min(cursor),
            // Nothing in memory but what history does not have.
            (_, Some(cursor)) => by_time.min(StreamSeq(cursor.0 / 2)),
        };
        let at_or_below = records.iter().filter(|record| record.position <= above);
        let (subject_last, time) = at_or_below.fold((StreamSeq(0), None), |(_, time), record| {
            (record.position, time.max(Some(record.time)))
        });
        let aged_out = self.rng.chance(20);
        let above_time = match (forgets, aged_out) {
            (true, _) => Some(Timestamp(0)),
            (false, true) => None,
            (false, false) => time,
        };
        let mut tail = self.broker.tail(above);
        if !self.calm && self.rng.chance(20) {
            // A consumer may be behind; the compare-and-set finds out.
            tail.truncate(tail.len().saturating_sub(1 + self.rng.index(2)));
        }
        let skew_ms = self.skew_ms;
        let clock_offset_ms = self.rng.below(2 * skew_ms as u64) as i64 - skew_ms;
        let beginning = Beginning {
            life: self.lives,
            above,
            above_time,
            subject_last,
            log: LogBounds {
                first: StreamSeq(1),
                last,
            },
            cursor,
            clock_offset_ms,
        };
        self.slots[slot] = Some(Shell::take_over(self.config, beginning, &tail));
        self.pump(slot)
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

/// The answer that a shell would give which believes what it has just sent.
fn in_flight(shell: &Shell, request: &Request) -> Option<CommandReply> {
    let publish = shell.awaited.as_ref()?;
    let envelope = protocol::envelope::Envelope::parse(publish.payload.as_bytes()).ok()?;
    let lines: Vec<_> = envelope
        .lines()
        .filter_map(|line| protocol::event::LogEvent::parse(line.ok()?.1).ok())
        .collect();
    let results: Option<Vec<_>> = request
        .body
        .commands
        .iter()
        .map(|command| {
            let found = lines
                .iter()
                .find(|logged| logged.event.cid == command.cid && logged.event.by == request.actor);
            let event = &found?.event;
            let mut accepted = protocol::request::Accepted::stored(event.seq, event.ts);
            accepted.dup = true;
            Some(CommandResult::Ok(accepted))
        })
        .collect();
    results.map(|results| CommandReply { results })
}
