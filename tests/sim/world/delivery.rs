//! How packets arrive, or do not.

use super::World;
use crate::check;
use crate::faults::Fault;
use crate::shell::{Packet, Shell};
use messages::sequencer::{Lookup, Outcome, Request};
use protocol::StreamSeq;
use protocol::request::{CommandReply, CommandResult};

impl World {
    /// One packet arrives, or does not.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
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

    pub(super) fn is_lost(&mut self, percent: u64) -> bool {
        !self.calm && self.rng.chance(percent)
    }

    pub(super) fn fetch_arrives(
        &mut self,
        life: u64,
        read: messages::sequencer::Read,
        proof: bool,
    ) {
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

    pub(super) fn history_answers(
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

    pub(super) fn request_arrives(
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

    pub(super) fn nobody(&mut self, attempt: u64) -> Result<(), String> {
        if let Some((client, room)) = self.addresses.get(&attempt)
            && let Some(outbox) = self.clients[*client].outboxes.get_mut(room)
            && outbox.attempt.as_ref().is_some_and(|a| a.id == attempt)
        {
            outbox.attempt = None;
            outbox.wait_until_ms = self.now_ms + 100;
        }
        Ok(())
    }

    pub(super) fn reply_arrives(
        &mut self,
        attempt: u64,
        reply: &CommandReply,
    ) -> Result<(), String> {
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
    results.map(|results| CommandReply {
        results,
        position: protocol::StreamSeq(0),
    })
}
