//! `natter dev`: everything on one machine, with a private nats-server and Postgres.
//!
//! It prepares folders and servers, then supervises: nats-server, Postgres, and natter's services as
//! children. It serves nothing itself, so that a service's crash never takes the servers along.

mod banner;
mod broker_users;
mod identity;
mod layout;
mod nats_server;
mod ports;
mod postgres;
mod probe;
mod services;
mod store_watch;
mod supervisor;
mod tools;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use history::config::DatabaseArgs;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use self::broker_users::BrokerUsers;
use self::layout::Layout;
use self::ports::Claim;
use self::supervisor::{Ended, Supervisor};
use self::tools::Tools;
use crate::migrate;
use crate::token::{KEY_FILE, Key};

/// Pause between two looks at a server that is starting.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Arguments of `natter dev`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Public address; the next free port if it is taken.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address for health and metrics; the next free port if it is taken.
    #[arg(long, default_value = "127.0.0.1:9464")]
    ops: SocketAddr,
    /// Port of the private nats-server; the next free one if it is taken.
    #[arg(long, default_value_t = 14_222)]
    nats_port: u16,
    /// Port of the private Postgres; the next free one if it is taken.
    #[arg(long, default_value_t = 15_432)]
    pg_port: u16,
    /// Data folder.
    #[arg(long, env = "NATTER_DATA", default_value = ".natter")]
    data: PathBuf,
    /// Forget all data first.
    #[arg(long)]
    fresh: bool,
    /// Run each service as a process of its own.
    #[arg(long)]
    separate: bool,
    /// Run nats-server and Postgres, and no service.
    #[arg(long, conflicts_with_all = ["separate", "services"])]
    servers_only: bool,
    /// Which services to run; not all of them only as processes of their own.
    #[arg(long, value_enum, value_delimiter = ',', requires = "separate")]
    #[arg(default_values = ["history", "messages", "gateway"])]
    services: Vec<services::Service>,
    /// Use this broker and start none.
    #[arg(long, env = "NATTER_NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,
    /// Use this database and start none.
    #[arg(long, env = "NATTER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Where servers come from: installed, or pinned to ignore what is installed.
    #[arg(long, env = "NATTER_TOOLS", default_value = "installed", value_enum)]
    tools: ToolSource,
    /// Only make the data folder and fetch the servers.
    #[arg(long)]
    prepare: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ToolSource {
    Installed,
    Pinned,
}

/// What is ready to be started.
struct Prepared {
    layout: Layout,
    key: Key,
    nats_server: Option<PathBuf>,
    postgres: Option<PathBuf>,
}

/// Runs until Ctrl-C, SIGTERM or SIGHUP.
///
/// Must be driven by the main thread: the children die with the thread that spawned them.
///
/// # Errors
///
/// Something cannot be prepared, or a child keeps dying before all was ready.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let started_at = Instant::now();
    let prepared = prepare(&args)?;
    if args.prepare {
        return Ok(ExitCode::SUCCESS);
    }
    let layout = &prepared.layout;
    let files = [
        layout.state_file(),
        layout.servers_file(),
        layout.users_file(),
    ];
    let mut supervisor = Supervisor::new(&prepared.layout)?;
    let outcome = live(&args, &prepared, &mut supervisor, started_at).await;
    for path in files {
        // It may never have been written.
        drop(std::fs::remove_file(path));
    }
    supervisor.stop().await;
    match outcome? {
        Ended::Asked => Ok(ExitCode::SUCCESS),
        Ended::Hopeless(error) => Err(error),
    }
}

/// Everything slow that can be done before a child is watched; Ctrl-C still ends us by itself here.
fn prepare(args: &Args) -> anyhow::Result<Prepared> {
    let layout = Layout::open(&args.data, args.fresh)?;
    let key = Key::read_or_make(&layout.data.join(KEY_FILE))?;
    let tools = Tools {
        folder: layout.tools.clone(),
        pinned: args.tools == ToolSource::Pinned,
        identity: layout.identity,
    };
    let major = postgres::major(&layout);
    let (nats_server, postgres) = std::thread::scope(|scope| {
        let nats_server = scope.spawn(|| match args.nats_url {
            Some(_) => Ok(None),
            None => tools.nats_server().map(Some),
        });
        let postgres = match args.database_url {
            Some(_) => Ok(None),
            None => tools.postgres(major).map(Some),
        };
        let nats_server = nats_server
            .join()
            .expect("looking for a program does not panic");
        (nats_server, postgres)
    });
    let (nats_server, postgres) = (nats_server?, postgres?);
    if let Some(programs) = &postgres {
        postgres::initialise(&layout, programs)?;
    }
    Ok(Prepared {
        layout,
        key,
        nats_server,
        postgres,
    })
}

/// Starts everything in order and watches it.
async fn live(
    args: &Args,
    prepared: &Prepared,
    supervisor: &mut Supervisor,
    started_at: Instant,
) -> anyhow::Result<Ended> {
    let nats = Server::nats(args, prepared, supervisor)?;
    let database = Server::postgres(args, prepared, supervisor)?;
    if let Err(ended) = watched(supervisor, both_ready(&nats, &database)).await {
        return Ok(ended);
    }
    let arguments = DatabaseArgs::to(&database.url);
    match watched(supervisor, Box::pin(migrate::database(&arguments))).await {
        Ok(migrated) => migrated?,
        Err(ended) => return Ok(ended),
    }
    let servers = json!({"nats_url": nats.url, "database_url": database.url});
    write_whole(&prepared.layout.servers_file(), &servers)?;
    let plan = services::Plan::new(args, &prepared.layout, &nats.url, &database.url)?;
    for spec in plan.specs(nats.users.as_ref())? {
        supervisor.add(spec);
    }
    if let Err(ended) = watched(supervisor, plan.ready()).await {
        return Ok(ended);
    }
    supervisor.all_ready();
    let state = plan.state();
    write_whole(&prepared.layout.state_file(), &state)?;
    banner::print(
        &state,
        &prepared.layout.data,
        &prepared.key,
        started_at.elapsed(),
    )?;
    Ok(supervisor.watch().await)
}

/// Drives `future` while children are watched; an error if the watch ends first.
async fn watched<T>(
    supervisor: &mut Supervisor,
    future: impl Future<Output = T>,
) -> Result<T, Ended> {
    tokio::select! {
        biased;
        ended = supervisor.watch() => Err(ended),
        done = future => Ok(done),
    }
}

async fn both_ready(nats: &Server, database: &Server) {
    let nats_ready = async {
        if let Some(claim) = &nats.claim {
            nats_server::ready(claim.address).await;
        }
    };
    let database_ready = async {
        if let Some(claim) = &database.claim {
            postgres::ready(claim.address).await;
        }
    };
    tokio::join!(nats_ready, database_ready);
}

/// The broker or the database: ours with a claimed port, or somebody else's.
struct Server {
    url: String,
    claim: Option<Claim>,
    /// Of the private broker; others have users of their own.
    users: Option<BrokerUsers>,
}

impl Server {
    fn nats(args: &Args, prepared: &Prepared, supervisor: &mut Supervisor) -> anyhow::Result<Self> {
        let Some(program) = &prepared.nats_server else {
            return Self::given(args.nats_url.as_ref(), "NATTER_NATS_URL");
        };
        let claim = ports::claim(loopback(args.nats_port))?;
        let users = BrokerUsers::new();
        let spec = nats_server::prepare(&prepared.layout, program, claim.address, &users)?;
        supervisor.add(spec);
        users.write(&prepared.layout.users_file())?;
        Ok(Self {
            url: format!("nats://{}", claim.address),
            claim: Some(claim),
            users: Some(users),
        })
    }

    fn postgres(
        args: &Args,
        prepared: &Prepared,
        supervisor: &mut Supervisor,
    ) -> anyhow::Result<Self> {
        let Some(programs) = &prepared.postgres else {
            return Self::given(args.database_url.as_ref(), "NATTER_DATABASE_URL");
        };
        let claim = ports::claim(loopback(args.pg_port))?;
        supervisor.add(postgres::prepare(&prepared.layout, programs, claim.address));
        Ok(Self {
            url: postgres::url(claim.address),
            claim: Some(claim),
            users: None,
        })
    }

    fn given(url: Option<&String>, name: &str) -> anyhow::Result<Self> {
        let url = url.cloned().with_context(|| format!("{name} is not set"))?;
        Ok(Self {
            url,
            claim: None,
            users: None,
        })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Written aside and moved, so that who waits for it never reads half of it.
fn write_whole(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, serde_json::to_vec_pretty(value)?)?;
    std::fs::rename(&aside, path).with_context(|| format!("write {}", path.display()))
}
