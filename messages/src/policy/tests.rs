//! Tables: each row is a room, an actor, a command, and what becomes of it.

use super::{Actor, Facts, Known, Need, Verdict, admit};
use protocol::chain::Hash;
use protocol::command::{Write, WriteCommand};
use protocol::event::{Event, EventBody};
use protocol::query::UserFacts;
use protocol::room::RoomState;
use protocol::room::message::MessageState;
use protocol::subject::Door;
use protocol::{Cid, ErrorCode, RoomId, Seq, Timestamp, UserId};
use std::collections::BTreeMap;

const NOW: Timestamp = Timestamp(1_000_000);

/// A room told as its events, and what other partitions know.
#[derive(Default)]
struct World {
    room: Option<RoomState>,
    messages: BTreeMap<Seq, MessageState>,
    unknown_messages: bool,
    facts: BTreeMap<UserId, Known<UserFacts>>,
    last_sent: BTreeMap<UserId, Timestamp>,
}

impl Facts for World {
    fn room(&self) -> Known<&RoomState> {
        self.room.as_ref().map_or(Known::Absent, Known::Is)
    }
    fn message(&self, seq: Seq) -> Known<&MessageState> {
        match self.messages.get(&seq) {
            Some(state) => Known::Is(state),
            None if self.unknown_messages => Known::Unknown,
            None => Known::Absent,
        }
    }
    fn user(&self, user: &UserId) -> Known<UserFacts> {
        let usual = Known::Is(UserFacts {
            known: true,
            rooms: 3,
        });
        self.facts.get(user).copied().unwrap_or(usual)
    }
    fn last_sent(&self, user: &UserId) -> Option<Timestamp> {
        self.last_sent.get(user).copied()
    }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

impl World {
    /// Folds events given as JSON of their bodies, each by `alice`.
    fn told(events: &[&str]) -> Self {
        let mut world = Self::default();
        for body in events {
            world.happens("alice", body);
        }
        world
    }

    fn happens(&mut self, by: &str, body: &str) -> &mut Self {
        let seq = self.room.as_ref().map_or(Seq(1), |room| room.head.next());
        let event = Event {
            room: RoomId::parse("r1").unwrap(),
            seq,
            ts: Timestamp(i64::try_from(seq.0).unwrap() * 1_000),
            by: user(by),
            cid: Cid::from_parts(seq.0, [0; 10]),
            body: serde_json::from_str::<EventBody>(body).unwrap(),
        };
        match &mut self.room {
            Some(room) => room.apply(&event, Hash::ZERO).unwrap(),
            None => self.room = Some(RoomState::create(&event, Hash::ZERO).unwrap()),
        }
        for (seq, state) in &mut self.messages {
            state.apply(*seq, &event);
        }
        if let Some(state) = MessageState::sent(&event) {
            self.messages.insert(event.seq, state);
        }
        self
    }

    fn judge(&self, who: &str, command: &str) -> Verdict {
        self.judge_at(Door::User, (who, false), command)
    }

    fn judge_at(&self, door: Door, (who, guest): (&str, bool), command: &str) -> Verdict {
        let command = WriteCommand {
            cid: Cid::from_parts(900_000, [0; 10]),
            write: serde_json::from_str::<Write>(command).unwrap(),
        };
        command.check().unwrap();
        let actor = Actor {
            user: &user(who),
            door,
            guest,
        };
        admit(self, &actor, &command, NOW)
    }

    /// A short word for what becomes of a command.
    fn outcome(&self, who: &str, command: &str) -> String {
        word(&self.judge(who, command))
    }
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Events(events) => {
            let kinds: Vec<&str> = events.iter().map(EventBody::kind).collect();
            kinds.join("+")
        }
        Verdict::Refuse(refusal) => refusal.code.slug().to_owned(),
        Verdict::Noop => "noop".to_owned(),
        Verdict::Exists(seq) => format!("exists {seq}"),
        Verdict::Need(_) => "need".to_owned(),
    }
}

const PUBLIC: &str = r#"{"ev":"room","kind":"public","name":"ops"}"#;
const PRIVATE: &str = r#"{"ev":"room","kind":"private"}"#;
const DIRECT: &str = r#"{"ev":"room","kind":"direct"}"#;
const OWN: &str = r#"{"ev":"room","kind":"self"}"#;
const ALICE_OWNS: &str = r#"{"ev":"member","user":"alice","change":"joined","role":"owner"}"#;
const BOB_JOINS: &str = r#"{"ev":"member","user":"bob","change":"joined"}"#;
const MIA_MODERATES: &str = r#"{"ev":"member","user":"mia","change":"added","role":"mod"}"#;
const SEND: &str = r#"{"op":"send","text":"hi"}"#;

/// Seqs: 1 room, 2 alice, 3 bob, 4 mia.
fn public() -> World {
    World::told(&[PUBLIC, ALICE_OWNS, BOB_JOINS, MIA_MODERATES])
}

fn private() -> World {
    World::told(&[PRIVATE, ALICE_OWNS, BOB_JOINS, MIA_MODERATES])
}

fn check(world: &World, rows: &[(&str, &str, &str)]) {
    for (who, command, expected) in rows {
        assert_eq!(world.outcome(who, command), *expected, "{who}: {command}");
    }
}

#[test]
fn only_members_write_and_nobody_can_probe() {
    check(&World::default(), &[("bob", SEND, "not_found")]);
    check(
        &public(),
        &[("bob", SEND, "msg"), ("eve", SEND, "not_member")],
    );
    check(
        &private(),
        &[("bob", SEND, "msg"), ("eve", SEND, "not_found")],
    );
    let guest = public().judge_at(Door::User, ("eve", true), SEND);
    assert_eq!(word(&guest), "not_found");
    let invited_guest = public().judge_at(Door::User, ("bob", true), SEND);
    assert_eq!(word(&invited_guest), "msg");
}

#[test]
fn a_ban_is_told_only_where_the_room_may_be_known() {
    let ban = r#"{"ev":"member","user":"bob","change":"banned"}"#;
    let mut open = public();
    open.happens("alice", ban);
    let join = r#"{"op":"join"}"#;
    check(&open, &[("bob", SEND, "banned"), ("bob", join, "banned")]);
    let mut closed = private();
    closed.happens("alice", ban);
    check(
        &closed,
        &[("bob", SEND, "not_found"), ("bob", join, "not_found")],
    );
    let mut over = public();
    over.happens(
        "alice",
        r#"{"ev":"member","user":"bob","change":"banned","until":1000000}"#,
    );
    check(
        &over,
        &[("bob", join, "member"), ("bob", SEND, "not_member")],
    );
}

#[test]
fn joining_and_leaving() {
    let (join, leave) = (r#"{"op":"join"}"#, r#"{"op":"leave"}"#);
    check(
        &public(),
        &[
            ("eve", join, "member"),
            ("bob", join, "noop"),
            ("bob", leave, "member"),
            ("eve", leave, "noop"),
            ("alice", leave, "last_owner"),
        ],
    );
    check(
        &private(),
        &[("eve", join, "not_found"), ("eve", leave, "not_found")],
    );
    let mut two = public();
    two.happens("alice", r#"{"ev":"role","user":"bob","role":"owner"}"#);
    check(
        &two,
        &[("alice", leave, "member"), ("bob", leave, "member")],
    );
    two.happens("alice", r#"{"ev":"member","user":"alice","change":"left"}"#);
    check(&two, &[("bob", leave, "last_owner")]);
}

#[test]
fn inviting_asks_whether_the_user_is_known_and_has_space() {
    let invite = r#"{"op":"invite","user":"eve"}"#;
    let mut world = private();
    check(
        &world,
        &[
            ("bob", invite, "member"),
            ("zoe", invite, "not_found"),
            ("bob", r#"{"op":"invite","user":"mia"}"#, "noop"),
        ],
    );
    let rows = [
        (Known::Unknown, "need"),
        (Known::Absent, "unavailable"),
        (
            Known::Is(UserFacts {
                known: false,
                rooms: 0,
            }),
            "not_found",
        ),
        (
            Known::Is(UserFacts {
                known: true,
                rooms: 1_000,
            }),
            "too_large",
        ),
    ];
    for (facts, expected) in rows {
        world.facts.insert(user("eve"), facts);
        check(&world, &[("bob", invite, expected)]);
    }
    world.facts.clear();
    world.happens("alice", r#"{"ev":"member","user":"eve","change":"banned"}"#);
    check(&world, &[("bob", invite, "forbidden")]);
}

#[test]
fn the_people_of_a_direct_room_are_fixed() {
    let world = World::told(&[
        DIRECT,
        r#"{"ev":"member","user":"alice","change":"joined"}"#,
        r#"{"ev":"member","user":"bob","change":"added"}"#,
    ]);
    for command in [
        r#"{"op":"join"}"#,
        r#"{"op":"leave"}"#,
        r#"{"op":"invite","user":"eve"}"#,
        r#"{"op":"kick","user":"bob"}"#,
        r#"{"op":"ban","user":"bob"}"#,
        r#"{"op":"unban","user":"bob"}"#,
        r#"{"op":"role","user":"bob","role":"mod"}"#,
        r#"{"op":"update","name":"x"}"#,
    ] {
        check(
            &world,
            &[
                ("alice", command, "forbidden"),
                ("eve", command, "not_found"),
            ],
        );
    }
    check(&world, &[("bob", SEND, "msg")]);
}

#[test]
fn creating_derives_everything_from_the_command() {
    let world = World::default();
    let verdict = world.judge(
        "alice",
        r#"{"op":"create","kind":"private","name":"x","members":["bob","alice","bob"]}"#,
    );
    let Verdict::Events(events) = verdict else {
        panic!("{verdict:?}")
    };
    let text = serde_json::to_string(&events).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"[{"ev":"room","kind":"private","name":"x"},"#,
            r#"{"ev":"member","user":"alice","change":"joined","role":"owner"},"#,
            r#"{"ev":"member","user":"bob","change":"added"}]"#
        )
    );
    let direct = r#"{"op":"create","kind":"direct","members":["bob"]}"#;
    check(
        &world,
        &[
            ("alice", direct, "room+member+member"),
            ("bob", direct, "bad_request"),
            ("alice", r#"{"op":"create","kind":"self"}"#, "room+member"),
        ],
    );
    check(&World::told(&[DIRECT]), &[("alice", direct, "exists 1")]);
    let guest = world.judge_at(
        Door::User,
        ("zoe", true),
        r#"{"op":"create","kind":"public"}"#,
    );
    assert_eq!(word(&guest), "forbidden");
    let mut strict = World::default();
    let unknown = UserFacts {
        known: false,
        rooms: 0,
    };
    strict.facts.insert(user("bob"), Known::Is(unknown));
    check(&strict, &[("alice", direct, "not_found")]);
    strict.facts.insert(user("bob"), Known::Unknown);
    assert_eq!(
        strict.judge("alice", direct),
        Verdict::Need(vec![Need::User(user("bob"))])
    );
    strict.facts.insert(user("bob"), Known::Absent);
    check(&strict, &[("alice", direct, "room+member+member")]);
}

#[test]
fn a_removal_takes_away_only_what_its_author_had_seen() {
    let mut world = public();
    world.happens("bob", r#"{"ev":"member","user":"bob","change":"left"}"#);
    world.happens("bob", BOB_JOINS); // seq 6
    check(
        &world,
        &[
            (
                "mia",
                r#"{"op":"kick","user":"bob","seen":5}"#,
                "superseded",
            ),
            ("mia", r#"{"op":"kick","user":"bob","seen":6}"#, "member"),
            ("mia", r#"{"op":"kick","user":"bob"}"#, "member"),
            ("mia", r#"{"op":"kick","user":"eve"}"#, "noop"),
            ("mia", r#"{"op":"ban","user":"bob"}"#, "member"),
        ],
    );
    world.happens("mia", r#"{"ev":"member","user":"bob","change":"banned"}"#); // seq 7
    check(
        &world,
        &[
            (
                "mia",
                r#"{"op":"unban","user":"bob","seen":6}"#,
                "superseded",
            ),
            ("mia", r#"{"op":"unban","user":"bob","seen":7}"#, "member"),
            ("mia", r#"{"op":"unban","user":"eve"}"#, "noop"),
            ("mia", r#"{"op":"ban","user":"bob"}"#, "noop"),
            (
                "mia",
                r#"{"op":"ban","user":"bob","until":2000000}"#,
                "member",
            ),
            (
                "mia",
                r#"{"op":"ban","user":"eve","until":1000000}"#,
                "bad_request",
            ),
        ],
    );
}

#[test]
fn nobody_acts_on_an_equal_or_greater_role() {
    let world = public();
    check(
        &world,
        &[
            ("bob", r#"{"op":"kick","user":"mia"}"#, "forbidden"),
            ("mia", r#"{"op":"kick","user":"alice"}"#, "forbidden"),
            ("mia", r#"{"op":"ban","user":"alice"}"#, "forbidden"),
            ("mia", r#"{"op":"kick","user":"mia"}"#, "forbidden"),
            ("alice", r#"{"op":"kick","user":"mia"}"#, "member"),
            ("eve", r#"{"op":"kick","user":"bob"}"#, "not_member"),
            (
                "mia",
                r#"{"op":"role","user":"bob","role":"mod"}"#,
                "forbidden",
            ),
            (
                "alice",
                r#"{"op":"role","user":"bob","role":"mod"}"#,
                "role",
            ),
            (
                "alice",
                r#"{"op":"role","user":"bob","role":"member"}"#,
                "noop",
            ),
            (
                "alice",
                r#"{"op":"role","user":"eve","role":"mod"}"#,
                "not_found",
            ),
            (
                "alice",
                r#"{"op":"role","user":"alice","role":"mod"}"#,
                "last_owner",
            ),
        ],
    );
    let site = |command| word(&world.judge_at(Door::Moderator, ("zed", false), command));
    assert_eq!(site(r#"{"op":"kick","user":"mia"}"#), "member");
    assert_eq!(site(r#"{"op":"kick","user":"alice"}"#), "last_owner");
    assert_eq!(site(r#"{"op":"update","frozen":true}"#), "room");
    assert_eq!(site(SEND), "not_member");
}

#[test]
fn a_role_is_bound_to_its_membership() {
    let mut world = public();
    world.happens("alice", r#"{"ev":"role","user":"bob","role":"mod"}"#);
    world.happens("alice", r#"{"ev":"member","user":"bob","change":"kicked"}"#);
    world.happens("alice", r#"{"ev":"role","user":"bob","role":"mod"}"#);
    world.happens("bob", BOB_JOINS);
    check(
        &world,
        &[("bob", r#"{"op":"kick","user":"mia"}"#, "forbidden")],
    );
}

#[test]
fn settings_change_by_owners_and_with_base_only_if_unchanged() {
    let mut world = public();
    check(
        &world,
        &[
            ("bob", r#"{"op":"update","topic":"x"}"#, "forbidden"),
            ("mia", r#"{"op":"update","topic":"x"}"#, "forbidden"),
            ("alice", r#"{"op":"update","name":"ops"}"#, "noop"),
            ("alice", r#"{"op":"update","topic":"x","base":1}"#, "room"),
        ],
    );
    world.happens("alice", r#"{"ev":"room","topic":"x"}"#);
    let Verdict::Refuse(refusal) = world.judge("alice", r#"{"op":"update","topic":"y","base":1}"#)
    else {
        panic!("must be refused")
    };
    assert_eq!(
        (refusal.code, refusal.head),
        (ErrorCode::Conflict, Some(Seq(5)))
    );
    let verdict = world.judge("alice", r#"{"op":"update","topic":"x","name":"new"}"#);
    let Verdict::Events(events) = verdict else {
        panic!("{verdict:?}")
    };
    assert_eq!(
        serde_json::to_string(&events).unwrap(),
        r#"[{"ev":"room","name":"new"}]"#
    );
}

#[test]
fn frozen_muted_and_slow_rooms_hold_members_back() {
    let mut frozen = public();
    frozen.happens("alice", r#"{"ev":"room","frozen":true}"#);
    check(
        &frozen,
        &[
            ("bob", SEND, "frozen"),
            ("mia", SEND, "msg"),
            ("bob", r#"{"op":"leave"}"#, "member"),
        ],
    );
    let mut muted = public();
    muted.happens("alice", r#"{"ev":"member","user":"bob","change":"muted"}"#);
    check(&muted, &[("bob", SEND, "muted")]);
    let mut slow = public();
    slow.happens("alice", r#"{"ev":"room","slow_s":30}"#);
    check(&slow, &[("bob", SEND, "msg")]);
    for name in ["bob", "mia"] {
        slow.last_sent.insert(user(name), NOW.plus_ms(-12_345));
    }
    let Verdict::Refuse(refusal) = slow.judge("bob", SEND) else {
        panic!("must wait")
    };
    assert_eq!(
        (refusal.code, refusal.retry_after_ms),
        (ErrorCode::SlowMode, Some(17_655))
    );
    check(&slow, &[("mia", SEND, "msg")]);
    slow.last_sent.insert(user("bob"), NOW.plus_ms(-30_000));
    check(&slow, &[("bob", SEND, "msg")]);
}

mod speech;
