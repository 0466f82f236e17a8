//! One process that owns the partition, or thinks so: the real core and what its shell has in hand.
//!
//! A step of a core is computed once: owners are kept by number, and what an owner becomes by an input
//! is remembered. Two owners are the same if everything in them prints the same.

use crate::history;
use crate::log::{Entry, Records, count_at, position};
use crate::script::{BEGIN, Id, Script, records_of};
use messages::partition::Notice;
use messages::sequencer::{
    Ask, Config, LogBounds, Outcome, Publish, Read, Sequencer, Start, Stop, Ticket,
};
use protocol::request::{CommandReply, CommandResult};
use protocol::{StreamSeq, Timestamp};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap};

/// One sending of a client's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Copy {
    pub client: u8,
    /// Its first command.
    pub from: Id,
    /// One above its last.
    pub to: Id,
    /// Which sending of this client.
    pub number: u8,
    /// At which moment it was made.
    pub at: u8,
}

/// What a client is told about one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Told {
    Stored {
        seq: u8,
        dup: bool,
    },
    /// A final refusal, or that nothing had to change: nothing is or will be stored.
    Never,
    /// A temporary error.
    Later,
}

/// What happens to an owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// It takes the partition over and has read this much of the log, above that.
    TakeOver(Takeover),
    Request(Copy),
    Published(Answer),
    /// The read in hand has found these behind that many; or it failed.
    Tail(Option<(u8, Vec<Entry>)>),
    /// A question's answer: as of this log, and the position that is claimed for it; or none.
    Answer(u8, Option<(StreamSeq, Vec<Entry>)>),
    Tick {
        cursor: u8,
        last: u8,
    },
    Stop,
}

/// How a takeover begins.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Takeover {
    pub writer: u8,
    pub epoch: u8,
    pub above: u8,
    pub above_time: Option<Timestamp>,
    pub cursor: Option<u8>,
    /// As far as it was read.
    pub log: Vec<Entry>,
    /// How many records the leader has.
    pub last: u8,
}

/// What the shell hears of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Answer {
    Stored(StreamSeq),
    Conflict,
    Unknown,
}

/// The core of one incarnation and its open operations.
#[derive(Clone, Debug)]
pub struct Owner {
    sequencer: Sequencer,
    pub publish: Option<Publish>,
    pub read: Option<Read>,
    pub asks: Vec<Ask>,
    copies: BTreeMap<Ticket, Copy>,
    opened: bool,
}

/// What came of an input.
#[derive(Debug)]
pub struct Step {
    pub owner: u32,
    pub replies: Vec<(Copy, Vec<Told>)>,
    /// It has ended.
    pub ended: bool,
    /// It has found something wrong with the log.
    pub alarmed: bool,
    /// It has handed out a new append: this record, to follow that many.
    pub publish: Option<(u32, u8)>,
    /// The append is an epoch record.
    pub is_epoch: bool,
    /// The record that the append shall follow was never written: a shortcut pretended it.
    pub behind_unwritten: bool,
    /// It has handed out a new read of what lies behind that many.
    pub read: Option<u8>,
    /// How many questions it has open; the youngest are the last.
    pub asks: u8,
    /// Its epoch record was stored, at some time.
    pub opened: bool,
}

/// All owners that were ever met, and all records.
#[derive(Debug, Default)]
pub struct Book {
    pub records: Records,
    owners: Vec<Owner>,
    numbers: HashMap<[u8; 32], u32>,
    steps: HashMap<(u32, u8, Input), std::sync::Arc<Step>>,
}

/// What stays the same for all owners of a run.
#[derive(Debug)]
pub struct Rules<'a> {
    pub script: &'a Script,
    pub config: Config,
    pub clock: &'a [i64],
    /// Whether history denies to have ever seen a command: a shortcut.
    pub history_forgets: bool,
    /// Whether owners never learn when a request's sender gives up: a shortcut.
    pub without_deadlines: bool,
}

/// The owner that is nobody yet.
pub const NOBODY: u32 = u32::MAX;

impl Book {
    pub fn owner(&self, number: u32) -> &Owner {
        &self.owners[number as usize]
    }

    pub fn owners(&self) -> usize {
        self.owners.len()
    }

    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// What an owner becomes by an input at a moment.
    pub fn step(
        &mut self,
        rules: &Rules<'_>,
        (number, moment): (u32, u8),
        input: Input,
    ) -> std::sync::Arc<Step> {
        let key = (number, moment, input);
        if let Some(step) = self.steps.get(&key) {
            return std::sync::Arc::clone(step);
        }
        let step = std::sync::Arc::new(self.compute(rules, (number, moment), &key.2));
        self.steps.insert(key, std::sync::Arc::clone(&step));
        step
    }

    fn compute(&mut self, rules: &Rules<'_>, (number, moment): (u32, u8), input: &Input) -> Step {
        let now = BEGIN.plus_ms(rules.clock[usize::from(moment)]);
        let mut owner = match input {
            Input::TakeOver(takeover) => {
                assert_eq!(number, NOBODY);
                Owner::taking_over(rules, &self.records, takeover)
            }
            Input::Request(_)
            | Input::Published(_)
            | Input::Tail(_)
            | Input::Answer(..)
            | Input::Tick { .. }
            | Input::Stop => self.owner(number).clone(),
        };
        owner.take(rules, (&self.records, now), input);
        let mut step = owner.pump(now);
        if let Some(publish) = step.publish.as_mut() {
            let payload = &owner.publish.as_ref().expect("just handed out").payload;
            publish.0 = self.records.intern(rules.script, payload.as_bytes());
        }
        if !step.ended {
            step.owner = self.intern(owner);
        }
        step
    }

    fn intern(&mut self, owner: Owner) -> u32 {
        let digest = Sha256::digest(format!("{owner:?}")).into();
        if let Some(number) = self.numbers.get(&digest) {
            return *number;
        }
        let number = u32::try_from(self.owners.len()).unwrap();
        self.owners.push(owner);
        self.numbers.insert(digest, number);
        number
    }
}

impl Owner {
    /// The requests that are not answered yet.
    pub fn copies(&self) -> impl Iterator<Item = &Copy> {
        self.copies.values()
    }

    fn taking_over(rules: &Rules<'_>, records: &Records, takeover: &Takeover) -> Self {
        let instance = format!("w{}", takeover.writer);
        let above = usize::from(takeover.above);
        let start = Start {
            above: position(above),
            above_time: takeover.above_time,
            cursor: takeover.cursor.map(|cursor| position(cursor.into())),
            ..crate::script::start(
                rules.script,
                (&instance, takeover.epoch.into()),
                LogBounds {
                    first: StreamSeq(1),
                    last: position(takeover.last.into()),
                },
            )
        };
        let mut sequencer = Sequencer::new(rules.config, start);
        let tail = (above, takeover.log.get(above..).unwrap_or_default());
        for record in records_of(records, tail, rules.clock) {
            sequencer.handle_record(&record);
        }
        sequencer.handle_clock(0);
        sequencer.handle_caught_up(position(takeover.last.into()));
        Self {
            sequencer,
            publish: None,
            read: None,
            asks: Vec::new(),
            copies: BTreeMap::new(),
            opened: false,
        }
    }

    fn take(&mut self, rules: &Rules<'_>, (records, now): (&Records, Timestamp), input: &Input) {
        match input {
            Input::TakeOver(_) => {}
            Input::Request(copy) => {
                let made = BEGIN.plus_ms(rules.clock[usize::from(copy.at)]);
                let mut request = rules.script.request(copy.from..copy.to, made);
                if rules.without_deadlines {
                    request.body.deadline = Timestamp(i64::MAX);
                }
                let ticket = self.sequencer.handle_request(now, request);
                self.copies.insert(ticket, *copy);
            }
            Input::Published(answer) => {
                self.publish = None;
                let outcome = match answer {
                    Answer::Stored(position) => Outcome::Stored(*position),
                    Answer::Conflict => Outcome::Conflict,
                    Answer::Unknown => Outcome::Unknown,
                };
                self.sequencer.handle_published(now, outcome);
            }
            Input::Tail(tail) => {
                let read = self.read.take().expect("there is a read to answer");
                let tail = tail.as_ref().map(|(first, entries)| {
                    records_of(records, ((*first).into(), entries), rules.clock)
                });
                self.sequencer.handle_tail(now, read.id, tail);
            }
            Input::Answer(nth, answer) => {
                let ask = self.asks.remove((*nth).into());
                let answer = answer.as_ref().map(|(claimed, log)| {
                    let forgotten = history::never_seen(&ask.lookup);
                    let forgotten = forgotten.filter(|_| rules.history_forgets);
                    let known = || history::answer(rules.script, records, &ask.lookup, log);
                    (*claimed, forgotten.unwrap_or_else(known))
                });
                self.sequencer.handle_answer(ask.id, answer);
            }
            Input::Tick { cursor, last } => {
                self.sequencer.handle_clock(0);
                let last = position((*last).into()).max(self.sequencer.end());
                self.sequencer
                    .handle_history(position((*cursor).into()), last);
                self.sequencer.handle_tick(now);
            }
            Input::Stop => self.sequencer.stop(Stop::Released),
        }
    }

    /// Everything that the shell does after each input, in the order that the core asks for.
    fn pump(&mut self, now: Timestamp) -> Step {
        let mut step = Step {
            owner: NOBODY,
            replies: Vec::new(),
            ended: false,
            alarmed: false,
            publish: None,
            is_epoch: false,
            behind_unwritten: false,
            read: None,
            asks: 0,
            opened: false,
        };
        while let Some(publish) = self.sequencer.poll_publish(now) {
            assert!(self.publish.is_none(), "one append at a time");
            let expected = u8::try_from(count_at(publish.expected)).unwrap();
            step.publish = Some((0, expected));
            step.is_epoch = publish.events == 0;
            step.behind_unwritten = position(count_at(publish.expected)) != publish.expected;
            self.publish = Some(publish);
        }
        while let Some(read) = self.sequencer.poll_read(now) {
            step.read = Some(u8::try_from(count_at(read.after)).unwrap());
            // The answer of one given up would be ignored.
            self.read = Some(read);
        }
        while let Some(ask) = self.sequencer.poll_lookup() {
            self.asks.push(ask);
        }
        self.collect(&mut step);
        while let Some(notice) = self.sequencer.poll_notice() {
            match notice {
                Notice::Overtaken(_) | Notice::Stopped(_) => step.ended = true,
                Notice::Poisoned { .. } | Notice::Unreadable(_) | Notice::Lost { .. } => {
                    step.alarmed = true;
                }
            }
        }
        if step.ended {
            // What ends answers everybody first, as the writer does.
            self.sequencer.stop(Stop::Released);
            self.collect(&mut step);
        }
        step.asks = u8::try_from(self.asks.len()).unwrap();
        self.opened |= self.sequencer.is_open(now);
        step.opened = self.opened;
        step
    }

    fn collect(&mut self, step: &mut Step) {
        while let Some((ticket, reply)) = self.sequencer.poll_reply() {
            let copy = self
                .copies
                .remove(&ticket)
                .expect("a reply answers a request");
            step.replies.push((copy, told(&reply)));
        }
    }
}

fn told(reply: &CommandReply) -> Vec<Told> {
    let one = |result: &CommandResult| match result {
        CommandResult::Ok(accepted) if accepted.noop => Told::Never,
        CommandResult::Ok(accepted) => Told::Stored {
            seq: u8::try_from(accepted.seq.0).unwrap(),
            dup: accepted.dup,
        },
        CommandResult::Err(refusal) if refusal.temp => Told::Later,
        CommandResult::Err(_) => Told::Never,
    };
    reply.results.iter().map(one).collect()
}
