//! Lines of a client: what is refused at once, what becomes a batch for a room's owner, what a read.

use super::outside::{Action, Outcome, Outside, Settled, Verdict};
use super::{Phase, Purpose, Session};
use crate::moment::Moment;
use bytestring::ByteString;
use protocol::command::{Write, WriteCommand};
use protocol::error::CloseCode;
use protocol::event::RoomKind;
use protocol::frame::client::BadLine;
use protocol::frame::server::reply_ok;
use protocol::frame::{ClientFrame, ClientOp, parse_line};
use protocol::limits::{FRAME_COMMANDS_MAX, SOCKET_COMMANDS_IN_FLIGHT_MAX};
use protocol::query::{Query, ReadCommand, ReadCounts};
use protocol::request::{Accepted, CommandResult};
use protocol::{ErrorCode, Refusal, RoomId, Timestamp};
use serde::Serialize;

/// The writes of one text message, by room.
#[derive(Default)]
struct Batches {
    /// In the order in which the rooms came first.
    rooms: Vec<(RoomId, Batch)>,
}

#[derive(Default)]
struct Batch {
    ids: Vec<Option<u64>>,
    commands: Vec<WriteCommand>,
    /// After the first temporary error the rest of the batch gets the same.
    stopped: Option<Refusal>,
}

impl Batches {
    fn of(&mut self, room: RoomId) -> &mut Batch {
        let known = self.rooms.iter().position(|(known, _)| *known == room);
        let index = known.unwrap_or_else(|| {
            self.rooms.push((room, Batch::default()));
            self.rooms.len() - 1
        });
        &mut self
            .rooms
            .get_mut(index)
            .expect("the index was just found or made")
            .1
    }
}

#[derive(Serialize)]
struct ReadReply<'a> {
    #[serde(flatten)]
    accepted: &'a Accepted,
    #[serde(flatten)]
    counts: Option<ReadCounts>,
}

#[derive(Serialize)]
struct TokenReply {
    token_exp: Timestamp,
}

fn busy() -> Refusal {
    let msg = "too many commands of this socket wait for an answer";
    Refusal::new(ErrorCode::RateLimited, msg).after_ms(500)
}

impl Session {
    pub(super) fn take_lines(&mut self, now: Moment, text: &str, outside: &dyn Outside) {
        let mut batches = Batches::default();
        let lines = text.split('\n').filter(|line| !line.trim().is_empty());
        for (index, line) in lines.enumerate() {
            if self.closing.is_some() {
                return;
            }
            if index < FRAME_COMMANDS_MAX {
                self.take_line(now, line, &mut batches, outside);
            } else {
                self.refuse_surplus(line);
            }
        }
        for (room, batch) in batches.rooms {
            if !batch.commands.is_empty() {
                let Batch { ids, commands, .. } = batch;
                let ticket = self.ticket(Purpose::Write(ids));
                self.actions.push_back(Action::Send {
                    ticket,
                    room,
                    commands,
                });
            }
        }
    }

    fn refuse_surplus(&mut self, line: &str) {
        let id = match parse_line(line) {
            Ok(frame) => frame.id,
            Err(bad) => bad.id,
        };
        let msg = format!("a message holds at most {FRAME_COMMANDS_MAX} commands");
        self.refuse(id, &Refusal::new(ErrorCode::TooLarge, msg));
    }

    fn take_line(&mut self, now: Moment, line: &str, batches: &mut Batches, outside: &dyn Outside) {
        let parsed = parse_line(line);
        if matches!(self.phase, Phase::Fresh) {
            return self.take_first(now, line, parsed, outside);
        }
        let id = match &parsed {
            Ok(frame) => frame.id,
            Err(bad) => bad.id,
        };
        if matches!(
            &parsed,
            Ok(ClientFrame {
                op: ClientOp::Pong,
                ..
            })
        ) {
            return;
        }
        let verdict = self.user().map_or(Verdict::Go, |user| outside.rate(user));
        match (verdict, parsed) {
            (Verdict::Abuse, _) => self.close(CloseCode::Overload),
            (Verdict::Go | Verdict::Wait(_), Err(bad)) => self.answer_bad(&bad),
            (Verdict::Wait(ms), Ok(frame)) => {
                let refusal = Refusal::plain(ErrorCode::RateLimited).after_ms(ms);
                if let ClientOp::Write { room, command } = &frame.op
                    && let Some(target) = self.target(command, room.as_ref())
                {
                    batches.of(target).stopped.get_or_insert(refusal.clone());
                }
                self.refuse(id, &refusal);
            }
            (Verdict::Go, Ok(frame)) => self.take_command(now, frame, batches, outside),
        }
    }

    /// A line that cannot be taken is answered even if it had no readable id: its sender must know.
    fn answer_bad(&mut self, bad: &BadLine) {
        self.outbox
            .push(protocol::frame::server::reply_err(bad.id, &bad.refusal).into());
    }

    fn take_first(
        &mut self,
        now: Moment,
        line: &str,
        parsed: Result<ClientFrame, BadLine>,
        outside: &dyn Outside,
    ) {
        match parsed {
            Ok(ClientFrame {
                id,
                op: ClientOp::Hello(hello),
            }) => {
                self.say_hello(now, id, &hello, outside);
            }
            Ok(_) => self.close(CloseCode::ProtocolError),
            Err(bad) => {
                self.answer_bad(&bad);
                if !is_hello(line) {
                    self.close(CloseCode::ProtocolError);
                }
            }
        }
    }

    fn take_command(
        &mut self,
        now: Moment,
        frame: ClientFrame,
        batches: &mut Batches,
        outside: &dyn Outside,
    ) {
        let id = frame.id;
        match frame.op {
            ClientOp::Pong => {}
            ClientOp::Hello(hello) if matches!(self.phase, Phase::Refused) => {
                self.say_hello(now, id, &hello, outside);
            }
            ClientOp::Hello(_) => {
                self.refuse(
                    id,
                    &Refusal::new(ErrorCode::BadRequest, "hello was said already"),
                );
            }
            ClientOp::Token { token } => self.take_token(id, &token, outside),
            ClientOp::Write { .. } | ClientOp::Read(_) if matches!(self.phase, Phase::Refused) => {
                let msg = "say hello again first";
                self.refuse(id, &Refusal::new(ErrorCode::Unavailable, msg));
            }
            ClientOp::Write { room, command } => {
                self.take_write(id, room.as_ref(), *command, batches);
            }
            ClientOp::Read(read) => self.take_read(id, read),
        }
    }

    fn take_token(&mut self, id: Option<u64>, token: &str, outside: &dyn Outside) {
        let fresh = outside.verify(token).and_then(|fresh| match self.user() {
            Some(user) if *user == fresh.user => Ok(fresh),
            Some(_) | None => Err(Refusal::new(
                ErrorCode::Unauthorized,
                "the token is somebody else's",
            )),
        });
        match fresh {
            Ok(identity) => {
                let token_exp = identity.expires;
                self.heartbeat.handle_token(token_exp);
                if let Some(who) = &mut self.who {
                    who.identity = identity;
                }
                if let Some(id) = id {
                    self.outbox
                        .push(reply_ok(id, &TokenReply { token_exp }).into());
                }
            }
            Err(refusal) => self.refuse(id, &refusal),
        }
    }

    fn target(&self, command: &WriteCommand, named: Option<&RoomId>) -> Option<RoomId> {
        command.room(self.user()?, named).ok()
    }

    fn take_write(
        &mut self,
        id: Option<u64>,
        named: Option<&RoomId>,
        mut command: WriteCommand,
        batches: &mut Batches,
    ) {
        let Some(user) = self.user() else { return };
        let target = match prepare(&mut command).and_then(|()| command.room(user, named)) {
            Ok(target) => target,
            Err(refusal) => return self.refuse(id, &refusal),
        };
        let full = self.commands_in_flight >= SOCKET_COMMANDS_IN_FLIGHT_MAX;
        let batch = batches.of(target);
        if full {
            batch.stopped.get_or_insert_with(busy);
        }
        if let Some(refusal) = batch.stopped.clone() {
            return self.refuse(id, &refusal);
        }
        if let Err(refusal) = command.check() {
            return self.refuse(id, &refusal);
        }
        batch.ids.push(id);
        batch.commands.push(command);
        self.commands_in_flight += 1;
    }

    fn take_read(&mut self, id: Option<u64>, read: ReadCommand) {
        // Nobody waits for the answer.
        if id.is_none() {
            return;
        }
        if self.commands_in_flight >= SOCKET_COMMANDS_IN_FLIGHT_MAX {
            return self.refuse(id, &busy());
        }
        self.commands_in_flight += 1;
        self.reads.push_back((id, read));
    }

    /// Asks history for the next reads, as long as their answers will find room.
    pub(super) fn start_reads(&mut self, outside: &dyn Outside) {
        while !self.reads.is_empty() {
            let running = self
                .purposes
                .values()
                .filter(|purpose| matches!(purpose, Purpose::Read(_)));
            // Their answers have no other bound. The others wait here, as they came.
            if !self.outbox.takes_pages(running.count() + 1) {
                return;
            }
            let (Some(viewer), Some((id, read))) = (self.viewer(), self.reads.pop_front()) else {
                return;
            };
            let min_seq = outside
                .head()
                .map(|(_, position)| position)
                .unwrap_or_default();
            let ticket = self.ticket(Purpose::Read(id));
            let query = Box::new(Query::Read { viewer, read });
            self.actions.push_back(Action::Ask {
                ticket,
                query,
                min_seq,
            });
        }
    }

    pub(super) fn read_outcome(&mut self, id: Option<u64>, outcome: Outcome) {
        self.commands_in_flight = self.commands_in_flight.saturating_sub(1);
        match (outcome, id) {
            (Outcome::Answer(Ok(answered)), Some(id)) => {
                self.outbox.push(reply_ok(id, &answered.ok).into());
            }
            (Outcome::Answer(Err(refusal)), id) => self.refuse(id, &refusal),
            (Outcome::Answer(Ok(_)), None) | (Outcome::Sent(_) | Outcome::Introduced(_), _) => {}
        }
    }

    pub(super) fn write_outcome(&mut self, ids: &[Option<u64>], outcome: Outcome) {
        self.commands_in_flight = self.commands_in_flight.saturating_sub(ids.len());
        let settled = match outcome {
            Outcome::Sent(Ok(settled)) => settled,
            Outcome::Sent(Err(refusal)) => {
                return ids.iter().for_each(|id| self.refuse(*id, &refusal));
            }
            Outcome::Answer(_) | Outcome::Introduced(_) => Vec::new(),
        };
        let mut settled = settled.into_iter();
        for id in ids.iter().copied() {
            match (settled.next(), id) {
                (
                    Some(Settled {
                        result: CommandResult::Ok(accepted),
                        counts,
                    }),
                    Some(id),
                ) => {
                    let reply = ReadReply {
                        accepted: &accepted,
                        counts,
                    };
                    self.outbox.push(ByteString::from(reply_ok(id, &reply)));
                }
                (
                    Some(Settled {
                        result: CommandResult::Err(refusal),
                        ..
                    }),
                    id,
                ) => {
                    self.refuse(id, &refusal);
                }
                (
                    Some(Settled {
                        result: CommandResult::Ok(_),
                        ..
                    }),
                    None,
                ) => {}
                (None, id) => self.refuse(id, &Refusal::plain(ErrorCode::Internal)),
            }
        }
    }
}

/// Takes out what only a gateway may say.
fn prepare(command: &mut WriteCommand) -> Result<(), Refusal> {
    match &mut command.write {
        Write::Create(create) if create.kind == RoomKind::Own => Err(Refusal::new(
            ErrorCode::BadRequest,
            "`kind` is public, private or direct",
        )),
        Write::Read(read) => {
            read.read_n = None;
            Ok(())
        }
        Write::Create(_)
        | Write::Update { .. }
        | Write::Join {}
        | Write::Leave {}
        | Write::Invite { .. }
        | Write::Kick { .. }
        | Write::Ban { .. }
        | Write::Unban { .. }
        | Write::Role { .. }
        | Write::Send(_)
        | Write::Edit { .. }
        | Write::Del { .. } => Ok(()),
    }
}

/// Whether a malformed line was meant as a hello. Through a value: serde would also read a struct
/// from an array.
fn is_hello(line: &str) -> bool {
    let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
    line.is_some_and(|line| line.get("op").is_some_and(|op| op == "hello"))
}
