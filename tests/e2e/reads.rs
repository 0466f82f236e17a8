//! Looking back: pages, threads, lists and counts, each right after the write that it must show.

use serde_json::{Value, json};
use tests::{Stack, User, with_cid};

/// The values of one field of a list of objects.
fn all<'a>(list: &'a Value, field: &str) -> Vec<&'a Value> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|entry| &entry[field])
        .collect()
}

#[tokio::test]
async fn a_timeline_is_read_from_any_side_in_its_present_state() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    // 1 room, 2 member, 3 to 8 messages, 9 edit, 10 deletion.
    for number in 3..=8 {
        assert_eq!(
            alice.sends(&room, &format!("message {number}")).await,
            number
        );
    }
    alice.edits(&room, 4, 1, "message four").await;
    alice.deletes(&room, json!(5)).await;

    let page = alice.reads_back(&room, json!({"limit": 4})).await;
    assert_eq!(all(&page["events"], "seq"), [5, 6, 7, 8]);
    assert_eq!(
        (&page["more"], &page["head"], &page["at"]),
        (&json!(true), &json!(10), &json!(10))
    );
    let removed = &page["events"][0];
    assert_eq!(
        (&removed["deleted"], &removed["text"]),
        (&json!(true), &json!(""))
    );

    let page = alice
        .reads_back(&room, json!({"before": 5, "limit": 100}))
        .await;
    assert_eq!(all(&page["events"], "ev"), ["room", "member", "msg", "msg"]);
    assert_eq!(page["more"], false);
    let edited = &page["events"][3];
    assert_eq!(
        (&edited["text"], &edited["rev"]),
        (&json!("message four"), &json!(2))
    );
    assert!(edited["edited"].is_u64());

    let page = alice
        .reads_back(&room, json!({"after": 5, "limit": 2}))
        .await;
    assert_eq!(
        (all(&page["events"], "seq"), &page["more"]),
        (vec![&json!(6), &json!(7)], &json!(true))
    );
    let page = alice
        .reads_back(&room, json!({"around": 6, "limit": 3}))
        .await;
    assert_eq!(all(&page["events"], "seq"), [5, 6, 7]);

    // Every event as it was, but for what has been removed.
    let dense = alice
        .reads_back(&room, json!({"after": 0, "limit": 100, "all": true}))
        .await;
    assert_eq!(all(&dense["events"], "seq"), (1..=10).collect::<Vec<_>>());
    assert_eq!(dense["events"][3]["text"], "message 4");
    assert_eq!(dense["events"][4]["text"], "");
    assert_eq!(all(&dense["events"], "ev")[8..], ["edit", "del"]);
    // A larger wish than a page is answered with a page.
    let page = alice.reads_back(&room, json!({"limit": 1_000_000})).await;
    assert_eq!(all(&page["events"], "seq"), (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_acknowledged_is_read_at_once() {
    let stack = crate::settings::unhurried().separate().start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    for number in 0..200 {
        let seq = alice.sends(&room, &format!("message {number}")).await;
        let page = alice.reads_back(&room, json!({"limit": 1})).await;
        assert_eq!(all(&page["events"], "seq"), [seq]);
    }
}

#[tokio::test]
async fn deletions_by_moderators_take_ranges_and_all_of_a_user() {
    let stack = Stack::start().await;
    let (mut alice, mut eve) = (stack.user("alice").await, stack.user("eve").await);
    let room = alice.creates_room("ops").await;
    eve.joins(&room).await;
    let first = eve.sends(&room, "spam 1").await;
    let kept = alice.sends(&room, "please stop").await;
    let last = eve.sends(&room, "spam 2").await;
    let all_of_eve =
        with_cid(json!({"op": "del", "room": room, "user": "eve", "to": last, "why": "spam"}));
    eve.is_refused(all_of_eve.clone(), "forbidden").await;
    alice.does(with_cid(all_of_eve)).await;
    let seen = eve
        .sees_where(&room, "the deletion", |event| event["ev"] == "del")
        .await;
    assert_eq!(
        (&seen["user"], &seen["to"], &seen["why"]),
        (&json!("eve"), &json!(last), &json!("spam"))
    );
    let page = alice.reads_back(&room, json!({"after": first - 1})).await;
    assert_eq!(
        all(&page["events"], "deleted"),
        [&json!(true), &Value::Null, &json!(true)]
    );
    alice
        .deletes(&room, json!([[kept, kept], [last, last]]))
        .await;
    let page = alice.reads_back(&room, json!({"after": first - 1})).await;
    assert_eq!(all(&page["events"], "deleted"), [true, true, true]);
    let nothing_left = alice.deletes(&room, json!([[first, last]])).await;
    assert_eq!(nothing_left["noop"], true);
}

#[tokio::test]
async fn a_thread_has_its_own_pages_and_shows_on_its_root() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    let root = alice.sends(&room, "who broke it?").await;
    let first = bob.replies_in_thread(&room, root, "not me").await;
    let last = alice.replies_in_thread(&room, root, "hm").await;
    let seen = bob.sees(&room, "hm").await;
    assert_eq!(
        (&seen["thread"], &seen["tn"], &seen["n"]),
        (&json!(root), &json!(2), &Value::Null)
    );
    let thread = bob
        .does(json!({"op": "thread", "room": room, "root": root}))
        .await;
    assert_eq!(
        (all(&thread["events"], "seq"), &thread["more"]),
        (vec![&json!(first), &json!(last)], &json!(false))
    );
    let before = json!({"op": "thread", "room": room, "root": root, "before": last, "limit": 1});
    assert_eq!(all(&bob.does(before).await["events"], "text"), ["not me"]);
    // The main timeline shows the root with its summary, and no replies.
    let page = bob.reads_back(&room, json!({"after": root - 1})).await;
    assert_eq!(all(&page["events"], "seq"), [root]);
    assert_eq!(
        page["events"][0]["thread"],
        json!({"count": 2, "last": last})
    );
    let nested = with_cid(json!({"op": "send", "room": room, "thread": first, "text": "deeper"}));
    bob.is_refused(nested, "bad_request").await;
}

#[tokio::test]
async fn lists_are_paged_without_holes_or_repeats() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let people = ["bob", "carol", "dave", "erin"];
    for name in people {
        stack.user(name).await;
    }
    let room = alice
        .creates(json!({"kind": "public", "name": "room 0", "members": people}))
        .await;
    for number in 1..5 {
        alice.creates_room(&format!("room {number}")).await;
    }
    let members = pages(
        &mut alice,
        json!({"op": "members", "room": room, "limit": 2}),
        "members",
    )
    .await;
    let users: Vec<&Value> = members.iter().map(|member| &member["user"]).collect();
    assert_eq!(users, ["alice", "bob", "carol", "dave", "erin"]);
    assert_eq!(
        (&members[0]["role"], &members[1]["role"]),
        (&json!("owner"), &json!("member"))
    );

    let public = pages(&mut alice, json!({"op": "discover", "limit": 2}), "rooms").await;
    let names: Vec<&Value> = public.iter().map(|room| &room["name"]).collect();
    assert_eq!(names, ["room 0", "room 1", "room 2", "room 3", "room 4"]);
    let found = alice.does(json!({"op": "discover", "q": "OM 3"})).await;
    assert_eq!(all(&found["rooms"], "name"), ["room 3"]);
    assert_eq!(
        alice.does(json!({"op": "discover", "q": "%"})).await["rooms"],
        json!([])
    );

    alice.sends(&room, "the latest activity").await;
    let mine = pages(&mut alice, json!({"op": "rooms", "limit": 2}), "rooms").await;
    let names: Vec<&Value> = mine
        .iter()
        .filter(|room| room["kind"] != "self")
        .map(|room| &room["name"])
        .collect();
    assert_eq!(names, ["room 0", "room 4", "room 3", "room 2", "room 1"]);

    for user in &people[..3] {
        alice.moderates("ban", &room, user).await;
    }
    let bans = pages(
        &mut alice,
        json!({"op": "bans", "room": room, "limit": 2}),
        "bans",
    )
    .await;
    let users: Vec<&Value> = bans.iter().map(|ban| &ban["user"]).collect();
    assert_eq!(users, people[..3]);
    // A cursor of another kind or of nobody is refused, not guessed at.
    let odd = json!({"op": "members", "room": room, "cursor": "%%%"});
    alice.is_refused(odd, "bad_request").await;
}

/// Follows `next` to the end.
async fn pages(user: &mut User, mut command: Value, list: &str) -> Vec<Value> {
    let mut entries = Vec::new();
    loop {
        let page = user.does(command.clone()).await;
        entries.extend(page[list].as_array().expect("a list").clone());
        match page["next"].as_str() {
            Some(next) => command["cursor"] = json!(next),
            None => return entries,
        }
    }
}

#[tokio::test]
async fn unread_is_what_others_said_above_the_mark() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "before bob").await;
    bob.joins(&room).await;
    let first = alice.sends(&room, "one").await;
    let calling =
        with_cid(json!({"op": "send", "room": room, "text": "bob?", "mentions": ["bob"]}));
    let second = alice.does(calling).await["seq"].as_u64().expect("a seq");
    let all_called = with_cid(
        json!({"op": "send", "room": room, "text": "all?", "mentions": ["@room", "@here"]}),
    );
    alice.does(all_called).await;
    bob.sends(&room, "one's own never counts").await;
    alice
        .replies_in_thread(&room, first, "nor does a thread")
        .await;
    let counts = async |user: &mut User| {
        let unread = user.does(json!({"op": "unread"})).await;
        let rooms = unread["rooms"].as_array().expect("a list");
        let ours = rooms
            .iter()
            .find(|it| it["room"] == room)
            .expect("the room is listed");
        (ours["unread"].as_u64(), ours["mentions"].as_u64())
    };
    assert_eq!(counts(&mut bob).await, (Some(3), Some(2)));
    let reply = bob.marks_read(&room, first).await;
    assert_eq!(
        (&reply["unread"], &reply["mentions"]),
        (&json!(2), &json!(2))
    );
    // An edit that calls nobody any more, and a deletion, lower it.
    alice.edits(&room, second, 1, "nobody?").await;
    assert_eq!(counts(&mut bob).await, (Some(2), Some(1)));
    alice.deletes(&room, json!(second)).await;
    assert_eq!(counts(&mut bob).await, (Some(1), Some(1)));
    // A mark does not go back, unless asked to.
    assert_eq!(bob.marks_read(&room, second).await["unread"], 1);
    assert_eq!(bob.marks_read(&room, first).await["noop"], true);
    let back = with_cid(json!({"op": "read", "room": room, "seq": first, "back": true}));
    assert_eq!(bob.does(back).await["unread"], 2);
}

#[tokio::test]
async fn a_member_reads_from_the_join_on_where_the_room_says_so() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice
        .creates(json!({"kind": "private", "name": "hr", "history": "joined"}))
        .await;
    alice.sends(&room, "about bob").await;
    let joined = alice.moderates("invite", &room, "bob").await["seq"]
        .as_u64()
        .expect("a seq");
    alice.sends(&room, "welcome").await;
    bob.sees(&room, "welcome").await;
    for all_events in [false, true] {
        let page = bob
            .reads_back(&room, json!({"after": 0, "all": all_events}))
            .await;
        assert_eq!(all(&page["events"], "seq"), [joined, joined + 1]);
    }
    let state = bob.enters(&room).await;
    assert!(!state.to_string().contains("about bob"), "{state}");
    alice.moderates("kick", &room, "bob").await;
    bob.is_out_of(&room).await;
    bob.is_refused(json!({"op": "history", "room": room}), "not_found")
        .await;
}

#[tokio::test]
async fn a_public_room_is_read_by_anybody_and_written_by_members() {
    let stack = Stack::start().await;
    let (mut alice, mut carol) = (stack.user("alice").await, stack.user("carol").await);
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "hello world").await;
    let page = carol.reads_back(&room, json!({})).await;
    assert_eq!(
        page["events"]
            .as_array()
            .and_then(|events| events.last())
            .expect("an entry")["text"],
        "hello world"
    );
    assert_eq!(
        carol.does(json!({"op": "members", "room": room})).await["members"][0]["user"],
        "alice"
    );
    carol
        .is_refused(tests::message(&room, "hi"), "not_member")
        .await;
    assert!(
        !carol.rooms.contains_key(&room),
        "who is no member gets no events"
    );
}

#[tokio::test]
async fn any_text_comes_back_as_it_was_sent() {
    let stack = Stack::start().await;
    let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    let texts = [
        "\0 and \u{fdd0} and \u{fdd0}0",
        "\u{202e}right to left\u{202c}\u{200f}",
        "e\u{301} is not \u{e9}",
        "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f1e9}\u{1f1ea}",
        "line\r\nline\tline\u{2028}line",
        "'; drop table messages; -- \\ \" %s ${x} {{y}} <script>",
        "\u{feff}\u{7f}\u{80}\u{10ffff}",
    ];
    for text in texts {
        alice.sends(&room, text).await;
        bob.sees(&room, text).await;
    }
    assert_eq!(bob.texts(&room), texts);
    let page = bob.reads_back(&room, json!({"limit": texts.len()})).await;
    assert_eq!(all(&page["events"], "text"), texts);
    let archived = bob.archive(&room).await;
    let archived: Vec<&Value> = archived
        .iter()
        .filter(|event| event["ev"] == "msg")
        .map(|event| &event["text"])
        .collect();
    assert_eq!(archived, texts);
}
