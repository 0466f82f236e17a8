//! A broker, a database and history itself, in this process; and the pen that writes the log.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use chassis::config::NatsArgs;
use chassis::topology::{self, TopologyConfig};
use chassis::{Context, Process};
use history::Config;
use history::config::DatabaseArgs;
use protocol::chain::{Hash, Salt, seal};
use protocol::envelope::{EnvelopeBuilder, EnvelopeId, epoch_record};
use protocol::event::{
    EventBody, HistoryScope, LogEvent, MemberChange, Message, RoomChanges, RoomKind,
};
use protocol::query::{Answer, Query, Question, ReadCommand, Viewer};
use protocol::{
    Cid, ErrorCode, Event, InstanceId, Partition, RoomId, Seq, StreamSeq, Subject, Timestamp,
    UserId,
};
use serde::de::DeserializeOwned;
use sqlx::PgPool;
use tests::{PATIENCE, Stack, eventually};

pub fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

pub fn viewer(name: &str) -> Viewer {
    Viewer {
        user: user(name),
        guest: false,
    }
}

pub fn say(text: &str) -> EventBody {
    EventBody::Msg(Message {
        text: text.to_owned(),
        ..Message::default()
    })
}

pub fn reply(root: u64, text: &str) -> EventBody {
    let thread = Some(Seq(root));
    EventBody::Msg(Message {
        text: text.to_owned(),
        thread,
        ..Message::default()
    })
}

pub fn member(name: &str, change: MemberChange) -> EventBody {
    EventBody::Member {
        user: user(name),
        change,
        role: None,
        until: None,
        why: None,
    }
}

pub fn create(kind: RoomKind, history: HistoryScope) -> EventBody {
    let changes = RoomChanges {
        name: Some("ops".to_owned()),
        history: Some(history),
        ..RoomChanges::default()
    };
    EventBody::Room {
        kind: Some(kind),
        changes,
    }
}

/// One more edit of a message, which wins.
pub fn edit(on: u64, rev: u32, text: &str) -> EventBody {
    EventBody::Edit {
        on: Seq(on),
        rev,
        text: text.to_owned(),
        mentions: Vec::new(),
        won: true,
        eff: Timestamp(i64::from(rev)),
    }
}

pub fn delete(from: u64, to: u64) -> EventBody {
    let on = vec![protocol::event::SeqRange(Seq(from), Seq(to))];
    EventBody::Del {
        on,
        user: None,
        to: None,
        why: None,
    }
}

/// A room as its owner holds it.
struct Head {
    seq: Seq,
    hash: Hash,
    n: u64,
    threads: BTreeMap<Seq, u64>,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            seq: Seq(0),
            hash: Hash::ZERO,
            n: 0,
            threads: BTreeMap::new(),
        }
    }
}

/// Broker, database, history, and an owner of every room.
pub struct Archive {
    pub stack: Stack,
    pub pool: PgPool,
    pub nats: async_nats::Client,
    pub process: Process,
    context: Context,
    heads: BTreeMap<RoomId, Head>,
    /// Every event that was written, in order.
    pub written: Vec<(Event, Hash)>,
    commands: u64,
    /// The last record that was written.
    pub position: StreamSeq,
}

impl Archive {
    /// Starts everything and waits until history is ready.
    pub async fn start() -> Self {
        let stack = Stack::builder().servers_only().start().await;
        let database = DatabaseArgs::to(stack.database_url());
        let pool = history::database::pool(&database).unwrap();
        history::migrate(&pool).await.unwrap();
        let process = Process::new();
        let context = process
            .context("owner", &NatsArgs::to(stack.nats_url()))
            .await
            .unwrap();
        topology::provision_when_ready(&context, &TopologyConfig::default())
            .await
            .unwrap();
        context.started();
        let nats = async_nats::connect(stack.nats_url()).await.unwrap();
        let archive = Self {
            stack,
            pool,
            nats,
            process,
            context,
            heads: BTreeMap::new(),
            written: Vec::new(),
            commands: 0,
            position: StreamSeq(0),
        };
        archive.runs_history(&archive.process.clone()).await;
        archive.is_ready(&archive.process).await;
        archive
    }

    /// Runs history in `process`; returns what stops it.
    pub async fn runs_history(&self, process: &Process) -> Context {
        let config = Config {
            database: DatabaseArgs::to(self.stack.database_url()),
            ..Config::default()
        };
        let nats = NatsArgs::to(self.stack.nats_url());
        let context = process.context("history", &nats).await.unwrap();
        context
            .tasks
            .spawn_fallible("run", history::run(config, context.clone()));
        context
    }

    pub async fn is_ready(&self, process: &Process) {
        eventually(PATIENCE, async || {
            let report = process.health.report();
            if report.ready {
                Ok(())
            } else {
                Err(format!("{:?}", report.components))
            }
        })
        .await;
    }

    /// The connection that writes the log.
    pub fn owner_nats(&self) -> chassis::nats::Nats {
        self.context.nats.clone()
    }

    /// A new command by somebody.
    pub fn cid(&mut self) -> Cid {
        self.commands += 1;
        Cid::from_parts(1_000 + self.commands, [0; 10])
    }

    /// The next event of a room, sealed: its line and its seq.
    pub fn next(&mut self, name: &str, by: &str, mut body: EventBody) -> (RoomId, String, Seq) {
        let cid = self.cid();
        let room = room(name);
        let head = self.heads.entry(room.clone()).or_default();
        if let EventBody::Msg(message) = &mut body {
            match message.thread {
                None => {
                    head.n += 1;
                    message.n = Some(head.n);
                }
                Some(root) => {
                    let tn = head.threads.entry(root).or_default();
                    *tn += 1;
                    message.tn = Some(*tn);
                }
            }
        }
        let seq = head.seq.next();
        let event = Event {
            room: room.clone(),
            seq,
            ts: Timestamp(10_000 + i64::try_from(seq.0).unwrap()),
            by: user(by),
            cid,
            body,
        };
        let logged = LogEvent {
            prev: head.hash,
            salt: Salt([3; 16]),
            event,
        };
        let sealed = seal(&logged);
        (head.seq, head.hash) = (seq, sealed.hash);
        self.written.push((logged.event, sealed.hash));
        (room, sealed.line, seq)
    }

    /// Writes one event as a record of its own; returns its seq.
    pub async fn writes(&mut self, name: &str, by: &str, body: EventBody) -> u64 {
        let (room, line, seq) = self.next(name, by, body);
        self.publishes(&[(room, line)]).await;
        seq.0
    }

    /// Makes a room with members, each in a record of its own.
    pub async fn makes(
        &mut self,
        name: &str,
        kind: RoomKind,
        scope: HistoryScope,
        people: &[&str],
    ) {
        self.writes(
            name,
            people.first().unwrap_or(&"alice"),
            create(kind, scope),
        )
        .await;
        for person in people {
            self.writes(name, person, member(person, MemberChange::Added))
                .await;
        }
    }

    /// Makes somebody's own room.
    pub async fn greets(&mut self, name: &str) {
        let own = RoomId::own(&user(name));
        let body = EventBody::Room {
            kind: Some(RoomKind::Own),
            changes: RoomChanges::default(),
        };
        self.writes(own.as_str(), name, body).await;
    }

    /// Publishes lines as one record; all of one partition.
    pub async fn publishes(&mut self, lines: &[(RoomId, String)]) {
        let mut builder = EnvelopeBuilder::default();
        for (room, line) in lines {
            builder.push(room, line);
        }
        let payload = builder.finish(&self.envelope());
        self.publishes_raw(lines[0].0.partition(), payload).await;
    }

    /// Publishes whatever it is.
    pub async fn publishes_raw(&mut self, partition: Partition, payload: impl Into<String>) {
        let subject = Subject::Log(partition).to_string();
        let jetstream = jetstream::new(self.nats.clone());
        let ack = jetstream
            .publish(subject, payload.into().into())
            .await
            .unwrap()
            .await
            .unwrap();
        self.position = StreamSeq(ack.sequence);
    }

    pub fn epoch(&self) -> String {
        epoch_record(&self.envelope())
    }

    fn envelope(&self) -> EnvelopeId {
        let instance = InstanceId::parse("test").unwrap();
        EnvelopeId {
            instance,
            epoch: 1,
            counter: self.position.0,
        }
    }

    /// Asks, as of everything that was written.
    pub async fn asks<T: DeserializeOwned>(&self, query: Query) -> Result<T, ErrorCode> {
        self.asks_at(self.position, query).await.1
    }

    /// Asks as of a position; also tells up to where the answer goes.
    pub async fn asks_at<T: DeserializeOwned>(
        &self,
        min_seq: StreamSeq,
        query: Query,
    ) -> (StreamSeq, Result<T, ErrorCode>) {
        let subject = Subject::History(query.verb().to_owned()).to_string();
        let deadline = Timestamp(self.context.clock.now_ms()).plus_ms(10_000);
        let question = Question {
            min_seq,
            deadline,
            query,
        };
        let body = serde_json::to_vec(&question).unwrap();
        let answer = self
            .context
            .nats
            .request(
                subject,
                async_nats::HeaderMap::new(),
                body.into(),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
        let answer: Answer = serde_json::from_slice(&answer).unwrap();
        let result = match (answer.ok, answer.err) {
            (Some(ok), None) => Ok(serde_json::from_str(ok.get()).unwrap()),
            (None, Some(refusal)) => Err(refusal.code),
            (ok, err) => panic!("{ok:?} {err:?}"),
        };
        (answer.applied, result)
    }

    /// A client's read.
    pub async fn reads<T: DeserializeOwned>(
        &self,
        name: &str,
        read: ReadCommand,
    ) -> Result<T, ErrorCode> {
        self.asks(Query::Read {
            viewer: viewer(name),
            read,
        })
        .await
    }
}

/// A page of a room's history.
pub fn history(name: &str) -> ReadCommand {
    ReadCommand::History {
        room: room(name),
        before: None,
        after: None,
        around: None,
        limit: None,
        all: false,
    }
}
