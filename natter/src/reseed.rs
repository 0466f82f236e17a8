//! `natter reseed`: after the broker's store was lost, makes a log that goes on from the archive.
//!
//! The new log has a new id and begins far above every record of the old one. In it every partition has
//! an epoch record, which fences owners that still know the old log, and every room has a `void` event
//! that says which numbers are lost. What history had not applied is lost for good; nothing that anybody
//! has seen is numbered again. The last step moves history's cursor: before it nobody writes to the new
//! log, and until then all can be done again from the beginning.
//!
//! It never touches a log that history can follow.

mod plan;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use async_nats::HeaderMap;
use chassis::nats::Nats;
use chassis::topology::TopologyConfig;
use futures_util::{StreamExt as _, TryStreamExt as _};
use history::config::DatabaseArgs;
use history::store::Snapshot;
use history::store::cursor::{self, Cursor};
use history::store::heads::{Head, heads};
use protocol::subject::{LOG_STREAM, Subject};
use protocol::{InstanceId, LogId, Partition, StreamSeq, Timestamp};
use sqlx::PgPool;

use self::plan::{Finding, Records, judge, records_of};
use crate::servers::{ANSWER_MAX, ServersArgs, connect};

/// Rooms read at once.
const CHUNK: u32 = 10_000;
/// Partitions written at once: each waits for its own records to be synced.
const AT_ONCE: usize = 16;
/// Record numbers that are left out: more than a broker stores while history may be behind.
const RECORDS_LEFT_OUT: u64 = 10_000_000_000;

/// Arguments of `natter reseed`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    servers: ServersArgs,
    #[command(flatten)]
    topology: TopologyConfig,
    /// Numbers that each room leaves out: more than one room can have got while history was behind.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    skip_seqs: u64,
    /// Also give up records that the broker still has and history never applied.
    #[arg(long)]
    discard_log: bool,
}

/// Makes the new log, if the old one is lost.
///
/// # Errors
/// The broker or the database cannot be reached, or there is nothing that calls for it.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (nats, database_url) = args.servers.addresses()?;
    let pool = history::database::pool(&DatabaseArgs::to(&database_url))?;
    let nats = connect(&nats, "natter-reseed").await?;
    let (cursor, rooms) = read_archive(&pool).await.context("read the archive")?;
    let log = nats
        .stream_state(LOG_STREAM)
        .await
        .context("read the log's state")?;
    let lost = match judge(cursor.as_ref(), log.as_ref()) {
        Finding::Lost(lost) => lost,
        Finding::Unapplied(what) if args.discard_log => what,
        Finding::Unapplied(what) => anyhow::bail!(
            "{what}; restore the archive from a backup that has them, or give them up with --discard-log"
        ),
        Finding::Whole => {
            anyhow::bail!("nothing is lost: history follows the log that the broker has")
        }
        Finding::New => {
            anyhow::bail!("the archive is empty: start the services, which make a log")
        }
    };
    let cursor = cursor.context("a log is only lost if there is a cursor")?;
    say(&lost);
    let first = StreamSeq(cursor.applied.0 + RECORDS_LEFT_OUT);
    let succeeds = cursor_of(&cursor);
    let log = chassis::topology::succeed(&nats, &args.topology, first.0, &succeeds).await?;
    let id = LogId::parse(&log.log_id).context("read the new log's id")?;
    say(&format!(
        "log       {id} begins with record {first} and takes the place of {succeeds}"
    ));
    let written = write(&nats, rooms, &args).await?;
    say(&format!("rooms     {written} go on"));
    let moved = async {
        let mut db = pool.acquire().await?;
        anyhow::Ok(cursor::succeed(&mut db, &cursor, &id, first.before()).await?)
    };
    let moved = tokio::time::timeout(ANSWER_MAX, moved)
        .await
        .context("the database does not answer")??;
    anyhow::ensure!(
        moved,
        "history's cursor was moved meanwhile: somebody else does this too; run natter reseed again"
    );
    say("done      history follows the new log; messages processes begin anew by themselves");
    Ok(ExitCode::SUCCESS)
}

/// The cursor as text, as the log's metadata have it.
fn cursor_of(cursor: &Cursor) -> String {
    format!("{}.{}", cursor.log, cursor.applied)
}

fn say(line: &str) {
    // The exit code tells it too.
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// The cursor, and where every room ends as of it.
async fn read_archive(
    pool: &PgPool,
) -> anyhow::Result<(Option<Cursor>, BTreeMap<Partition, Vec<Head>>)> {
    let mut snapshot = Snapshot::begin(pool).await?;
    let cursor = snapshot.log.clone().map(|log| Cursor {
        log,
        applied: snapshot.applied,
        time: snapshot.time,
    });
    let mut rooms: BTreeMap<Partition, Vec<Head>> = BTreeMap::new();
    let mut after = None;
    loop {
        let chunk = heads(&mut snapshot, after.as_ref(), CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = Some(last.room.clone());
        for head in chunk {
            rooms.entry(head.room.partition()).or_default().push(head);
        }
    }
    snapshot.end().await?;
    Ok((cursor, rooms))
}

/// Writes every partition's epoch record and its rooms' voids; returns how many rooms.
async fn write(
    nats: &Nats,
    mut rooms: BTreeMap<Partition, Vec<Head>>,
    args: &Args,
) -> anyhow::Result<usize> {
    let instance = format!("reseed{:x}", rand::random::<u64>());
    let run = Records {
        instance: InstanceId::parse(&instance).context("name this run")?,
        skip_seqs: args.skip_seqs,
        now: Timestamp(chassis::clock::Clock::system().now_ms()),
    };
    let parts = Partition::all().map(|partition| {
        let heads = rooms.remove(&partition).unwrap_or_default();
        let count = heads.len();
        let records = records_of(&run, &heads);
        async move {
            append(nats, partition, records).await?;
            anyhow::Ok(count)
        }
    });
    futures_util::stream::iter(parts)
        .buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, count| async move { Ok(sum + count) })
        .await
}

/// Appends records one behind the other.
async fn append(nats: &Nats, partition: Partition, records: Vec<String>) -> anyhow::Result<()> {
    let subject = Subject::Log(partition).to_string();
    let mut expected = 0;
    for record in records {
        let stored = nats
            .publish_expect(subject.clone(), record.into(), HeaderMap::new(), expected)
            .await;
        let stored = stored.with_context(|| {
            format!("append to partition {partition} of the new log; run natter reseed again")
        })?;
        expected = stored.seq;
    }
    Ok(())
}
