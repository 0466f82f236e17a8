//! What owners live through: taking over, hearing, timing out, stepping down, crashing.

use super::{SLOTS, World};
use crate::check;
use crate::faults::Fault;
use crate::people::partition;
use crate::shell::{Beginning, Packet, Shell};
use messages::sequencer::{LogBounds, Outcome, Stop};
use protocol::request::{CommandReply, CommandResult};
use protocol::{ErrorCode, Refusal, StreamSeq, Timestamp};

impl World {
    /// Lets an owner hear something, and then do what it wants.
    pub(super) fn at(
        &mut self,
        life: u64,
        hear: impl FnOnce(&mut Shell, Timestamp),
    ) -> Result<(), String> {
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

    pub(super) fn pump(&mut self, slot: usize) -> Result<(), String> {
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

    pub(super) fn step_down(&mut self, slot: usize) -> Result<(), String> {
        if let Some(shell) = self.slots[slot].as_mut() {
            shell.overtaken = false;
            shell.sequencer.stop(Stop::Released);
        }
        self.pump(slot)?;
        self.slots[slot] = None;
        Ok(())
    }

    pub(super) fn tick(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        self.tick_at(slot)
    }

    pub(super) fn tick_at(&mut self, slot: usize) -> Result<(), String> {
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
    pub(super) fn time_out(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        self.time_out_at(slot)
    }

    pub(super) fn time_out_at(&mut self, slot: usize) -> Result<(), String> {
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
                        reply: CommandReply {
                            results,
                            position: protocol::StreamSeq(0),
                        },
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

    pub(super) fn crash(&mut self) -> Result<(), String> {
        let slot = self.rng.index(SLOTS);
        if self.rng.chance(30) {
            return self.step_down(slot);
        }
        self.slots[slot] = None;
        Ok(())
    }

    pub(super) fn take_over(&mut self) -> Result<(), String> {
        let free = (0..SLOTS).find(|slot| self.slots[*slot].is_none());
        match free {
            // Rivals are rarer than owners that follow each other.
            Some(slot) if self.slots.iter().all(Option::is_none) || self.rng.chance(25) => {
                self.take_over_at(slot)
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn take_over_at(&mut self, slot: usize) -> Result<(), String> {
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
            partition: partition(),
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
}
