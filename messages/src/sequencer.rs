//! The ordering decision for one partition, with no I/O.
//!
//! A [`Sequencer`] is driven by a shell: what happened goes in through `handle_*`, work comes out
//! through `poll_*`. It reads no clock, no socket and no random source, so that a seed replays a whole
//! cluster of them (`tests/sim`).
//!
//! After every `handle_*` call the shell calls, in this order, until each gives `None`:
//! 1. [`Sequencer::poll_publish`]: a record to append under a compare-and-set; at most one at a time,
//!    answered by [`Sequencer::handle_published`];
//! 2. [`Sequencer::poll_read`]: a read of the subject's tail *from the leader*, begun after the call;
//!    at most one at a time, answered by [`Sequencer::handle_tail`];
//! 3. [`Sequencer::poll_lookup`]: a question to history, answered by [`Sequencer::handle_answer`];
//! 4. [`Sequencer::poll_reply`]: an answer to a request;
//! 5. [`Sequencer::poll_notice`]: something to log, to alarm or to act on.
//!
//! Life: [`Sequencer::new`], then [`Sequencer::handle_record`] for every record above the start, then
//! [`Sequencer::handle_caught_up`]. From then on an epoch record is published first; nothing is admitted
//! before it is stored, since from that moment on every write of the owner before is refused.
//!
//! Rules that the simulator's planted faults break one by one (design sections 2 to 4):
//! - commands are judged only while nothing is in flight, on stored state plus the envelope being built;
//! - an unknown outcome is resolved by the leader's tail alone, then everything unanswered is judged again;
//! - an owner that finds another's record behind its own appends nothing more;
//! - an acknowledgement follows its record's storage, a final refusal follows a proof that the state it
//!   came from was the present one: the storage of a later record, or a leader read begun later;
//! - a command that was refused for good stays refused, though an older copy of it comes later, when the
//!   reason is gone;
//! - a repeat is looked for before every refusal that needs more than the command's own bytes.

mod build;
mod desk;
mod judge;
mod lookup;
mod refusals;
mod resolve;
#[cfg(test)]
mod tests;
mod words;

use crate::partition::{Change, Load, Notice, Partition, Record};
use protocol::envelope::{EnvelopeId, epoch_record};
use protocol::request::CommandReply;
use protocol::{ErrorCode, InstanceId, Refusal, StreamSeq, Timestamp};

pub use desk::{Request, Ticket};
pub use lookup::{Answered, Ask, AskId, Lookup};
pub use words::{Config, LogBounds, Outcome, Pressure, Publish, Read, ReadId, Start, Stop};

use build::Flight;
use desk::Desk;
use lookup::Lookups;
use refusals::Refusals;

/// Where in its life a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Replaying,
    /// The tail is folded, the own epoch record is not stored yet.
    Fencing,
    Open,
    Stopped,
}

/// The state machine of one owner of one partition.
///
/// `Clone` and `Debug` are complete: a copy goes on exactly like its original, and what prints alike is
/// alike. The model checker (`tests/model`) relies on both.
#[derive(Clone, Debug)]
pub struct Sequencer {
    config: Config,
    phase: Phase,
    partition: Partition,
    desk: Desk,
    refusals: Refusals,
    lookups: Lookups,
    flight: Option<Flight>,
    // Invariant: while this is set, the outcome of the last publish is unknown and nothing is judged.
    resolving: bool,
    read: Option<PendingRead>,
    reads: u64,
    /// An append was found not stored, but may yet arrive: only a later record proves anything.
    floating: bool,
    trouble: Trouble,
    number: protocol::Partition,
    instance: InstanceId,
    epoch: u64,
    envelopes: u64,
    seed: [u8; 32],
    salts: u64,
    cursor: Option<StreamSeq>,
    /// The cursor of some seconds ago, up to which things may be forgotten: an answer that was asked
    /// for before the cursor moved is then still above the floor.
    settled_cursor: (StreamSeq, Timestamp),
    pressure: Pressure,
    /// The broker's clock minus ours.
    clock_offset_ms: i64,
    last_record_at: Timestamp,
    /// When the own epoch record was stored: the owner before has refused nothing since.
    fenced_at: Option<Timestamp>,
}

/// A read that was handed out, and what it proves.
#[derive(Clone, Debug)]
struct PendingRead {
    id: ReadId,
    after: StreamSeq,
    /// Requests and how many of their results stand if nothing new is found.
    covers: Vec<(Ticket, usize)>,
    polled: bool,
}

/// Appends that do not succeed.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    failures: u32,
    since: Option<Timestamp>,
    retry_at: Timestamp,
}

/// Failing for this long, a partition says `unavailable` instead of letting clients wait.
const TROUBLE_AFTER_MS: i64 = 1_000;
/// What `unavailable` says about trying again.
const RETRY_AFTER_MS: u64 = 1_000;
/// Between two attempts to append while they fail.
const RETRY_MS_MAX: i64 = 1_000;
/// How long a cursor stays the floor's next value.
const CURSOR_SETTLES_MS: i64 = 10_000;
/// The estimate of a record's broker time may be this wrong.
const CLOCK_ERROR_MS: i64 = 1_000;

impl Sequencer {
    /// A partition that is about to be taken over.
    #[must_use]
    pub fn new(config: Config, start: Start) -> Self {
        let mut sequencer = Self {
            config,
            phase: Phase::Replaying,
            partition: Partition::above(start.above, start.above_time),
            desk: Desk::default(),
            refusals: Refusals::default(),
            lookups: Lookups::default(),
            flight: None,
            resolving: false,
            read: None,
            reads: 0,
            floating: false,
            trouble: Trouble::default(),
            number: start.partition,
            instance: start.instance,
            epoch: start.epoch,
            envelopes: 0,
            seed: start.seed,
            salts: 0,
            cursor: None,
            settled_cursor: (StreamSeq(0), Timestamp::MIN),
            pressure: Pressure::Low,
            clock_offset_ms: 0,
            last_record_at: Timestamp::MIN,
            fenced_at: None,
        };
        if let Some(cursor) = start.cursor {
            if start.log.first > cursor.next() {
                sequencer.partition.notices.push_back(Notice::Lost {
                    from: cursor.next(),
                    to: start.log.first.before(),
                });
            }
            sequencer.handle_history(cursor, start.log.last);
        }
        sequencer
    }

    /// Folds the next record of the subject, during takeover.
    pub fn handle_record(&mut self, record: &Record) {
        if self.phase == Phase::Replaying {
            self.partition.fold(record);
        }
    }

    /// Every record up to the subject's last, as the leader had it lately, was given.
    ///
    /// If there was none, `last` is the subject's last record, which lies at or below the start; one
    /// that came meanwhile lies above and is found by the compare-and-set.
    pub fn handle_caught_up(&mut self, last: StreamSeq) {
        if self.phase == Phase::Replaying {
            if self.partition.end == StreamSeq(0) {
                self.partition.end = last.min(self.partition.floor());
            }
            self.phase = Phase::Fencing;
        }
    }

    /// Takes a request; its answer comes from [`Self::poll_reply`] with the ticket returned here.
    pub fn handle_request(&mut self, now: Timestamp, request: Request) -> Ticket {
        let unavailable = match self.phase {
            Phase::Stopped => Some("the partition is changing its owner"),
            Phase::Replaying | Phase::Fencing | Phase::Open => {
                if self.is_in_trouble(now) {
                    Some("the log does not take records just now")
                } else if self.desk.pending() + request.body.commands.len()
                    > self.config.pending_max
                {
                    Some("too many commands wait")
                } else {
                    None
                }
            }
        };
        let ticket = self.desk.take_in(request);
        if let Some(msg) = unavailable {
            let wall = self.wall(now);
            self.desk.fail(ticket, &unavailable_refusal(msg), wall);
        }
        ticket
    }

    /// The append that was polled last has ended.
    pub fn handle_published(&mut self, now: Timestamp, outcome: Outcome) {
        if self.flight.is_none() || self.resolving {
            return;
        }
        match outcome {
            Outcome::Stored(position) => {
                let time = now.plus_ms(self.clock_offset_ms + CLOCK_ERROR_MS);
                self.commit(now, position, time);
            }
            Outcome::Conflict => self.begin_resolving(),
            Outcome::Unknown => {
                self.trouble.since.get_or_insert(now);
                self.begin_resolving();
            }
        }
    }

    /// History has applied everything up to `cursor`; the stream's last record, read after that, is `log_last`.
    pub fn handle_history(&mut self, cursor: StreamSeq, log_last: StreamSeq) {
        if log_last < cursor {
            let end = log_last;
            self.stop(Stop::LogLost { end, cursor });
            return;
        }
        self.cursor = Some(self.cursor.map_or(cursor, |known| known.max(cursor)));
    }

    /// The broker's clock was this far ahead of ours.
    pub fn handle_clock(&mut self, offset_ms: i64) {
        self.clock_offset_ms = offset_ms;
    }

    /// How full the process is.
    pub fn handle_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// Time has passed: gives up what is late and forgets what is old. Call it a few times a second.
    pub fn handle_tick(&mut self, now: Timestamp) {
        let wall = self.wall(now);
        self.desk.expire(wall);
        self.refusals.forget(wall);
        self.partition
            .forget_changes(wall.plus_ms(-self.config.request_within_ms));
        if self.is_in_trouble(now) {
            let refusal = unavailable_refusal("the log does not take records just now");
            self.desk.fail_queued(&refusal, wall);
        }
        let Some(cursor) = self.cursor else { return };
        let age = now.plus_ms(self.clock_offset_ms - self.config.dedup_age_ms);
        self.partition
            .dedup
            .advance(cursor, age, self.config.dedup_commands_max);
        let (floor, since) = self.settled_cursor;
        if now.since_ms(since) < CURSOR_SETTLES_MS {
            return;
        }
        self.settled_cursor = (cursor, now);
        if self.partition.held().events > self.config.events_soft_max
            || self.pressure > Pressure::Low
        {
            let idle = now.plus_ms(-self.config.room_idle_ms);
            self.partition.forget(floor, idle, now);
        }
    }

    /// Ends the work: everything unanswered is answered, nothing is published any more.
    pub fn stop(&mut self, why: Stop) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.phase = Phase::Stopped;
        self.read = None;
        self.resolving = false;
        // What is in flight may be stored: `timeout` says so.
        self.flight = None;
        let refusal = unavailable_refusal("the partition is changing its owner").after_ms(100);
        self.desk.fail_all(&refusal);
        self.partition.notices.push_back(Notice::Stopped(why));
    }

    /// The next record to append, if nothing is in flight and there is something to say.
    pub fn poll_publish(&mut self, now: Timestamp) -> Option<Publish> {
        if self.flight.is_some() || self.resolving || now < self.trouble.retry_at {
            return None;
        }
        match self.phase {
            Phase::Replaying | Phase::Stopped => None,
            Phase::Fencing => Some(self.launch_epoch()),
            Phase::Open => {
                self.install_answers();
                if self.is_in_trouble(now) {
                    return Some(self.launch_epoch());
                }
                if let Some(publish) = self.build(now) {
                    return Some(publish);
                }
                let proof_needs_record = self.floating && self.desk.has_unsettled();
                let renewal_due = now.since_ms(self.last_record_at) >= self.config.renew_after_ms;
                (proof_needs_record || renewal_due).then(|| self.launch_epoch())
            }
        }
    }

    /// The next read of the leader.
    pub fn poll_read(&mut self, now: Timestamp) -> Option<Read> {
        if self.phase == Phase::Stopped || (now < self.trouble.retry_at && self.read.is_none()) {
            return None;
        }
        if self.read.is_none() {
            let proof_needed = self.phase == Phase::Open
                && self.flight.is_none()
                && !self.floating
                && self.desk.has_unsettled();
            if !self.resolving && !proof_needed {
                return None;
            }
            self.reads += 1;
            self.read = Some(PendingRead {
                id: ReadId(self.reads),
                after: self.partition.end,
                covers: if self.resolving {
                    Vec::new()
                } else {
                    self.desk.unsettled()
                },
                polled: false,
            });
        }
        let read = self.read.as_mut()?;
        if std::mem::replace(&mut read.polled, true) {
            return None;
        }
        Some(Read {
            id: read.id,
            after: read.after,
        })
    }

    /// The next question to history.
    pub fn poll_lookup(&mut self) -> Option<Ask> {
        if self.phase != Phase::Open {
            return None;
        }
        self.lookups
            .poll(self.partition.dedup.position(), self.partition.floor())
    }

    /// The next answer to a request.
    pub fn poll_reply(&mut self) -> Option<(Ticket, CommandReply)> {
        let (ticket, mut reply) = self.desk.poll_reply()?;
        reply.position = self.partition.end;
        Some((ticket, reply))
    }

    /// The next thing to log, to alarm or to act on.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.partition.notices.pop_front()
    }

    /// Whether commands are admitted: the epoch record is stored and appends succeed.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.phase == Phase::Open && !self.is_in_trouble(now)
    }

    /// Whether appends have been failing for so long that commands are not taken in.
    #[must_use]
    pub fn is_in_trouble(&self, now: Timestamp) -> bool {
        self.trouble
            .since
            .is_some_and(|since| now.since_ms(since) >= TROUBLE_AFTER_MS)
    }

    /// Whether nothing waits for anything: the moment to hand over.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.is_none() && !self.resolving && self.desk.pending() == 0
    }

    /// Position of the last record that is folded.
    #[must_use]
    pub fn end(&self) -> StreamSeq {
        self.partition.end
    }

    /// What is held in memory.
    #[must_use]
    pub fn load(&self) -> Load {
        self.partition.held()
    }

    /// Commands that wait for their answer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.desk.pending()
    }

    /// The broker's clock, by which deadlines are judged: an owner's own may be seconds off, and would
    /// then find every request late.
    fn wall(&self, now: Timestamp) -> Timestamp {
        now.plus_ms(self.clock_offset_ms)
    }

    /// What was settled for good is remembered.
    fn remember_refusals(&mut self, now: Timestamp) {
        let until = self.wall(now).plus_ms(self.config.refusals_ms);
        while let Some((key, result)) = self.desk.poll_refused() {
            self.refusals.tell(key, result, until);
        }
    }

    fn next_envelope(&mut self) -> EnvelopeId {
        let counter = self.envelopes;
        self.envelopes += 1;
        EnvelopeId {
            instance: self.instance.clone(),
            epoch: self.epoch,
            counter,
        }
    }

    fn launch_epoch(&mut self) -> Publish {
        let id = self.next_envelope();
        self.flight = Some(Flight::epoch(id.clone()));
        Publish {
            payload: epoch_record(&id),
            id,
            expected: self.partition.end,
            events: 0,
            first: None,
        }
    }

    fn take_back(&mut self, changes: Vec<Change>) {
        self.partition.undo(changes);
    }
}

fn unavailable_refusal(msg: &str) -> Refusal {
    Refusal::new(ErrorCode::Unavailable, msg).after_ms(RETRY_AFTER_MS)
}
