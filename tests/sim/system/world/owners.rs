//! Owners of partitions: the real sequencers, rivals included.

use super::super::faults::Fault;
use super::{GATEWAYS, Packet, REQUEST_MS_MAX, SLOTS, World};
use crate::shell::{Beginning, Packet as OwnerPacket, Shell};
use messages::sequencer::{Lookup, Outcome, Request, Stop};
use protocol::request::{CommandReply, CommandResult};
use protocol::{Partition, StreamSeq, Timestamp};

impl World {
    pub(super) fn owner_packet(
        &mut self,
        partition: Partition,
        packet: OwnerPacket,
    ) -> Result<(), String> {
        match packet {
            OwnerPacket::Request {
                slot,
                attempt,
                request,
            } => self.request_arrives(partition, (slot, attempt), request),
            OwnerPacket::Reply { attempt, reply } => {
                self.note_refusals(attempt, &reply);
                if self.is_lost(self.weather.lost) {
                    return Ok(());
                }
                self.replied(attempt, reply)
            }
            OwnerPacket::Append { life, publish } => {
                if self.stream.full || self.is_lost(self.weather.appends) {
                    return Ok(());
                }
                let place = (partition, publish.expected);
                let stored = self.stream.append(self.now_ms, place, &publish.payload)?;
                let outcome = match stored {
                    Some(position) => {
                        self.counts.stored += publish.events as u64;
                        self.republish(position);
                        Outcome::Stored(position)
                    }
                    None => {
                        self.counts.conflicts += 1;
                        Outcome::Conflict
                    }
                };
                let counter = publish.id.counter;
                self.push(
                    partition,
                    OwnerPacket::Appended {
                        life,
                        counter,
                        outcome,
                    },
                );
                Ok(())
            }
            OwnerPacket::Appended {
                life,
                counter,
                outcome,
            } => self.appended(partition, (life, counter), outcome),
            OwnerPacket::Fetch { life, read, .. } => {
                let lost = self.is_lost(self.weather.unanswered);
                let tail = (!lost).then(|| self.stream.tail(partition, read.after));
                let id = read.id;
                self.push(partition, OwnerPacket::Fetched { life, id, tail });
                Ok(())
            }
            OwnerPacket::Fetched { life, id, tail } => {
                let last = tail.as_ref().and_then(|tail| tail.last());
                if let Some(last) = last.map(|record| record.position) {
                    self.acked.insert(life, last);
                }
                self.at(partition, life, |shell, now| {
                    shell.sequencer.handle_tail(now, id, tail);
                })
            }
            OwnerPacket::Ask { life, ask } => {
                self.counts.lookups += 1;
                let answer = self.history_answers(&ask.lookup, ask.min_seq);
                let id = ask.id;
                self.push(partition, OwnerPacket::Answered { life, id, answer });
                Ok(())
            }
            OwnerPacket::Answered { life, id, answer } => self.at(partition, life, |shell, _| {
                shell.sequencer.handle_answer(id, answer);
            }),
        }
    }

    /// A refusal of which its maker does not hear is none: the command comes again, and may be stored
    /// then, behind later ones.
    fn note_refusals(&mut self, attempt: u64, reply: &CommandReply) {
        let Some(state) = self.attempts.get(&attempt) else {
            return;
        };
        let commands = state.request.body.commands.iter();
        for (command, result) in commands.zip(&reply.results) {
            if matches!(result, CommandResult::Err(refusal) if !refusal.temp) {
                self.refused.insert(command.cid);
            }
        }
    }

    fn push(&mut self, partition: Partition, packet: OwnerPacket) {
        self.packets.push(Packet::Owner(partition, packet));
    }

    fn appended(
        &mut self,
        partition: Partition,
        (life, counter): (u64, u64),
        outcome: Outcome,
    ) -> Result<(), String> {
        if self.is_lost(self.weather.appends) {
            return Ok(());
        }
        if let Outcome::Stored(position) = outcome {
            self.acked.insert(life, position);
        }
        self.at(partition, life, |shell, now| {
            let awaited = shell.awaited.as_ref();
            if awaited.is_some_and(|publish| publish.id.counter == counter) {
                shell.awaited = None;
                shell.sequencer.handle_published(now, outcome);
            }
        })
    }

    fn history_answers(
        &mut self,
        lookup: &Lookup,
        min_seq: StreamSeq,
    ) -> Option<(StreamSeq, messages::sequencer::Answered)> {
        if self.history_down || self.is_lost(self.weather.unanswered) {
            return None;
        }
        let applied = self.tables.applied;
        let of_state = matches!(lookup, Lookup::Room(_) | Lookup::Messages(..));
        let lies = of_state && self.fault == Some(Fault::OldBase);
        if applied < min_seq && !lies {
            return None;
        }
        let said = if lies { StreamSeq(u64::MAX) } else { applied };
        Some((said, self.tables.look_up(lookup)))
    }

    fn request_arrives(
        &mut self,
        partition: Partition,
        (slot, attempt): (usize, u64),
        request: Request,
    ) -> Result<(), String> {
        let sent = self.attempts.get(&attempt);
        let is_late = sent.is_none_or(|sent| self.now_ms - sent.sent_ms > REQUEST_MS_MAX);
        if slot == usize::MAX {
            // Sent again after nobody was there; the hint may have called somebody.
            if self.calm || self.rng.chance(70) {
                self.take_over_if_free(partition)?;
            }
            self.request(attempt);
            return Ok(());
        }
        if is_late || self.is_lost(self.weather.lost) {
            return Ok(());
        }
        let now_ms = self.now_ms;
        let shell = self.owners.get_mut(&partition);
        let Some(shell) = shell.and_then(|slots| slots[slot].as_mut()) else {
            return self.nobody(attempt);
        };
        let now = shell.now(now_ms);
        let ticket = shell.sequencer.handle_request(now, request.clone());
        shell.attempts.insert(ticket, (attempt, request));
        self.pump(partition, slot)
    }

    /// Lets an owner hear something, and then do what it wants.
    fn at(
        &mut self,
        partition: Partition,
        life: u64,
        hear: impl FnOnce(&mut Shell, Timestamp),
    ) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(slots) = self.owners.get_mut(&partition) else {
            return Ok(());
        };
        let lives = |shell: &Option<Shell>| shell.as_ref().is_some_and(|shell| shell.life == life);
        let Some(slot) = slots.iter().position(lives) else {
            return Ok(());
        };
        if let Some(shell) = slots[slot].as_mut() {
            let now = shell.now(now_ms);
            hear(shell, now);
        }
        self.pump(partition, slot)
    }

    fn pump(&mut self, partition: Partition, slot: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let shell = self.owners.get_mut(&partition);
        let Some(shell) = shell.and_then(|slots| slots[slot].as_mut()) else {
            return Ok(());
        };
        let mut out = Vec::new();
        shell.pump(now_ms, &mut out)?;
        let overtaken = shell.overtaken;
        let out = out.into_iter();
        self.packets
            .extend(out.map(|packet| Packet::Owner(partition, packet)));
        if overtaken && self.rng.chance(60) {
            return self.step_down(partition, slot);
        }
        Ok(())
    }

    fn step_down(&mut self, partition: Partition, slot: usize) -> Result<(), String> {
        let shell = self.owners.get_mut(&partition);
        if let Some(shell) = shell.and_then(|slots| slots[slot].as_mut()) {
            shell.overtaken = false;
            shell.sequencer.stop(Stop::Released);
        }
        self.pump(partition, slot)?;
        if let Some(slots) = self.owners.get_mut(&partition) {
            slots[slot] = None;
        }
        Ok(())
    }

    /// Mostly the youngest owner, sometimes any.
    pub(super) fn owner_believed(&mut self, partition: Partition) -> usize {
        if self.is_lost(20) {
            return self.rng.index(SLOTS);
        }
        let slots = self.owners.get(&partition);
        let life =
            |slot: &usize| slots.and_then(|slots| slots[*slot].as_ref().map(|shell| shell.life));
        (0..SLOTS).max_by_key(life).unwrap_or(0)
    }

    pub(super) fn take_over_if_free(&mut self, partition: Partition) -> Result<(), String> {
        let slots = self.owners.entry(partition).or_default();
        if slots.iter().all(Option::is_none) {
            return self.take_over(partition, 0);
        }
        Ok(())
    }

    /// A rival, or whoever follows.
    pub(super) fn take_over_some(&mut self) -> Result<(), String> {
        let known: Vec<Partition> = self.owners.keys().copied().collect();
        if known.is_empty() {
            return Ok(());
        }
        let partition = *self.rng.pick(&known);
        let free = self.owners[&partition].iter().position(Option::is_none);
        match free {
            Some(slot) => self.take_over(partition, slot),
            None => Ok(()),
        }
    }

    fn take_over(&mut self, partition: Partition, slot: usize) -> Result<(), String> {
        self.lives += 1;
        self.counts.takeovers += 1;
        let forgets = self.fault == Some(Fault::ForgetCommands);
        let knows = self.calm || (!self.history_down && self.rng.chance(80));
        let cursor = knows.then_some(self.tables.applied);
        let log = self.stream.bounds();
        let since = self.now_ms - self.config.dedup_age_ms.max(30_000);
        let old = self.stream.records.iter();
        let old = old.take_while(|stored| stored.record.time.0 < since);
        let by_time = old
            .last()
            .map_or(StreamSeq(0), |stored| stored.record.position);
        let above = match (self.rng.below(3), cursor) {
            _ if forgets => log.last,
            (0, _) | (_, None) => StreamSeq(0),
            (_, Some(cursor)) => by_time.min(cursor),
        };
        let below = self.stream.records.iter();
        let below = below.take_while(|stored| stored.record.position <= above);
        let own = below.filter(|stored| stored.partition == partition);
        let subject_last = own.last();
        let subject_last = subject_last.map_or(StreamSeq(0), |stored| stored.record.position);
        let times = self.stream.records.iter().map(|stored| &stored.record);
        let times = times.take_while(|record| record.position <= above);
        let above_time = times.map(|record| record.time).max();
        let mut tail = self.stream.tail(partition, above);
        if self.is_lost(15) {
            // A consumer may be behind; the compare-and-set finds out.
            tail.truncate(tail.len().saturating_sub(1));
        }
        let skew_ms = self.skew_ms;
        let clock_offset_ms = self.rng.below(2 * skew_ms.unsigned_abs()) as i64 - skew_ms;
        let beginning = Beginning {
            partition,
            life: self.lives,
            above,
            above_time: if forgets {
                Some(Timestamp(0))
            } else {
                above_time
            },
            subject_last,
            log,
            cursor,
            clock_offset_ms,
        };
        let shell = Shell::take_over(self.config, beginning, &tail);
        self.owners.entry(partition).or_default()[slot] = Some(shell);
        self.pump(partition, slot)
    }

    fn some_owner(&mut self) -> Option<(Partition, usize)> {
        let known: Vec<Partition> = self.owners.keys().copied().collect();
        if known.is_empty() {
            return None;
        }
        Some((*self.rng.pick(&known), self.rng.index(SLOTS)))
    }

    pub(super) fn tick_some(&mut self) -> Result<(), String> {
        match self.some_owner() {
            Some((partition, slot)) => self.tick(partition, slot),
            None => Ok(()),
        }
    }

    fn tick(&mut self, partition: Partition, slot: usize) -> Result<(), String> {
        let (now_ms, broker_ms) = (self.now_ms, self.stream.clock_offset_ms);
        let knows = self.calm || (!self.history_down && self.rng.chance(70));
        let (cursor, last) = (self.tables.applied, self.stream.end());
        let shell = self.owners.get_mut(&partition);
        let Some(shell) = shell.and_then(|slots| slots[slot].as_mut()) else {
            return Ok(());
        };
        let now = shell.now(now_ms);
        if knows {
            shell
                .sequencer
                .handle_clock(broker_ms - shell.clock_offset_ms);
            shell.sequencer.handle_history(cursor, last);
        }
        shell.sequencer.handle_tick(now);
        self.pump(partition, slot)
    }

    /// An owner gives up waiting for an append.
    pub(super) fn time_out_some(&mut self) -> Result<(), String> {
        match self.some_owner() {
            Some((partition, slot)) => self.time_out(partition, slot),
            None => Ok(()),
        }
    }

    fn time_out(&mut self, partition: Partition, slot: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let shell = self.owners.get_mut(&partition);
        let Some(shell) = shell.and_then(|slots| slots[slot].as_mut()) else {
            return Ok(());
        };
        if shell.awaited.take().is_none() {
            return Ok(());
        }
        self.counts.unknown += 1;
        let now = shell.now(now_ms);
        shell.sequencer.handle_published(now, Outcome::Unknown);
        self.pump(partition, slot)
    }

    pub(super) fn owner_dies(&mut self) -> Result<(), String> {
        let Some((partition, slot)) = self.some_owner() else {
            return Ok(());
        };
        if self.rng.chance(30) {
            return self.step_down(partition, slot);
        }
        if let Some(slots) = self.owners.get_mut(&partition) {
            slots[slot] = None;
        }
        Ok(())
    }

    /// An owner tells gateways how far the log goes.
    pub(super) fn beacon(&mut self) {
        if self.fault == Some(Fault::NoBeacon) {
            return;
        }
        let owners = self.owners.values().flatten().flatten();
        let acked = owners.filter_map(|shell| self.acked.get(&shell.life)).max();
        let Some(position) = acked.copied() else {
            return;
        };
        for index in 0..GATEWAYS {
            let lost = self.is_lost(self.weather.beacons);
            if let (false, Some(gateway)) = (lost, &self.gateways[index]) {
                let beacon = Packet::Beacon(index, gateway.life, position);
                self.packets.push(beacon);
            }
        }
    }

    /// What owners do in fine weather: one of each partition, in touch with everything.
    pub(super) fn run_owners(&mut self, round: u32) -> Result<(), String> {
        let known: Vec<Partition> = self.owners.keys().copied().collect();
        for partition in known {
            if round.is_multiple_of(8) {
                self.take_over_if_free(partition)?;
                for slot in 0..SLOTS {
                    self.tick(partition, slot)?;
                    let lives = self.owners[&partition][slot].as_ref();
                    if lives.is_some_and(|shell| !self.is_awaited(shell)) {
                        self.time_out(partition, slot)?;
                    }
                }
            }
        }
        if round.is_multiple_of(8) {
            self.beacon();
        }
        Ok(())
    }

    /// Whether what an owner waits for is still under way.
    fn is_awaited(&self, shell: &Shell) -> bool {
        self.packets.iter().any(|packet| match packet {
            Packet::Owner(
                _,
                OwnerPacket::Append { life, .. } | OwnerPacket::Appended { life, .. },
            ) => *life == shell.life,
            Packet::Owner(
                _,
                OwnerPacket::Request { .. }
                | OwnerPacket::Reply { .. }
                | OwnerPacket::Fetch { .. }
                | OwnerPacket::Fetched { .. }
                | OwnerPacket::Ask { .. }
                | OwnerPacket::Answered { .. },
            )
            | Packet::Question(..)
            | Packet::Answer(..)
            | Packet::Wish(..)
            | Packet::Beacon(..) => false,
        })
    }
}
