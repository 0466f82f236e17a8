//! Tables of stories, and the property that batching does not matter, over tables held in memory.

use super::rows::{EventRow, MembershipRow, Reason, RoomRow, Rows};
use super::{Base, Gap, needs, project};
use crate::record::{Poison, Record};
use proptest::prelude::*;
use protocol::chain::{Hash, Salt, seal};
use protocol::envelope::{EnvelopeBuilder, EnvelopeId};
use protocol::event::{
    EventBody, LogEvent, MemberChange, Mention, Message, Role, RoomChanges, RoomKind, SeqRange,
};
use protocol::room::Mark;
use protocol::{Cid, Event, InstanceId, RoomId, Seq, StreamSeq, Timestamp, UserId};
use std::collections::BTreeMap;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

/// Writes rooms as their owners would.
#[derive(Default)]
struct Owner {
    heads: BTreeMap<RoomId, (Seq, Hash)>,
    commands: u64,
}

impl Owner {
    /// The next event of a room, by alice, of a command of its own.
    fn next(&mut self, name: &str, body: EventBody) -> LogEvent {
        let (head, hash) = self
            .heads
            .get(&room(name))
            .copied()
            .unwrap_or((Seq(0), Hash::ZERO));
        self.commands += 1;
        LogEvent {
            prev: hash,
            salt: Salt([1; 16]),
            event: Event {
                room: room(name),
                seq: head.next(),
                ts: Timestamp(1_000),
                by: user("alice"),
                cid: Cid::from_parts(self.commands, [0; 10]),
                body,
            },
        }
    }

    fn seal(&mut self, event: &LogEvent) -> (RoomId, String) {
        let sealed = seal(event);
        self.heads
            .insert(event.event.room.clone(), (event.event.seq, sealed.hash));
        (event.event.room.clone(), sealed.line)
    }

    fn write(&mut self, name: &str, body: EventBody) -> (RoomId, String) {
        let event = self.next(name, body);
        self.seal(&event)
    }
}

fn record(position: u64, lines: &[(RoomId, String)]) -> Record {
    let mut builder = EnvelopeBuilder::default();
    for (room, line) in lines {
        builder.push(room, line);
    }
    let id = EnvelopeId {
        instance: InstanceId::parse("k7").unwrap(),
        epoch: 1,
        counter: position,
    };
    let payload = builder.finish(&id);
    let time = Timestamp(i64::try_from(position).unwrap());
    Record::parse(StreamSeq(position), None, time, payload.as_bytes())
}

/// One record for each line.
fn records(lines: &[(RoomId, String)]) -> Vec<Record> {
    let lines = lines.iter().zip(1..);
    lines
        .map(|(line, position)| record(position, std::slice::from_ref(line)))
        .collect()
}

fn create(kind: RoomKind) -> EventBody {
    let changes = RoomChanges::default();
    EventBody::Room {
        kind: Some(kind),
        changes,
    }
}

fn member(name: &str, change: MemberChange) -> EventBody {
    EventBody::Member {
        user: user(name),
        change,
        role: None,
        until: None,
        why: None,
    }
}

fn say(n: u64) -> EventBody {
    EventBody::Msg(Message {
        text: format!("message {n}"),
        n: Some(n),
        ..Message::default()
    })
}

fn from_nothing(records: &[Record]) -> Rows<'_> {
    project(Base::default(), records).unwrap()
}

fn reasons(rows: &Rows<'_>) -> Vec<(u64, Poison)> {
    let reasons = rows.poisoned.iter().map(|poisoned| match &poisoned.reason {
        Reason::Event(poison) => (poisoned.seq.unwrap().0, poison.clone()),
        Reason::Record(reason) => panic!("{reason}"),
    });
    reasons.collect()
}

#[test]
fn memberships_are_intervals() {
    let mut owner = Owner::default();
    let lines = [
        create(RoomKind::Private),
        member("bob", MemberChange::Added),
        say(1),
        member("bob", MemberChange::Joined),
        EventBody::Role {
            user: user("bob"),
            role: Role::Mod,
        },
        member("bob", MemberChange::Kicked),
        member("bob", MemberChange::Joined),
    ]
    .map(|body| owner.write("r1", body));
    let records = records(&lines);
    let rows = from_nothing(&records);
    let kicked = MembershipRow {
        from_seq: Seq(2),
        from_stream: StreamSeq(2),
        to: Some((Seq(6), StreamSeq(6))),
        role: Role::Mod,
        join_n: 0,
    };
    let back = MembershipRow {
        from_seq: Seq(7),
        from_stream: StreamSeq(7),
        to: None,
        role: Role::Member,
        join_n: 1,
    };
    let expected = [(Seq(2), kicked), (Seq(7), back)];
    let expected = expected.map(|(seq, row)| ((room("r1"), user("bob"), seq), row));
    assert_eq!(rows.memberships, BTreeMap::from(expected));
    assert_eq!((rows.rooms[0].members, rows.rooms[0].head), (1, Seq(7)));
}

#[test]
fn only_the_first_event_of_a_command_claims_its_cid() {
    let mut owner = Owner::default();
    let made = owner.next("r1", create(RoomKind::Public));
    let made_line = owner.seal(&made);
    let mut joined = owner.next("r1", member("alice", MemberChange::Joined));
    joined.event.cid = made.event.cid;
    let joined_line = owner.seal(&joined);
    let said = owner.write("r1", say(1));
    let records = [record(1, &[made_line, joined_line, said])];
    let rows = from_nothing(&records);
    let first: Vec<bool> = rows.events.iter().map(|event| event.first).collect();
    assert_eq!(first, [true, false, true]);
}

#[test]
fn poison_is_archived_moves_the_head_and_marks_the_room() {
    let mut owner = Owner::default();
    let made = owner.write("r1", create(RoomKind::Public));
    let broken = (room("r1"), r#"{"ev":"msg","text":7}"#.to_owned());
    owner
        .heads
        .insert(room("r1"), (Seq(2), crate::record::hash_of(&broken.1)));
    let after = owner.write("r1", say(1));
    let other = owner.write("r2", create(RoomKind::Public));
    let records = records(&[made, broken.clone(), after, other]);
    let rows = from_nothing(&records);
    let kinds: Vec<_> = rows
        .events
        .iter()
        .map(|event| (event.seq.0, event.kind))
        .collect();
    assert_eq!(kinds, [(1, "room"), (2, "poison"), (3, "msg"), (1, "room")]);
    assert_eq!(rows.events[1].line, broken.1);
    let [bad, good] = &rows.rooms[..] else {
        panic!("two rooms")
    };
    assert_eq!(bad.poison.as_ref().map(|(seq, _)| *seq), Some(Seq(2)));
    assert_eq!((bad.head, good.poison.clone()), (Seq(3), None));
    assert_eq!(rows.messages.len(), 1, "what follows the poison is applied");
}

#[test]
fn what_cannot_follow_is_told_apart() {
    let mut owner = Owner::default();
    let made = owner.write("r1", create(RoomKind::Public));
    let mut gap = owner.next("r1", say(1));
    gap.event.seq = Seq(9);
    let mut fork = owner.next("r1", say(1));
    fork.prev = Hash([7; 32]);
    let unmade = owner.next("r2", say(1));
    let mut foreign = owner.next("r3", create(RoomKind::Public));
    foreign.event.room = room("r4");
    let table = [
        (
            seal(&gap).line,
            "r1",
            (
                9,
                Poison::Seq {
                    expected: Seq(2),
                    found: Seq(9),
                },
            ),
        ),
        (seal(&fork).line, "r1", (2, Poison::Prev)),
        (seal(&unmade).line, "r2", (1, Poison::NotCreated)),
        (seal(&foreign).line, "r3", (1, Poison::Room)),
    ];
    for (line, name, expected) in table {
        let records = records(&[made.clone(), (room(name), line)]);
        assert_eq!(reasons(&from_nothing(&records)), [expected]);
    }
}

#[test]
fn a_room_in_a_foreign_partition_is_poison() {
    let mut owner = Owner::default();
    let line = owner.write("r1", create(RoomKind::Public));
    let mut builder = EnvelopeBuilder::default();
    builder.push(&line.0, &line.1);
    let payload = builder.finish(&EnvelopeId {
        instance: InstanceId::parse("k7").unwrap(),
        epoch: 1,
        counter: 1,
    });
    let home = room("r1").partition();
    for partition in protocol::Partition::all() {
        let record = Record::parse(
            StreamSeq(1),
            Some(partition),
            Timestamp(0),
            payload.as_bytes(),
        );
        let rows = from_nothing(std::slice::from_ref(&record)).poisoned.len();
        assert_eq!(rows == 0, partition == home);
    }
}

#[test]
fn a_command_that_was_stored_before_is_poison_once_it_is_looked_up() {
    let mut owner = Owner::default();
    let made = owner.write("r1", create(RoomKind::Public));
    let said = owner.write("r1", say(1));
    let mut again = owner.next("r1", say(2));
    again.event.cid = Cid::from_parts(2, [0; 10]);
    let again = owner.seal(&again);
    let records = records(&[made, said, again]);
    assert_eq!(reasons(&from_nothing(&records)), []);
    let base = Base {
        repeated: Some(std::collections::BTreeSet::new()),
        ..Base::default()
    };
    let rows = project(base, &records).unwrap();
    assert_eq!(reasons(&rows), [(3, Poison::Repeated)]);
}

#[test]
fn a_gap_stops_everything_and_what_was_applied_is_passed_over() {
    let mut owner = Owner::default();
    let lines = [
        owner.write("r1", create(RoomKind::Public)),
        owner.write("r1", say(1)),
    ];
    let records = records(&lines);
    let gap = project(Base::default(), &records[1..]).unwrap_err();
    let expected = Gap {
        expected: StreamSeq(1),
        found: StreamSeq(2),
    };
    assert_eq!(gap, expected);
    let base = Base {
        applied: StreamSeq(2),
        ..Base::default()
    };
    let again = project(base, &records).unwrap();
    assert_eq!((again.applied, again.events.len()), (StreamSeq(2), 0));
}

#[test]
fn a_void_jumps_over_lost_numbers() {
    let mut owner = Owner::default();
    let made = owner.write("r1", create(RoomKind::Public));
    let mut void = owner.next("r1", EventBody::Void { from: Seq(2) });
    void.event.seq = Seq(10_001);
    let void = owner.seal(&void);
    let said = owner.write("r1", say(1));
    let records = records(&[made, void, said]);
    let rows = from_nothing(&records);
    assert_eq!(reasons(&rows), []);
    assert_eq!(rows.rooms[0].head, Seq(10_002));
}

#[test]
fn a_self_room_makes_its_user_known_and_holds_the_marks() {
    let mut owner = Owner::default();
    let read = |epoch, seq| EventBody::Read {
        target: room("r1"),
        mark: Seq(seq),
        read_n: None,
        epoch,
        back: false,
    };
    let lines = [
        create(RoomKind::Own),
        read(0, 9),
        read(1, 4),
        read(0, 30),
        read(1, 5),
    ]
    .map(|body| owner.write("s_alice", body));
    let records = records(&lines);
    let rows = from_nothing(&records);
    assert!(rows.users.contains_key(&user("alice")));
    let mark = Mark {
        epoch: 1,
        seq: Seq(5),
    };
    let expected = [((user("alice"), room("r1")), mark)];
    assert_eq!(rows.marks, BTreeMap::from(expected));
}

/// The tables, as far as the projector is responsible for what is in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables {
    applied: StreamSeq,
    rooms: BTreeMap<RoomId, RoomRow>,
    memberships: BTreeMap<(RoomId, UserId, Seq), MembershipRow>,
    bans: BTreeMap<(RoomId, UserId), super::rows::BanRow>,
    mutes: BTreeMap<(RoomId, UserId), super::rows::MuteRow>,
    marks: BTreeMap<(UserId, RoomId), Mark>,
    threads: BTreeMap<(RoomId, Seq), u64>,
    events: Vec<(RoomId, Seq, StreamSeq, &'static str, bool, Hash)>,
    /// New messages, revisions and deletions, in the order of the log.
    messages: Vec<String>,
    revisions: Vec<String>,
    deletions: Vec<String>,
}

impl Tables {
    fn base(&self, records: &[Record]) -> Base {
        let needs = needs(records);
        let mut base = Base {
            applied: self.applied,
            ..Base::default()
        };
        for room in &needs.rooms {
            if let Some(row) = self.rooms.get(room) {
                base.rooms.insert(room.clone(), row.clone());
            }
        }
        for ((room, user, _), row) in &self.memberships {
            if row.to.is_none() && needs.members.contains(&(room.clone(), user.clone())) {
                let of_room = base.members.entry(room.clone()).or_default();
                of_room.insert(user.clone(), row.clone());
            }
        }
        base
    }

    fn write(&mut self, records: &[Record]) {
        let rows = project(self.base(records), records).unwrap();
        self.applied = rows.applied;
        for row in rows.rooms {
            self.rooms.insert(row.room.clone(), row);
        }
        self.memberships.extend(rows.memberships);
        put(&mut self.bans, rows.bans);
        put(&mut self.mutes, rows.mutes);
        for (key, mark) in rows.marks {
            let old = self.marks.entry(key).or_default();
            *old = (*old).max(mark);
        }
        for (key, tn) in rows.threads {
            let old = self.threads.entry(key).or_default();
            *old = (*old).max(tn);
        }
        let event = |event: EventRow<'_>| {
            (
                event.room,
                event.seq,
                event.position,
                event.kind,
                event.first,
                event.hash,
            )
        };
        self.events.extend(rows.events.into_iter().map(event));
        self.messages
            .extend(rows.messages.iter().map(|row| format!("{row:?}")));
        self.revisions
            .extend(rows.revisions.iter().map(|row| format!("{row:?}")));
        self.deletions
            .extend(rows.deletions.iter().map(|row| format!("{row:?}")));
    }
}

fn put<K: Ord, V>(table: &mut BTreeMap<K, V>, changes: BTreeMap<K, Option<V>>) {
    for (key, change) in changes {
        match change {
            Some(row) => {
                table.insert(key, row);
            }
            None => {
                table.remove(&key);
            }
        }
    }
}

/// A body from four small numbers: everything that changes a table, in rooms of few people.
fn body(kind: u8, who: u8, seq: u8, flag: bool) -> EventBody {
    use MemberChange::{Added, Banned, Joined, Kicked, Left, Muted, Unbanned, Unmuted};
    let name = ["bob", "carol", "dave"][usize::from(who % 3)];
    let seq = Seq(u64::from(seq % 8) + 1);
    match kind % 8 {
        0 => {
            let all = [
                Joined, Added, Left, Kicked, Banned, Unbanned, Muted, Unmuted,
            ];
            member(name, all[usize::from(who) % 8])
        }
        1 => EventBody::Role {
            user: user(name),
            role: if flag { Role::Mod } else { Role::Owner },
        },
        2 => EventBody::Msg(Message {
            text: format!("{who}"),
            mentions: vec![Mention::Room],
            n: (!flag).then_some(seq.0),
            thread: flag.then_some(seq),
            tn: flag.then_some(u64::from(who)),
            ..Message::default()
        }),
        3 => EventBody::Edit {
            on: seq,
            rev: u32::from(who),
            text: "edited".to_owned(),
            mentions: Vec::new(),
            won: flag,
            eff: Timestamp(5),
        },
        4 => EventBody::Del {
            on: vec![SeqRange(seq, seq)],
            user: flag.then(|| user(name)),
            to: flag.then_some(seq),
            why: None,
        },
        5 => EventBody::Read {
            target: room("r1"),
            mark: seq,
            read_n: None,
            epoch: u32::from(flag),
            back: flag,
        },
        _ => EventBody::Room {
            kind: None,
            changes: RoomChanges {
                name: Some(name.to_owned()),
                ..RoomChanges::default()
            },
        },
    }
}

fn log(script: &[(u8, u8, u8, bool)]) -> Vec<Record> {
    let mut owner = Owner::default();
    let mut lines = vec![
        vec![owner.write("r1", create(RoomKind::Public))],
        vec![owner.write("s_a", create(RoomKind::Own))],
    ];
    for (index, &(kind, who, seq, flag)) in script.iter().enumerate() {
        let name = if kind % 8 == 5 { "s_a" } else { "r1" };
        let line = if kind >= 250 {
            (room(name), format!("poison {who}"))
        } else {
            owner.write(name, body(kind, who, seq, flag))
        };
        match lines.last_mut() {
            Some(last) if flag && index % 2 == 0 => last.push(line),
            Some(_) | None => lines.push(vec![line]),
        }
    }
    let lines = lines.iter().zip(1..);
    lines
        .map(|(lines, position)| record(position, lines))
        .collect()
}

proptest! {
    /// However the records are cut into batches, and however far back each batch begins, the tables
    /// end up the same.
    #[test]
    fn batching_does_not_matter_and_twice_is_once(
        script in prop::collection::vec(any::<(u8, u8, u8, bool)>(), 0..40),
        cuts in prop::collection::vec((1_usize..6, 0_usize..4), 1..40),
    ) {
        let records = log(&script);
        let mut whole = Tables::default();
        whole.write(&records);
        let mut parts = Tables::default();
        let mut done = 0;
        for (count, back) in cuts.into_iter().cycle() {
            if done >= records.len() {
                break;
            }
            let end = records.len().min(done + count);
            parts.write(&records[done.saturating_sub(back)..end]);
            done = end;
        }
        prop_assert_eq!(whole, parts);
    }
}
