//! Who says what: the people, their commands, and the log that everything begins with.
//!
//! One or two public rooms on one partition. The log before the first step is written by the real core, driven
//! by a broker and a history that always answer.

use crate::history;
use crate::log::{Entry, Records, position};
use messages::partition::Record;
use messages::sequencer::{Config, LogBounds, Outcome, Request, Sequencer, Start};
use protocol::command::{Create, Send, Write, WriteCommand};
use protocol::event::{RoomChanges, RoomKind};
use protocol::request::{CommandRequest, CommandResult};
use protocol::subject::Door;
use protocol::{Cid, InstanceId, RoomId, Seq, StreamSeq, Timestamp, UserId};

/// The moment of the first step.
pub const BEGIN: Timestamp = Timestamp(1_800_000_000_000);
/// The log before the first step is this much older: less than what makes a cid fresh.
const PREFIX_AGE_MS: i64 = 10_000;
/// What a gateway gives an owner, as `gateway::batches` does.
const DEADLINE_MS: i64 = 2_800;
/// Who made the room and owns it.
pub const OWNER: &str = "olga";

/// Names a command of the script.
pub type Id = u8;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Says something.
    Says,
    /// Says something about an old message, which may have to be looked up.
    Answers(u64),
    Joins,
    Leaves,
    Bans(&'static str),
    Unbans(&'static str),
    Freezes,
    Thaws,
}

/// What one client wants, batch after batch; the next one is sent once the one before is settled.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub user: &'static str,
    /// The room of all its commands.
    pub room: usize,
    pub batches: &'static [&'static [Does]],
}

/// One command of the script.
#[derive(Clone, Debug)]
pub struct Scripted {
    pub client: u8,
    /// Place of its room.
    pub room: usize,
    pub does: Does,
    /// One above the last command of its batch.
    pub batch_end: Id,
    command: WriteCommand,
}

/// Everything that does not change during a run.
#[derive(Debug)]
pub struct Script {
    pub rooms: Vec<RoomId>,
    pub users: Vec<UserId>,
    pub commands: Vec<Scripted>,
    /// Ids of the first command of each client, and one above its last.
    pub spans: Vec<(Id, Id)>,
}

impl Script {
    pub fn new(clients: &[Client]) -> Self {
        let rooms = clients.iter().map(|client| client.room + 1).max();
        let mut script = Self {
            rooms: rooms_of_one_partition(rooms.expect("somebody")),
            users: Vec::new(),
            commands: Vec::new(),
            spans: Vec::new(),
        };
        for (index, client) in (0..).zip(clients) {
            let first = script.next_id();
            script.users.push(user(client.user));
            for batch in client.batches {
                let batch_end = script.next_id() + Id::try_from(batch.len()).unwrap();
                for does in *batch {
                    let id = script.next_id();
                    script.commands.push(Scripted {
                        client: index,
                        room: client.room,
                        does: *does,
                        batch_end,
                        command: command(*does, cid(id)),
                    });
                }
            }
            script.spans.push((first, script.next_id()));
        }
        script
    }

    fn next_id(&self) -> Id {
        Id::try_from(self.commands.len()).unwrap()
    }

    pub fn get(&self, id: Id) -> &Scripted {
        &self.commands[usize::from(id)]
    }

    /// The command that bears this name, if it is of the script.
    pub fn id_of(&self, cid: Cid) -> Option<Id> {
        (0..self.next_id()).find(|id| self.get(*id).command.cid == cid)
    }

    /// The place of a room.
    pub fn place_of(&self, room: &RoomId) -> usize {
        let place = self.rooms.iter().position(|known| known == room);
        place.expect("there are no other rooms")
    }

    /// The request that a gateway makes of these commands at `now`.
    pub fn request(&self, ids: std::ops::Range<Id>, now: Timestamp) -> Request {
        let Scripted { client, room, .. } = self.get(ids.start);
        Request {
            door: Door::User,
            actor: self.users[usize::from(*client)].clone(),
            room: self.rooms[*room].clone(),
            body: CommandRequest {
                deadline: deadline(now),
                guest: false,
                commands: ids.map(|id| self.get(id).command.clone()).collect(),
            },
        }
    }
}

/// The moment after which the sender of a request made at `now` has given up.
pub fn deadline(now: Timestamp) -> Timestamp {
    now.plus_ms(DEADLINE_MS)
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn cid(id: Id) -> Cid {
    Cid::from_parts(BEGIN.0.unsigned_abs() + u64::from(id), [id; 10])
}

fn create_cid(n: u64) -> Cid {
    Cid::from_parts(BEGIN.0.unsigned_abs() - 60_000 - n, [0xff; 10])
}

/// Rooms whose ids come from the owner's first `create`s that fall on one partition.
fn rooms_of_one_partition(count: usize) -> Vec<RoomId> {
    let rooms = || (0..).map(|n| RoomId::created(&user(OWNER), create_cid(n)));
    let partition = rooms().next().expect("there are many").partition();
    let same = |room: &RoomId| room.partition() == partition;
    rooms().filter(same).take(count).collect()
}

/// The cid that a room's id comes from.
fn create_cid_of(room: &RoomId) -> Cid {
    let mut cids = (0..).map(create_cid);
    let cid = cids.find(|cid| RoomId::created(&user(OWNER), *cid) == *room);
    cid.expect("the room was made so")
}

fn command(does: Does, cid: Cid) -> WriteCommand {
    let says = |reply_to| {
        Write::Send(Send {
            text: "hi".into(),
            reply_to,
            ..Send::default()
        })
    };
    let frozen = |frozen| Write::Update {
        changes: RoomChanges {
            frozen: Some(frozen),
            ..RoomChanges::default()
        },
        base: None,
    };
    let write = match does {
        Does::Says => says(None),
        Does::Answers(seq) => says(Some(Seq(seq))),
        Does::Joins => Write::Join {},
        Does::Leaves => Write::Leave {},
        Does::Bans(name) => Write::Ban {
            user: user(name),
            why: None,
            until: None,
        },
        Does::Unbans(name) => Write::Unban {
            user: user(name),
            seen: None,
        },
        Does::Freezes => frozen(true),
        Does::Thaws => frozen(false),
    };
    WriteCommand { cid, write }
}

/// The rooms' people and what happened before: first the owner's `create`s, then these in the first room,
/// one record each.
pub fn prefix(
    script: &Script,
    records: &mut Records,
    (members, past): (&[&'static str], &[(&'static str, Does)]),
) -> Vec<Entry> {
    let request = |name: &str, room: &RoomId, command| Request {
        door: Door::User,
        actor: user(name),
        room: room.clone(),
        body: CommandRequest {
            deadline: Timestamp(i64::MAX),
            guest: false,
            commands: vec![command],
        },
    };
    let creates = script.rooms.iter().map(|room| {
        let write = Write::Create(Create {
            kind: RoomKind::Public,
            name: None,
            topic: None,
            members: members.iter().map(|name| user(name)).collect(),
            history: None,
        });
        let cid = create_cid_of(room);
        request(OWNER, room, WriteCommand { cid, write })
    });
    let past = (100..).zip(past);
    let past =
        past.map(|(nth, (name, does))| request(name, &script.rooms[0], command(*does, cid(nth))));
    let requests: Vec<Request> = creates.chain(past).collect();
    write(script, records, requests)
}

/// Drives a core of the past until all its requests are answered.
fn write(script: &Script, records: &mut Records, requests: Vec<Request>) -> Vec<Entry> {
    let now = BEGIN.plus_ms(-PREFIX_AGE_MS);
    let mut log = Vec::new();
    let start = start(
        script,
        ("past", 1),
        LogBounds {
            first: StreamSeq(1),
            last: StreamSeq(0),
        },
    );
    let mut sequencer = Sequencer::new(Config::default(), start);
    sequencer.handle_caught_up(StreamSeq(0));
    let mut requests = requests.into_iter();
    let mut waiting = false;
    loop {
        let mut moved = false;
        while let Some(publish) = sequencer.poll_publish(now) {
            log.push(Entry {
                record: records.intern(script, publish.payload.as_bytes()),
                at: Entry::PAST,
            });
            sequencer.handle_published(now, Outcome::Stored(position(log.len())));
            moved = true;
        }
        while let Some(read) = sequencer.poll_read(now) {
            sequencer.handle_tail(now, read.id, Some(Vec::new()));
            moved = true;
        }
        while let Some(ask) = sequencer.poll_lookup() {
            let answer = history::answer(script, records, &ask.lookup, &log);
            sequencer.handle_answer(ask.id, Some((position(log.len()), answer)));
            moved = true;
        }
        while let Some((_, reply)) = sequencer.poll_reply() {
            for result in reply.results {
                assert!(matches!(result, CommandResult::Ok(_)), "{result:?}");
            }
            waiting = false;
            moved = true;
        }
        if moved || waiting {
            continue;
        }
        let Some(request) = requests.next() else {
            return log;
        };
        sequencer.handle_request(now, request);
        waiting = true;
    }
}

/// How a writer begins that has seen nothing yet.
pub fn start(script: &Script, (instance, epoch): (&str, u64), log: LogBounds) -> Start {
    Start {
        partition: script.rooms[0].partition(),
        instance: InstanceId::parse(instance).unwrap(),
        epoch,
        seed: [7; 32],
        above: StreamSeq(0),
        above_time: None,
        log,
        cursor: None,
    }
}

/// When an entry was stored, by the broker's clock.
pub fn stored_at(entry: Entry, clock: &[i64]) -> Timestamp {
    if entry.at == Entry::PAST {
        BEGIN.plus_ms(-PREFIX_AGE_MS)
    } else {
        BEGIN.plus_ms(clock[usize::from(entry.at)])
    }
}

/// A part of the log as an owner gets it; `first` is how many entries lie before it.
pub fn records_of(
    records: &Records,
    (first, entries): (usize, &[Entry]),
    clock: &[i64],
) -> Vec<Record> {
    (first + 1..)
        .zip(entries)
        .map(|(index, entry)| Record {
            position: position(index),
            time: stored_at(*entry, clock),
            payload: records.get(entry.record).payload.clone(),
        })
        .collect()
}
