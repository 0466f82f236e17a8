//! Everything a client decides, without a socket, a clock or a disk.
//!
//! Methods are of four kinds. `handle_*` tell what happened (a socket opened, a text came, a token is
//! here, time passed); `submit`, `ask` and `discard` are what the application wants;
//! [`Core::poll_output`] says what to do, in order, until it gives `None`; [`Core::poll_timeout`] says
//! when to call [`Core::handle_timeout`] at the latest. After any of the first two kinds the outputs
//! are polled; a shell that stores every [`Output::Save`] before it acts on the rest keeps all promises.

mod frames;

use crate::change::{Change, Saved};
use crate::cid::CidClock;
use crate::connection::{Action, Connection, ConnectionState, LinkId, StopReason};
use crate::outbox::{Delivery, Entry, Outbox};
use crate::pace::Pace;
use crate::reads::{Asker, Reads};
use crate::rooms::Rooms;
use crate::timeline::{Line, view};
use crate::update::{Follow, Update};
use protocol::command::{Write, WriteCommand};
use protocol::frame::server::ServerFrame;
use protocol::frame::{ClientFrame, ClientOp, Hello, RoomSnapshot, Window};
use protocol::limits::PAGE_MAX;
use protocol::query::ReadCommand;
use protocol::{Cid, DeviceId, ErrorCode, Refusal, RoomId, Seq, Timestamp, UserId};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Own messages that are stored but whose events have not come yet, kept for the view.
const SETTLED_MAX: usize = 1_000;

/// What a core is told about itself.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Name and version of the application, for the server's logs.
    pub app: Option<String>,
    /// How much `hello` shall bring along.
    pub window: Window,
    /// How closely rooms are followed.
    pub follow: Follow,
}

/// What the shell has to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Fetch a token and open a socket; then [`Core::handle_opened`] or [`Core::handle_closed`].
    Open {
        /// Its name.
        link: LinkId,
        /// Whether the last token was refused as expired.
        fresh_token: bool,
    },
    /// Close a socket; nothing more is wanted from it.
    Close {
        /// Which.
        link: LinkId,
        /// With this code.
        code: u16,
    },
    /// Send a text message.
    Transmit {
        /// On this socket.
        link: LinkId,
        /// The message.
        text: String,
    },
    /// Fetch a new token, then [`Core::handle_token`].
    Refresh {
        /// For this socket.
        link: LinkId,
    },
    /// Remember it, before anything that comes later is done.
    Save(Change),
    /// Tell the application.
    Show(Update),
    /// The answer to [`Core::ask`].
    Answer {
        /// The number given there.
        ticket: u64,
        /// What came back.
        result: Result<Value, Refusal>,
    },
}

/// A room as an application shows it.
#[derive(Clone, Debug)]
pub struct RoomView {
    /// What is known of it.
    pub snapshot: RoomSnapshot,
    /// The last event applied.
    pub last: Seq,
    /// Unread messages among those held here.
    pub unread: usize,
    /// What is shown, oldest first, own pending commands included.
    pub lines: Vec<Line>,
}

/// The client without its shell.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    device: DeviceId,
    user: Option<UserId>,
    connection: Connection,
    shown_state: Option<ConnectionState>,
    outbox: Outbox,
    rooms: Rooms,
    reads: Reads,
    cids: CidClock,
    pace: Pace,
    rng: StdRng,
    next_id: u64,
    hellos: BTreeMap<u64, LinkId>,
    cursor: Option<String>,
    /// The newest cursor that came while a hole was open; stored when all are filled.
    held_cursor: Option<String>,
    /// After a resume that failed: the rooms not named since. At `live` they are gone.
    unnamed: Option<BTreeSet<RoomId>>,
    settled: VecDeque<(RoomId, Seq, Entry)>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// Goes on with what a store held. `seed` makes every random choice.
    #[must_use]
    pub fn new(config: CoreConfig, saved: Saved, seed: [u8; 32], now: Timestamp) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut outputs = VecDeque::new();
        let device = saved.device.unwrap_or_else(|| {
            let name = format!("{:032x}", rng.random::<u128>());
            let device = DeviceId::parse(&name).expect("hexadecimal digits are in the grammar");
            outputs.push_back(Output::Save(Change::Device(device.clone())));
            device
        });
        let mut cids = CidClock::default();
        if let Some(last) = saved.outbox.iter().map(|entry| entry.cid).max() {
            cids.follow(last);
        }
        let rooms = Rooms::restore(
            config.follow,
            saved.user.clone(),
            saved.rooms,
            saved.timelines,
        );
        let mut core = Self {
            config,
            device,
            user: saved.user,
            connection: Connection::new(now),
            shown_state: None,
            outbox: Outbox::restore(saved.outbox),
            rooms,
            reads: Reads::default(),
            cids,
            pace: Pace::new(now),
            rng,
            next_id: 1,
            hellos: BTreeMap::new(),
            cursor: saved.cursor,
            held_cursor: None,
            unnamed: None,
            settled: VecDeque::new(),
            outputs,
        };
        core.handle_timeout(now);
        core
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do; a moment that has passed means now.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let usable = self.connection.usable().is_some();
        let sending = [
            self.outbox.poll_timeout(now),
            self.rooms.poll_timeout().filter(|at| *at > now),
            self.pace.next_at().filter(|at| *at > now),
        ];
        let sending = sending.into_iter().flatten().min().filter(|_| usable);
        [
            self.connection.poll_timeout(),
            self.reads.poll_timeout(now),
            sending,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(answer) = self.reads.poll_expired(now) {
            self.answer(answer, now);
        }
        for link in [self.outbox.overdue(now), self.reads.overdue(now)]
            .into_iter()
            .flatten()
        {
            self.connection.give_up(link, now, &mut self.rng);
        }
        self.connection.handle_timeout(now, &mut self.rng);
        self.pump(now);
    }

    /// The socket is open and this is the token for it.
    pub fn handle_opened(&mut self, link: LinkId, token: &str, now: Timestamp) {
        if !self.connection.knows(link) {
            return;
        }
        let follows = self.config.follow != Follow::Nothing;
        let have = self.rooms.iter().filter(|_| follows);
        let have = have.map(|(id, room)| (id.clone(), room.last)).collect();
        let hello = Hello {
            token: token.to_owned(),
            app: self.config.app.clone(),
            dev: Some(self.device.clone()),
            win: Some(self.config.window),
            cur: self.cursor.clone().filter(|_| follows),
            have,
        };
        let id = self.take_id();
        self.hellos.insert(id, link);
        let frame = ClientFrame {
            id: Some(id),
            op: ClientOp::Hello(Box::new(hello)),
        };
        self.outputs.push_back(Output::Transmit {
            link,
            text: frame.to_line(),
        });
        self.pump(now);
    }

    /// A text message came.
    pub fn handle_text(&mut self, link: LinkId, text: &str, now: Timestamp) {
        if !self.connection.knows(link) {
            return;
        }
        self.connection.handle_heard(link, now);
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            if self.config.follow == Follow::Nothing && frames::is_durable(line) {
                continue;
            }
            match ServerFrame::parse(line) {
                Ok(frame) => self.handle_frame(link, frame, now),
                Err(error) => tracing::warn!(%error, "a line of the server is no frame"),
            }
        }
        self.pump(now);
    }

    /// The socket is closed, or could not be opened.
    pub fn handle_closed(&mut self, link: LinkId, close: Option<(u16, String)>, now: Timestamp) {
        self.connection
            .handle_closed(link, close, now, &mut self.rng);
        self.link_lost(link, now);
        self.pump(now);
    }

    /// A new token for a socket that is in use.
    pub fn handle_token(&mut self, link: LinkId, token: String, now: Timestamp) {
        if self.connection.knows(link) {
            let id = Some(self.take_id());
            let frame = ClientFrame {
                id,
                op: ClientOp::Token { token },
            };
            self.outputs.push_back(Output::Transmit {
                link,
                text: frame.to_line(),
            });
        }
        self.pump(now);
    }

    /// Queues a command for ever: it is sent, and sent again, until the server has a final word.
    ///
    /// # Errors
    /// The refusal that the command's own bytes earn, or `rate_limited` if the outbox is full.
    pub fn submit(
        &mut self,
        room: Option<RoomId>,
        write: Write,
        now: Timestamp,
    ) -> Result<Cid, Refusal> {
        let command = WriteCommand {
            cid: self.cids.next(now, self.rng.random()),
            write,
        };
        command.check()?;
        let WriteCommand { cid, write } = command;
        let replaced = self.outbox.replaces(&write);
        let Some(entry) = self.outbox.push(room, write, cid) else {
            return Err(Refusal::new(ErrorCode::RateLimited, "The outbox is full."));
        };
        if let Some(old) = replaced {
            self.show_delivery(old, entry.room.clone(), Delivery::Renamed(cid));
        }
        self.outputs
            .push_back(Output::Save(Change::OutboxPut(Box::new(entry.clone()))));
        self.show_delivery(cid, entry.room, Delivery::Queued);
        self.pump(now);
        Ok(cid)
    }

    /// Asks; the answer is an [`Output::Answer`] with `ticket`, at `deadline` at the latest.
    pub fn ask(&mut self, ticket: u64, read: ReadCommand, deadline: Timestamp, now: Timestamp) {
        let asker = Asker::Application(ticket);
        if let Err(refusal) = self.reads.push(asker, read, Some(deadline), now) {
            self.outputs.push_back(Output::Answer {
                ticket,
                result: Err(refusal),
            });
        }
        self.pump(now);
    }

    /// Forgets a failed command.
    pub fn discard(&mut self, cid: Cid) {
        if let Some(position) = self.outbox.discard(cid) {
            self.outputs
                .push_back(Output::Save(Change::OutboxRemove(position)));
        }
    }

    /// Closes for good.
    pub fn stop(&mut self, reason: StopReason, now: Timestamp) {
        self.connection.stop(reason);
        self.pump(now);
    }

    /// Who we are, once a server has said so.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// The connection's state.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.connection.state()
    }

    /// Whether every command has a result.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.outbox.is_idle()
    }

    /// The rooms this user is in, without their lines, latest first.
    #[must_use]
    pub fn room_list(&self) -> Vec<RoomSnapshot> {
        self.rooms
            .iter()
            .map(|(_, room)| room.snapshot.clone())
            .collect()
    }

    /// A room as it is to be shown.
    #[must_use]
    pub fn view(&self, id: &RoomId) -> Option<RoomView> {
        let room = self.rooms.get(id)?;
        let settled = self
            .settled
            .iter()
            .filter(|(r, _, _)| r == id)
            .map(|(_, _, entry)| entry);
        let queued = self
            .outbox
            .entries()
            .filter(|entry| entry.room.as_ref() == Some(id));
        Some(RoomView {
            snapshot: room.snapshot.clone(),
            last: room.last,
            unread: self.user.as_ref().map_or(0, |me| room.unread(me)),
            lines: view(&room.timeline, settled.chain(queued)),
        })
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn link_lost(&mut self, link: LinkId, now: Timestamp) {
        self.outbox.handle_link_lost(link);
        self.reads.handle_link_lost(link, now);
        self.hellos.retain(|_, greeted| *greeted != link);
    }

    fn show_delivery(&mut self, cid: Cid, room: Option<RoomId>, delivery: Delivery) {
        let update = Update::Delivery {
            cid,
            room,
            delivery,
        };
        self.outputs.push_back(Output::Show(update));
    }

    /// Turns what the parts want into outputs.
    fn pump(&mut self, now: Timestamp) {
        let rooms = &self.rooms;
        let seen = |room: &RoomId, seq: Seq| rooms.get(room).is_none_or(|r| r.last >= seq);
        self.settled.retain(|(room, seq, _)| !seen(room, *seq));
        self.store_cursor();
        self.transmit(now);
        if let Some(link) = self.connection.retiring()
            && !self.outbox.owes(link)
            && !self.reads.owes(link)
        {
            self.connection.handle_drained(link);
        }
        while let Some(action) = self.connection.poll_action() {
            let output = match action {
                Action::Open { link, fresh_token } => Output::Open { link, fresh_token },
                Action::Close { link, code } => {
                    self.link_lost(link, now);
                    Output::Close { link, code }
                }
            };
            self.outputs.push_back(output);
        }
        self.show_connection();
    }

    fn show_connection(&mut self) {
        let state = self.connection.state();
        if self.shown_state.as_ref() != Some(&state) {
            self.shown_state = Some(state.clone());
            self.outputs
                .push_back(Output::Show(Update::Connection(state)));
        }
    }

    fn transmit(&mut self, now: Timestamp) {
        while let Some(fetch) = self.rooms.poll_fetch(now) {
            let read = ReadCommand::History {
                room: fetch.room.clone(),
                before: None,
                after: Some(fetch.after),
                around: None,
                limit: Some(PAGE_MAX),
                all: true,
            };
            if self
                .reads
                .push(Asker::Hole(fetch.room), read, None, now)
                .is_err()
            {
                return;
            }
        }
        let Some(link) = self.connection.usable() else {
            return;
        };
        while self.pace.available(now) > 0
            && let Some(text) = self.reads.poll_line(link, now, &mut self.next_id)
        {
            self.pace.spend(1);
            self.outputs.push_back(Output::Transmit { link, text });
        }
        loop {
            let room = self.pace.available(now);
            if room == 0 {
                return;
            }
            let Some(batch) = self.outbox.poll_batch(link, (now, room), &mut self.next_id) else {
                return;
            };
            self.pace.spend(batch.entries.len());
            self.outputs.push_back(Output::Transmit {
                link,
                text: batch.text,
            });
            for entry in batch.entries {
                self.show_delivery(entry.cid, entry.room, Delivery::Sent);
            }
        }
    }
}

#[cfg(test)]
mod tests;
