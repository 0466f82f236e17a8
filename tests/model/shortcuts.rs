//! Nineteen plausible shortcuts, planted one by one: the checker must find what each of them breaks.
//!
//! A model that does not kill them proves nothing when it finds nothing.

use crate::check::{breaks, breaks_only_with, explore};
use crate::script::{Client, Does, OWNER};
use crate::setup::{Budget, Setup, Shortcut, Sight};
use crate::setups::{COLD, COPIES, FORGETFUL, PAST, RIVALS, UNBAN};

#[test]
fn without_the_compare_a_seq_is_given_twice() {
    breaks(
        RIVALS.with(Shortcut::NoCompare),
        &["a seq is never given twice"],
    );
}

#[test]
fn a_batch_sent_again_after_a_conflict_breaks_the_log() {
    let promises = ["a seq is never given twice", "the hash chain is whole"];
    breaks(RIVALS.with(Shortcut::RepublishAfterConflict), &promises);
}

#[test]
fn a_batch_sent_again_after_a_timeout_is_stored_twice() {
    let promises = ["a command is stored once", "a seq is never given twice"];
    breaks(RIVALS.with(Shortcut::RepublishAfterTimeout), &promises);
}

#[test]
fn a_failure_told_after_a_timeout_is_a_lie() {
    let promises = ["what is refused is never stored"];
    breaks(RIVALS.with(Shortcut::RefuseAfterTimeout), &promises);
}

#[test]
fn a_failure_told_after_a_conflict_is_a_lie() {
    let promises = ["what is refused is never stored"];
    breaks(COPIES.with(Shortcut::RefuseAfterConflict), &promises);
}

#[test]
fn a_copy_answered_while_the_original_is_in_flight_is_a_false_ack() {
    let promises = ["what is acknowledged is stored"];
    breaks(COPIES.with(Shortcut::AnswerCopyInFlight), &promises);
}

#[test]
fn an_ack_before_the_broker_has_stored_is_a_false_ack() {
    let promises = ["what is acknowledged is stored"];
    breaks(RIVALS.with(Shortcut::AckBeforeStored), &promises);
}

#[test]
fn a_takeover_that_forgets_cids_stores_twice() {
    let setup = Setup {
        budget: Budget {
            takeovers: 1,
            late_answers: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::ColdRoom, Sight::Repeat, Sight::TwoOwners],
        ..COLD
    };
    breaks_only_with(
        Shortcut::ForgetOnTakeover,
        setup,
        &["a command is stored once"],
    );
}

#[test]
fn a_window_of_one_command_stores_a_late_copy_twice() {
    let setup = Setup {
        clients: &[
            Client {
                user: "alice",
                room: 0,
                batches: &[&[Does::Says]],
            },
            Client {
                user: "bob",
                room: 0,
                batches: &[&[Does::Says]],
            },
        ],
        clock: &[PAST, 0],
        budget: Budget {
            ticks: 1,
            lost_replies: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::Repeat],
        ..FORGETFUL
    };
    breaks_only_with(Shortcut::TinyWindow, setup, &["a command is stored once"]);
}

/// What was stored at the present owner is asked about again, at the one before, which believes that
/// the author is banned.
const STALE: Setup = Setup {
    budget: Budget {
        takeovers: 1,
        lost_replies: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[Sight::TwoOwners, Sight::DeniedByRead, Sight::Overtaken],
    ..UNBAN
};

#[test]
fn a_refusal_from_memory_denies_what_is_stored() {
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::RefuseFromMemory, STALE, &promises);
}

#[test]
fn a_read_from_a_lagging_replica_proves_nothing() {
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::LaggingReads, STALE, &promises);
}

/// The thaw and what it allows are in one record, which arrives when both have been given up.
#[test]
fn a_read_proves_no_refusal_while_an_append_may_arrive() {
    let setup = Setup {
        clock: &[PAST, 0, 3_000],
        budget: Budget {
            timeouts: 1,
            ticks: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[
            Sight::DeniedByRead,
            Sight::DeniedByRecord,
            Sight::FloatStored,
        ],
        ..THAW
    };
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::ReadProvesWhileFloating, setup, &promises);
}

/// What the owner before refuses while the next one takes over is allowed once that has opened.
#[test]
fn requests_taken_in_before_the_epoch_record_belie_a_refusal() {
    let setup = Setup {
        budget: Budget {
            takeovers: 1,
            ..Budget::NONE
        },
        sights: &[Sight::TwoOwners, Sight::DeniedByRead, Sight::Conflict],
        ..THAW
    };
    let promises = ["what is refused is never stored"];
    // Without caution with old copies alone nothing breaks here.
    explore(setup.with(Shortcut::TrustAfterTakeover));
    breaks_only_with(Shortcut::ListenBeforeFence, setup, &promises);
}

#[test]
fn a_base_from_below_the_tail_breaks_the_log() {
    let promises = [
        "a seq is never given twice",
        "a command is stored once",
        "no owner finds the log damaged",
    ];
    breaks(COLD.with(Shortcut::OldBase), &promises);
}

/// A thaw, and a message that it allows; both may be in one record, behind bob's.
const THAW: Setup = Setup {
    clients: &[
        Client {
            user: "alice",
            room: 0,
            batches: &[&[Does::Says]],
        },
        Client {
            user: "bob",
            room: 0,
            batches: &[&[Does::Leaves]],
        },
        Client {
            user: OWNER,
            room: 0,
            batches: &[&[Does::Thaws]],
        },
    ],
    members: &["alice", "bob"],
    past: &[(OWNER, Does::Freezes)],
    ..RIVALS
};

/// The record with the thaw arrives after the next owner has refused.
#[test]
fn without_an_epoch_record_a_late_append_belies_a_refusal() {
    let setup = Setup {
        budget: Budget {
            takeovers: 1,
            crashes: 1,
            stops: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::FloatStored, Sight::Later],
        ..THAW
    };
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::NoEpochRecord, setup, &promises);
}

#[test]
fn a_batch_taken_apart_loses_its_order() {
    let setup = Setup {
        budget: Budget {
            failed_asks: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::ColdRoom, Sight::Later],
        ..COLD
    };
    breaks_only_with(Shortcut::SplitBatch, setup, &["a sender's order is kept"]);
}

#[test]
fn a_request_begun_behind_its_deadline_belies_a_refusal() {
    let promises = ["what is refused is never stored"];
    breaks(UNBAN.with(Shortcut::NoDeadline), &promises);
}

/// The first copy is still on its way when the second one is refused; then the ban is lifted.
#[test]
fn a_refusal_that_is_forgotten_is_belied_by_an_older_copy() {
    let setup = Setup {
        clock: &[PAST, 0],
        budget: Budget {
            late_requests: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::DeniedByRead, Sight::LateArrival],
        ..UNBAN
    };
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::ForgetRefusals, setup, &promises);
}

/// The same, and between the lifting and the older copy another process takes over.
#[test]
fn a_new_owner_that_trusts_old_copies_belies_a_refusal() {
    let setup = Setup {
        clock: &[PAST, 0],
        budget: Budget {
            takeovers: 1,
            late_requests: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::DeniedByRead, Sight::LateArrival, Sight::Later],
        ..UNBAN
    };
    let promises = ["what is refused is never stored"];
    breaks_only_with(Shortcut::TrustAfterTakeover, setup, &promises);
}
