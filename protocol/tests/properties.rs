//! Properties of every parser: it takes anything without panicking, and what it takes it gives back.

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use protocol::command::WriteCommand;
use protocol::cursor::Cursor;
use protocol::envelope::{Envelope, EnvelopeBuilder, EnvelopeId};
use protocol::event::{LogEvent, SeqRange};
use protocol::frame::{ServerFrame, parse_line};
use protocol::query::merge_ranges;
use std::hint::black_box;

use protocol::{Cid, InstanceId, RoomId, Seq, Subject, UserId, chain};

/// Text that looks enough like our lines to get past the first check.
fn line_like() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"id\"",
        "\"op\"",
        "\"send\"",
        "\"hello\"",
        "\"ev\"",
        "\"msg\"",
        "\"room\"",
        "\"r1\"",
        "\"cid\"",
        "\"text\"",
        "\"seq\"",
        "1",
        "-1",
        "null",
        "true",
        "1e400",
        "\"\\ud800\"",
        "\"019b0000-0000-7000-8000-000000000000\"",
        "log.",
        "cmd.",
        "*",
        ">",
        ".",
        "natter1 ",
        "events ",
        "a.1.1",
        "\n",
        "0 ",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(words, 0..40).prop_map(|parts| parts.concat()),
    ]
}

fn lines_of(payload: &[u8]) -> usize {
    Envelope::parse(payload).map_or(0, |envelope| envelope.lines().filter(Result::is_ok).count())
}

proptest! {
    #[test]
    fn no_parser_panics(text in line_like()) {
        // Whatever they say, they say it: black_box keeps the calls.
        black_box((
            parse_line(&text).is_ok(),
            ServerFrame::parse(&text).is_ok(),
            LogEvent::parse(&text).is_ok(),
            Subject::parse(&text).is_ok(),
            Cursor::parse(&text).is_ok(),
            Cid::parse(&text).is_ok(),
            chain::hash_line(&text).is_ok(),
        ));
        black_box(lines_of(text.as_bytes()));
    }

    #[test]
    fn no_parser_panics_on_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        black_box(lines_of(&bytes));
    }

    #[test]
    fn what_a_subject_parser_takes_it_gives_back(text in line_like()) {
        if let Ok(subject) = Subject::parse(&text) {
            prop_assert_eq!(subject.to_string(), text);
        }
    }

    #[test]
    fn an_envelope_gives_back_its_lines(
        lines in prop::collection::vec(("[A-Za-z0-9_-]{1,8}", "[^\n]{1,40}"), 0..50)
    ) {
        let mut builder = EnvelopeBuilder::default();
        for (room, line) in &lines {
            builder.push(&RoomId::parse(room).unwrap(), line);
        }
        let id = EnvelopeId { instance: InstanceId::parse("a").unwrap(), epoch: 1, counter: 2 };
        let payload = builder.finish(&id);
        let envelope = Envelope::parse(payload.as_bytes()).unwrap();
        let back: Vec<(String, String)> = envelope
            .lines()
            .map(|line| line.map(|(room, json)| (room.to_owned(), json.to_owned())).unwrap())
            .collect();
        prop_assert_eq!(back, lines);
    }

    #[test]
    fn merged_ranges_cover_all_and_are_few(
        pairs in prop::collection::vec((1_u64..2_000, 0_u64..9), 0..300), max in 1_usize..50
    ) {
        let ranges: Vec<SeqRange> =
            pairs.iter().map(|(a, n)| SeqRange(Seq(*a), Seq(a + n))).collect();
        let merged = merge_ranges(ranges.clone(), max);
        prop_assert!(merged.len() <= max);
        for range in &ranges {
            prop_assert!(merged.iter().any(|m| m.0 <= range.0 && range.1 <= m.1));
        }
        for (one, next) in merged.iter().zip(merged.iter().skip(1)) {
            prop_assert!(one.1 < next.0);
        }
    }

    #[test]
    fn a_line_hashes_alike_however_its_keys_are_ordered(text in "\\PC{0,40}", n in any::<u64>()) {
        let text = serde_json::to_string(&text).unwrap();
        let one = format!(r#"{{"a":{n},"text":{text},"salt":"s"}}"#);
        let two = format!(r#"{{"salt":"s", "text":{text}, "a":{n}}}"#);
        prop_assert_eq!(chain::hash_line(&one).unwrap(), chain::hash_line(&two).unwrap());
    }

    #[test]
    fn a_command_is_for_one_room_whoever_computes_it(bytes in any::<[u8; 10]>(), ms in 0_u64..1 << 47) {
        let cid = Cid::from_parts(ms, bytes);
        prop_assert_eq!(Cid::parse(&cid.to_string()), Ok(cid));
        let text = format!(r#"{{"cid":"{cid}","op":"create","kind":"private"}}"#);
        let command: WriteCommand = serde_json::from_str(&text).unwrap();
        let alice = UserId::parse("alice").unwrap();
        prop_assert_eq!(command.room(&alice, None).unwrap(), RoomId::created(&alice, cid));
    }
}
