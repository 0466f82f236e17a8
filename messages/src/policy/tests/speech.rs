//! Tables of messages, edits, deletions and read marks.

use super::{ALICE_OWNS, OWN, SEND, World, check, public};
use crate::policy::{Need, Verdict};
use protocol::event::{EventBody, MemberChange, SeqRange};
use protocol::{Seq, Timestamp};

const HI: &str = r#"{"ev":"msg","text":"hi","n":1}"#;

#[test]
fn replies_and_threads_need_their_message() {
    let mut world = public();
    world.happens("alice", HI); // 5
    world.happens("bob", r#"{"ev":"msg","text":"re","thread":5,"tn":1}"#); // 6
    check(
        &world,
        &[
            ("bob", r#"{"op":"send","text":"a","reply_to":5}"#, "msg"),
            (
                "bob",
                r#"{"op":"send","text":"a","reply_to":4}"#,
                "not_found",
            ),
            (
                "bob",
                r#"{"op":"send","text":"a","reply_to":99}"#,
                "not_found",
            ),
            (
                "bob",
                r#"{"op":"send","text":"a","thread":6}"#,
                "bad_request",
            ),
            ("bob", r#"{"op":"send","text":"a","if_head":6}"#, "msg"),
            ("bob", r#"{"op":"send","text":"a","if_head":5}"#, "conflict"),
        ],
    );
    let numbers = |command| {
        let Verdict::Events(events) = world.judge("bob", command) else {
            panic!("must be stored")
        };
        let Some(EventBody::Msg(message)) = events.into_iter().next() else {
            panic!("must be a message")
        };
        (message.n, message.tn)
    };
    assert_eq!(
        numbers(r#"{"op":"send","text":"a","thread":5}"#),
        (None, Some(2))
    );
    assert_eq!(numbers(SEND), (Some(2), None));
    let mut cold = public();
    cold.happens("alice", HI);
    cold.messages.clear();
    cold.unknown_messages = true;
    assert_eq!(
        cold.judge("bob", r#"{"op":"send","text":"a","reply_to":5}"#),
        Verdict::Need(vec![Need::Message(Seq(5))])
    );
}

#[test]
fn edits_are_for_authors_and_deleted_wins() {
    let mut world = public();
    world.happens("bob", HI); // 5
    let edit = r#"{"op":"edit","on":5,"base":1,"text":"b"}"#;
    check(
        &world,
        &[
            ("bob", edit, "edit"),
            ("alice", edit, "forbidden"),
            (
                "bob",
                r#"{"op":"edit","on":5,"base":2,"text":"b"}"#,
                "bad_request",
            ),
            (
                "bob",
                r#"{"op":"edit","on":4,"base":1,"text":"b"}"#,
                "not_found",
            ),
        ],
    );
    world.happens(
        "bob",
        r#"{"ev":"edit","on":5,"rev":2,"text":"x","won":true,"eff":950000}"#,
    );
    // The cid's time is 900,000: before the shown revision took effect.
    let Verdict::Events(events) = world.judge("bob", edit) else {
        panic!("a loser stays as a revision")
    };
    assert!(matches!(
        events.as_slice(),
        [EventBody::Edit {
            rev: 3,
            won: false,
            eff: Timestamp(900_000),
            ..
        }]
    ));
    let Verdict::Events(events) = world.judge("bob", r#"{"op":"edit","on":5,"base":2,"text":"c"}"#)
    else {
        panic!("an edit of what is shown wins")
    };
    assert!(matches!(
        events.as_slice(),
        [EventBody::Edit {
            rev: 3,
            won: true,
            eff: Timestamp(950_001),
            ..
        }]
    ));
    world.happens("bob", r#"{"ev":"del","on":[[5,5]]}"#);
    check(&world, &[("bob", edit, "target_gone")]);
}

#[test]
fn deletions_are_logged_only_if_they_remove_something() {
    let mut world = public();
    world.happens("bob", HI); // 5
    world.happens("alice", HI); // 6
    check(
        &world,
        &[
            ("bob", r#"{"op":"del","on":5}"#, "del"),
            ("bob", r#"{"op":"del","on":[[5,5]]}"#, "del"),
            ("bob", r#"{"op":"del","on":6}"#, "forbidden"),
            ("bob", r#"{"op":"del","on":[[5,6]]}"#, "forbidden"),
            ("bob", r#"{"op":"del","user":"bob","to":6}"#, "forbidden"),
            ("mia", r#"{"op":"del","on":6}"#, "del"),
            ("mia", r#"{"op":"del","on":4}"#, "not_found"),
            ("mia", r#"{"op":"del","on":[[1,4]]}"#, "noop"),
            ("mia", r#"{"op":"del","on":[[1,99]]}"#, "del"),
            ("mia", r#"{"op":"del","user":"bob","to":99}"#, "del"),
            ("mia", r#"{"op":"del","user":"mia","to":99}"#, "noop"),
        ],
    );
    let Verdict::Events(events) = world.judge("mia", r#"{"op":"del","on":[[1,99]]}"#) else {
        panic!("must be stored")
    };
    assert!(matches!(
        events.as_slice(),
        [EventBody::Del { on, .. }] if *on == [SeqRange(Seq(1), Seq(6))]
    ));
    world.happens("mia", r#"{"ev":"del","user":"bob","to":6}"#);
    check(
        &world,
        &[
            ("bob", r#"{"op":"del","on":5}"#, "noop"),
            ("mia", r#"{"op":"del","user":"bob","to":99}"#, "noop"),
        ],
    );
    world.messages.clear();
    world.unknown_messages = true;
    check(&world, &[("mia", r#"{"op":"del","on":[[5,6]]}"#, "need")]);
}

#[test]
fn a_read_mark_only_rises_unless_a_new_epoch_begins() {
    let mut world = World::told(&[OWN, ALICE_OWNS]);
    let read = |seq| format!(r#"{{"op":"read","target":"r9","seq":{seq},"read_n":4}}"#);
    check(
        &world,
        &[("alice", &read(7), "read"), ("bob", &read(7), "not_found")],
    );
    world.happens("alice", r#"{"ev":"read","target":"r9","mark":7}"#);
    check(
        &world,
        &[
            ("alice", &read(7), "noop"),
            ("alice", &read(6), "noop"),
            ("alice", &read(8), "read"),
            ("alice", SEND, "forbidden"),
        ],
    );
    let Verdict::Events(events) = world.judge(
        "alice",
        r#"{"op":"read","target":"r9","seq":3,"back":true}"#,
    ) else {
        panic!("marking unread must be stored")
    };
    assert!(matches!(
        events.as_slice(),
        [EventBody::Read {
            mark: Seq(2),
            epoch: 1,
            back: true,
            ..
        }]
    ));
    world.happens(
        "alice",
        r#"{"ev":"read","target":"r9","mark":2,"epoch":1,"back":true}"#,
    );
    check(
        &world,
        &[("alice", &read(3), "read"), ("alice", &read(2), "noop")],
    );
}

#[test]
fn every_beginning_membership_is_one() {
    let joined = public().judge("eve", r#"{"op":"join"}"#);
    let Verdict::Events(events) = joined else {
        panic!("{joined:?}")
    };
    let [EventBody::Member { change, role, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert!(change.begins_membership() && *change == MemberChange::Joined);
    assert_eq!(*role, None);
}
