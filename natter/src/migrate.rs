//! `natter migrate`: brings the database's schema to what this binary needs.

use std::process::ExitCode;

use anyhow::Context as _;
use history::config::DatabaseArgs;

/// Arguments of `natter migrate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Migrates; doing it again changes nothing.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    database(&args.database).await?;
    Ok(ExitCode::SUCCESS)
}

/// Migrates that database.
///
/// # Errors
///
/// It cannot be reached, or a migration fails.
pub(crate) async fn database(database: &DatabaseArgs) -> anyhow::Result<()> {
    let pool = history::database::pool(database)?;
    history::migrate(&pool)
        .await
        .context("migrate the database")?;
    pool.close().await;
    Ok(())
}
