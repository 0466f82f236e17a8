//! Building one envelope: judges waiting requests in order until it is full or nothing is left.

use super::desk::{Active, Ticket};
use super::judge::Judged;
use super::{Phase, Publish, Sequencer};
use crate::dedup::{Key, Original};
use crate::partition::Change;
use protocol::envelope::{EnvelopeBuilder, EnvelopeId};
use protocol::request::CommandResult;
use protocol::{ErrorCode, Refusal, RoomId, StreamSeq, Timestamp, UserId};
use std::collections::BTreeMap;

/// An envelope being built, with everything that must be taken back if it is not stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Build {
    pub(super) builder: EnvelopeBuilder,
    pub(super) changes: Vec<Change>,
    /// Its commands: a copy of one of them joins its wait.
    pub(super) commands: BTreeMap<Key, Original>,
    /// The first request with something in it.
    pub(super) first: Option<Ticket>,
    /// Whose rate was charged.
    pub(super) charged: Vec<(RoomId, UserId)>,
}

/// An envelope whose outcome is awaited.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) id: EnvelopeId,
    pub(super) build: Build,
}

impl Flight {
    pub(super) fn epoch(id: EnvelopeId) -> Self {
        Self {
            id,
            build: Build::default(),
        }
    }
}

impl Sequencer {
    /// Judges what waits; the envelope, if anything is to be stored.
    pub(super) fn build(&mut self, now: Timestamp) -> Option<Publish> {
        let mut build = Build::default();
        while let Some((ticket, mut active)) = self.desk.next() {
            let full = self.advance((ticket, &mut active), &mut build, now);
            if build.builder.event_count() > 0 {
                build.first.get_or_insert(ticket);
            }
            self.desk.put_back(ticket, active);
            if full {
                self.desk.wake(ticket);
                break;
            }
        }
        let events = build.builder.event_count();
        if events == 0 {
            return None;
        }
        let id = self.next_envelope();
        let payload = build.builder.finish(&id);
        let first = build.first;
        self.flight = Some(Flight {
            id: id.clone(),
            build,
        });
        Some(Publish {
            id,
            expected: self.partition.end,
            payload,
            events,
            first,
        })
    }

    /// Judges a request's commands as far as possible; whether the envelope is full.
    fn advance(
        &mut self,
        (ticket, active): (Ticket, &mut Active),
        build: &mut Build,
        now: Timestamp,
    ) -> bool {
        if self.wall(now) > active.request.body.deadline {
            active.fail_rest(&Refusal::plain(ErrorCode::Timeout));
        }
        if std::mem::take(&mut active.answers.failed) {
            active.fail_rest(&super::unavailable_refusal(
                "what this needs cannot be looked up just now",
            ));
        }
        while !active.is_judged() {
            match self.judge(active, build, now) {
                Judged::Final(CommandResult::Err(refusal)) if refusal.temp => {
                    active.fail_rest(&refusal);
                }
                Judged::Final(result) => active.push_final(result),
                Judged::Tentative(result) => active.push_tentative(result),
                Judged::Wait(wanted) => {
                    for wanted in wanted {
                        self.lookups.want(wanted, ticket);
                    }
                    return false;
                }
                Judged::Full => return true,
            }
        }
        false
    }

    /// What was in flight is stored: folds it for good and answers everything that waited for it.
    pub(super) fn commit(&mut self, now: Timestamp, position: StreamSeq, time: Timestamp) {
        let Some(Flight { id: _, build }) = self.flight.take() else {
            return;
        };
        assert!(
            position > self.partition.end,
            "a record was stored at {position}, at or before the last one known"
        );
        self.partition.stored(&build.changes, position);
        self.partition.dedup.insert(position, time, build.commands);
        self.last_record_at = now;
        self.trouble = super::Trouble::default();
        self.floating = false;
        if self.phase == Phase::Fencing {
            self.phase = Phase::Open;
            self.fenced_at = Some(self.wall(now));
            // What lies at or below W aged out before this moment.
            self.partition.dedup.time_is_at_most(time);
        }
        // The state that every tentative result came from was the present one.
        self.desk.settle_all();
        self.remember_refusals(now);
    }
}
