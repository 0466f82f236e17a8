//! `natter doctor`: whether a broker, a database and this machine are fit for natter, and what to do.
//!
//! It changes nothing: rights are tried on subjects where nothing comes of it. What was seen (`facts`)
//! is apart from what is made of it (`check`, pure), so that every finding has a row in a table.

mod broker;
mod check;
mod database;
mod facts;
mod finding;
mod monitor;
mod tries;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chassis::config::{NatsArgs, Problems};
use chassis::topology::TopologyConfig;
use history::config::DatabaseArgs;

use facts::Facts;
use finding::Level;

/// Arguments of `natter doctor`: those of the services, and where more can be seen.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    nats: NatsArgs,
    /// File with the services' users at the broker and their passwords: one JSON object.
    ///
    /// Each is tried out: whether it may do what its service does, and nothing else.
    #[arg(long, env = "NATTER_NATS_USERS_FILE")]
    nats_users_file: Option<PathBuf>,
    /// Monitoring addresses of the brokers (`http://host:8222`), separated by commas.
    ///
    /// Only there does a broker say whether it syncs every write, and how full it is.
    #[arg(long, env = "NATTER_NATS_MONITOR_URL", value_delimiter = ',')]
    nats_monitor_url: Vec<String>,
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    topology: TopologyConfig,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Looks at everything; exit code 1 if there is a problem, 0 if there are at most warnings.
///
/// # Errors
///
/// The users' file cannot be read, or stdout is closed.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut problems = Problems::new();
    args.nats.check(&mut problems);
    args.database.check(&mut problems);
    args.topology.check(&mut problems);
    if let Err(problems) = problems.finish() {
        writeln!(std::io::stderr(), "natter: {problems}")?;
        return Ok(ExitCode::from(chassis::config::EXIT_CONFIG));
    }
    let findings = check::findings(&gather(&args).await?);
    let text = if args.json {
        serde_json::to_string_pretty(&finding::for_machines(&findings))? + "\n"
    } else {
        finding::for_people(&findings)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match finding::worst(&findings) {
        Level::Ok | Level::Warning => ExitCode::SUCCESS,
        Level::Problem => ExitCode::FAILURE,
    })
}

async fn gather(args: &Args) -> anyhow::Result<Facts> {
    let users = users(args)?;
    let broker = broker::look(&broker_user(args, &users), &args.topology).await;
    let mut tried = Vec::new();
    let mut anonymous = None;
    if broker.is_ok() {
        for (name, password) in &users {
            tried.push(tries::user(&args.nats, name, password).await);
        }
        anonymous = tries::anonymous(&args.nats).await;
    }
    let mut reports = Vec::new();
    for url in &args.nats_monitor_url {
        reports.push((url.clone(), monitor::report(url).await));
    }
    Ok(Facts {
        broker,
        users: tried,
        anonymous,
        reports,
        database: database::look(&args.database).await,
        open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        replicas: args.topology.stream_replicas,
    })
}

/// Names and passwords from the file, and of the user that was named.
fn users(args: &Args) -> anyhow::Result<BTreeMap<String, String>> {
    let mut users = BTreeMap::new();
    if let Some(path) = &args.nats_users_file {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        users = serde_json::from_slice(&text).with_context(|| {
            format!(
                "read names and passwords as one JSON object from {}",
                path.display()
            )
        })?;
    }
    if let Some((user, password)) = args.nats.credentials(&mut Problems::new()) {
        users.insert(user, password.expose().to_owned());
    }
    Ok(users)
}

/// As whom to look at the broker: as told, else as messages, which may see all streams.
fn broker_user(args: &Args, users: &BTreeMap<String, String>) -> NatsArgs {
    let mut nats = args.nats.clone();
    let messages = protocol::subject::rights::BrokerUser::Messages.name();
    if nats.nats_user.is_none()
        && let Some(password) = users.get(messages)
    {
        nats.nats_user = Some(messages.to_owned());
        nats.nats_password = Some(password.as_str().into());
    }
    nats
}
