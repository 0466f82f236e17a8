//! A log that takes the place of a lost one.

use protocol::subject::LOG_EPOCH_METADATA as LOG_ID;
use serde_json::json;

use super::settings::{log_settings, object};
use super::{LOG_ID_LENGTH, LOG_STREAM, LogInfo, TopologyConfig, TopologyError, log_info};
use crate::nats::Nats;
use crate::process::random_alphanumeric;

/// The metadata of the log that says which log, and up to where, it takes the place of.
pub const SUCCEEDS: &str = "natter_succeeds";

/// Removes the log, if there is one, with all that is in it, and makes one with a new id that begins
/// with the record `first_seq`; `succeeds` becomes its [`SUCCEEDS`].
///
/// For a lost store alone: whoever calls this has made sure that the archive has what is worth keeping.
///
/// # Errors
/// See [`TopologyError`]; done again from the beginning it does no harm.
pub async fn succeed(
    nats: &Nats,
    config: &TopologyConfig,
    first_seq: u64,
    succeeds: &str,
) -> Result<LogInfo, TopologyError> {
    let api = |doing| move |source| TopologyError::Api { doing, source };
    nats.delete_stream(LOG_STREAM)
        .await
        .map_err(api("removing the log"))?;
    let mut settings = log_settings(config);
    settings.extend(object(json!({
        "first_seq": first_seq,
        "metadata": {
            LOG_ID: random_alphanumeric(LOG_ID_LENGTH),
            SUCCEEDS: succeeds,
        },
    })));
    let created = nats.create_stream(LOG_STREAM, &settings).await;
    log_info(&created.map_err(api("creating the log"))?)
}
