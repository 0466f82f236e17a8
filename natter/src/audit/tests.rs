//! A clean run is clean, and each way of breaking one promise is caught as that.

use super::*;
use protocol::event::{Event, EventBody, MemberChange, SeqRange};

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

fn member(seq: u64, by: &str, number: u64, (user, change): (&str, &str)) -> Event {
    let rest = format!(r#""ev":"member","user":"{user}","change":"{change}""#);
    event(seq, by, number, &rest)
}

fn said(seq: u64, by: &str, number: u64, text: &str) -> Event {
    let rest = format!(r#""ev":"msg","text":"{text}","n":{seq}"#);
    event(seq, by, number, &rest)
}

fn command(by: &str, number: u64, content: Content, answer: Answer) -> Command {
    Command {
        cid: cid(number),
        by: user(by),
        content,
        answer,
    }
}

/// Eve is a member from 6 to 9, and watches as `wit` and `view` do, who are members for ever.
fn log() -> Vec<Event> {
    vec![
        event(1, "keeper", 90, r#""ev":"room","kind":"private""#),
        member(2, "keeper", 90, ("keeper", "joined")),
        member(3, "keeper", 90, ("wit", "added")),
        member(4, "keeper", 90, ("view", "added")),
        member(5, "keeper", 90, ("ann", "added")),
        member(6, "keeper", 91, ("eve", "added")),
        said(7, "ann", 1, "hi"),
        said(8, "eve", 2, "hello"),
        member(9, "keeper", 92, ("eve", "kicked")),
        said(10, "ann", 3, "bye"),
        event(
            11,
            "ann",
            4,
            r#""ev":"edit","on":7,"rev":2,"text":"hi!","won":true,"eff":11"#,
        ),
        event(12, "ann", 5, r#""ev":"del","on":[[7,7]]"#),
        said(13, "ann", 6, "again"),
    ]
}

fn steps(at: u64, events: &[Event]) -> Vec<Step> {
    let given = events.iter().filter(|event| event.seq > Seq(at));
    let given = given.map(|event| Step::Event(Seen::of(event)));
    std::iter::once(Step::Entered { at: Seq(at) })
        .chain(given)
        .collect()
}

fn watch(name: &str, steps: Vec<Step>) -> Watch {
    Watch {
        name: name.to_owned(),
        user: user(name),
        steps,
    }
}

/// What readers are given of a removed message and its edits.
fn blanked(event: &Event) -> Event {
    let mut event = event.clone();
    match &mut event.body {
        EventBody::Msg(message) => message.text.clear(),
        EventBody::Edit { text, .. } => text.clear(),
        _ => {}
    }
    event
}

fn archived(log: &[Event]) -> Vec<Archived> {
    let removed = |event: &Event| matches!(event.seq, Seq(7 | 11));
    log.iter()
        .map(|event| match removed(event) {
            true => Archived::of(&blanked(event)),
            false => Archived::of(event),
        })
        .collect()
}

/// A run without a fault.
fn clean() -> Evidence {
    let log = log();
    let mut eve = steps(6, &log[..9]);
    eve.extend([Step::Gone, Step::Probed { first: None }]);
    let stored = |seq| Answer::Stored(Seq(seq));
    Evidence {
        room: "r1".to_owned(),
        private: true,
        history: HistoryScope::Joined,
        commands: vec![
            command("ann", 1, Content::said("hi", None), stored(7)),
            command("eve", 2, Content::said("hello", None), stored(8)),
            command("ann", 3, Content::said("bye", None), stored(10)),
            command("ann", 4, Content::edited(Seq(7), "hi!"), stored(11)),
            command(
                "ann",
                5,
                Content::removed(&[SeqRange(Seq(7), Seq(7))]),
                stored(12),
            ),
            command("ann", 6, Content::said("again", None), stored(13)),
            command("eve", 7, Content::said("late", None), Answer::Refused),
            command(
                "keeper",
                92,
                Content::member(&user("eve"), MemberChange::Kicked),
                stored(9),
            ),
        ],
        repeats: vec![(0, stored(7))],
        base: Seq(0),
        archive: archived(&log),
        watches: vec![
            watch("wit", steps(4, &log)),
            watch("view", steps(5, &log)),
            watch("eve", eve),
        ],
        counted: vec![
            Counted {
                user: user("ann"),
                marked: Seq(7),
                read: Seq(7),
                unread: 1,
            },
            Counted {
                user: user("wit"),
                marked: Seq(0),
                read: Seq(0),
                unread: 3,
            },
        ],
        log: Some(log.iter().map(Seen::of).collect()),
        heads: vec![(Seq(13), Hash([1; 32])), (Seq(13), Hash([1; 32]))],
    }
}

/// Tampers, and checks that exactly this is found.
#[track_caller]
fn check(tamper: impl FnOnce(&mut Evidence), expected: &[(Fault, u64)]) {
    let mut evidence = clean();
    tamper(&mut evidence);
    let verdict = judge(&evidence);
    let found: Vec<_> = Fault::ALL
        .into_iter()
        .map(|fault| (fault, verdict.counters.get(fault)))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(found, expected, "{:#?}", verdict.notes);
    assert_eq!(verdict.is_clean(), expected.is_empty());
    assert_eq!(verdict.notes.is_empty(), expected.is_empty());
}

/// Takes the event at this seq out of the archive and the log.
fn forget(evidence: &mut Evidence, seq: u64) {
    evidence.archive.retain(|event| event.seq != Seq(seq));
    evidence.log = None;
    evidence.heads.clear();
}

/// The place of the event at this seq among the steps of a watch.
fn place(evidence: &Evidence, watch: usize, seq: u64) -> usize {
    let is_it = |step: &Step| matches!(step, Step::Event(seen) if seen.seq() == Seq(seq));
    evidence.watches[watch]
        .steps
        .iter()
        .position(is_it)
        .unwrap()
}

/// Other words at this seq.
fn other(seq: u64) -> Seen {
    Seen::of(&said(seq, "ann", 3, "not what was said"))
}

#[test]
fn a_clean_run_is_clean() {
    check(|_| {}, &[]);
    let verdict = judge(&clean());
    assert_eq!((verdict.sent, verdict.acked, verdict.stored), (8, 7, 7));
    assert_eq!((verdict.events, verdict.received), (13, 9 + 8 + 3));
}

#[test]
fn an_acknowledged_message_that_is_not_archived_is_lost() {
    // The last one, so that nothing shows a hole; then nobody may have seen it either.
    let tamper = |evidence: &mut Evidence| {
        forget(evidence, 13);
        evidence.watches.clear();
        evidence.counted.clear();
    };
    check(tamper, &[(Fault::Lost, 1)]);
}

#[test]
fn an_acknowledged_message_that_never_came_is_lost_and_a_gap() {
    let last = |evidence: &mut Evidence| {
        let place = place(evidence, 0, 13);
        evidence.watches[0].steps.remove(place);
    };
    check(last, &[(Fault::Lost, 1), (Fault::Gaps, 1)]);
    let middle = |evidence: &mut Evidence| {
        let place = place(evidence, 1, 10);
        evidence.watches[1].steps.remove(place);
    };
    check(middle, &[(Fault::Lost, 1), (Fault::Gaps, 1)]);
    let nothing = |evidence: &mut Evidence| evidence.watches[0].steps.clear();
    check(nothing, &[(Fault::Lost, 1)]);
}

#[test]
fn the_event_that_ends_a_membership_is_owed_too() {
    let tamper = |evidence: &mut Evidence| {
        let place = place(evidence, 2, 9);
        evidence.watches[2].steps.remove(place);
    };
    check(tamper, &[(Fault::Lost, 1), (Fault::Gaps, 1)]);
}

#[test]
fn a_hole_in_the_archive_is_a_gap() {
    // Nobody sent it, so only the numbers tell.
    let tamper = |evidence: &mut Evidence| {
        forget(evidence, 4);
        evidence.watches.remove(1);
    };
    check(tamper, &[(Fault::Gaps, 1)]);
}

#[test]
fn what_is_stored_twice_is_duplicated() {
    let command = |evidence: &mut Evidence| {
        let again = said(14, "ann", 6, "again");
        evidence.archive.push(Archived::of(&again));
        evidence.log = None;
        evidence.heads.clear();
        for watch in &mut evidence.watches[..2] {
            watch.steps.push(Step::Event(Seen::of(&again)));
        }
        evidence.counted.clear();
    };
    check(command, &[(Fault::Duplicated, 1)]);
    let row = |evidence: &mut Evidence| {
        let row = evidence.archive[12].clone();
        evidence.archive.push(row);
        evidence.log = None;
        evidence.heads.clear();
    };
    // The same row is the same command too.
    check(row, &[(Fault::Duplicated, 2)]);
}

#[test]
fn what_comes_twice_on_one_socket_is_duplicated_and_after_a_resume_only_below_the_cursor() {
    let twice = |evidence: &mut Evidence| {
        let place = place(evidence, 0, 10);
        let step = evidence.watches[0].steps[place];
        evidence.watches[0].steps.insert(place + 1, step);
    };
    check(twice, &[(Fault::Duplicated, 1)]);
    let resumed = |after, again: &'static [u64]| {
        move |evidence: &mut Evidence| {
            let mut place = place(evidence, 0, 10) + 1;
            let steps = &mut evidence.watches[0].steps;
            steps.insert(place, Step::Resumed { after: Seq(after) });
            let log = log();
            for seq in again {
                place += 1;
                let event = log.iter().find(|event| event.seq == Seq(*seq)).unwrap();
                steps.insert(place, Step::Event(Seen::of(event)));
            }
        }
    };
    check(resumed(8, &[9, 10]), &[]);
    check(resumed(8, &[8, 9, 10]), &[(Fault::Duplicated, 1)]);
    check(resumed(8, &[10]), &[(Fault::Gaps, 1)]);
    check(resumed(10, &[]), &[]);
}

#[test]
fn one_command_with_two_seqs_is_found() {
    let answer = |evidence: &mut Evidence| evidence.commands[0].answer = Answer::Stored(Seq(6));
    // The answer to the copy differs from it too.
    check(answer, &[(Fault::TwoSeqs, 2)]);
    let repeat = |evidence: &mut Evidence| evidence.repeats[0].1 = Answer::Stored(Seq(10));
    check(repeat, &[(Fault::TwoSeqs, 1)]);
    let refused = |evidence: &mut Evidence| evidence.repeats[0].1 = Answer::Refused;
    check(refused, &[(Fault::TwoSeqs, 1)]);
}

#[test]
fn observers_who_were_shown_different_things_disagree() {
    let tamper = |evidence: &mut Evidence| {
        let place = place(evidence, 0, 10);
        evidence.watches[0].steps[place] = Step::Event(other(10));
    };
    check(tamper, &[(Fault::Disagree, 1), (Fault::ArchiveDiffers, 1)]);
    let read = |evidence: &mut Evidence| {
        let place = place(evidence, 0, 10);
        let steps = &mut evidence.watches[0].steps;
        let skipped = Step::Skipped {
            from: Seq(10),
            to: Seq(10),
        };
        steps[place] = skipped;
        steps.push(Step::Read(other(10)));
    };
    check(read, &[(Fault::Disagree, 1), (Fault::ArchiveDiffers, 1)]);
}

#[test]
fn only_what_was_removed_may_lose_its_content() {
    let blank = |seq: usize| {
        move |evidence: &mut Evidence| {
            let event = blanked(&log()[seq - 1]);
            evidence.archive[seq - 1] = Archived::of(&event);
        }
    };
    // The message and its edit were removed; the row is as the log has it, or blank.
    check(blank(7), &[]);
    check(blank(11), &[]);
    let whole = |evidence: &mut Evidence| evidence.archive[6] = Archived::of(&log()[6]);
    check(whole, &[]);
    // Against what was sent, what was shown, and the log.
    check(blank(10), &[(Fault::ArchiveDiffers, 3)]);
}

#[test]
fn what_comes_in_another_order_is_disorder() {
    let delivered = |evidence: &mut Evidence| {
        let place = place(evidence, 0, 12);
        evidence.watches[0].steps.swap(place, place + 1);
    };
    check(delivered, &[(Fault::Gaps, 1), (Fault::Disorder, 1)]);
    let stored = |evidence: &mut Evidence| evidence.commands.swap(2, 5);
    check(stored, &[(Fault::Disorder, 3)]);
}

#[test]
fn what_was_refused_must_not_be_stored() {
    let tamper = |evidence: &mut Evidence| {
        evidence.commands[2].answer = Answer::Refused;
    };
    check(tamper, &[(Fault::RefusedButStored, 1)]);
}

#[test]
fn nothing_is_written_outside_of_a_membership() {
    let tamper = |evidence: &mut Evidence| {
        let late = said(14, "eve", 7, "late");
        evidence.archive.push(Archived::of(&late));
        evidence.log = None;
        evidence.heads.clear();
        evidence.commands[6].answer = Answer::Stored(Seq(14));
        for watch in &mut evidence.watches[..2] {
            watch.steps.push(Step::Event(Seen::of(&late)));
        }
        evidence.counted.clear();
    };
    check(tamper, &[(Fault::BehindFence, 1)]);
}

#[test]
fn nothing_is_seen_outside_of_a_membership() {
    let leak = |evidence: &mut Evidence| {
        evidence.watches[2]
            .steps
            .push(Step::Event(Seen::of(&log()[9])));
    };
    check(leak, &[(Fault::BehindFence, 1)]);
    // Even if the server has not said that the room is gone.
    let without_gone = |evidence: &mut Evidence| {
        let steps = &mut evidence.watches[2].steps;
        steps.truncate(steps.len() - 2);
        steps.push(Step::Event(Seen::of(&log()[9])));
    };
    check(without_gone, &[(Fault::BehindFence, 1)]);
}

#[test]
fn nothing_is_read_outside_of_a_membership() {
    let ended = |evidence: &mut Evidence| {
        *evidence.watches[2].steps.last_mut().unwrap() = Step::Probed {
            first: Some(Seq(6)),
        };
    };
    check(ended, &[(Fault::BehindFence, 1)]);
    let before = |first| {
        move |evidence: &mut Evidence| {
            let place = place(evidence, 2, 8);
            let probe = Step::Probed {
                first: Some(Seq(first)),
            };
            evidence.watches[2].steps.insert(place, probe);
        }
    };
    check(before(6), &[]);
    check(before(5), &[(Fault::BehindFence, 1)]);
    // Where members read everything, the past is theirs.
    let all = |evidence: &mut Evidence| {
        evidence.history = HistoryScope::All;
        before(1)(evidence);
    };
    check(all, &[]);
    let read = |evidence: &mut Evidence| {
        let place = place(evidence, 2, 8);
        let past = Step::Read(Seen::of(&log()[4]));
        evidence.watches[2].steps.insert(place, past);
    };
    check(read, &[(Fault::BehindFence, 1)]);
}

#[test]
fn the_archive_must_be_what_was_sent_and_what_the_log_has() {
    let text = |evidence: &mut Evidence| {
        evidence.archive[9] = Archived::of(&said(10, "ann", 3, "not what was said"));
    };
    check(text, &[(Fault::ArchiveDiffers, 3)]);
    let author = |evidence: &mut Evidence| {
        evidence.archive[9] = Archived::of(&said(10, "wit", 3, "bye"));
    };
    // Nobody sent that, what was sent is not there, and it is not what was shown or logged.
    let expected = [
        (Fault::Lost, 1),
        (Fault::ArchiveDiffers, 3),
        (Fault::UnreadDiffers, 2),
    ];
    check(author, &expected);
    let log_only = |evidence: &mut Evidence| evidence.log.as_mut().unwrap()[9] = other(10);
    check(log_only, &[(Fault::ArchiveDiffers, 1)]);
    let longer = |evidence: &mut Evidence| evidence.log.as_mut().unwrap().push(other(14));
    check(longer, &[(Fault::ArchiveDiffers, 2)]);
    let hole = |evidence: &mut Evidence| {
        evidence
            .log
            .as_mut()
            .unwrap()
            .retain(|s| s.seq() != Seq(10));
    };
    check(hole, &[(Fault::ArchiveDiffers, 1)]);
    let nobody = |evidence: &mut Evidence| {
        evidence.commands.remove(2);
        evidence.repeats.clear();
    };
    check(nobody, &[(Fault::ArchiveDiffers, 1)]);
    let noop = |evidence: &mut Evidence| evidence.commands[7].answer = Answer::Noop;
    check(noop, &[(Fault::ArchiveDiffers, 1)]);
}

#[test]
fn all_who_know_the_chains_head_know_the_same() {
    let hash = |evidence: &mut Evidence| evidence.heads[1].1 = Hash([2; 32]);
    check(hash, &[(Fault::ArchiveDiffers, 1)]);
    let behind = |evidence: &mut Evidence| evidence.heads[1].0 = Seq(12);
    check(behind, &[(Fault::ArchiveDiffers, 1)]);
    let all = |evidence: &mut Evidence| {
        for head in &mut evidence.heads {
            head.0 = Seq(14);
        }
    };
    check(all, &[(Fault::ArchiveDiffers, 2)]);
}

#[test]
fn what_is_shown_and_nowhere_archived_is_found() {
    let tamper = |evidence: &mut Evidence| {
        evidence.watches[0].steps.push(Step::Event(other(14)));
    };
    check(tamper, &[(Fault::ArchiveDiffers, 1)]);
}

#[test]
fn unread_is_counted_once_more() {
    let count = |evidence: &mut Evidence| evidence.counted[1].unread = 4;
    check(count, &[(Fault::UnreadDiffers, 1)]);
    let mark = |evidence: &mut Evidence| evidence.counted[0].marked = Seq(8);
    check(mark, &[(Fault::UnreadDiffers, 1)]);
    let stranger = |evidence: &mut Evidence| evidence.counted[1].user = user("eve");
    check(stranger, &[(Fault::UnreadDiffers, 1)]);
}

#[test]
fn a_command_without_a_last_word_is_stuck() {
    let tamper = |evidence: &mut Evidence| {
        evidence.commands[2].answer = Answer::None;
    };
    check(tamper, &[(Fault::Stuck, 1)]);
}

#[test]
fn a_message_cannot_be_acknowledged_as_if_nothing_had_to_change() {
    let tamper = |evidence: &mut Evidence| {
        evidence.commands[6].answer = Answer::Noop;
    };
    check(tamper, &[(Fault::Lost, 1)]);
}

#[test]
fn what_the_server_said_that_it_leaves_out_is_no_gap_once_it_is_read() {
    let skip = |read: bool, waived: bool| {
        move |evidence: &mut Evidence| {
            let (first, last) = (place(evidence, 0, 8), place(evidence, 0, 12));
            let steps = &mut evidence.watches[0].steps;
            let (from, to) = (Seq(8), Seq(12));
            let skipped: Vec<Step> = steps
                .splice(first..=last, [Step::Skipped { from, to }])
                .collect();
            if waived {
                steps.push(Step::Waived { from, to });
            }
            if read {
                steps.extend(skipped.into_iter().map(|step| match step {
                    Step::Event(seen) => Step::Read(seen),
                    other => other,
                }));
            }
        }
    };
    check(skip(true, false), &[]);
    check(skip(false, true), &[]);
    check(skip(false, false), &[(Fault::Lost, 5), (Fault::Gaps, 1)]);
}

#[test]
fn one_who_comes_and_goes_within_an_absence_is_owed_both_stays_and_not_what_lies_between() {
    let again = |missing: Option<u64>| {
        move |evidence: &mut Evidence| {
            for (seq, event) in [
                (14, member(14, "keeper", 93, ("eve", "added"))),
                (15, said(15, "ann", 8, "welcome")),
            ] {
                evidence.archive.push(Archived::of(&event));
                for watch in &mut evidence.watches {
                    if missing != Some(seq) || watch.name != "eve" {
                        watch.steps.push(Step::Event(Seen::of(&event)));
                    }
                }
            }
            evidence.log = None;
            evidence.heads.clear();
            evidence.counted.clear();
            let content = Content::said("welcome", None);
            evidence
                .commands
                .push(command("ann", 8, content, Answer::Stored(Seq(15))));
            // The server never said that the room was gone meanwhile.
            let steps = &mut evidence.watches[2].steps;
            steps.retain(|step| !matches!(step, Step::Gone | Step::Probed { .. }));
        }
    };
    check(again(None), &[]);
    check(again(Some(15)), &[(Fault::Lost, 1), (Fault::Gaps, 1)]);
}

#[test]
fn a_stay_behind_the_cursor_that_has_ended_meanwhile_is_told_to_nobody() {
    // Eve came in after her cursor was given, lost the socket, and was out before the next.
    let (entered, seven) = (
        Step::Entered { at: Seq(6) },
        Step::Event(Seen::of(&log()[6])),
    );
    let cut = |rest: &'static [Step]| {
        move |evidence: &mut Evidence| {
            evidence.watches[2].steps = [&[entered, seven, Step::Forgotten], rest].concat();
        }
    };
    check(cut(&[]), &[]);
    // But if the room is told anew, the rest of it is owed.
    check(
        cut(&[Step::Entered { at: Seq(7) }]),
        &[(Fault::Lost, 2), (Fault::Gaps, 1)],
    );
    // And a stay that the cursor covers is owed to its end.
    let covered = |evidence: &mut Evidence| {
        evidence.watches[2].steps = vec![entered, seven, Step::Resumed { after: Seq(7) }];
    };
    check(covered, &[(Fault::Lost, 2), (Fault::Gaps, 1)]);
}

#[test]
fn the_verdicts_of_rooms_add_up() {
    let mut sum = judge(&clean());
    sum.add(judge(&clean()));
    assert_eq!((sum.sent, sum.events, sum.received), (16, 26, 40));
    let mut broken = clean();
    forget(&mut broken, 10);
    sum.add(judge(&broken));
    assert!(!sum.is_clean());
}
