//! Whether the log that the broker has is the one that the cursor is in: pure.
//!
//! Applying a log that is another one, or that has lost records, would mix two histories or leave a
//! hole, so it is refused and a person must act (design section 2).

use crate::store::cursor::Cursor;
use chassis::topology::LogInfo;
use protocol::{LogId, StreamSeq};

/// What to do with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// There is no cursor yet: make one for this log.
    Begin(LogId),
    /// Go on from the cursor.
    Follow(Cursor),
    /// Stop.
    Misfit(Misfit),
}

/// Why a log cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misfit {
    /// The log's id is none.
    #[error("the log's id {0:?} is malformed")]
    Id(String),
    /// There is no log any more.
    #[error(
        "the broker has no log, but log {expected} was being applied; the broker's store was lost: restore it, or run natter reseed"
    )]
    Missing {
        /// The log of the cursor.
        expected: LogId,
    },
    /// Another log took its place.
    #[error(
        "the broker has log {found}, but log {expected} was being applied; restore the broker's store, or run natter reseed"
    )]
    Other {
        /// The log of the cursor.
        expected: LogId,
        /// The log of the broker.
        found: LogId,
    },
    /// The log ends before the cursor.
    #[error(
        "the log ends at {last}, before the cursor {applied}; the broker's store was lost or rolled back: restore it, or run natter reseed"
    )]
    EndsBefore {
        /// The cursor.
        applied: StreamSeq,
        /// The last record of the log.
        last: StreamSeq,
    },
    /// Records aged out before they were applied.
    #[error(
        "records {from} to {to} have left the log before they were applied; restore the archive from a backup that holds them"
    )]
    Lost {
        /// The first lost record.
        from: StreamSeq,
        /// The last lost record.
        to: StreamSeq,
    },
}

/// Compares the cursor with the log; with neither there is nothing to compare.
pub(super) fn fit(cursor: Option<&Cursor>, log: Option<&LogInfo>) -> Fit {
    let log = match (cursor, log) {
        (_, Some(log)) => log,
        (Some(cursor), None) => {
            let expected = cursor.log.clone();
            return Fit::Misfit(Misfit::Missing { expected });
        }
        (None, None) => return Fit::Misfit(Misfit::Id(String::new())),
    };
    let Ok(found) = LogId::parse(&log.log_id) else {
        return Fit::Misfit(Misfit::Id(log.log_id.clone()));
    };
    let Some(cursor) = cursor else {
        return Fit::Begin(found);
    };
    if cursor.log != found {
        return Fit::Misfit(Misfit::Other {
            expected: cursor.log.clone(),
            found,
        });
    }
    let (first, last) = (StreamSeq(log.first_seq), StreamSeq(log.last_seq));
    if last < cursor.applied {
        return Fit::Misfit(Misfit::EndsBefore {
            applied: cursor.applied,
            last,
        });
    }
    if first > cursor.applied.next() {
        let lost = Misfit::Lost {
            from: cursor.applied.next(),
            to: first.before(),
        };
        return Fit::Misfit(lost);
    }
    Fit::Follow(cursor.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Timestamp;
    use std::time::Duration;

    fn log(id: &str, first_seq: u64, last_seq: u64) -> LogInfo {
        LogInfo {
            log_id: id.to_owned(),
            first_seq,
            last_seq,
            max_age: Duration::from_secs(60),
        }
    }

    fn cursor(applied: u64) -> Cursor {
        Cursor {
            log: LogId::parse("k7").unwrap(),
            applied: StreamSeq(applied),
            time: Timestamp(0),
        }
    }

    #[test]
    fn a_log_is_followed_only_where_nothing_is_missing() {
        let table = [
            (5, log("k7", 1, 9), true),
            (5, log("k7", 6, 9), true),
            // Everything has aged out, and everything was applied.
            (5, log("k7", 6, 5), true),
            (0, log("k7", 1, 0), true),
            (5, log("k7", 7, 9), false),
            (5, log("k7", 1, 4), false),
            (5, log("k8", 1, 9), false),
            (0, log("k7", 3, 9), false),
        ];
        for (applied, log, follows) in table {
            let fit = fit(Some(&cursor(applied)), Some(&log));
            assert_eq!(
                matches!(fit, Fit::Follow(_)),
                follows,
                "{applied} {log:?} {fit:?}"
            );
        }
    }

    #[test]
    fn lost_records_are_named() {
        let fit = fit(Some(&cursor(5)), Some(&log("k7", 9, 20)));
        assert_eq!(
            fit,
            Fit::Misfit(Misfit::Lost {
                from: StreamSeq(6),
                to: StreamSeq(8)
            })
        );
    }

    #[test]
    fn a_log_that_is_gone_is_named() {
        let expected = LogId::parse("k7").unwrap();
        let misfit = Fit::Misfit(Misfit::Missing { expected });
        assert_eq!(fit(Some(&cursor(5)), None), misfit);
    }

    #[test]
    fn an_archive_without_a_cursor_begins_with_the_log_that_is_there() {
        assert_eq!(
            fit(None, Some(&log("k7", 1, 9))),
            Fit::Begin(LogId::parse("k7").unwrap())
        );
    }
}
