//! A clean run is clean, and each way of breaking one promise is caught as that.

use super::*;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn cid(number: u64) -> Cid {
    Cid::from_parts(1_000 + number, [1; 10])
}

fn event(seq: u64, by: &str, number: u64, rest: &str) -> Event {
    let cid = cid(number);
    let json =
        format!(r#"{{"room":"r1","seq":{seq},"ts":{seq},"by":"{by}","cid":"{cid}",{rest}}}"#);
    serde_json::from_str(&json).unwrap()
}

fn said(seq: u64, by: &str, number: u64, text: &str, reply_to: Option<u64>) -> Event {
    let reply = reply_to.map_or_else(String::new, |to| format!(r#","reply_to":{to}"#));
    event(
        seq,
        by,
        number,
        &format!(r#""ev":"msg","text":"{text}","n":{seq}{reply}"#),
    )
}

fn sent(by: &str, number: u64, expected: Expected) -> Sent {
    Sent {
        cid: cid(number),
        by: user(by),
        expected,
    }
}

fn words(text: &str, reply_to: Option<u64>) -> Expected {
    Expected::Said {
        text: text.to_owned(),
        reply_to: reply_to.map(Seq),
    }
}

/// The sender of this command is told nothing.
fn forget(evidence: &mut Evidence, number: u64) {
    evidence.acks.retain(|acked, _| *acked != cid(number));
}

/// A run of two senders, watched by two observers, without a fault.
fn clean() -> Evidence {
    let archive = vec![
        event(1, "keeper", 90, r#""ev":"room","kind":"public""#),
        event(
            2,
            "keeper",
            90,
            r#""ev":"member","user":"keeper","change":"joined","role":"owner""#,
        ),
        event(
            3,
            "ann",
            1,
            r#""ev":"member","user":"ann","change":"joined""#,
        ),
        said(4, "ann", 2, "hi", None),
        event(
            5,
            "bob",
            5,
            r#""ev":"member","user":"bob","change":"joined""#,
        ),
        said(6, "bob", 6, "hello", Some(4)),
        said(7, "ann", 3, "how", None),
        event(8, "ann", 4, r#""ev":"member","user":"ann","change":"left""#),
    ];
    let seen: Vec<_> = archive
        .iter()
        .map(|event| (event.seq, Fingerprint::of(event)))
        .collect();
    let acks = archive.iter().filter(|event| event.by.as_str() != "keeper");
    Evidence {
        sent: vec![
            sent("ann", 1, Expected::Joined),
            sent("ann", 2, words("hi", None)),
            sent("ann", 3, words("how", None)),
            sent("ann", 4, Expected::Left),
            sent("bob", 5, Expected::Joined),
            sent("bob", 6, words("hello", Some(4))),
        ],
        acks: acks
            .map(|event| (event.cid, Ack::Stored(event.seq)))
            .collect(),
        base: Seq(0),
        observers: vec![seen.clone(), seen],
        archive,
    }
}

/// What a run without a fault becomes when it is tampered with.
fn tampered(tamper: impl FnOnce(&mut Evidence)) -> Verdict {
    let mut evidence = clean();
    tamper(&mut evidence);
    let verdict = judge(&evidence);
    assert_eq!(verdict.is_clean(), verdict.notes.is_empty(), "{verdict:?}");
    verdict
}

#[test]
fn a_run_without_a_fault_is_clean() {
    let verdict = tampered(|_| {});
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(
        (verdict.sent, verdict.acked, verdict.stored, verdict.events),
        (6, 6, 6, 8)
    );
    assert_eq!(verdict.received, [8, 8]);
}

#[test]
fn a_message_that_was_acknowledged_and_is_gone_is_lost() {
    let verdict = tampered(|evidence| {
        evidence.archive.retain(|event| event.seq != Seq(7));
        for seen in &mut evidence.observers {
            seen.retain(|(seq, _)| *seq != Seq(7));
        }
    });
    assert_eq!((verdict.lost, verdict.gaps), (1, 1));
}

#[test]
fn a_message_without_an_answer_is_lost() {
    let verdict = tampered(|evidence| forget(evidence, 3));
    assert_eq!(verdict.lost, 1);
}

#[test]
fn a_command_that_is_stored_twice_is_duplicated() {
    let verdict = tampered(|evidence| {
        let copy = said(9, "ann", 3, "how", None);
        for seen in &mut evidence.observers {
            seen.push((copy.seq, Fingerprint::of(&copy)));
        }
        evidence.archive.push(copy);
    });
    assert_eq!(verdict.duplicated, 1);
}

#[test]
fn a_seq_that_is_used_twice_is_duplicated() {
    let verdict = tampered(|evidence| {
        let copy = evidence.archive[4].clone();
        evidence.archive.insert(5, copy);
    });
    assert_eq!(verdict.duplicated, 2, "the seq and the command");
}

#[test]
fn an_event_that_an_observer_gets_twice_is_duplicated() {
    let verdict = tampered(|evidence| {
        let again = evidence.observers[1][3];
        evidence.observers[1].push(again);
    });
    assert_eq!(verdict.duplicated, 1);
}

#[test]
fn one_senders_messages_in_another_order_are_out_of_order() {
    let verdict = tampered(|evidence| evidence.sent.swap(1, 2));
    assert_eq!((verdict.out_of_order, verdict.differences), (1, 0));
}

#[test]
fn two_events_that_an_observer_gets_in_another_order_are_out_of_order() {
    let verdict = tampered(|evidence| evidence.observers[0].swap(4, 5));
    assert_eq!((verdict.out_of_order, verdict.gaps), (1, 0));
}

#[test]
fn a_range_that_never_reaches_an_observer_is_one_gap() {
    let verdict =
        tampered(|evidence| evidence.observers[0].retain(|(seq, _)| !(5..=6).contains(&seq.0)));
    assert_eq!((verdict.gaps, verdict.lost), (1, 0));
    let tail = tampered(|evidence| evidence.observers[0].truncate(7));
    assert_eq!(tail.gaps, 1, "the end counts too");
}

#[test]
fn an_observer_that_gets_nothing_has_a_gap() {
    let verdict = tampered(|evidence| evidence.observers[1].clear());
    assert_eq!(verdict.gaps, 1);
}

#[test]
fn a_hole_in_the_archive_is_a_gap() {
    let verdict = tampered(|evidence| drop(evidence.archive.remove(1)));
    assert_eq!(verdict.gaps, 1);
    assert!(
        verdict.differences > 0,
        "observers have what the archive has not"
    );
}

#[test]
fn another_text_or_another_target_is_a_difference() {
    for event in [
        said(6, "bob", 6, "hullo", Some(4)),
        said(6, "bob", 6, "hello", Some(3)),
    ] {
        let verdict = tampered(|evidence| {
            for seen in &mut evidence.observers {
                seen[5].1 = Fingerprint::of(&event);
            }
            evidence.archive[5] = event;
        });
        assert_eq!(verdict.differences, 1, "{verdict:?}");
    }
}

#[test]
fn an_observer_who_sees_something_else_than_the_archive_is_a_difference() {
    let verdict = tampered(|evidence| {
        evidence.observers[0][3].1 = Fingerprint::of(&said(4, "ann", 2, "ho", None));
    });
    assert_eq!(verdict.differences, 1);
    let ts = tampered(|evidence| {
        let mut event = evidence.archive[3].clone();
        event.ts = event.ts.plus_ms(1);
        evidence.observers[0][3].1 = Fingerprint::of(&event);
    });
    assert_eq!(ts.differences, 1, "every field counts");
}

#[test]
fn an_acknowledgement_that_names_another_seq_is_a_difference() {
    let verdict = tampered(|evidence| evidence.acks.extend([(cid(3), Ack::Stored(Seq(4)))]));
    assert_eq!(verdict.differences, 1);
}

#[test]
fn a_message_that_nobody_sent_is_a_difference() {
    let verdict = tampered(|evidence| {
        let event = said(9, "eve", 77, "psst", None);
        for seen in &mut evidence.observers {
            seen.push((event.seq, Fingerprint::of(&event)));
        }
        evidence.archive.push(event);
    });
    assert_eq!(verdict.differences, 1);
}

#[test]
fn a_message_under_another_name_is_lost_and_a_difference() {
    let verdict = tampered(|evidence| {
        let event = said(7, "eve", 3, "how", None);
        for seen in &mut evidence.observers {
            seen[6].1 = Fingerprint::of(&event);
        }
        evidence.archive[6] = event;
    });
    assert_eq!((verdict.lost, verdict.differences), (1, 1));
}

#[test]
fn a_join_that_changed_nothing_needs_no_event() {
    let verdict = tampered(|evidence| {
        evidence.sent.insert(0, sent("ann", 50, Expected::Joined));
        evidence.acks.insert(cid(50), Ack::Noop);
    });
    assert!(verdict.is_clean(), "{verdict:?}");
    let message = tampered(|evidence| {
        evidence.sent.push(sent("ann", 50, words("x", None)));
        evidence.acks.insert(cid(50), Ack::Noop);
    });
    assert_eq!(message.lost, 1, "a message always changes something");
}

#[test]
fn what_was_in_the_room_before_does_not_count() {
    let verdict = tampered(|evidence| {
        evidence.base = Seq(2);
        evidence.archive.drain(..2);
    });
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn verdicts_of_rooms_add_up() {
    let mut sum = judge(&clean());
    sum.add(tampered(|evidence| forget(evidence, 3)));
    assert_eq!((sum.sent, sum.lost, sum.received), (12, 1, vec![16, 16]));
}
