//! Where broker and database are, for errands that need both: as told, else where `natter dev` has them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use chassis::config::NatsArgs;
use chassis::health::Health;
use chassis::nats::Nats;

/// How long the broker or the database may take to answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Broker and database.
#[derive(Debug, clap::Args)]
pub(crate) struct ServersArgs {
    /// The broker; that of a running `natter dev` without it.
    #[arg(long, env = "NATTER_NATS_URL", hide_env_values = true)]
    nats_url: Option<String>,
    /// User of the broker.
    #[arg(long, env = "NATTER_NATS_USER")]
    nats_user: Option<String>,
    /// File with the password of that user.
    #[arg(long, env = "NATTER_NATS_PASSWORD_FILE")]
    nats_password_file: Option<PathBuf>,
    /// The database; that of a running `natter dev` without it.
    #[arg(long, env = "NATTER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Data folder of `natter dev`.
    #[arg(long, env = "NATTER_DATA", default_value = ".natter")]
    data: PathBuf,
}

impl ServersArgs {
    /// The broker's settings and the database's address.
    ///
    /// # Errors
    ///
    /// One is not given and no `natter dev` runs.
    pub(crate) fn addresses(&self) -> anyhow::Result<(NatsArgs, String)> {
        let nats = NatsArgs {
            nats_user: self.nats_user.clone(),
            nats_password_file: self.nats_password_file.clone(),
            ..NatsArgs::to(self.address(self.nats_url.as_ref(), "nats_url")?)
        };
        let database = self.address(self.database_url.as_ref(), "database_url")?;
        Ok((nats, database))
    }

    fn address(&self, given: Option<&String>, key: &str) -> anyhow::Result<String> {
        if let Some(url) = given {
            return Ok(url.clone());
        }
        let file = self.data.join("run").join("servers.json");
        let text = std::fs::read(&file).with_context(|| {
            format!(
                "no address is given and no `natter dev` runs (read {})",
                file.display()
            )
        })?;
        let state: serde_json::Value = serde_json::from_slice(&text)?;
        let url = state.get(key).and_then(serde_json::Value::as_str);
        url.map(str::to_owned)
            .with_context(|| format!("{} has no {key}", file.display()))
    }
}

/// Connects to the broker.
///
/// # Errors
///
/// It does not answer in time.
pub(crate) async fn connect(nats: &NatsArgs, name: &str) -> anyhow::Result<Nats> {
    let nats = chassis::nats::connect(nats, name, &Health::new()).await?;
    tokio::time::timeout(ANSWER_MAX, nats.connected())
        .await
        .context("the broker does not answer")?;
    Ok(nats)
}
