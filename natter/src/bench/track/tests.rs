//! What a device is told goes onto its tape as it is, faults included.

use super::*;
use crate::audit::Seen;
use protocol::Event;

const ROOM: &str = "r1";

fn room() -> RoomId {
    RoomId::parse(ROOM).unwrap()
}

fn msg(seq: u64) -> String {
    format!(
        r#"{{"ev":"msg","room":"{ROOM}","seq":{seq},"ts":{seq},"by":"ann","cid":"019b0000-0000-7000-8000-000000000000","text":"x","n":{seq}}}"#
    )
}

fn seen(seq: u64) -> Seen {
    let event: Event = serde_json::from_str(&msg(seq)).unwrap();
    Seen::of(&event)
}

fn snapshot(at: u64) -> String {
    let hash = protocol::chain::Hash::ZERO;
    format!(
        r#""room":"{ROOM}","kind":"public","members":1,"head":{at},"head_hash":"{hash}","at":{at}"#
    )
}

fn state(at: u64) -> String {
    format!(r#"{{"ev":"state",{}}}"#, snapshot(at))
}

fn skip(from: u64, to: u64) -> String {
    let snapshot = snapshot(to);
    format!(r#"{{"ev":"skip","from":{from},"to":{to},"dirty":[],{snapshot}}}"#)
}

fn live(cursor: &str) -> String {
    format!(r#"{{"ev":"live","cur":"{cursor}"}}"#)
}

fn gone() -> String {
    format!(r#"{{"ev":"gone","room":"{ROOM}"}}"#)
}

struct Device {
    track: Track,
    prints: Prints,
    tape: Tape,
}

impl Device {
    fn new(fetches: bool) -> Self {
        Self {
            track: Track::new(DeviceId::parse("d").unwrap(), fetches),
            prints: Prints::default(),
            tape: Tape::new(),
        }
    }

    fn hears(&mut self, lines: &[String]) {
        for line in lines {
            self.track.take(line, &self.prints, &mut self.tape);
        }
    }

    fn reconnects(&mut self) -> Hello {
        self.track.hello("t".to_owned(), "a", &mut self.tape)
    }

    fn is_given(&mut self, at: u64, seqs: &[u64]) -> bool {
        let events: Vec<Value> = seqs
            .iter()
            .map(|seq| serde_json::from_str(&msg(*seq)).unwrap())
            .collect();
        let page = serde_json::json!({"events": events, "at": at, "more": false, "head": at});
        self.track.fill(&page, &self.prints, &mut self.tape)
    }

    #[track_caller]
    fn has(&self, steps: &[Step]) {
        assert_eq!(self.tape.get(&room()).unwrap(), steps);
    }
}

#[test]
fn repeats_holes_and_disorder_are_kept_as_they_came() {
    let mut device = Device::new(true);
    device.hears(&[state(4), msg(5), msg(5), msg(8), msg(7)]);
    let [five, eight, seven] = [5, 8, 7].map(|seq| Step::Event(seen(seq)));
    device.has(&[Step::Entered { at: Seq(4) }, five, five, eight, seven]);
    assert_eq!(device.track.hole(), None);
    assert_eq!(device.track.last(&room()), Some(Seq(8)));
}

#[test]
fn a_new_socket_goes_on_from_what_the_cursor_covers() {
    let mut device = Device::new(true);
    device.hears(&[state(4), msg(5), live("c1"), msg(6)]);
    let hello = device.reconnects();
    assert_eq!(hello.cur.as_deref(), Some("c1"));
    assert_eq!(hello.have.get(&room()), Some(&Seq(5)));
    device.hears(&[msg(6), live("c2")]);
    let [five, six] = [5, 6].map(|seq| Step::Event(seen(seq)));
    let after = |seq| Step::Resumed { after: Seq(seq) };
    device.has(&[Step::Entered { at: Seq(4) }, five, six, after(5), six]);
}

#[test]
fn a_room_that_was_entered_or_left_after_the_cursor_is_as_it_was_then() {
    let mut device = Device::new(true);
    device.hears(&[live("c1"), state(4)]);
    device.reconnects();
    device.hears(&[state(6), live("c2"), msg(7), gone()]);
    device.reconnects();
    device.hears(&[msg(7), gone(), live("c3")]);
    device.reconnects();
    let seven = Step::Event(seen(7));
    device.has(&[
        Step::Entered { at: Seq(4) },
        Step::Forgotten,
        Step::Entered { at: Seq(6) },
        seven,
        Step::Gone,
        Step::Resumed { after: Seq(6) },
        seven,
        Step::Gone,
    ]);
    assert_eq!(device.track.last(&room()), None);
}

#[test]
fn what_is_left_out_is_fetched_page_by_page() {
    let mut device = Device::new(true);
    device.hears(&[state(4), skip(5, 8), msg(9)]);
    assert_eq!(device.track.last(&room()), Some(Seq(0)));
    let (_, read) = device.track.hole().unwrap();
    assert!(matches!(
        read,
        ReadCommand::History {
            after: Some(Seq(4)),
            all: true,
            ..
        }
    ));
    // History is not there yet, then gives a part, and more than was asked for.
    assert!(!device.is_given(4, &[]));
    assert!(device.is_given(9, &[5, 6]));
    assert!(device.is_given(9, &[7, 8, 9]));
    assert_eq!(device.track.hole(), None);
    assert_eq!(device.track.last(&room()), Some(Seq(9)));
    let read = |seq| Step::Read(seen(seq));
    let skipped = Step::Skipped {
        from: Seq(5),
        to: Seq(8),
    };
    let (entered, nine) = (Step::Entered { at: Seq(4) }, Step::Event(seen(9)));
    device.has(&[entered, skipped, nine, read(5), read(6), read(7), read(8)]);
}

#[test]
fn what_history_never_has_stays_missing() {
    let mut device = Device::new(true);
    device.hears(&[state(4), skip(5, 6)]);
    assert!(!device.is_given(6, &[]));
    assert_eq!(device.track.hole(), None);
    let skipped = Step::Skipped {
        from: Seq(5),
        to: Seq(6),
    };
    device.has(&[Step::Entered { at: Seq(4) }, skipped]);
    // Only for one who is out is it right that history refuses.
    let waived = Step::Waived {
        from: Seq(7),
        to: Seq(8),
    };
    device.hears(&[skip(7, 8)]);
    device.track.give_up_hole(&mut device.tape);
    assert!(!device.tape.get(&room()).unwrap().contains(&waived));
    device.hears(&[skip(7, 8), gone()]);
    device.track.give_up_hole(&mut device.tape);
    assert!(device.tape.get(&room()).unwrap().contains(&waived));
}

#[test]
fn one_who_reads_slowly_is_content_with_what_it_is_told() {
    let mut device = Device::new(false);
    device.hears(&[state(4), skip(5, 8)]);
    let (from, to) = (Seq(5), Seq(8));
    device.has(&[
        Step::Entered { at: Seq(4) },
        Step::Skipped { from, to },
        Step::Waived { from, to },
    ]);
    assert_eq!((device.track.hole(), device.track.tally.skips), (None, 1));
}

#[test]
fn a_state_after_an_unknown_cursor_stands_for_what_was_missed() {
    let mut device = Device::new(true);
    device.hears(&[state(4), live("c1")]);
    device.reconnects();
    device.hears(&[state(7), msg(8)]);
    device.has(&[
        Step::Entered { at: Seq(4) },
        Step::Resumed { after: Seq(4) },
        Step::Skipped {
            from: Seq(5),
            to: Seq(7),
        },
        Step::Event(seen(8)),
    ]);
}
