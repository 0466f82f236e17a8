//! What somebody missed, judged by membership at each position.

use protocol::event::{EventBody, HistoryScope, MemberChange, RoomKind, SeqRange};
use protocol::query::{CatchUp, Missed, Query};
use protocol::{RoomId, Seq, StreamSeq};
use std::collections::BTreeMap;

use crate::archive::{Archive, delete, edit, member, reply, room, say, user, viewer};

fn catch_up(after: StreamSeq) -> Query {
    Query::CatchUp {
        viewer: viewer("bob"),
        after,
        have: BTreeMap::new(),
        window_timeline: 3,
    }
}

/// What is told of each room, in short.
fn told(missed: &[Missed]) -> Vec<String> {
    let told = missed.iter().map(|missed| match missed {
        Missed::Events { room, events, gone } => {
            let seqs: Vec<u64> = events
                .iter()
                .map(|event| {
                    let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
                    event["seq"].as_u64().unwrap()
                })
                .collect();
            let range = seqs
                .first()
                .zip(seqs.last())
                .map(|(a, b)| format!(" {a}-{b}"));
            let dense = seqs.windows(2).all(|pair| pair[1] == pair[0] + 1);
            assert!(dense, "{seqs:?}");
            let end = if *gone { " gone" } else { "" };
            format!("{room}{}{end}", range.unwrap_or_default())
        }
        Missed::Skip(skip) => format!("{} skip {}-{}", skip.state.room, skip.from, skip.to),
        Missed::State(state) => format!("{} state {}", state.room, state.at),
    });
    told.collect()
}

fn rooms(caught: &CatchUp) -> Vec<&str> {
    let mut rooms: Vec<&str> = caught.rooms.iter().map(RoomId::as_str).collect();
    rooms.sort_unstable();
    rooms
}

#[tokio::test]
async fn membership_decides_at_each_position_what_was_missed() {
    let mut archive = Archive::start().await;
    archive.greets("bob").await;
    let own = RoomId::own(&user("bob"));
    for name in ["stays", "taken", "rejoins", "quiet"] {
        archive
            .makes(
                name,
                RoomKind::Private,
                HistoryScope::All,
                &["alice", "bob"],
            )
            .await;
    }
    for name in ["joins", "visits"] {
        archive
            .makes(name, RoomKind::Private, HistoryScope::All, &["alice"])
            .await;
    }
    let away = archive.position;
    let read = EventBody::Read {
        target: room("stays"),
        mark: Seq(3),
        read_n: None,
        epoch: 0,
        back: false,
    };
    archive.writes(own.as_str(), "bob", read).await;
    for name in ["stays", "taken", "rejoins", "joins", "visits"] {
        archive.writes(name, "alice", say("missed")).await;
    }
    archive
        .writes("taken", "alice", member("bob", MemberChange::Kicked))
        .await;
    archive
        .writes("rejoins", "bob", member("bob", MemberChange::Left))
        .await;
    archive
        .writes("joins", "alice", member("bob", MemberChange::Added))
        .await;
    archive
        .writes("visits", "alice", member("bob", MemberChange::Added))
        .await;
    for name in ["stays", "taken", "rejoins", "joins", "visits"] {
        archive.writes(name, "alice", say("after")).await;
    }
    archive
        .writes("rejoins", "alice", member("bob", MemberChange::Added))
        .await;
    archive
        .writes("visits", "bob", member("bob", MemberChange::Left))
        .await;

    let caught: CatchUp = archive.asks(catch_up(away)).await.unwrap();
    assert!(caught.known && !caught.more);
    let expected = [
        format!("{own} 2-2"),
        "joins state 5".to_owned(),
        "rejoins 4-5 gone".to_owned(),
        "rejoins state 7".to_owned(),
        "stays 4-5".to_owned(),
        "taken 4-5 gone".to_owned(),
    ];
    assert_eq!(told(&caught.missed), expected);
    assert_eq!(
        rooms(&caught),
        ["joins", "quiet", "rejoins", own.as_str(), "stays"]
    );

    let nothing: CatchUp = archive.asks(catch_up(archive.position)).await.unwrap();
    assert!(nothing.known && nothing.missed.is_empty());
    let future = Query::CatchUp {
        have: BTreeMap::new(),
        viewer: viewer("bob"),
        after: StreamSeq(archive.position.0 + 5),
        window_timeline: 3,
    };
    let future: CatchUp = archive.asks(future).await.unwrap();
    assert!(!future.known && future.rooms.len() == 5);
    let everything: CatchUp = archive.asks(catch_up(StreamSeq(0))).await.unwrap();
    assert_eq!(
        told(&everything.missed).first(),
        Some(&format!("{own} state 2"))
    );
}

#[tokio::test]
async fn too_much_becomes_a_skip_that_names_every_changed_message() {
    let mut archive = Archive::start().await;
    archive
        .makes(
            "r1",
            RoomKind::Private,
            HistoryScope::All,
            &["alice", "bob"],
        )
        .await;
    for text in [
        "4: edited",
        "5: kept",
        "6: removed",
        "7: root",
        "8: of carol",
        "9: kept",
    ] {
        let by = if text.contains("carol") {
            "carol"
        } else {
            "alice"
        };
        archive.writes("r1", by, say(text)).await;
    }
    archive
        .writes("r1", "alice", reply(9, "10: removed, so 9 has one less"))
        .await;
    let away = archive.position;
    archive.writes("r1", "alice", edit(4, 2, "new")).await;
    archive.writes("r1", "alice", delete(6, 6)).await;
    archive.writes("r1", "alice", reply(7, "re")).await;
    archive.writes("r1", "alice", delete(10, 10)).await;
    let by_user = EventBody::Del {
        on: Vec::new(),
        user: Some(user("carol")),
        to: Some(Seq(99)),
        why: None,
    };
    archive.writes("r1", "alice", by_user).await;
    let lines: Vec<_> = (0..500)
        .map(|n| archive.next("r1", "alice", say(&n.to_string())))
        .collect();
    let lines: Vec<_> = lines
        .into_iter()
        .map(|(room, line, _)| (room, line))
        .collect();
    archive.publishes(&lines).await;
    let removed = archive.writes("r1", "alice", delete(515, 515)).await;

    let caught: CatchUp = archive.asks(catch_up(away)).await.unwrap();
    let [Missed::Skip(skip)] = &caught.missed[..] else {
        panic!("{:?}", told(&caught.missed))
    };
    assert_eq!(
        (skip.from, skip.to, skip.state.at),
        (Seq(11), Seq(removed), Seq(removed))
    );
    let range = |a, b| SeqRange(Seq(a), Seq(b));
    assert_eq!(skip.dirty, [range(4, 4), range(6, 10)]);
    let timeline = skip.state.tl.as_ref().unwrap();
    let seqs: Vec<u64> = timeline.iter().map(|entry| entry.event.seq.0).collect();
    assert_eq!(seqs, [513, 514, 515]);
    assert!(timeline[2].deleted);

    let have = |seq| Query::Have {
        viewer: viewer("bob"),
        have: BTreeMap::from([(room("r1"), Seq(seq)), (room("r2"), Seq(1))]),
        window_timeline: 3,
    };
    let caught: CatchUp = archive.asks(have(10)).await.unwrap();
    let [Missed::Skip(again)] = &caught.missed[..] else {
        panic!("{:?}", told(&caught.missed))
    };
    assert_eq!(again, skip);
    let caught: CatchUp = archive.asks(have(removed)).await.unwrap();
    assert_eq!(
        told(&caught.missed),
        [format!("r1 skip {}-{removed}", removed + 1)]
    );
}

#[tokio::test]
async fn someone_taken_out_gets_everything_up_to_it_in_as_many_answers_as_it_takes() {
    let mut archive = Archive::start().await;
    archive
        .makes(
            "r1",
            RoomKind::Private,
            HistoryScope::All,
            &["alice", "bob"],
        )
        .await;
    archive
        .makes(
            "r2",
            RoomKind::Private,
            HistoryScope::All,
            &["alice", "bob"],
        )
        .await;
    let away = archive.position;
    for _ in 0..12 {
        let lines: Vec<_> = (0..500)
            .map(|_| archive.next("r1", "alice", say("x")))
            .collect();
        let lines: Vec<_> = lines
            .into_iter()
            .map(|(room, line, _)| (room, line))
            .collect();
        archive.publishes(&lines).await;
    }
    archive.writes("r2", "alice", say("late")).await;
    archive
        .writes("r1", "alice", member("bob", MemberChange::Banned))
        .await;
    archive.writes("r1", "alice", say("not for bob")).await;

    let (mut after, mut events, mut ends, mut late) = (away, 0, 0, 0);
    loop {
        let (covered, caught) = archive
            .asks_at::<CatchUp>(archive.position, catch_up(after))
            .await;
        let caught = caught.unwrap();
        for missed in &caught.missed {
            match missed {
                Missed::Events {
                    room: of,
                    events: found,
                    gone,
                } if *of == room("r1") => {
                    events += found.len();
                    ends += usize::from(*gone);
                }
                Missed::Events {
                    room: of,
                    events: found,
                    ..
                } if *of == room("r2") => {
                    late += found.len();
                }
                other => panic!("{:?}", told(std::slice::from_ref(other))),
            }
        }
        assert!(covered > after, "it must get on");
        after = covered;
        let there = caught.rooms.contains(&room("r1"));
        assert_eq!(
            there, caught.more,
            "still a member where the answer ends, until it is whole"
        );
        if !caught.more {
            break;
        }
    }
    assert_eq!((events, ends, late, after), (6_001, 1, 1, archive.position));
}

#[tokio::test]
async fn marks_that_moved_in_a_skipped_own_room_come_with_their_rooms_states() {
    let mut archive = Archive::start().await;
    archive.greets("bob").await;
    let own = RoomId::own(&user("bob"));
    for name in ["busy", "marked", "quiet"] {
        let people = ["alice", "bob"];
        archive
            .makes(name, RoomKind::Private, HistoryScope::All, &people)
            .await;
    }
    // Held by the client, and gone before it came back.
    archive
        .makes("visited", RoomKind::Private, HistoryScope::All, &["alice"])
        .await;
    let away = archive.position;
    archive.writes("busy", "alice", say("missed")).await;
    archive
        .writes("visited", "alice", member("bob", MemberChange::Added))
        .await;
    archive.writes("visited", "alice", say("missed")).await;
    archive
        .writes("visited", "bob", member("bob", MemberChange::Left))
        .await;
    let mut lines = Vec::new();
    for epoch in 0..501 {
        let read = EventBody::Read {
            target: room(if epoch % 2 == 0 { "busy" } else { "marked" }),
            mark: Seq(3),
            read_n: None,
            epoch,
            back: false,
        };
        let (room, line, _) = archive.next(own.as_str(), "bob", read);
        lines.push((room, line));
    }
    archive.publishes(&lines).await;
    let query = Query::CatchUp {
        viewer: viewer("bob"),
        after: away,
        have: BTreeMap::from([(room("visited"), Seq(3))]),
        window_timeline: 3,
    };
    let caught: CatchUp = archive.asks(query).await.unwrap();
    let expected = [
        format!("{own} skip 2-502"),
        "busy skip 4-4".to_owned(),
        "marked state 3".to_owned(),
        "visited 4-5 gone".to_owned(),
    ];
    assert_eq!(told(&caught.missed), expected);
    let states = caught.missed.iter().filter_map(|missed| match missed {
        Missed::State(state) => Some(&**state),
        Missed::Skip(skip) => Some(&skip.state),
        Missed::Events { .. } => None,
    });
    let marks: Vec<u64> = states.map(|state| state.read.0).collect();
    assert_eq!(marks, [0, 3, 3]);
}
