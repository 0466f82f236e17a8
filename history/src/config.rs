//! The configuration of history, and of everything else that opens the database.

use chassis::config::{Problems, Secret};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Where Postgres is.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Postgres")]
pub struct DatabaseArgs {
    /// Address of the database, as `postgres://user:password@host:port/name`.
    ///
    /// The default is a server on this machine: `postgres://natter@127.0.0.1:5432/natter`.
    #[arg(long, env = "NATTER_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// File that holds the address, instead of the address itself.
    #[arg(long, env = "NATTER_DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
}

/// What is used if nothing is set.
const DATABASE_URL_DEFAULT: &str = "postgres://natter@127.0.0.1:5432/natter";

impl DatabaseArgs {
    /// This address.
    #[must_use]
    pub fn to(url: &str) -> Self {
        Self {
            database_url: Some(url.into()),
            database_url_file: None,
        }
    }

    /// The address; adds mistakes.
    pub fn url(&self, problems: &mut Problems) -> Secret {
        let file = self.database_url_file.as_deref();
        let url = Secret::resolve(
            "NATTER_DATABASE_URL",
            self.database_url.as_ref(),
            file,
            problems,
        );
        url.unwrap_or_else(|| DATABASE_URL_DEFAULT.into())
    }

    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        let before = problems.lines().len();
        let url = self.url(problems);
        let address = url.expose();
        let scheme = ["postgres://", "postgresql://"];
        let valid = scheme.iter().any(|scheme| address.starts_with(scheme))
            && address.parse::<sqlx::postgres::PgConnectOptions>().is_ok();
        if problems.lines().len() == before && !valid {
            // The address may hold a password, so it is not shown.
            problems.add(
                "NATTER_DATABASE_URL",
                "is no address of a Postgres database",
            );
        }
    }
}

/// The configuration of history.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "History")]
#[group(id = "history")]
pub struct Config {
    /// Where Postgres is.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Connections for answering reads; ingestion has one of its own.
    ///
    /// The default keeps two cores of a database busy and stays far below its usual 100 connections.
    #[arg(long, env = "NATTER_HISTORY_CONNECTIONS", default_value_t = 8)]
    pub history_connections: u32,
    /// Reads that may be under way or wait; more are told to come again.
    ///
    /// The default is a second of work for the connections above.
    #[arg(long, env = "NATTER_HISTORY_READS", default_value_t = 1_024)]
    pub history_reads: u32,
    /// Events that are written to the database in one transaction, at most.
    ///
    /// The default amortises a transaction well; larger ones only delay what is read.
    #[arg(long, env = "NATTER_HISTORY_BATCH_EVENTS", default_value_t = 4_000)]
    pub history_batch_events: u32,
    /// Seconds between two checkpoints of the rooms' heads.
    ///
    /// The default bounds what a rewritten archive could hide to an hour.
    #[arg(
        long,
        env = "NATTER_HISTORY_CHECKPOINT_SECONDS",
        default_value_t = 3_600
    )]
    pub history_checkpoint_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            database: DatabaseArgs::default(),
            history_connections: 8,
            history_reads: 1_024,
            history_batch_events: 4_000,
            history_checkpoint_seconds: 3_600,
        }
    }
}

impl Config {
    /// Adds every mistake in these settings.
    pub fn check(&self, problems: &mut Problems) {
        self.database.check(problems);
        let range = |problems: &mut Problems, name: &str, value: u64, min: u64, max: u64| {
            let valid = (min..=max).contains(&value);
            problems.require(valid, name, format_args!("must be from {min} to {max}"));
        };
        let connections = self.history_connections.into();
        range(
            problems,
            "NATTER_HISTORY_CONNECTIONS",
            connections,
            1,
            1_000,
        );
        range(
            problems,
            "NATTER_HISTORY_READS",
            self.history_reads.into(),
            1,
            100_000,
        );
        let events = self.history_batch_events.into();
        range(problems, "NATTER_HISTORY_BATCH_EVENTS", events, 1, 50_000);
        let seconds = self.history_checkpoint_seconds;
        range(
            problems,
            "NATTER_HISTORY_CHECKPOINT_SECONDS",
            seconds,
            1,
            86_400,
        );
    }

    /// Between two checkpoints.
    #[must_use]
    pub const fn checkpoint_interval(&self) -> Duration {
        Duration::from_secs(self.history_checkpoint_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_reported_together_and_no_password_is_shown() {
        let config = Config {
            database: DatabaseArgs::to("mysql://natter:hunter2@db/natter"),
            history_connections: 0,
            history_batch_events: 0,
            ..Config::default()
        };
        let mut problems = Problems::new();
        config.check(&mut problems);
        let shown = problems.to_string();
        assert_eq!(problems.lines().len(), 3, "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn the_defaults_are_right() {
        let mut problems = Problems::new();
        Config::default().check(&mut problems);
        assert_eq!(problems.finish(), Ok(()));
    }
}
