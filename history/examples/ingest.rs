//! How fast events go into Postgres: `ingest DATABASE_URL [EVENTS] [ROOMS] [BATCH]`.
//!
//! Parses, projects and writes records as ingestion does, without a broker: 93% messages, of which a
//! twentieth mentions somebody and a tenth are thread replies, 3% edits, 2% joins and leaves, 1%
//! deletions, 1% read marks. The database must be empty; its tables are made.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use history::database;
use history::projector::{needs, project};
use history::record::Record;
use history::store::{cursor, write};
use protocol::chain::{Hash, Salt, seal};
use protocol::envelope::{EnvelopeBuilder, EnvelopeId};
use protocol::event::{
    EventBody, LogEvent, MemberChange, Mention, Message, RoomChanges, RoomKind, SeqRange,
};
use protocol::{Cid, Event, InstanceId, LogId, RoomId, Seq, StreamSeq, Timestamp, UserId};
use sqlx::{Connection as _, Row as _};
use std::error::Error;
use tokio::time::Instant;

/// Events of one envelope: what a busy partition makes of a few milliseconds.
const ENVELOPE_EVENTS: usize = 64;
/// Users who talk.
const USERS: u64 = 200;

/// A room as its owner holds it.
struct Room {
    id: RoomId,
    head: Seq,
    hash: Hash,
    n: u64,
    tn: u64,
}

/// Makes the log.
struct Owner {
    rooms: Vec<Room>,
    marks: Room,
    made: u64,
}

fn room(id: &str) -> Room {
    Room {
        id: RoomId::parse(id).expect("an id"),
        head: Seq(0),
        hash: Hash::ZERO,
        n: 0,
        tn: 0,
    }
}

fn user(number: u64) -> UserId {
    UserId::parse(&format!("user{}", number % USERS)).expect("an id")
}

impl Owner {
    fn line(&mut self, builder: &mut EnvelopeBuilder) {
        self.made += 1;
        let made = self.made;
        let count = u64::try_from(self.rooms.len()).expect("few rooms");
        let reads = made % 100 == 1;
        let index =
            usize::try_from(made.wrapping_mul(0x9e37_79b9) / 64 % count).expect("few rooms");
        let room = if reads {
            &mut self.marks
        } else {
            &mut self.rooms[index]
        };
        let body = body(made, reads, room);
        let event = Event {
            room: room.id.clone(),
            seq: room.head.next(),
            ts: Timestamp(i64::try_from(made).expect("few events")),
            by: user(made.wrapping_mul(7)),
            cid: Cid::from_parts(
                made,
                made.to_be_bytes().repeat(2)[..10].try_into().expect("ten"),
            ),
            body,
        };
        let salt = Salt::derive(&[7; 32], made);
        let sealed = seal(&LogEvent {
            prev: room.hash,
            salt,
            event,
        });
        (room.head, room.hash) = (room.head.next(), sealed.hash);
        builder.push(&room.id, &sealed.line);
    }
}

fn body(made: u64, reads: bool, room: &mut Room) -> EventBody {
    if room.head == Seq(0) {
        let kind = Some(if reads {
            RoomKind::Own
        } else {
            RoomKind::Public
        });
        return EventBody::Room {
            kind,
            changes: RoomChanges::default(),
        };
    }
    if reads {
        let target = RoomId::parse("r0").expect("an id");
        return EventBody::Read {
            target,
            mark: Seq(made),
            read_n: None,
            epoch: 0,
            back: false,
        };
    }
    let old = Seq(room.head.0.saturating_sub(made % 50).max(1));
    match made % 100 {
        2..=4 => EventBody::Edit {
            on: old,
            rev: 2,
            text: "the same, but better".to_owned(),
            mentions: Vec::new(),
            won: true,
            eff: Timestamp(i64::try_from(made).expect("few events")),
        },
        5 | 6 => EventBody::Member {
            user: user(made),
            change: if made % 200 < 100 {
                MemberChange::Joined
            } else {
                MemberChange::Left
            },
            role: None,
            until: None,
            why: None,
        },
        7 => EventBody::Del {
            on: vec![SeqRange(old, old)],
            user: None,
            to: None,
            why: None,
        },
        rest => message(made, rest, room),
    }
}

fn message(made: u64, rest: u64, room: &mut Room) -> EventBody {
    let mut message = Message {
        text: format!(
            "message {made}: anybody here who knows why the sound is gone after an upgrade?"
        ),
        ..Message::default()
    };
    if rest >= 90 {
        room.tn += 1;
        (message.thread, message.tn) = (Some(Seq(2)), Some(room.tn));
    } else {
        room.n += 1;
        message.n = Some(room.n);
    }
    if rest % 20 == 8 {
        message
            .mentions
            .push(Mention::User(user(made.wrapping_mul(3))));
    }
    EventBody::Msg(message)
}

fn payload(owner: &mut Owner, position: u64) -> String {
    let mut builder = EnvelopeBuilder::default();
    for _ in 0..ENVELOPE_EVENTS {
        owner.line(&mut builder);
    }
    let instance = InstanceId::parse("bench").expect("an id");
    builder.finish(&EnvelopeId {
        instance,
        epoch: 1,
        counter: position,
    })
}

/// CPU time of this process in seconds, from `/proc/self/stat`, in which a tick is 10 ms.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no process name")?;
    let ticks: Vec<u32> = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .flat_map(str::parse)
        .collect();
    Ok(f64::from(ticks.iter().sum::<u32>()) / 100.0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("usage: ingest DATABASE_URL [EVENTS] [ROOMS] [BATCH]")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let (events, rooms, batch) = (number(200_000)?, number(50)?, number(4_000)?);

    let database = history::config::DatabaseArgs::to(&url);
    history::migrate(&database::pool(&database)?).await?;
    let rooms = (0..rooms)
        .map(|number| room(&format!("r{number}")))
        .collect();
    let mut owner = Owner {
        rooms,
        marks: room("s_bench"),
        made: 0,
    };
    let envelopes = events.div_ceil(ENVELOPE_EVENTS);
    let payloads: Vec<String> = (1..)
        .take(envelopes)
        .map(|position| payload(&mut owner, position))
        .collect();

    let mut db = database::Connector::new(&database)?.connect().await?;
    let log = LogId::parse("bench")?;
    cursor::begin(&mut db, &log).await?;
    let mut at = cursor::read(&mut db).await?.ok_or("no cursor")?;
    if at.applied != StreamSeq(0) {
        return Err("the database is not empty".into());
    }
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let mut poisoned = 0;
    for (payloads, first) in payloads
        .chunks(batch.div_ceil(ENVELOPE_EVENTS))
        .zip(0_u64..)
    {
        let first = first * u64::try_from(batch.div_ceil(ENVELOPE_EVENTS))? + 1;
        let records: Vec<Record> = payloads
            .iter()
            .zip(first..)
            .map(|(payload, position)| {
                Record::parse(StreamSeq(position), None, Timestamp(0), payload.as_bytes())
            })
            .collect();
        let mut tx = db.begin().await?;
        let base = write::base(&mut tx, &at, &needs(&records)).await?;
        let rows = project(base, &records)?;
        poisoned += rows.poisoned.len();
        if !write::rows(&mut tx, &at, &rows).await? {
            return Err("the cursor was moved".into());
        }
        tx.commit().await?;
        (at.applied, at.time) = (rows.applied, rows.time);
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let count: i64 = sqlx::query("select count(*) from events")
        .fetch_one(&mut db)
        .await?
        .try_get(0)?;
    let count = f64::from(u32::try_from(count)?);
    println!(
        "{count} events ({poisoned} poisoned) in {seconds:.2} s: {:.0} events/s, {:.1} us CPU per event here",
        count / seconds,
        cpu * 1e6 / count
    );
    Ok(())
}
