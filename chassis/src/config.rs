//! Configuration: parsed once at start, every mistake reported together, secrets kept from sight.
//!
//! A service's configuration is a `clap::Args` struct whose doc comments are the reference.
//! Nothing here reads the environment after start.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub use parse::{ParseError, parse, parse_from};
pub use secret::Secret;

mod parse;
mod secret;

/// The exit code of a process whose configuration is wrong (`EX_USAGE` in sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Every mistake found in a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// No mistakes so far.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a mistake: `name` is the setting (`NATTER_NATS_URL`), `problem` what is wrong with it.
    pub fn add(&mut self, name: &str, problem: impl fmt::Display) {
        self.0.push(format!("{name}: {problem}"));
    }

    /// Adds a mistake unless `valid`.
    pub fn require(&mut self, valid: bool, name: &str, problem: impl fmt::Display) {
        if !valid {
            self.add(name, problem);
        }
    }

    /// Takes over what another check has found.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The mistakes, in the order found.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// Ends a check.
    ///
    /// # Errors
    /// If there was any mistake.
    pub fn finish(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} mistake(s)", self.0.len())?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Problems {}

/// The connection to NATS.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Servers to connect to, separated by commas.
    ///
    /// The default is a server on this machine, as `natter dev` starts it.
    #[arg(
        long,
        env = "NATTER_NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    pub nats_url: String,
    /// User to connect as; none by default, for servers without authentication.
    #[arg(long, env = "NATTER_NATS_USER")]
    pub nats_user: Option<String>,
    /// Password of the user.
    #[arg(long, env = "NATTER_NATS_PASSWORD", hide_env_values = true)]
    pub nats_password: Option<Secret>,
    /// File that holds the password of the user, instead of the password itself.
    #[arg(long, env = "NATTER_NATS_PASSWORD_FILE")]
    pub nats_password_file: Option<PathBuf>,
}

impl NatsArgs {
    /// A connection without authentication.
    #[must_use]
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            nats_url: url.into(),
            nats_user: None,
            nats_password: None,
            nats_password_file: None,
        }
    }

    /// The user and password, the latter from the file if that is where it is; adds mistakes.
    pub fn credentials(&self, problems: &mut Problems) -> Option<(String, Secret)> {
        let password = Secret::resolve(
            "NATTER_NATS_PASSWORD",
            self.nats_password.as_ref(),
            self.nats_password_file.as_deref(),
            problems,
        );
        match (&self.nats_user, password) {
            (Some(user), Some(password)) => Some((user.clone(), password)),
            (None, None) => None,
            (Some(_), None) => {
                problems.add(
                    "NATTER_NATS_PASSWORD",
                    "missing, though NATTER_NATS_USER is set",
                );
                None
            }
            (None, Some(_)) => {
                problems.add(
                    "NATTER_NATS_USER",
                    "missing, though NATTER_NATS_PASSWORD is set",
                );
                None
            }
        }
    }

    /// The addresses of the servers; adds mistakes.
    pub fn servers(&self, problems: &mut Problems) -> Vec<async_nats::ServerAddr> {
        let mut servers = Vec::new();
        for url in self
            .nats_url
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
        {
            match url.parse::<async_nats::ServerAddr>() {
                Ok(server) => servers.push(server),
                // The address may hold a password, so only the reason is shown.
                Err(error) => problems.add("NATTER_NATS_URL", error),
            }
        }
        if servers.is_empty() && problems.lines().is_empty() {
            problems.add("NATTER_NATS_URL", "names no server");
        }
        servers
    }

    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        let mut found = Problems::new();
        self.servers(&mut found);
        self.credentials(&mut found);
        problems.append(found);
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: one coloured line each.
    Pretty,
    /// For machines: one JSON object each.
    Json,
}

/// The process log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// What to log: a level, or target=level pairs separated by commas.
    ///
    /// The default shows lifecycle and trouble, not single items.
    #[arg(long, env = "NATTER_LOG", default_value = "info")]
    pub log: String,
    /// How log lines look.
    ///
    /// The default suits a terminal; use json where logs are collected.
    #[arg(long, env = "NATTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Pretty)]
    pub log_format: LogFormat,
}

impl LogArgs {
    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        if let Err(error) = crate::telemetry::filter(&self.log) {
            problems.add("NATTER_LOG", error);
        }
    }
}

/// The port for operators.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operations")]
pub struct OpsArgs {
    /// Address for /healthz, /readyz and /metrics, apart from the public one.
    ///
    /// The default is reachable from this machine only, because metrics are nobody else's business.
    #[arg(long, env = "NATTER_OPS_LISTEN", default_value = "127.0.0.1:9464")]
    pub ops_listen: SocketAddr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_reported_together() {
        let nats = NatsArgs {
            nats_user: Some("gateway".into()),
            ..NatsArgs::to("http://[,ftp://x")
        };
        let log = LogArgs {
            log: "info,=,what=loud".into(),
            log_format: LogFormat::Json,
        };
        let mut problems = Problems::new();
        nats.check(&mut problems);
        log.check(&mut problems);
        let shown = problems.finish().unwrap_err().to_string();
        for name in ["NATTER_NATS_URL", "NATTER_NATS_PASSWORD", "NATTER_LOG"] {
            assert!(shown.contains(name), "{name} is not in: {shown}");
        }
    }

    #[test]
    fn several_servers_may_be_named() {
        let mut problems = Problems::new();
        let servers = NatsArgs::to("nats://a:1, nats://b:2,").servers(&mut problems);
        assert_eq!((servers.len(), problems.finish()), (2, Ok(())));
    }
}
