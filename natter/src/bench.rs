//! `natter bench`: drives any natter by its sockets, and lets the judge of [`crate::audit`] say what came of it.
//!
//! It is made of ordinary users: members who write, some who watch, some who come and go, some who are
//! slow. It never gives up while anything moves, whatever the servers do meanwhile. It trusts nothing that
//! it is told: what it gathers is compared in the end, and the exit code is 0 only if all is well.

mod archive;
mod churn;
mod corpus;
mod crowd;
mod place;
mod prints;
mod progress;
mod relay;
mod repeater;
mod report;
mod sender;
mod stage;
mod tokens;
mod track;
pub(crate) mod viewer;
mod wire;
mod witness;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::corpus::Corpus;
use self::crowd::Crowd;
use self::progress::Progress;
use self::report::Report;
use self::sender::Load;
use self::stage::Stage;

/// From the last preparation to the first message.
const START_AFTER: Duration = Duration::from_millis(50);

/// Arguments of `natter bench`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of a gateway, such as `ws://127.0.0.1:8080`; may be given several times.
    #[arg(
        long = "url",
        value_name = "URL",
        default_value = "ws://127.0.0.1:8080"
    )]
    urls: Vec<String>,
    /// Rooms: in turn public, private, and private without the past.
    #[arg(long, default_value_t = 8, value_parser = at_least_one())]
    rooms: usize,
    /// Members who write, per room; each is a user with a socket.
    #[arg(long, default_value_t = 20, value_parser = at_least_one())]
    members: usize,
    /// Users who watch every room; every fourth as an application would, the others without mercy.
    #[arg(long, default_value_t = 8)]
    observers: usize,
    /// Messages per second over all; 0: as fast as acknowledgements allow.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Ends after so many messages.
    #[arg(long, conflicts_with = "seconds")]
    messages: Option<u64>,
    /// Ends after so long; 10 s if neither is given.
    #[arg(long)]
    seconds: Option<u64>,
    /// Percent of the messages that change or remove an earlier one.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=90))]
    edits: u64,
    /// Users who leave and come back (or are kicked or banned), per second over all.
    #[arg(long, default_value_t = 0.0)]
    churn: f64,
    /// Users who watch every room and read slowly.
    #[arg(long, default_value_t = 0)]
    slow: usize,
    /// Sockets that are lost without a word and resume, per second over all.
    #[arg(long, default_value_t = 0.0)]
    resumes: f64,
    /// IRC log with what is said; a built-in excerpt without it.
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Give up when nothing has moved for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience_s: u64,
    /// Makes the same choices again.
    #[arg(long)]
    seed: Option<u64>,
    /// Progress and result as JSON.
    #[arg(long)]
    json: bool,
    /// Write everything that was judged to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Sign tokens with this shared secret instead of asking a development server for them.
    #[arg(long, value_name = "FILE")]
    hs256_secret_file: Option<PathBuf>,
    /// `iss` of signed tokens.
    #[arg(long, default_value = crate::token::ISSUER)]
    issuer: String,
    /// `aud` of signed tokens.
    #[arg(long, default_value = crate::token::AUDIENCE)]
    audience: String,
    /// Compare the archive also with the log at this broker.
    #[arg(long)]
    nats_url: Option<String>,
    /// User of the broker.
    #[arg(long)]
    nats_user: Option<String>,
    /// File with the password of that user.
    #[arg(long)]
    nats_password_file: Option<PathBuf>,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// Drives, watches and judges.
///
/// # Errors
/// The server cannot be reached at the start, or a file cannot be read or written.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let corpus = Corpus::read(args.corpus.as_deref())?;
    crate::replay::allow_many_sockets();
    let progress = Progress::new(Duration::from_secs(args.patience_s), args.json);
    let stage = Stage::new(&args, &progress).await?;
    let mut crowd = Crowd::gather(&stage).await?;
    let start = Instant::now() + START_AFTER;
    let mut load = Load::new(corpus, args.edits, start);
    load.rate = Some(args.rate).filter(|rate| *rate > 0);
    load.messages = args.messages;
    load.seconds = args.seconds.or(args.messages.is_none().then_some(10));
    let done = crowd.perform(&stage, Arc::new(load)).await;
    let seconds = progress.last_ack().saturating_duration_since(start);
    progress.take_heart();
    let evidence = archive::gather(&stage, &crowd, &done).await?;
    let slow = crowd.slow.iter().map(|slow| slow.known()).collect();
    let report = Report::new(&evidence, &done, &stage, slow, seconds.as_secs_f64());
    if let Some(file) = &args.keep {
        report::keep(file, &evidence)?;
    }
    progress.finish();
    report.print(args.json)?;
    crowd.close().await;
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
