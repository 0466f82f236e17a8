//! One owner: a real sequencer, and what is between it and the world.

use messages::partition::{Notice, Record};
use messages::sequencer::{
    Answered, Ask, AskId, Config, LogBounds, Outcome, Publish, Read, ReadId, Request, Sequencer,
    Start, Ticket,
};
use protocol::request::CommandReply;
use protocol::{InstanceId, Partition, StreamSeq, Timestamp};
use std::collections::BTreeMap;

/// Something on its way.
#[derive(Clone, Debug)]
pub enum Packet {
    /// To an owner.
    Request {
        slot: usize,
        attempt: u64,
        request: Request,
    },
    /// To the client of the attempt.
    Reply { attempt: u64, reply: CommandReply },
    /// To the broker.
    Append { life: u64, publish: Publish },
    /// Back from it.
    Appended {
        life: u64,
        counter: u64,
        outcome: Outcome,
    },
    /// To the leader.
    Fetch { life: u64, read: Read, proof: bool },
    /// Back from it.
    Fetched {
        life: u64,
        id: ReadId,
        tail: Option<Vec<Record>>,
    },
    /// To history.
    Ask { life: u64, ask: Ask },
    /// Back from it.
    Answered {
        life: u64,
        id: AskId,
        answer: Option<(StreamSeq, Answered)>,
    },
}

/// A request and what it is answered.
pub type Answer = (Request, CommandReply);

/// One life of one owner.
#[derive(Debug)]
pub struct Shell {
    /// Unlike any other's.
    pub life: u64,
    /// The core.
    pub sequencer: Sequencer,
    /// Its clock, compared with true time.
    pub clock_offset_ms: i64,
    /// The append whose answer it awaits.
    pub awaited: Option<Publish>,
    /// Whose requests it holds.
    pub attempts: BTreeMap<Ticket, (u64, Request)>,
    /// It has seen another owner's records.
    pub overtaken: bool,
}

/// Where a takeover begins.
pub struct Beginning {
    /// Of which partition.
    pub partition: Partition,
    /// Which life this is.
    pub life: u64,
    /// Every record above is given.
    pub above: StreamSeq,
    /// Its time, if that is known.
    pub above_time: Option<Timestamp>,
    /// The subject's last record at or below `above`; 0 if there is none.
    pub subject_last: StreamSeq,
    /// The stream.
    pub log: LogBounds,
    /// History's cursor, if that is known.
    pub cursor: Option<StreamSeq>,
    /// The owner's clock, compared with true time.
    pub clock_offset_ms: i64,
}

impl Shell {
    /// Takes over with these records of the tail.
    pub fn take_over(config: Config, beginning: Beginning, tail: &[Record]) -> Self {
        let start = Start {
            partition: beginning.partition,
            instance: InstanceId::parse(&format!("i{}", beginning.life)).expect("in the grammar"),
            epoch: beginning.life,
            seed: [u8::try_from(beginning.life % 256).expect("a byte"); 32],
            above: beginning.above,
            above_time: beginning.above_time,
            log: beginning.log,
            cursor: beginning.cursor,
        };
        let mut sequencer = Sequencer::new(config, start);
        for record in tail {
            sequencer.handle_record(record);
        }
        sequencer.handle_clock(-beginning.clock_offset_ms);
        sequencer.handle_caught_up(beginning.subject_last);
        Self {
            life: beginning.life,
            sequencer,
            clock_offset_ms: beginning.clock_offset_ms,
            awaited: None,
            attempts: BTreeMap::new(),
            overtaken: false,
        }
    }

    /// Its clock.
    pub fn now(&self, now_ms: i64) -> Timestamp {
        Timestamp(now_ms + self.clock_offset_ms)
    }

    /// Everything the core wants now; returns what it answers.
    ///
    /// # Errors
    /// The core found its log damaged.
    pub fn pump(&mut self, now_ms: i64, out: &mut Vec<Packet>) -> Result<Vec<Answer>, String> {
        let mut answers = Vec::new();
        let (now, life) = (self.now(now_ms), self.life);
        while let Some(publish) = self.sequencer.poll_publish(now) {
            self.awaited = Some(publish.clone());
            out.push(Packet::Append { life, publish });
        }
        while let Some(read) = self.sequencer.poll_read(now) {
            let proof = self.awaited.is_none();
            out.push(Packet::Fetch { life, read, proof });
        }
        while let Some(ask) = self.sequencer.poll_lookup() {
            out.push(Packet::Ask { life, ask });
        }
        while let Some((ticket, reply)) = self.sequencer.poll_reply() {
            if let Some((attempt, request)) = self.attempts.remove(&ticket) {
                answers.push((request, reply.clone()));
                out.push(Packet::Reply { attempt, reply });
            }
        }
        while let Some(notice) = self.sequencer.poll_notice() {
            match notice {
                Notice::Overtaken(_) => self.overtaken = true,
                Notice::Stopped(messages::sequencer::Stop::Released) => {}
                Notice::Stopped(why) => return Err(format!("an owner stopped: {why:?}")),
                Notice::Poisoned { .. } | Notice::Unreadable(_) | Notice::Lost { .. } => {
                    return Err(format!("an owner found {notice:?}"));
                }
            }
        }
        Ok(answers)
    }
}
