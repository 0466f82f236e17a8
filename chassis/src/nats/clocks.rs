//! How far the brokers' clocks are off, as far as a client can see them.
//!
//! Whoever leads a stream or a consumer says in its answer what time it is. A stream has one leader, so
//! the other servers are made to lead a consumer each: one that nobody reads and that ends by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{ApiError, Nats};
use crate::clock::Clock;
use crate::process::random_alphanumeric;

/// Consumers that are made at most: where the server puts one is chance, and of three servers twelve
/// miss one in one of forty runs.
const CONSUMERS_MAX: usize = 12;

/// A consumer ends after this time if it could not be deleted.
const CONSUMER_IDLE: Duration = Duration::from_secs(5);

/// Broker clocks must agree within this time: what makes a command surely new builds on it.
pub const SPREAD_MS_MAX: i64 = 5_000;

/// The name of a server that is alone and says none.
const ALONE: &str = "the server";

#[derive(Deserialize)]
struct Said {
    ts: String,
    #[serde(default)]
    cluster: Cluster,
}

#[derive(Deserialize, Default)]
struct Cluster {
    #[serde(default)]
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    name: String,
}

impl Said {
    fn leader(&self) -> String {
        self.cluster.leader.clone().unwrap_or(ALONE.to_owned())
    }
}

/// Between the clock that is furthest behind and the one that is furthest ahead.
#[must_use]
pub fn spread_ms(offsets: &BTreeMap<String, i64>) -> i64 {
    let (least, most) = (offsets.values().min(), offsets.values().max());
    least
        .zip(most)
        .map_or(0, |(least, most)| most.saturating_sub(*least))
}

impl Nats {
    /// The servers that keep `stream`, as far as they can be seen: their clocks minus `clock`, in ms.
    ///
    /// # Errors
    /// If the stream's leader does not answer or refuses.
    pub async fn broker_clocks(
        &self,
        stream: &str,
        clock: &Clock,
    ) -> Result<BTreeMap<String, i64>, ApiError> {
        let info = format!("STREAM.INFO.{stream}");
        let (said, offset_ms) = self.timed(clock, &info, &json!({})).await?;
        let replicas = said.cluster.replicas.iter();
        let mut unseen: BTreeSet<String> = replicas.map(|replica| replica.name.clone()).collect();
        let mut offsets = BTreeMap::from([(said.leader(), offset_ms)]);
        for _ in 0..CONSUMERS_MAX {
            if unseen.is_empty() {
                break;
            }
            let (said, offset_ms) = self.led_by_anyone(stream, clock).await?;
            unseen.remove(&said.leader());
            offsets.entry(said.leader()).or_insert(offset_ms);
        }
        Ok(offsets)
    }

    /// Makes a consumer, wherever it may be, and deletes it.
    async fn led_by_anyone(&self, stream: &str, clock: &Clock) -> Result<(Said, i64), ApiError> {
        let name = format!("clock-{}", random_alphanumeric(12));
        let idle = u64::try_from(CONSUMER_IDLE.as_nanos()).unwrap_or(u64::MAX);
        let wanted = json!({"stream_name": stream, "action": "create", "config": {
            "name": name, "ack_policy": "none", "deliver_policy": "new", "replay_policy": "instant",
            "num_replicas": 1, "mem_storage": true, "inactive_threshold": idle}});
        let create = format!("CONSUMER.CREATE.{stream}.{name}");
        let said = self.timed(clock, &create, &wanted).await;
        let delete = format!("CONSUMER.DELETE.{stream}.{name}");
        if let Err(error) = self.api::<serde_json::Value>(&delete, &()).await {
            tracing::debug!(%error, "a consumer could not be deleted; it ends by itself");
        }
        said
    }

    /// Asks the API; the time in the answer minus that in the middle of the exchange.
    async fn timed(
        &self,
        clock: &Clock,
        operation: &str,
        body: &serde_json::Value,
    ) -> Result<(Said, i64), ApiError> {
        let before = clock.now_ms();
        let said: Said = self.api(operation, body).await?;
        let middle = before + (clock.now_ms() - before) / 2;
        let ts = OffsetDateTime::parse(&said.ts, &Rfc3339);
        let ts = ts.map_err(|error| ApiError::Malformed(error.into()))?;
        let ms = i64::try_from(ts.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        Ok((said, ms.saturating_sub(middle)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_lies_between_the_outermost_clocks() {
        let of = |offsets: &[i64]| {
            let named = offsets.iter().enumerate();
            spread_ms(&named.map(|(nth, ms)| (nth.to_string(), *ms)).collect())
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[700]), 0);
        assert_eq!(of(&[-3_000, 10, 2_001]), 5_001);
    }
}
