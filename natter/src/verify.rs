//! `natter verify`: proves the chain of a room, from Postgres and from the log, and that both are one.
//!
//! It only reads. What the archive is checked against itself is `history::verify`'s; here the log joins
//! as a second witness, and an anchor from outside (`--expect`) as a third.

mod compare;

use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context as _;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use chassis::nats::Nats;
use futures_util::StreamExt as _;
use history::config::DatabaseArgs;
use history::record::Record;
use history::store::Snapshot;
use history::verify::Fault;
use protocol::chain::Hash;
use protocol::event::{Event, LogEvent};
use protocol::subject::{LOG_STREAM, Subject};
use protocol::{RoomId, Seq, StreamSeq, Timestamp};
use sqlx::PgPool;

use self::compare::{Line, Place, check_expected, check_log, first_difference, lines_of};
use crate::servers::{ANSWER_MAX, ServersArgs, connect};

/// Rows read at once.
const CHUNK: u32 = 2_000;

/// Arguments of `natter verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The room, by id.
    room: RoomId,
    /// A head that the chain must contain, for example from a client's snapshot or a checkpoint.
    #[arg(long, value_name = "SEQ:HASH")]
    expect: Option<Anchor>,
    #[command(flatten)]
    servers: ServersArgs,
}

/// A seq and the hash that the chain has there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Anchor {
    seq: Seq,
    hash: Hash,
}

impl FromStr for Anchor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(seq, hash)| {
            Some(Self {
                seq: Seq(seq.parse().ok()?),
                hash: Hash::parse(hash)?,
            })
        });
        parsed.ok_or_else(|| "a seq, a colon and a hash of 43 characters".to_owned())
    }
}

/// Checks a room and says what was found; exit code 1 if anything is wrong.
///
/// # Errors
/// The broker or the database cannot be reached.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (nats, database_url) = args.servers.addresses()?;
    let pool = history::database::pool(&DatabaseArgs::to(&database_url))?;
    let report = tokio::time::timeout(ANSWER_MAX * 6, history::verify::room(&pool, &args.room))
        .await
        .context("the database does not answer")?
        .context("read the archive")?;
    let Some(report) = report else {
        say(&format!("the archive has no room {}", args.room));
        return Ok(ExitCode::FAILURE);
    };
    let (seq, hash) = report.head;
    let mut faults: Vec<Fault> = report.fault.into_iter().collect();
    say(&format!("room      {}", args.room));
    say(&format!(
        "archive   {} events, {} messages checked; chain proven to {seq}:{hash}",
        report.events, report.messages
    ));
    let archive = read_archive(&pool, &args.room)
        .await
        .context("read the archive")?;
    let log = read_log(&connect(&nats, "natter-verify").await?, &args.room)
        .await
        .context("read the log")?;
    match check_log(&log) {
        Ok(Some(held)) => {
            let ((seq, hash), from) = (held.head, held.from);
            say(&format!(
                "log       events {from} to {seq}; chain proven to {seq}:{hash}"
            ));
        }
        Ok(None) => say("log       holds no event of this room any more"),
        Err(fault) => faults.push(fault),
    }
    faults.extend(first_difference(&log, &archive));
    if let Some(Anchor { seq, hash }) = args.expect
        && let Err(what) = check_expected(&archive, seq, hash)
    {
        faults.push(Fault {
            seq,
            place: "anchor",
            what,
        });
    }
    // Of two views of one fault the earlier event is where it began.
    faults.sort_by_key(|fault| fault.seq);
    Ok(conclude(&faults))
}

fn conclude(faults: &[Fault]) -> ExitCode {
    let Some(first) = faults.first() else {
        say("proven    archive and log are one chain");
        return ExitCode::SUCCESS;
    };
    let Fault { seq, place, what } = first;
    say(&format!(
        "BROKEN    first bad event: {seq} ({place}): {what}"
    ));
    for Fault { seq, place, what } in faults.iter().skip(1) {
        say(&format!("          also: {seq} ({place}): {what}"));
    }
    ExitCode::FAILURE
}

fn say(line: &str) {
    // The exit code tells it too.
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// A seq, and the hash that the chain has there.
pub(crate) type Head = (Seq, Hash);

/// Every event of the room that the log still holds, and their head, once their chain is proven.
///
/// # Errors
/// The broker does not answer, or the chain is broken.
pub(crate) async fn log_of(
    nats: &Nats,
    room: &RoomId,
) -> anyhow::Result<(Vec<Event>, Option<Head>)> {
    let lines = read_log(nats, room).await?;
    let held = match check_log(&lines) {
        Ok(held) => held,
        Err(fault) => anyhow::bail!("the log is broken at {}: {}", fault.seq, fault.what),
    };
    let events = lines.iter().map(|line| LogEvent::parse(&line.line));
    let events = events
        .map(|parsed| parsed.map(|logged| logged.event))
        .collect::<Result<_, _>>()?;
    Ok((events, held.map(|held| held.head)))
}

/// Every line of the room in the archive.
async fn read_archive(pool: &PgPool, room: &RoomId) -> anyhow::Result<Vec<Line>> {
    let mut snapshot = Snapshot::begin(pool).await?;
    let mut lines: Vec<Line> = Vec::new();
    loop {
        let after = lines.last().map_or(Seq(0), |line| line.seq);
        let rows = history::store::verify::events(&mut snapshot, room, after, CHUNK).await?;
        if rows.is_empty() {
            break;
        }
        lines.extend(rows.into_iter().map(|row| {
            let position = row.event.position;
            let place = Place {
                position,
                index: row.index,
                first: row.first,
            };
            Line {
                seq: row.event.seq,
                line: row.event.line,
                place,
            }
        }));
    }
    snapshot.end().await?;
    Ok(lines)
}

/// Every line of the room that the log still holds, up to its end when the reading began.
async fn read_log(nats: &Nats, room: &RoomId) -> anyhow::Result<Vec<Line>> {
    let subject = Subject::Log(room.partition()).to_string();
    let Some(end) = nats.last_for_subject(LOG_STREAM, &subject).await? else {
        return Ok(Vec::new());
    };
    let stream = nats.jetstream.get_stream(LOG_STREAM).await?;
    let config = OrderedConfig {
        filter_subject: subject,
        deliver_policy: DeliverPolicy::All,
        ..OrderedConfig::default()
    };
    let mut records = stream.create_consumer(config).await?.messages().await?;
    let mut lines = Vec::new();
    loop {
        let record = tokio::time::timeout(ANSWER_MAX, records.next())
            .await
            .context("the broker does not answer")?
            .context("the consumer ended")??;
        let position = match record.info() {
            Ok(info) => info.stream_sequence,
            Err(error) => anyhow::bail!("a record without a position: {error}"),
        };
        let partition = Some(room.partition());
        let read = Record::parse(
            StreamSeq(position),
            partition,
            Timestamp(0),
            &record.payload,
        );
        match lines_of(room, read) {
            Ok(found) => lines.extend(found),
            Err(reason) => anyhow::bail!("record {position} of the log: {reason}"),
        }
        if position >= end.seq {
            return Ok(lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_a_seq_and_a_hash() {
        let text = format!("48211:{}", Hash([7; 32]));
        let anchor: Anchor = text.parse().unwrap();
        assert_eq!(
            anchor,
            Anchor {
                seq: Seq(48_211),
                hash: Hash([7; 32])
            }
        );
        for bad in ["", "5", "5:", ":x", "x:y", "5:AAAA"] {
            assert!(bad.parse::<Anchor>().is_err(), "{bad}");
        }
    }
}
