//! The services as processes: each alone, or all in one.
//!
//! It gives each service its context and decides the order in which they stop; what a service does is
//! its own crate's.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chassis::config::{LogArgs, NatsArgs, OpsArgs, Problems};
use chassis::tasks::Tasks;
use chassis::{Process, RunError, Service};

/// What every process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    ops: OpsArgs,
}

/// Arguments of `natter gateway`.
#[derive(Debug, clap::Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    gateway: gateway::Config,
}

/// Arguments of `natter messages`.
#[derive(Debug, clap::Args)]
pub(crate) struct MessagesArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    messages: messages::Config,
}

/// Arguments of `natter history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    history: history::Config,
}

/// Arguments of `natter all`.
#[derive(Debug, clap::Args)]
pub(crate) struct AllArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    gateway: gateway::Config,
    #[command(flatten)]
    messages: messages::Config,
    #[command(flatten)]
    history: history::Config,
}

/// Runs the gateway.
pub(crate) async fn gateway(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    Ok(run(args.common, vec![Role::Gateway(args.gateway)]).await)
}

/// Runs messages.
pub(crate) async fn messages(args: MessagesArgs) -> anyhow::Result<ExitCode> {
    Ok(run(args.common, vec![Role::Messages(args.messages)]).await)
}

/// Runs history.
pub(crate) async fn history(args: HistoryArgs) -> anyhow::Result<ExitCode> {
    Ok(run(args.common, vec![Role::History(args.history)]).await)
}

/// Runs all services in this process.
pub(crate) async fn all(args: AllArgs) -> anyhow::Result<ExitCode> {
    // The order of stopping: who is served by others goes first.
    let roles = vec![
        Role::Gateway(args.gateway),
        Role::Messages(args.messages),
        Role::History(args.history),
    ];
    Ok(run(args.common, roles).await)
}

/// A service with its configuration.
enum Role {
    Gateway(gateway::Config),
    Messages(messages::Config),
    History(history::Config),
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::Messages(_) => "messages",
            Self::History(_) => "history",
        }
    }

    /// How long it may take to stop.
    fn grace(&self) -> Duration {
        match self {
            Self::Gateway(config) => config.grace(),
            // Both end what is in flight, each step of which has a deadline of seconds.
            Self::Messages(_) | Self::History(_) => Duration::from_secs(10),
        }
    }

    fn check(&self, problems: &mut Problems) {
        match self {
            Self::Gateway(config) => drop(config.check(problems)),
            Self::Messages(config) => config.check(problems),
            Self::History(config) => config.check(problems),
        }
    }

    async fn service(self, process: &Process, nats: &NatsArgs) -> Result<Service, RunError> {
        let (name, grace) = (self.name(), self.grace());
        let context = process.context(name, nats).await?;
        let given = context.clone();
        let run: chassis::process::Run = match self {
            Self::Gateway(config) => Box::pin(gateway::run(config, given)),
            Self::Messages(config) => Box::pin(messages::run(config, given)),
            Self::History(config) => Box::pin(history::run(config, given)),
        };
        Ok(Service {
            name,
            context,
            grace,
            run,
        })
    }
}

async fn run(common: Common, roles: Vec<Role>) -> ExitCode {
    let outcome = try_run(common, roles).await;
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up yet, and may not be what somebody at a terminal looks at.
            drop(writeln!(std::io::stderr(), "natter: {}", error.line()));
            ExitCode::from(error.exit_code())
        }
    }
}

async fn try_run(common: Common, roles: Vec<Role>) -> Result<(), RunError> {
    let mut problems = Problems::new();
    common.nats.check(&mut problems);
    common.log.check(&mut problems);
    for role in &roles {
        role.check(&mut problems);
    }
    problems.finish()?;
    chassis::telemetry::init(&common.log)
        .map_err(|error| RunError::failed("starting the log", error))?;
    let process = Process::new();
    let tasks = Tasks::new("ops", process.failure.clone());
    let ops = chassis::ops::bind(common.ops.ops_listen)?.serve(&process, &tasks)?;
    let mut services = Vec::new();
    for role in roles {
        services.push(role.service(&process, &common.nats).await?);
    }
    let outcome = chassis::process::run(&process, services).await;
    ops.stop(false).await;
    outcome
}
