//! Looks at the streams without changing them, for tools.

use serde_json::Value;

use super::settings::{LEASE_STREAM, changes, lease_settings, log_settings};
use super::{LOG_STREAM, TopologyConfig, TopologyError};
use crate::nats::{ApiError, Nats};

/// What a start would make of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Review {
    /// It would be made.
    Absent,
    /// It would be left alone.
    Fits,
    /// These settings would be changed.
    Changes(Vec<String>),
    /// The start would fail: this setting cannot be changed.
    CannotChange {
        /// The setting, by its name in the API.
        setting: String,
        /// What it is.
        found: Value,
        /// What it must be.
        wanted: Value,
    },
}

/// What a start with this configuration would make of each stream.
///
/// # Errors
/// If JetStream does not answer or refuses.
pub async fn review(
    nats: &Nats,
    config: &TopologyConfig,
) -> Result<Vec<(&'static str, Review)>, ApiError> {
    let mut reviews = Vec::new();
    for (stream, wanted) in [
        (LOG_STREAM, log_settings(config)),
        (LEASE_STREAM, lease_settings(config)),
    ] {
        let review = match nats.stream_state(stream).await? {
            None => Review::Absent,
            Some(found) => match changes(stream, &found.config, &wanted) {
                Ok(changes) if changes.is_empty() => Review::Fits,
                Ok(changes) => Review::Changes(changes.keys().cloned().collect()),
                Err(TopologyError::Incompatible {
                    setting,
                    found,
                    wanted,
                    ..
                }) => Review::CannotChange {
                    setting,
                    found,
                    wanted,
                },
                Err(other) => return Err(ApiError::Malformed(Box::new(other))),
            },
        };
        reviews.push((stream, review));
    }
    Ok(reviews)
}
