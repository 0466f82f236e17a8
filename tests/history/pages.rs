//! Timelines, dense events, threads, revisions: what they show and to whom.

use protocol::event::{EventBody, HistoryScope, MemberChange, Mention, Message, RoomKind};
use protocol::frame::Page;
use protocol::frame::listing::{DensePage, RevisionList, ThreadPage};
use protocol::query::ReadCommand;
use protocol::{ErrorCode, Seq};

use crate::archive::{Archive, create, delete, edit, history, member, reply, room, say};

/// What a page shows: seq and text of messages, the word in `ev` of other entries.
fn shown(page: &Page) -> Vec<(u64, String)> {
    let entries = page.events.iter().map(|entry| {
        let text = match &entry.event.body {
            EventBody::Msg(message) => message.text.clone(),
            other => other.kind().to_owned(),
        };
        (entry.event.seq.0, text)
    });
    entries.collect()
}

fn texts(entries: &[(u64, &str)]) -> Vec<(u64, String)> {
    entries
        .iter()
        .map(|(seq, text)| (*seq, (*text).to_owned()))
        .collect()
}

fn place(before: Option<u64>, after: Option<u64>, around: Option<u64>, limit: u32) -> ReadCommand {
    ReadCommand::History {
        room: room("r1"),
        before: before.map(Seq),
        after: after.map(Seq),
        around: around.map(Seq),
        limit: Some(limit),
        all: false,
    }
}

#[tokio::test]
async fn a_timeline_shows_messages_as_they_are_now() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    let mut calling = Message {
        text: "hi @bob \0 \u{fdd0}".to_owned(),
        ..Message::default()
    };
    calling.mentions = vec![Mention::User(crate::archive::user("bob")), Mention::Here];
    calling.meta = serde_json::from_str(r#"{"a":"\u0000"}"#).unwrap();
    archive
        .writes("r1", "alice", EventBody::Msg(calling.clone()))
        .await;
    archive.writes("r1", "alice", say("two")).await;
    archive.writes("r1", "bob", reply(3, "in the thread")).await;
    archive.writes("r1", "bob", reply(3, "gone")).await;
    archive.writes("r1", "alice", edit(4, 2, "second")).await;
    archive.writes("r1", "alice", edit(4, 3, "third")).await;
    archive.writes("r1", "bob", delete(6, 6)).await;
    archive.writes("r1", "alice", say("three")).await;
    archive.writes("r1", "alice", delete(10, 10)).await;

    let page: Page = archive.reads("alice", history("r1")).await.unwrap();
    let expected = [
        (1, "room"),
        (2, "member"),
        (3, "hi @bob \0 \u{fdd0}"),
        (4, "third"),
        (10, ""),
    ];
    assert_eq!(shown(&page), texts(&expected));
    assert_eq!((page.at, page.head, page.more), (Seq(11), Seq(11), false));
    let [_, _, root, edited, deleted] = &page.events[..] else {
        panic!("{page:?}")
    };
    let summary = root.summary.unwrap();
    assert_eq!((summary.count, summary.last), (1, Seq(5)));
    let EventBody::Msg(message) = &root.event.body else {
        panic!("a message")
    };
    assert_eq!(message.mentions, calling.mentions);
    assert_eq!((&message.meta, message.n), (&calling.meta, Some(1)));
    assert_eq!(
        (edited.rev, edited.edited.map(|ts| ts.0)),
        (Some(3), Some(10_008))
    );
    assert!(deleted.deleted && !edited.deleted);

    let thread = |before| ReadCommand::Thread {
        room: room("r1"),
        root: Seq(3),
        before,
        after: None,
        limit: Some(1),
    };
    let replies: ThreadPage = archive.reads("alice", thread(None)).await.unwrap();
    assert!(replies.more && replies.events[0].deleted);
    let replies: ThreadPage = archive.reads("alice", thread(Some(Seq(6)))).await.unwrap();
    assert!(!replies.more && replies.events[0].event.seq == Seq(5));
    let no_root = ReadCommand::Thread {
        room: room("r1"),
        root: Seq(5),
        before: None,
        after: None,
        limit: None,
    };
    assert_eq!(
        archive.reads::<ThreadPage>("alice", no_root).await,
        Err(ErrorCode::NotFound)
    );

    let revisions = |on, cursor: Option<&str>| ReadCommand::Revisions {
        room: room("r1"),
        on: Seq(on),
        cursor: cursor.map(str::to_owned),
        limit: Some(2),
    };
    let first: RevisionList = archive.reads("alice", revisions(4, None)).await.unwrap();
    let next = first.next.clone();
    let rest: RevisionList = archive
        .reads("alice", revisions(4, next.as_deref()))
        .await
        .unwrap();
    let texts: Vec<_> = first
        .revisions
        .iter()
        .chain(&rest.revisions)
        .map(|r| (r.rev, r.text.as_str()))
        .collect();
    assert_eq!(texts, [(1, "two"), (2, "second"), (3, "third")]);
    assert_eq!(rest.next, None);
    let gone = archive
        .reads::<RevisionList>("alice", revisions(10, None))
        .await;
    assert_eq!(gone, Err(ErrorCode::TargetGone));
}

#[tokio::test]
async fn pages_lie_where_they_are_wanted() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    for text in ["3", "4", "5", "6", "7", "8"] {
        archive.writes("r1", "alice", say(text)).await;
    }
    let table = [
        (place(None, None, None, 2), vec![7, 8], true),
        (place(Some(5), None, None, 2), vec![3, 4], true),
        (place(Some(3), None, None, 2), vec![1, 2], false),
        (place(None, Some(5), None, 2), vec![6, 7], true),
        (place(None, Some(6), None, 2), vec![7, 8], false),
        (place(None, Some(8), None, 2), vec![], false),
        (place(None, None, Some(5), 3), vec![4, 5, 6], true),
        (place(None, None, Some(99), 3), vec![7, 8], true),
        (
            place(Some(u64::MAX), None, None, 100),
            (1..=8).collect(),
            false,
        ),
        (place(None, Some(u64::MAX), None, 100), vec![], false),
    ];
    for (read, seqs, more) in table {
        let page: Page = archive.reads("bob", read.clone()).await.unwrap();
        let found: Vec<u64> = page.events.iter().map(|entry| entry.event.seq.0).collect();
        assert_eq!((found, page.more), (seqs, more), "{read:?}");
    }
    let both = archive
        .reads::<Page>("bob", place(Some(1), Some(2), None, 3))
        .await;
    assert_eq!(both, Err(ErrorCode::BadRequest));
}

#[tokio::test]
async fn dense_events_are_as_they_were_but_for_what_was_removed() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    archive.writes("r1", "alice", say("secret")).await;
    archive
        .writes("r1", "alice", edit(3, 2, "secret too"))
        .await;
    archive.writes("r1", "alice", say("kept")).await;
    archive.writes("r1", "alice", delete(3, 3)).await;
    let all = |after: Option<u64>, limit| ReadCommand::History {
        room: room("r1"),
        before: None,
        after: after.map(Seq),
        around: None,
        limit: Some(limit),
        all: true,
    };
    let page: DensePage = archive.reads("alice", all(Some(0), 100)).await.unwrap();
    let events: Vec<serde_json::Value> = page
        .events
        .iter()
        .map(|event| serde_json::from_str(event.get()).unwrap())
        .collect();
    let seqs: Vec<u64> = events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5, 6]);
    assert!(
        events
            .iter()
            .all(|event| event.get("prev").is_none() && event.get("salt").is_none())
    );
    assert_eq!(
        (&events[2]["text"], &events[3]["text"]),
        (&"".into(), &"".into())
    );
    assert_eq!(events[4]["text"], "kept");
    let newest: DensePage = archive.reads("alice", all(None, 2)).await.unwrap();
    assert!(newest.more && newest.events.len() == 2 && newest.head == Seq(6));
}

#[tokio::test]
async fn rooms_are_read_by_whom_they_are_open_to_and_absent_to_all_others() {
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
        .writes(
            "r2",
            "alice",
            create(RoomKind::Private, HistoryScope::Joined),
        )
        .await;
    archive.writes("r2", "alice", say("before")).await;
    archive
        .writes("r2", "alice", member("bob", MemberChange::Added))
        .await;
    archive.writes("r2", "alice", say("after")).await;
    archive.greets("alice").await;

    let sees = async |name: &str, of: &str| {
        let page = archive.reads::<Page>(name, history(of)).await;
        page.map(|page| {
            page.events
                .iter()
                .map(|entry| entry.event.seq.0)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(sees("bob", "r1").await, Ok(vec![1, 2, 3]));
    assert_eq!(sees("eve", "r1").await, Err(ErrorCode::NotFound));
    assert_eq!(sees("eve", "nothing").await, Err(ErrorCode::NotFound));
    assert_eq!(sees("bob", "r2").await, Ok(vec![3, 4]));
    let own = protocol::RoomId::own(&crate::archive::user("alice"));
    assert!(sees("alice", own.as_str()).await.is_ok());
    assert_eq!(sees("bob", own.as_str()).await, Err(ErrorCode::NotFound));

    archive.writes("r2", "alice", delete(2, 2)).await;
    let of_unseen = ReadCommand::Revisions {
        room: room("r2"),
        on: Seq(2),
        cursor: None,
        limit: None,
    };
    let unseen = archive.reads::<RevisionList>("bob", of_unseen).await;
    let not_found = unseen.map(|list| list.revisions.len());
    assert_eq!(
        not_found,
        Err(ErrorCode::NotFound),
        "that it was there and went is not his to know"
    );

    archive
        .writes("r1", "alice", member("bob", MemberChange::Kicked))
        .await;
    let kicked = archive.reads::<Page>("bob", history("r1")).await;
    assert_eq!(kicked, Err(ErrorCode::NotFound));
}
