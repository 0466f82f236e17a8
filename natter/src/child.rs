//! `natter child`: becomes another program that cannot outlive the process that started it.
//!
//! The kernel sends the chosen signal when the parent dies, also by `kill -9`. Setting that needs
//! code between fork and exec, which is `unsafe` in the parent; a process of its own that sets it and
//! then execs is not. It changes no user: a change of user would clear the signal again, so whoever
//! spawns us does that before.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal};

/// What the kernel shall send when the parent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeathSignal {
    /// Stop in order; nats-server syncs its streams on it.
    Term,
    /// Postgres' fast shutdown: sessions are cut, data is kept.
    Int,
    /// At once: for services, which hold nothing that cannot be rebuilt.
    Kill,
}

impl DeathSignal {
    /// The signal's number type.
    pub(crate) fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
            Self::Kill => Signal::KILL,
        }
    }

    /// The word for it on `natter child`'s command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Term => "term",
            Self::Int => "int",
            Self::Kill => "kill",
        }
    }
}

/// Arguments of `natter child`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Process id of the parent; if it is gone already, nothing is started.
    #[arg(long)]
    parent: i32,
    /// Signal to get when the parent dies.
    #[arg(long)]
    die: DeathSignal,
    /// Program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Replaces this process by the program; returns only what went wrong.
pub(crate) fn exec(args: &Args) -> anyhow::Error {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(args.die.signal())) {
        return anyhow::Error::new(error).context("set the parent-death signal");
    }
    // The parent may have died before the line above, and then nobody would send anything.
    if rustix::process::getppid() != Pid::from_raw(args.parent) {
        return anyhow::anyhow!("the parent {} is gone", args.parent);
    }
    let Some((program, rest)) = args.command.split_first() else {
        return anyhow::anyhow!("no program given");
    };
    let error = Command::new(program).args(rest).exec();
    anyhow::Error::new(error).context(format!("start {}", program.display()))
}
