//! What people do, and what happens to parts, one thing at a time.

use super::{GATEWAYS, World};
use crate::people::PEOPLE;
use protocol::command::{Create, DeleteTarget, Read, Send, Write};
use protocol::event::{HistoryScope, Mention, Role, RoomChanges, RoomKind, SeqRange};
use protocol::query::ReadCommand;
use protocol::room::RoomState;
use protocol::{RoomId, Seq, StreamSeq, UserId};

/// Rooms that people make in one seed.
const ROOMS_MAX: usize = 3;

impl World {
    /// Something happens.
    pub(super) fn act(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..=39 => self.somebody_wants()?,
            40..=57 => self.history_applies()?,
            58..=63 => self.tick_some()?,
            64..=66 => self.time_out_some()?,
            67..=69 => self.take_over_some()?,
            70..=76 => self.beacon(),
            77..=80 => self.somebody_reads()?,
            81..=84 => self.bury(),
            85..=88 => self.weather_changes(),
            89..=90 => self.stall(),
            91..=95 => self.come_back(),
            _ => {
                if self.rng.chance(self.weather.cuts * 6) {
                    self.cut();
                }
                if self.rng.chance(self.weather.crashes * 12) {
                    self.somebody_dies()?;
                }
            }
        }
        Ok(())
    }

    fn weather_changes(&mut self) {
        self.stream.full = self.rng.chance(6);
        let away = if self.weather.slow_history { 30 } else { 8 };
        self.history_down = self.rng.chance(away);
        if self.rng.chance(10) {
            // Another leader, another clock.
            self.stream.clock_offset_ms = self.rng.below(2_000) as i64 - 1_000;
        }
    }

    /// Records come to history: mostly the next ones, sometimes some again, sometimes not the next.
    fn history_applies(&mut self) -> Result<(), String> {
        if self.history_down || (self.weather.slow_history && self.rng.chance(60)) {
            return Ok(());
        }
        let next = self.tables.applied.next();
        let from = match self.rng.below(10) {
            0 => StreamSeq(next.0.saturating_sub(1 + self.rng.below(3)).max(1)),
            1 => StreamSeq(next.0 + 1 + self.rng.below(2)),
            _ => next,
        };
        let count = self.rng.index(8);
        let given = from <= self.stream.end() && count > 0;
        self.counts.overlaps += u64::from(given && from < next);
        let follows = self.tables.apply(&self.stream, (from, count), self.fault)?;
        self.counts.gaps_refused += u64::from(!follows);
        Ok(())
    }

    fn somebody_dies(&mut self) -> Result<(), String> {
        match self.rng.below(10) {
            0..=3 => {
                let index = self.rng.index(self.devices.len());
                self.device_dies(index);
            }
            4..=6 => return self.owner_dies(),
            7..=8 => {
                let index = self.rng.index(GATEWAYS);
                self.gateway_dies(index);
            }
            _ => {
                let index = self.rng.index(GATEWAYS);
                let now_ms = self.now_ms;
                if let Some(gateway) = self.gateways[index].as_mut() {
                    let sockets: Vec<_> = gateway.sockets.keys().copied().collect();
                    for socket in sockets {
                        gateway.step(now_ms, socket, |session, _, _| {
                            session.handle_goaway(2_000);
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn come_back(&mut self) {
        for index in 0..GATEWAYS {
            if self.gateways[index].is_none() && self.rng.chance(60) {
                self.start_gateway(index);
            }
        }
        for index in 0..self.devices.len() {
            if self.devices[index].core.is_none() && self.rng.chance(60) {
                self.start_device(index);
            }
        }
    }

    /// Somebody reads a room of which they were told something.
    fn somebody_reads(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.devices.len());
        let links = self.links.keys().filter(|(device, _)| *device == index);
        let one_link = links.count() == 1;
        let ticket = self.name();
        let device = &mut self.devices[index];
        let acked = device.acked.iter().next_back();
        let Some((room, least)) = acked.map(|(room, least)| (room.clone(), *least)) else {
            return Ok(());
        };
        let now = device.now(self.now_ms);
        let Some(core) = device.core.as_mut().filter(|_| one_link) else {
            return Ok(());
        };
        let read = ReadCommand::History {
            room: room.clone(),
            before: None,
            after: None,
            around: None,
            limit: Some(5),
            all: false,
        };
        device.reads.insert(ticket, (room, least));
        core.ask(ticket, read, now.plus_ms(10_000), now);
        self.device_acts(index)
    }

    fn somebody_wants(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.devices.len());
        if self.devices[index].core.is_none()
            || self.devices[index]
                .core
                .as_ref()
                .is_none_or(|core| core.user().is_none())
        {
            return Ok(());
        }
        let shared = self.stream.rooms.values();
        let shared: Vec<&RoomState> = shared.filter(|room| room.kind != RoomKind::Own).collect();
        let makes =
            shared.len() < ROOMS_MAX && self.rng.chance(if shared.is_empty() { 60 } else { 5 });
        let shared: Vec<RoomId> = shared.iter().map(|room| room.room.clone()).collect();
        if makes {
            let write = self.creation(index);
            return self.submit(index, None, write);
        }
        let known: Vec<RoomId> = self.devices[index].seen.keys().cloned().collect();
        let known: Vec<RoomId> = known.into_iter().filter(|room| !room.is_own()).collect();
        // Mostly rooms that the device knows; sometimes others, to come in or to be refused.
        let from = if known.is_empty() || self.rng.chance(12) {
            &shared
        } else {
            &known
        };
        if from.is_empty() {
            return Ok(());
        }
        let room = self.rng.pick(from).clone();
        let state = self.stream.rooms.get(&room).cloned();
        let Some(state) = state else { return Ok(()) };
        let user = self.devices[index].user.clone();
        if !state.members.contains_key(&user) && self.rng.chance(70) {
            return self.submit(index, Some(room), Write::Join {});
        }
        let write = match self.rng.below(20) {
            0..=8 => {
                self.say(index, &state);
                return self.device_acts(index);
            }
            9..=10 => self.edit_or_delete(index, &room),
            11..=12 => Some(self.read_mark(&state)),
            13..=17 if state.role(&user) >= Some(Role::Mod) => Some(self.moderate(&state)),
            18 => Some(Write::Leave {}),
            _ => None,
        };
        match write {
            Some(write @ Write::Read(_)) => self.submit(index, None, write),
            Some(write) => self.submit(index, Some(room), write),
            None => Ok(()),
        }
    }

    fn submit(&mut self, index: usize, room: Option<RoomId>, write: Write) -> Result<(), String> {
        let device = &mut self.devices[index];
        let now = device.now(self.now_ms);
        if let Some(core) = &mut device.core {
            core.submit(room, write, now)
                .map_err(|refusal| format!("a client refuses {refusal:?}"))?;
        }
        self.device_acts(index)
    }

    fn creation(&mut self, index: usize) -> Write {
        let known = PEOPLE
            .iter()
            .filter(|user| self.stream.rooms.contains_key(&RoomId::own(user)));
        let mut members: Vec<UserId> = known.cloned().collect();
        let author = &self.devices[index].user;
        members.retain(|user| user != author && self.rng.chance(70));
        let kind = *self
            .rng
            .pick(&[RoomKind::Public, RoomKind::Private, RoomKind::Private]);
        let joined = self.rng.chance(25);
        Write::Create(Create {
            kind,
            name: Some("a".to_owned()),
            topic: None,
            members,
            history: joined.then_some(HistoryScope::Joined),
        })
    }

    fn say(&mut self, index: usize, room: &RoomState) {
        let own = self.own(index, &room.room);
        let thread = own.filter(|_| self.rng.chance(10));
        let reply_to = self
            .rng
            .chance(10)
            .then(|| Seq(1 + self.rng.below(room.head.0)));
        let mentions = match self.rng.below(6) {
            0 => vec![Mention::Room],
            1 => vec![Mention::User(self.rng.pick(&PEOPLE[..3]).clone())],
            _ => Vec::new(),
        };
        let words = if self.weather.bulky {
            "x".repeat(20_000)
        } else {
            String::new()
        };
        let words: String = words.chars().take(7_900).collect();
        let send = Send {
            text: words,
            reply_to: reply_to.filter(|_| thread.is_none()),
            thread,
            mentions,
            ..Send::default()
        };
        let name = format!("d{index}");
        self.devices[index].say(self.now_ms, &name, &room.room, send);
    }

    /// A message of one's own.
    fn own(&mut self, index: usize, room: &RoomId) -> Option<Seq> {
        let own = self.devices[index].own.iter().filter(|(of, _)| of == room);
        let own: Vec<Seq> = own.map(|(_, seq)| *seq).collect();
        (!own.is_empty()).then(|| *self.rng.pick(&own))
    }

    fn edit_or_delete(&mut self, index: usize, room: &RoomId) -> Option<Write> {
        let on = self.own(index, room)?;
        Some(if self.rng.chance(60) {
            Write::Edit {
                on,
                base: 1 + u32::try_from(self.rng.below(2)).expect("small"),
                text: format!("changed {}", self.rng.below(1_000)),
                mentions: Vec::new(),
            }
        } else {
            Write::Del {
                on: Some(DeleteTarget::One(on)),
                user: None,
                to: None,
                why: None,
            }
        })
    }

    fn read_mark(&mut self, room: &RoomState) -> Write {
        Write::Read(Read {
            target: room.room.clone(),
            seq: Seq(1 + self.rng.below(room.head.0)),
            back: self.rng.chance(15),
            read_n: None,
        })
    }

    fn moderate(&mut self, room: &RoomState) -> Write {
        let user = self.rng.pick(&PEOPLE[..3]).clone();
        let seen = self.rng.chance(50).then_some(room.head);
        match self.rng.below(12) {
            0..=3 => Write::Invite { user },
            4..=5 => Write::Kick {
                user,
                why: None,
                seen,
            },
            6 => Write::Ban {
                user,
                why: None,
                until: None,
            },
            7 => Write::Unban { user, seen },
            8 => Write::Update {
                changes: RoomChanges {
                    frozen: Some(self.rng.chance(30)),
                    slow_s: Some(if self.rng.chance(30) { 2 } else { 0 }),
                    ..RoomChanges::default()
                },
                base: None,
            },
            9 => Write::Role {
                user,
                role: Role::Mod,
            },
            10 => Write::Del {
                on: None,
                user: Some(user),
                to: Some(room.head),
                why: None,
            },
            _ => Write::Del {
                on: Some(DeleteTarget::Ranges(vec![SeqRange(
                    Seq(1 + self.rng.below(5)),
                    Seq(6 + self.rng.below(10)),
                )])),
                user: None,
                to: None,
                why: None,
            },
        }
    }
}
