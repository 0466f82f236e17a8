//! Looks at the broker as a client.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::ConnectOptions;
use chassis::clock::Clock;
use chassis::config::{NatsArgs, Problems};
use chassis::tasks::chain;
use chassis::topology::{LOG_STREAM, Review, TopologyConfig, review};

use super::facts::Broker;
use crate::servers::connect;

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Connects once, with the reason if that fails.
pub(super) async fn open(
    nats: &NatsArgs,
    options: ConnectOptions,
) -> Result<async_nats::Client, String> {
    let servers = nats.servers(&mut Problems::new());
    let options = options
        .name("natter-doctor")
        .connection_timeout(CONNECT_MAX);
    match tokio::time::timeout(CONNECT_MAX, options.connect(servers)).await {
        Ok(connected) => connected.map_err(|error| chain(&error)),
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}

/// What a client sees.
pub(super) async fn look(nats: &NatsArgs, topology: &TopologyConfig) -> Result<Broker, String> {
    let options = match nats.credentials(&mut Problems::new()) {
        Some((user, password)) => {
            ConnectOptions::with_user_and_password(user, password.expose().to_owned())
        }
        None => ConnectOptions::new(),
    };
    let named = nats.servers(&mut Problems::new()).len();
    // Once for the reason: the connection below is tried for ever, whatever the reason.
    let info = open(nats, options).await?.server_info();
    let nats = connect(nats, "natter-doctor")
        .await
        .map_err(|error| format!("{error:#}"))?;
    let streams = review(&nats, topology).await;
    let has_log = streams.as_ref().is_ok_and(|reviews| {
        reviews
            .iter()
            .any(|(stream, review)| *stream == LOG_STREAM && *review != Review::Absent)
    });
    let clocks = if has_log {
        let clocks = nats.broker_clocks(LOG_STREAM, &Clock::system()).await;
        // Whatever user this is, it may not be allowed to look.
        clocks.unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    nats.close().await;
    Ok(Broker {
        version: info.version,
        max_payload: info.max_payload,
        jetstream: info.jetstream,
        domain: info.domain,
        cluster: info.cluster,
        known_servers: info.connect_urls.len().max(named),
        streams: streams.map_err(|error| chain(&error)),
        clocks,
    })
}
