//! What a read of the leader's tail tells: the truth about an unknown outcome, or a proof.

use super::{Phase, RETRY_MS_MAX, ReadId, Sequencer, unavailable_refusal};
use crate::partition::{Notice, Record};
use protocol::{InstanceId, Timestamp};

impl Sequencer {
    /// The read that was polled last has ended: all records behind its `after`, or `None` if it failed.
    pub fn handle_tail(&mut self, now: Timestamp, id: ReadId, tail: Option<Vec<Record>>) {
        let Some(read) = self.read.take_if(|read| read.id == id) else {
            return;
        };
        let Some(tail) = tail else {
            if self.resolving {
                self.trouble.since.get_or_insert(now);
            }
            self.back_off(now);
            return;
        };
        let news: Vec<Record> = tail
            .into_iter()
            .filter(|record| record.position > self.partition.end)
            .collect();
        if self.resolving {
            self.resolve(now, &news);
        } else if news.is_empty() {
            // Nobody had written behind us when the read began, and nothing of ours was in flight:
            // what was judged until then was judged on the present state.
            self.desk.settle(read.covers);
            self.remember_refusals(now);
        } else if self.flight.is_none() {
            self.fold_news(&news);
        }
        // Else the outcome of what is in flight tells more.
    }

    pub(super) fn begin_resolving(&mut self) {
        self.resolving = true;
        self.read = None;
    }

    /// Learns from the log alone whether the envelope in flight is stored, then judges everything again.
    fn resolve(&mut self, now: Timestamp, news: &[Record]) {
        self.resolving = false;
        let mut rest = news;
        if let Some(flight) = &self.flight {
            let own = news.first().filter(|record| {
                let name = protocol::envelope::Envelope::parse(&record.payload);
                name.is_ok_and(|envelope| envelope.id == flight.id)
            });
            if let Some(record) = own {
                self.commit(now, record.position, record.time);
                rest = news.get(1..).unwrap_or_default();
            } else {
                self.abandon(now, news.is_empty());
            }
        }
        self.fold_news(rest);
    }

    /// What was in flight is not stored, as far as the leader knew.
    fn abandon(&mut self, now: Timestamp, may_float: bool) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        self.take_back(flight.build.changes);
        if let Some(rate) = self.config.rate {
            for (room, user) in flight.build.charged {
                if let Some(bucket) = self
                    .partition
                    .warm_mut(&room)
                    .and_then(|room| room.buckets.get_mut(&user))
                {
                    bucket.give_back(rate);
                }
            }
        }
        // It may still be on its way, and would be stored if nothing else is first.
        self.floating |= may_float;
        if may_float {
            self.trouble.since.get_or_insert(now);
            self.back_off(now);
        }
    }

    /// Folds what lies behind our end; nothing that was judged before stands.
    fn fold_news(&mut self, news: &[Record]) {
        if !news.is_empty() {
            // Something is stored behind the old end: nothing that expects that end can follow.
            self.floating = false;
        }
        let mut overtaken = None;
        for record in news {
            let Some(id) = self.partition.fold(record) else {
                continue;
            };
            let own = id.instance == self.instance && id.epoch == self.epoch;
            if !own && self.phase == Phase::Open {
                overtaken.get_or_insert(id.instance);
            }
        }
        self.desk.take_back_all();
        self.refusals.take_back();
        if let Some(by) = overtaken {
            self.give_way(by);
        }
    }

    /// Another owner is at work: from here on nothing is appended.
    ///
    /// An append behind the other's records would pass the compare-and-set if it came in time. But the
    /// other proves its refusals by reads of the leader, and what it has just refused could then still
    /// be stored by such an append that is late.
    fn give_way(&mut self, by: InstanceId) {
        self.phase = Phase::Stopped;
        let refusal = unavailable_refusal("the partition has another owner").after_ms(100);
        self.desk.fail_all(&refusal);
        self.partition.notices.push_back(Notice::Overtaken(by));
    }

    fn back_off(&mut self, now: Timestamp) {
        let wait_ms = 25_i64
            .saturating_mul(1 << self.trouble.failures.min(10))
            .min(RETRY_MS_MAX);
        self.trouble.failures = self.trouble.failures.saturating_add(1);
        self.trouble.retry_at = now.plus_ms(wait_ms);
    }
}
