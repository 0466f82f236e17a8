//! The command line: what can be asked, and who answers.
//!
//! `--help` is the reference. Settings of services come from the environment, see each service's
//! configuration; the flags here belong to the errands around them.

use std::io::Write as _;
use std::process::ExitCode;

use chassis::config::{EXIT_CONFIG, ParseError};
use clap::{Parser, Subcommand};

use crate::{bench, chat, child, dev, doctor, migrate, replay, reseed, serve, token, verify};

/// A self-hosted chat backend that never loses, reorders or repeats a message.
#[derive(Debug, Parser)]
#[command(name = "natter", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine, with a private nats-server and Postgres.
    Dev(dev::Args),
    /// Run the service that terminates sockets and HTTP.
    Gateway(serve::GatewayArgs),
    /// Run the service that orders.
    Messages(serve::MessagesArgs),
    /// Run the service that keeps and finds.
    History(serve::HistoryArgs),
    /// Run all services in one process.
    All(Box<serve::AllArgs>),
    /// Bring the database's schema up to date.
    Migrate(migrate::Args),
    /// Print a token signed with the development key.
    Token(token::Args),
    /// Talk in a terminal.
    Chat(chat::Args),
    /// Prove the chain of a room from Postgres and from the log.
    Verify(verify::Args),
    /// Check a broker, a database and this machine, and say what to do.
    Doctor(Box<doctor::Args>),
    /// After the broker's store was lost: make a log that goes on from the archive.
    Reseed(reseed::Args),
    /// Play days of IRC through real sockets, watch, and judge what came of it.
    Replay(replay::Args),
    /// Drive any natter by its sockets, and judge what came of it.
    Bench(Box<bench::Args>),
    /// Become another program that dies with its parent.
    #[command(hide = true)]
    Child(child::Args),
}

/// Parses the command line and runs what it asks for.
pub(crate) fn main() -> ExitCode {
    let command = match chassis::config::parse::<Cli>() {
        Ok(cli) => cli.command,
        Err(error) => return explain(&error),
    };
    let outcome = match command {
        Command::Gateway(args) => on_this_thread(serve::gateway(args)),
        Command::Messages(args) => on_this_thread(serve::messages(args)),
        Command::History(args) => on_this_thread(serve::history(args)),
        Command::All(args) => on_this_thread(serve::all(*args)),
        Command::Migrate(args) => on_this_thread(migrate::run(args)),
        Command::Child(args) => Err(child::exec(&args)),
        Command::Token(args) => token::run(&args),
        Command::Dev(args) => on_this_thread(dev::run(args)),
        Command::Chat(args) => on_this_thread(chat::run(args)),
        Command::Verify(args) => on_this_thread(verify::run(args)),
        Command::Doctor(args) => on_this_thread(doctor::run(*args)),
        Command::Reseed(args) => on_this_thread(reseed::run(args)),
        Command::Replay(args) => on_this_thread(replay::run(args)),
        Command::Bench(args) => on_this_thread(bench::run(*args)),
    };
    outcome.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

/// Shows help or every mistake of the command line and the environment.
fn explain(error: &ParseError) -> ExitCode {
    match error {
        ParseError::Display(help) => {
            // A closed stdout has nobody to help.
            drop(help.print());
            ExitCode::SUCCESS
        }
        ParseError::Usage(usage) => {
            drop(usage.print());
            ExitCode::from(EXIT_CONFIG)
        }
        ParseError::Problems(problems) => {
            drop(writeln!(std::io::stderr(), "natter: {problems}"));
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Drives `future` on the main thread: the kernel ties a child's death signal to the *thread* that
/// spawned it, and only the main thread lives as long as the process.
fn on_this_thread(
    future: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// Prints an error and its causes, one line.
fn complain(error: &anyhow::Error) {
    // A closed stderr leaves nobody to tell.
    drop(writeln!(std::io::stderr(), "natter: {error:#}"));
}
