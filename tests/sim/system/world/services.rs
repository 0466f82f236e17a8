//! What gateways ask of owners, of the log and of history, and how the answers come back.

use super::super::faults::Fault;
use super::super::gateway::{Gateway, SocketId, Wish};
use super::{Address, Attempt, BATCH_MS, GATEWAYS, Packet, QUESTION_MS, World};
use crate::shell::Packet as OwnerPacket;
use gateway::batches::results_of;
use gateway::questions::sees_own_writes;
use gateway::ring::record::Record;
use gateway::session::outside::{Action, Answered, Outcome, Settled};
use gateway::upstream::feed::{Fill, Found, Source};
use history::query::Terms;
use messages::sequencer::Request;
use protocol::command::{Create, Write, WriteCommand};
use protocol::event::RoomKind;
use protocol::query::{Query, ReadCounts, Records, Viewer};
use protocol::request::{CommandReply, CommandRequest};
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, Refusal, RoomId, StreamSeq, Timestamp, UserId};

/// Between two attempts while a partition has no owner.
const NO_OWNER_MS: i64 = 60;

impl World {
    /// One packet arrives, or does not.
    pub(super) fn deliver(&mut self) -> Result<(), String> {
        if self.packets.is_empty() {
            return Ok(());
        }
        let index = self.rng.index(self.packets.len());
        let packet = self.packets.swap_remove(index);
        self.trace(|| format!("{packet:?}"));
        match packet {
            Packet::Owner(partition, packet) => self.owner_packet(partition, packet),
            Packet::Question(id, query, min_seq) => {
                self.question_arrives(id, query, min_seq);
                Ok(())
            }
            Packet::Answer(id, result) => match self.questions.remove(&id) {
                Some((to, _)) => self.outcome(to, Outcome::Answer(result)),
                None => Ok(()),
            },
            Packet::Wish(index, life, wish) => self.wish_arrives(index, life, wish),
            Packet::Beacon(index, life, position) => {
                let now_ms = self.now_ms;
                if let Some(gateway) = self.gateway(index, life) {
                    gateway.hear_known_last(now_ms, position);
                }
                self.work(index, 0)
            }
        }
    }

    pub(super) fn gateway(&mut self, index: usize, life: u64) -> Option<&mut Gateway> {
        let gateway = self.gateways.get_mut(index)?.as_mut();
        gateway.filter(|gateway| gateway.life == life)
    }

    pub(super) fn outcome(&mut self, to: Address, outcome: Outcome) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let Some(gateway) = self.gateway(to.gateway, to.life) {
            gateway.step(now_ms, to.socket, |session, now, outside| {
                session.handle_outcome(now, to.ticket, outcome, outside);
            });
        }
        self.settle(to.gateway)
    }

    /// The live feed of one gateway brings something; mostly in order.
    pub(super) fn hear_live(&mut self, index: usize) {
        let count = if self.calm { 100 } else { self.rng.index(5) };
        for _ in 0..count {
            let reordered = self.is_lost(10);
            let Some(gateway) = self.gateways[index].as_mut() else {
                return;
            };
            if gateway.live.is_empty() {
                return;
            }
            let waiting = gateway.live.len();
            let which = if reordered {
                self.rng.index(waiting)
            } else {
                0
            };
            gateway.hear_live(which, &self.stream);
        }
    }

    /// A gateway puts in order what it has, and its worker delivers some of it.
    pub(super) fn work(&mut self, index: usize, count: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(gateway) = self.gateways[index].as_mut() else {
            return Ok(());
        };
        let (life, wishes) = (gateway.life, gateway.go_on(now_ms));
        if count > 0 {
            gateway.deliver(now_ms, count);
        }
        let wishes = wishes.into_iter();
        self.packets
            .extend(wishes.map(|wish| Packet::Wish(index, life, wish)));
        self.settle(index)
    }

    fn wish_arrives(&mut self, index: usize, life: u64, wish: Wish) -> Result<(), String> {
        let now_ms = self.now_ms;
        let lost = self.is_lost(self.weather.lost);
        match wish {
            Wish::AskLast => {
                let last = (!lost).then(|| self.stream.end());
                if let Some(gateway) = self.gateway(index, life) {
                    gateway.hear_last(now_ms, last);
                }
            }
            Wish::Search(fill) => {
                let found = if lost { None } else { self.search(fill) };
                if let Some(gateway) = self.gateway(index, life) {
                    gateway.hear_found(now_ms, fill, found);
                }
            }
        }
        self.work(index, 0)
    }

    fn search(&mut self, fill: Fill) -> Option<Found> {
        if fill.source == Source::Archive {
            let query = Query::Records {
                from: fill.from,
                to: fill.to,
            };
            if self.history_down || self.tables.applied < fill.from {
                return None;
            }
            let (applied, json) = self.tables.answer(&query, self.terms()).ok()?;
            let records: Records = serde_json::from_str(json.get()).ok()?;
            let records = records.records.iter();
            return Some(Found {
                records: records
                    .map(|record| Record::from_lines(record.position, &record.lines))
                    .collect(),
                applied: Some(applied),
                leader: None,
            });
        }
        // A replica may be behind its leader; and to force the way to the archive, neither may tell.
        let behind = if self.calm { 0 } else { self.rng.below(4) };
        Some(Gateway::found_in_log(fill, &self.stream, behind))
    }

    fn terms(&self) -> Terms {
        Terms {
            now: Timestamp(self.now_ms),
            bytes_max: self.answer_bytes_max,
        }
    }

    fn question_arrives(&mut self, id: u64, query: Box<Query>, min_seq: StreamSeq) {
        let away = || Err(Refusal::plain(ErrorCode::Unavailable));
        if self.is_lost(self.weather.unanswered) || !self.questions.contains_key(&id) {
            return;
        }
        if self.history_down {
            return self.packets.push(Packet::Answer(id, away()));
        }
        let waits = self.tables.applied < min_seq && self.fault != Some(Fault::NoMinSeq);
        if waits {
            // Asked again when history may have more; the asker has a deadline.
            self.later
                .push((self.now_ms + 100, Packet::Question(id, query, min_seq)));
            return;
        }
        let is_catch_up = matches!(*query, Query::CatchUp { .. });
        let result = self.tables.answer(&query, self.terms());
        let result = result.map(|(applied, ok)| {
            let now = is_catch_up && self.fault == Some(Fault::CatchUpOfNow);
            let applied = if now { self.stream.end() } else { applied };
            Answered { applied, ok }
        });
        self.packets.push(Packet::Answer(id, result));
    }

    /// Begins what the sessions of a gateway want.
    pub(super) fn begin_actions(&mut self, index: usize) -> Result<(), String> {
        let mut begun = Vec::new();
        let Some(gateway) = self.gateways[index].as_mut() else {
            return Ok(());
        };
        let life = gateway.life;
        for (socket, state) in &mut gateway.sockets {
            let viewer = state.session.user().cloned();
            let Some(user) = viewer else { continue };
            while let Some(action) = state.session.poll_action() {
                begun.push((*socket, user.clone(), action));
            }
        }
        for (socket, user, action) in begun {
            self.begin(index, life, (socket, user), action);
        }
        Ok(())
    }

    fn begin(
        &mut self,
        gateway: usize,
        life: u64,
        (socket, user): (SocketId, UserId),
        action: Action,
    ) {
        let to = |ticket| Address {
            gateway,
            life,
            socket,
            ticket,
        };
        match action {
            Action::Ask {
                ticket,
                query,
                min_seq,
            } => {
                self.counts.questions += 1;
                let told = self.gateway(gateway, life).map(|gateway| gateway.told);
                let own = sees_own_writes(&query);
                let min_seq = min_seq.max(told.filter(|_| own).unwrap_or_default());
                let id = self.name();
                let deadline_ms = self.now_ms + QUESTION_MS;
                self.questions.insert(id, (to(ticket), deadline_ms));
                self.packets.push(Packet::Question(id, query, min_seq));
            }
            Action::Send {
                ticket,
                room,
                mut commands,
            } => {
                let counts = self.read_counts(gateway, &user, &mut commands);
                self.send(to(ticket), (room, user), (commands, counts), false);
            }
            Action::Introduce { ticket } => {
                let (room, command) = self.introduction(&user);
                self.send(to(ticket), (room, user), (vec![command], vec![None]), true);
            }
        }
    }

    fn introduction(&mut self, user: &UserId) -> (RoomId, WriteCommand) {
        let write = Write::Create(Create {
            kind: RoomKind::Own,
            name: None,
            topic: None,
            members: Vec::new(),
            history: None,
        });
        let time = u64::try_from(self.now_ms).expect("after 1970");
        let cid = Cid::from_parts(time, self.rng.ten_bytes());
        (RoomId::own(user), WriteCommand { cid, write })
    }

    /// The counts for every read mark of a batch, and its ordinal for the owner; if history answers.
    fn read_counts(
        &mut self,
        gateway: usize,
        user: &UserId,
        commands: &mut [WriteCommand],
    ) -> Vec<Option<ReadCounts>> {
        let gateway = self.gateways[gateway].as_ref();
        let min_seq = gateway.map_or(StreamSeq(0), |gateway| gateway.head().max(gateway.told));
        let answers = !self.history_down && self.tables.applied >= min_seq;
        let answers = answers && !self.is_lost(self.weather.unanswered);
        let terms = self.terms();
        let mut counts = Vec::new();
        for command in commands {
            let Write::Read(read) = &mut command.write else {
                counts.push(None);
                continue;
            };
            let mark = if read.back {
                read.seq.before()
            } else {
                read.seq
            };
            let query = Query::ReadCounts {
                viewer: Viewer {
                    user: user.clone(),
                    guest: false,
                },
                room: read.target.clone(),
                mark: Some(mark),
            };
            let answer = answers.then(|| self.tables.answer(&query, terms).ok());
            let answer: Option<ReadCounts> = answer
                .flatten()
                .and_then(|(_, json)| serde_json::from_str(json.get()).ok());
            read.read_n = answer.map(|counts| counts.read_n);
            counts.push(answer);
        }
        counts
    }

    fn send(
        &mut self,
        to: Address,
        (room, actor): (RoomId, UserId),
        (commands, counts): (Vec<WriteCommand>, Vec<Option<ReadCounts>>),
        introduces: bool,
    ) {
        let deadline_ms = self.now_ms + BATCH_MS;
        let gateway = self.gateways[to.gateway].as_ref();
        let wall = gateway.map_or(Timestamp(0), |gateway| gateway.now(self.now_ms).wall);
        let request = Request {
            door: Door::User,
            actor,
            room,
            body: CommandRequest {
                deadline: wall.plus_ms(BATCH_MS),
                guest: false,
                commands,
            },
        };
        let id = self.name();
        let attempt = Attempt {
            to,
            request,
            counts,
            introduces,
            sent_ms: self.now_ms,
            deadline_ms,
        };
        self.attempts.insert(id, attempt);
        self.request(id);
    }

    /// Sends an attempt to whoever is believed to own its partition.
    pub(super) fn request(&mut self, attempt: u64) {
        let now_ms = self.now_ms;
        let Some(state) = self.attempts.get_mut(&attempt) else {
            return;
        };
        state.sent_ms = now_ms;
        let request = state.request.clone();
        let partition = request.room.partition();
        let slot = self.owner_believed(partition);
        let packet = OwnerPacket::Request {
            slot,
            attempt,
            request,
        };
        self.packets.push(Packet::Owner(partition, packet));
    }

    /// Nobody is on the subject: the gateway knows at once, and tries again within the deadline.
    pub(super) fn nobody(&mut self, attempt: u64) -> Result<(), String> {
        let Some(state) = self.attempts.get(&attempt) else {
            return Ok(());
        };
        if state.deadline_ms - self.now_ms > NO_OWNER_MS {
            let (request, partition) = (state.request.clone(), state.request.room.partition());
            let at = self.now_ms + NO_OWNER_MS;
            let packet = OwnerPacket::Request {
                slot: usize::MAX,
                attempt,
                request,
            };
            self.later.push((at, Packet::Owner(partition, packet)));
            return Ok(());
        }
        self.attempt_ends(attempt, Err(Refusal::plain(ErrorCode::Unavailable)))
    }

    pub(super) fn replied(&mut self, attempt: u64, reply: CommandReply) -> Result<(), String> {
        let Some(state) = self.attempts.get(&attempt) else {
            return Ok(());
        };
        let (to, count) = (state.to, state.request.body.commands.len());
        if let Some(gateway) = self.gateway(to.gateway, to.life) {
            gateway.told = gateway.told.max(reply.position);
        }
        let Some(results) = results_of(reply, count) else {
            return Err("an owner's answer does not fit its batch".to_owned());
        };
        self.attempt_ends(attempt, results)
    }

    fn attempt_ends(
        &mut self,
        attempt: u64,
        results: Result<Vec<protocol::request::CommandResult>, Refusal>,
    ) -> Result<(), String> {
        let Some(state) = self.attempts.remove(&attempt) else {
            return Ok(());
        };
        let told = self.gateway(state.to.gateway, state.to.life);
        let told = told.map_or(StreamSeq(0), |gateway| gateway.told);
        let outcome = if state.introduces {
            let first = results.map(|results| results.into_iter().next());
            Outcome::Introduced(match first {
                Ok(Some(protocol::request::CommandResult::Err(refusal))) | Err(refusal) => {
                    Err(refusal)
                }
                Ok(Some(protocol::request::CommandResult::Ok(_))) => Ok(told),
                Ok(None) => Err(Refusal::plain(ErrorCode::Internal)),
            })
        } else {
            Outcome::Sent(results.map(|results| {
                let settled = results.into_iter().zip(state.counts);
                let settled = settled.map(|(result, counts)| Settled { result, counts });
                settled.collect()
            }))
        };
        self.outcome(state.to, outcome)
    }

    /// Whoever has waited too long is told so.
    pub(super) fn expire(&mut self) -> Result<(), String> {
        let now_ms = self.now_ms;
        let late = self.attempts.iter();
        let late = late.filter(|(_, attempt)| attempt.deadline_ms <= now_ms);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.attempt_ends(id, Err(Refusal::plain(ErrorCode::Timeout)))?;
        }
        let late = self.questions.iter();
        let late = late.filter(|(_, (_, deadline_ms))| *deadline_ms <= now_ms);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            let Some((to, _)) = self.questions.remove(&id) else {
                continue;
            };
            let refusal = Refusal::plain(ErrorCode::Unavailable);
            self.outcome(to, Outcome::Answer(Err(refusal)))?;
        }
        Ok(())
    }

    pub(super) fn lost_records(&self) -> u64 {
        let living = self.gateways.iter().flatten();
        let living: u64 = living.map(|gateway| gateway.counts.lost).sum();
        living + self.gateway_counts.lost
    }

    pub(super) fn take_counts(&mut self, gateway: &Gateway) {
        self.gateway_counts.filled += gateway.counts.filled;
        self.gateway_counts.jumps += gateway.counts.jumps;
        self.gateway_counts.lost += gateway.counts.lost;
        self.gateway_counts.evicted += gateway.counts.evicted;
    }

    /// A record was stored: the broker tells every gateway, as well as it can. That never gets better:
    /// what is lost last is revealed by beacons alone.
    pub(super) fn republish(&mut self, position: StreamSeq) {
        for index in 0..GATEWAYS {
            if self.rng.chance(self.weather.live) {
                self.counts.live_lost += 1;
            } else if let Some(gateway) = self.gateways[index].as_mut() {
                gateway.live.push(position);
            }
        }
    }
}
