//! Connections to Postgres, and its schema.

use crate::config::DatabaseArgs;
use chassis::config::Problems;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, PgPool, SqlSafeStr as _};
use std::time::Duration;

/// How long a read waits for a connection: no longer than its asker waits for the answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A statement of a read that takes longer than this (ms) is ended: its asker has given up.
const READ_STATEMENT_TIMEOUT: &str = "3000";

/// A statement of ingestion that takes longer than this (ms) is ended, and its batch tried again.
const WRITE_STATEMENT_TIMEOUT: &str = "60000";

/// The settings of every connection.
fn options(arguments: &DatabaseArgs) -> Result<PgConnectOptions, Problems> {
    let mut problems = Problems::new();
    arguments.check(&mut problems);
    let url = arguments.url(&mut problems);
    problems.finish()?;
    let options = url.expose().parse::<PgConnectOptions>();
    let options = options.expect("the check has parsed it");
    Ok(options.application_name("natter-history").options([
        // A connection to a vanished network must not hold the lock of ingestion for hours.
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        // Every statement here walks an index in order and stops at its limit. The planner does not
        // know what is in our arrays, takes a room for small, and would rather read all of it and
        // sort: counting unread in a room of 300,000 messages took 9 ms so, and takes 0.2 ms now.
        ("enable_bitmapscan", "off"),
        ("enable_seqscan", "off"),
        ("random_page_cost", "1.1"),
        // Compiling a statement takes longer than any of these run.
        ("jit", "off"),
    ]))
}

/// A pool for reads; connects when first used, so it is there even while Postgres is not.
///
/// # Errors
/// If the settings are wrong.
pub fn read_pool(arguments: &DatabaseArgs, connections: u32) -> Result<PgPool, Problems> {
    let options = options(arguments)?.options([("statement_timeout", READ_STATEMENT_TIMEOUT)]);
    Ok(PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// A small pool for tools: migrations, checks. Statements may take as long as they need.
///
/// # Errors
/// If the settings are wrong.
pub fn pool(arguments: &DatabaseArgs) -> Result<PgPool, Problems> {
    let options = options(arguments)?;
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(CONNECT_TIMEOUT);
    Ok(pool.connect_lazy_with(options))
}

/// How ingestion connects: one connection that holds its lock.
#[derive(Clone, Debug)]
pub struct Connector(PgConnectOptions);

impl Connector {
    /// With these settings.
    ///
    /// # Errors
    /// If the settings are wrong.
    pub fn new(arguments: &DatabaseArgs) -> Result<Self, Problems> {
        let options = options(arguments)?.application_name("natter-history-ingest");
        Ok(Self(
            options.options([("statement_timeout", WRITE_STATEMENT_TIMEOUT)]),
        ))
    }

    /// Opens the connection.
    ///
    /// # Errors
    /// If Postgres does not answer in time.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.0.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// Brings the schema up to date; safe to run from many processes at once, and again.
///
/// # Errors
/// If Postgres does not answer, a migration fails, or one that was run before has changed since.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    Migrator::with_migrations(migrations()).run(pool).await
}

/// The migrations that this binary needs, with their checksums, oldest first.
#[must_use]
pub fn migrations() -> Vec<Migration> {
    let migration = |version, name: &'static str, sql: &'static str| {
        let sql = sql.into_sql_str();
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    vec![migration(
        1,
        "archive",
        include_str!("../../migrations/0001_archive.sql"),
    )]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_migration_in_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
        let source = include_str!("database.rs");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".sql") {
                assert!(source.contains(&format!("migrations/{name}\")")), "{name}");
            }
        }
    }
}
