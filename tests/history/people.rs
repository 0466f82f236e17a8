//! Lists: rooms, public rooms, members, bans, and what is unread.

use protocol::event::{EventBody, HistoryScope, MemberChange, Mention, Message, Role, RoomKind};
use protocol::frame::listing::{
    BanList, MemberList, PublicRoomList, RoomList, UnreadList, UnreadRoom,
};
use protocol::query::{Query, ReadCommand, ReadCounts, Snapshots};
use protocol::{ErrorCode, RoomId, Seq, Timestamp};

use crate::archive::{Archive, delete, edit, member, reply, room, say, user, viewer};

#[tokio::test]
async fn members_and_bans_are_listed_page_by_page() {
    let mut archive = Archive::start().await;
    archive
        .makes(
            "r1",
            RoomKind::Public,
            HistoryScope::All,
            &["alice", "bob", "carol"],
        )
        .await;
    let role = EventBody::Role {
        user: user("alice"),
        role: Role::Mod,
    };
    archive.writes("r1", "alice", role).await;
    for (name, until) in [("dave", None), ("erin", Some(Timestamp(1))), ("fred", None)] {
        let ban = EventBody::Member {
            user: user(name),
            change: MemberChange::Banned,
            role: None,
            until,
            why: Some("spam \0".to_owned()),
        };
        archive.writes("r1", "alice", ban).await;
    }
    archive
        .writes("r1", "alice", member("fred", MemberChange::Unbanned))
        .await;

    let members = |cursor: Option<String>| ReadCommand::Members {
        room: room("r1"),
        cursor,
        limit: Some(2),
    };
    let first: MemberList = archive.reads("zoe", members(None)).await.unwrap();
    let rest: MemberList = archive
        .reads("zoe", members(first.next.clone()))
        .await
        .unwrap();
    let all: Vec<_> = first
        .members
        .iter()
        .chain(&rest.members)
        .map(|m| (m.user.as_str(), m.role))
        .collect();
    let expected = [
        ("alice", Role::Mod),
        ("bob", Role::Member),
        ("carol", Role::Member),
    ];
    assert_eq!((all, rest.next), (expected.to_vec(), None));

    let bans = || ReadCommand::Bans {
        room: room("r1"),
        cursor: None,
        limit: None,
    };
    let list: BanList = archive.reads("alice", bans()).await.unwrap();
    let [ban] = &list.bans[..] else {
        panic!("only dave's holds: {list:?}")
    };
    assert_eq!(
        (ban.user.as_str(), ban.why.as_deref()),
        ("dave", Some("spam \0"))
    );
    assert_eq!(
        archive.reads::<BanList>("bob", bans()).await,
        Err(ErrorCode::Forbidden)
    );
    assert_eq!(
        archive.reads::<BanList>("dave", bans()).await,
        Err(ErrorCode::NotFound)
    );
}

#[tokio::test]
async fn public_rooms_are_found_by_a_part_of_their_name() {
    let mut archive = Archive::start().await;
    for (name, shown) in [
        ("r1", "Tea 100%"),
        ("r2", "tea_time"),
        ("r3", "coffee"),
        ("r4", "tea"),
    ] {
        let kind = if name == "r4" {
            RoomKind::Private
        } else {
            RoomKind::Public
        };
        let mut body = crate::archive::create(kind, HistoryScope::All);
        if let EventBody::Room { changes, .. } = &mut body {
            changes.name = Some(shown.to_owned());
        }
        archive.writes(name, "alice", body).await;
    }
    archive
        .writes("r3", "alice", member("bob", MemberChange::Banned))
        .await;
    let find = |q: &str, cursor: Option<String>, limit| ReadCommand::Discover {
        q: Some(q.to_owned()),
        cursor,
        limit: Some(limit),
    };
    let names = async |who: &str, q: &str| {
        let list: PublicRoomList = archive.reads(who, find(q, None, 10)).await.unwrap();
        list.rooms
            .into_iter()
            .map(|room| room.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names("bob", "TEA").await, ["Tea 100%", "tea_time"]);
    assert_eq!(names("bob", "%").await, ["Tea 100%"]);
    assert_eq!(names("bob", "_").await, ["tea_time"]);
    assert_eq!(names("bob", "coffee").await, Vec::<String>::new());
    assert_eq!(names("alice", "").await.len(), 3);
    let first: PublicRoomList = archive.reads("alice", find("tea", None, 1)).await.unwrap();
    let second: PublicRoomList = archive
        .reads("alice", find("tea", first.next.clone(), 1))
        .await
        .unwrap();
    assert_eq!(
        (second.rooms[0].name.as_str(), second.next),
        ("tea_time", None)
    );
}

fn counts(list: &UnreadList, name: &str) -> (u64, u64, u32, u32) {
    let found: Vec<&UnreadRoom> = list
        .rooms
        .iter()
        .filter(|unread| unread.room == room(name))
        .collect();
    let [unread] = found[..] else {
        panic!("{list:?}")
    };
    (unread.read.0, unread.read_n, unread.unread, unread.mentions)
}

fn calling(text: &str, mention: Mention) -> EventBody {
    let mentions = vec![mention];
    EventBody::Msg(Message {
        text: text.to_owned(),
        mentions,
        ..Message::default()
    })
}

fn read(seq: u64, epoch: u32) -> EventBody {
    EventBody::Read {
        target: room("r1"),
        mark: Seq(seq),
        read_n: None,
        epoch,
        back: epoch > 0,
    }
}

#[tokio::test]
async fn unread_is_what_others_said_above_mark_and_join() {
    let mut archive = Archive::start().await;
    archive.greets("bob").await;
    let own = RoomId::own(&user("bob"));
    archive
        .makes("r1", RoomKind::Private, HistoryScope::All, &["alice"])
        .await;
    archive.writes("r1", "alice", say("3: before bob")).await;
    archive
        .writes("r1", "alice", member("bob", MemberChange::Added))
        .await;
    archive.writes("r1", "alice", say("5")).await;
    archive.writes("r1", "bob", say("6: own")).await;
    archive
        .writes("r1", "alice", calling("7", Mention::User(user("bob"))))
        .await;
    archive
        .writes("r1", "alice", calling("8", Mention::Room))
        .await;
    archive
        .writes("r1", "alice", calling("9", Mention::Here))
        .await;
    archive
        .writes("r1", "alice", reply(5, "10: in a thread"))
        .await;
    let look = async |archive: &Archive| {
        let list: UnreadList = archive.reads("bob", ReadCommand::Unread {}).await.unwrap();
        counts(&list, "r1")
    };
    assert_eq!(look(&archive).await, (0, 0, 4, 2));
    archive
        .writes("r1", "alice", edit(8, 2, "calls nobody now"))
        .await;
    assert_eq!(look(&archive).await, (0, 0, 4, 1));
    archive.writes("r1", "alice", delete(7, 7)).await;
    assert_eq!(look(&archive).await, (0, 0, 3, 0));
    archive.writes(own.as_str(), "bob", read(5, 0)).await;
    assert_eq!(look(&archive).await, (5, 2, 2, 0));
    archive.writes(own.as_str(), "bob", read(99, 0)).await;
    assert_eq!(
        look(&archive).await,
        (12, 6, 0, 0),
        "a mark above the head counts as the head"
    );
    archive.writes(own.as_str(), "bob", read(4, 1)).await;
    assert_eq!(look(&archive).await, (4, 1, 3, 0), "marked unread again");
    let ask = |mark| Query::ReadCounts {
        viewer: viewer("bob"),
        room: room("r1"),
        mark,
    };
    let counts: ReadCounts = archive.asks(ask(Some(Seq(8)))).await.unwrap();
    assert_eq!(
        counts,
        ReadCounts {
            read_n: 5,
            unread: 1,
            mentions: 0
        }
    );
    let counts: ReadCounts = archive.asks(ask(None)).await.unwrap();
    assert_eq!(counts.unread, 3);
}

#[tokio::test]
async fn a_users_rooms_come_own_room_first_then_latest_first() {
    let mut archive = Archive::start().await;
    for name in ["r1", "r2", "r3"] {
        archive
            .makes(
                name,
                RoomKind::Private,
                HistoryScope::All,
                &["alice", "bob"],
            )
            .await;
    }
    archive.greets("bob").await;
    archive.writes("r2", "alice", say("latest")).await;
    let ask = |rooms| Query::Snapshots {
        viewer: viewer("bob"),
        rooms,
        window_rooms: 2,
        window_timeline: 2,
    };
    let all: Snapshots = archive.asks(ask(None)).await.unwrap();
    let own = RoomId::own(&user("bob"));
    let order: Vec<&str> = all
        .rooms
        .iter()
        .map(|snapshot| snapshot.room.as_str())
        .collect();
    assert_eq!(order, [own.as_str(), "r2", "r3", "r1"]);
    assert!(all.known);
    let timelines: Vec<Option<usize>> = all
        .rooms
        .iter()
        .map(|snapshot| snapshot.tl.as_ref().map(Vec::len))
        .collect();
    assert_eq!(timelines, [None, Some(2), Some(2), None]);
    let latest = &all.rooms[1];
    assert_eq!((latest.members, latest.unread, latest.head), (2, 1, Seq(4)));
    assert_eq!(
        (latest.role, latest.join_n, latest.at),
        (Some(Role::Member), 0, Seq(4))
    );
    let hash = archive
        .written
        .iter()
        .rev()
        .find(|(event, _)| event.room == room("r2"));
    assert_eq!(latest.head_hash, hash.unwrap().1);
    let some: Snapshots = archive
        .asks(ask(Some(vec![room("r9"), room("r1")])))
        .await
        .unwrap();
    assert_eq!(some.rooms.len(), 1);

    let rooms = |cursor| ReadCommand::Rooms {
        cursor,
        limit: Some(2),
    };
    let first: RoomList = archive.reads("bob", rooms(None)).await.unwrap();
    let rest: RoomList = archive
        .reads("bob", rooms(first.next.clone()))
        .await
        .unwrap();
    let order: Vec<&str> = first
        .rooms
        .iter()
        .chain(&rest.rooms)
        .map(|snapshot| snapshot.room.as_str())
        .collect();
    assert_eq!((order, rest.next), (vec!["r2", "r3", "r1"], None));
    let nobody: Snapshots = archive
        .asks(Query::Snapshots {
            viewer: viewer("zoe"),
            rooms: None,
            window_rooms: 2,
            window_timeline: 2,
        })
        .await
        .unwrap();
    assert!(!nobody.known && nobody.rooms.is_empty());
}
