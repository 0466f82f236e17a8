//! What owners of partitions and gateways ask for.

use protocol::event::{EventBody, HistoryScope, MemberChange, RoomKind, SeqRange};
use protocol::query::{
    CidKey, CidsAnswer, MessageStatesAnswer, Position, Query, Records, RoomStateAnswer, UserFacts,
};
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::{ErrorCode, Seq, StreamSeq};

use crate::archive::{Archive, create, delete, edit, member, reply, room, say, user};

#[tokio::test]
async fn a_rooms_state_is_the_fold_of_its_events() {
    let mut archive = Archive::start().await;
    archive
        .makes(
            "r1",
            RoomKind::Public,
            HistoryScope::All,
            &["alice", "bob", "carol"],
        )
        .await;
    let until = Some(protocol::Timestamp(77));
    for (name, change) in [
        ("bob", MemberChange::Kicked),
        ("carol", MemberChange::Muted),
        ("dave", MemberChange::Banned),
        ("erin", MemberChange::Muted),
        ("erin", MemberChange::Unmuted),
        ("bob", MemberChange::Joined),
    ] {
        let body = EventBody::Member {
            user: user(name),
            change,
            role: None,
            until,
            why: None,
        };
        archive.writes("r1", "alice", body).await;
    }
    archive.writes("r1", "alice", say("hi")).await;
    let by_user = EventBody::Del {
        on: Vec::new(),
        user: Some(user("alice")),
        to: Some(Seq(11)),
        why: None,
    };
    archive.writes("r1", "alice", by_user).await;
    archive.writes("r1", "bob", reply(11, "re")).await;
    archive.writes("r1", "alice", edit(11, 2, "ha")).await;
    let mut fold: Option<RoomState> = None;
    for (event, hash) in &archive.written {
        match &mut fold {
            None => fold = Some(RoomState::create(event, *hash).unwrap()),
            Some(state) => state.apply(event, *hash).unwrap(),
        }
    }
    let state: RoomStateAnswer = archive
        .asks(Query::RoomState { room: room("r1") })
        .await
        .unwrap();
    assert_eq!(state, fold);
    let none: RoomStateAnswer = archive
        .asks(Query::RoomState { room: room("r9") })
        .await
        .unwrap();
    assert_eq!(none, None);

    let folded = |seq: u64| {
        let (sent, _) = archive
            .written
            .iter()
            .find(|(event, _)| event.seq == Seq(seq))
            .unwrap();
        let mut state = MessageState::sent(sent)?;
        let later = archive
            .written
            .iter()
            .filter(|(event, _)| event.seq > Seq(seq));
        later.for_each(|(event, _)| state.apply(Seq(seq), event));
        Some(state)
    };
    let seqs = vec![Seq(13), Seq(11), Seq(2), Seq(99)];
    let states: MessageStatesAnswer = archive
        .asks(Query::MessageStates {
            room: room("r1"),
            seqs,
        })
        .await
        .unwrap();
    assert_eq!(states, [folded(13), folded(11), None, None]);
    assert!(states[1].as_ref().unwrap().deleted);
}

#[tokio::test]
async fn a_deletion_reaches_only_what_was_there_before_it() {
    let mut archive = Archive::start().await;
    archive
        .makes("r1", RoomKind::Public, HistoryScope::All, &["alice"])
        .await;
    let first = archive.next("r1", "alice", say("gone"));
    let wide = EventBody::Del {
        on: vec![SeqRange(Seq(1), Seq(u64::MAX))],
        user: None,
        to: None,
        why: None,
    };
    let del = archive.next("r1", "alice", wide);
    let later = archive.next("r1", "alice", say("stays"));
    // All in one record, so in one batch.
    archive
        .publishes(&[(first.0, first.1), (del.0, del.1), (later.0, later.1)])
        .await;
    let seqs = vec![first.2, later.2];
    let states: MessageStatesAnswer = archive
        .asks(Query::MessageStates {
            room: room("r1"),
            seqs,
        })
        .await
        .unwrap();
    let deleted: Vec<bool> = states.iter().flatten().map(|state| state.deleted).collect();
    assert_eq!(deleted, [true, false]);
}

#[tokio::test]
async fn old_commands_facts_and_records_are_found() {
    let mut archive = Archive::start().await;
    archive.greets("alice").await;
    archive
        .makes("r1", RoomKind::Private, HistoryScope::All, &["alice"])
        .await;
    archive.writes("r1", "alice", say("hi")).await;
    archive.writes("r1", "alice", edit(3, 2, "ho")).await;
    archive.writes("r1", "alice", delete(3, 3)).await;
    archive
        .publishes_raw(room("r1").partition(), archive.epoch())
        .await;
    let key = |index: usize| {
        let (event, _) = &archive.written[index];
        CidKey {
            room: event.room.clone(),
            author: event.by.clone(),
            cid: event.cid,
        }
    };
    let unknown = CidKey {
        author: user("bob"),
        ..key(3)
    };
    let cids = vec![key(4), unknown, key(1), key(3)];
    let found: CidsAnswer = archive.asks(Query::Cids { cids }).await.unwrap();
    let [Some(edited), None, Some(made), Some(sent)] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(
        (edited.seq, edited.rev, edited.won),
        (Seq(4), Some(2), Some(true))
    );
    assert_eq!((made.seq, &made.room), (Seq(1), &Some(room("r1"))));
    assert_eq!(
        (sent.seq, sent.dup, sent.ts.map(|ts| ts.0)),
        (Seq(3), true, Some(10_003))
    );

    let facts = async |name: &str| -> UserFacts {
        archive
            .asks(Query::UserFacts { user: user(name) })
            .await
            .unwrap()
    };
    assert_eq!(
        facts("alice").await,
        UserFacts {
            known: true,
            rooms: 1
        }
    );
    assert_eq!(
        facts("bob").await,
        UserFacts {
            known: false,
            rooms: 0
        }
    );

    let position: Position = archive.asks(Query::Position {}).await.unwrap();
    assert!(position.time.0 > 1_600_000_000_000, "the broker's clock");
    let records: Records = archive
        .asks(Query::Records {
            from: StreamSeq(4),
            to: StreamSeq(99),
        })
        .await
        .unwrap();
    let lines: Vec<(u64, usize)> = records
        .records
        .iter()
        .map(|record| (record.position.0, record.lines.len()))
        .collect();
    assert_eq!(lines, [(4, 1), (5, 1), (6, 1), (7, 0)]);
    assert!(
        records.records[0].lines[0].contains("\"prev\""),
        "as it lay in the envelope"
    );
}

#[tokio::test]
async fn questions_that_cannot_be_answered_are_told_so() {
    let mut archive = Archive::start().await;
    archive
        .writes("r1", "alice", create(RoomKind::Public, HistoryScope::All))
        .await;
    let (_, behind) = archive
        .asks_at::<Position>(StreamSeq(1_000), Query::Position {})
        .await;
    assert_eq!(behind, Err(ErrorCode::Unavailable));
    let too_many = vec![Seq(1); 10_001];
    let query = Query::MessageStates {
        room: room("r1"),
        seqs: too_many,
    };
    assert_eq!(
        archive.asks::<MessageStatesAnswer>(query).await,
        Err(ErrorCode::TooLarge)
    );
    let inbox = archive.nats.new_inbox();
    let mut answers = archive.nats.subscribe(inbox.clone()).await.unwrap();
    for body in [
        "{",
        r#"{"deadline":99999999999999,"query":{"q":"position"}}"#,
    ] {
        let subject = "svc.history.cids";
        archive
            .nats
            .publish_with_reply(subject, inbox.clone(), body.into())
            .await
            .unwrap();
        let answer = futures_util::StreamExt::next(&mut answers).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["err"]["code"], "bad_request", "{body}");
    }
    archive
        .writes("r1", "alice", member("bob", MemberChange::Joined))
        .await;
    let state: RoomStateAnswer = archive
        .asks(Query::RoomState { room: room("r1") })
        .await
        .unwrap();
    assert_eq!(state.unwrap().members.len(), 1);
}
