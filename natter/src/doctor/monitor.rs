//! Asks a broker at its monitoring port: one plain HTTP request for `/varz`.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::facts::ServerReport;

/// How long it may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// More is no answer of a broker.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Varz {
    server_name: String,
    now: String,
    max_payload: u64,
    connections: u64,
    max_connections: u64,
    #[serde(default)]
    jetstream: JetStream,
}

#[derive(Deserialize, Default)]
struct JetStream {
    config: Option<JetStreamConfig>,
    stats: Option<JetStreamStats>,
}

#[derive(Deserialize)]
struct JetStreamConfig {
    #[serde(default)]
    sync_always: bool,
    #[serde(default)]
    max_storage: i64,
    #[serde(default)]
    store_dir: String,
}

#[derive(Deserialize)]
struct JetStreamStats {
    storage: u64,
}

/// What the broker at this address reports.
pub(super) async fn report(url: &str) -> Result<ServerReport, String> {
    match tokio::time::timeout(ANSWER_MAX, ask(url)).await {
        Ok(report) => report.map_err(|error| format!("{error:#}")),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

async fn ask(url: &str) -> anyhow::Result<ServerReport> {
    let address = url.trim_end_matches('/').strip_prefix("http://");
    let address = address.context("not an http:// address")?;
    let before = now_ms();
    let body = get(address).await?;
    let middle = before + (now_ms() - before) / 2;
    let varz: Varz = serde_json::from_str(&body).context("not the report of a nats-server")?;
    read(varz, is_here(address), middle)
}

async fn get(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /varz HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX);
    limited.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split(' ').nth(1) == Some("200"), "{status}");
    Ok(body.to_owned())
}

fn read(varz: Varz, is_here: bool, now_ms: i64) -> anyhow::Result<ServerReport> {
    let now = OffsetDateTime::parse(&varz.now, &Rfc3339).context("read its clock")?;
    let now = i64::try_from(now.unix_timestamp_nanos() / 1_000_000)?;
    let config = varz.jetstream.config;
    let used = varz.jetstream.stats.map_or(0, |stats| stats.storage);
    let free = |config: &JetStreamConfig| {
        let folder = Path::new(&config.store_dir);
        let disk = rustix::fs::statvfs(folder).ok().filter(|_| is_here)?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    Ok(ServerReport {
        name: varz.server_name,
        syncs_always: config.as_ref().map(|config| config.sync_always),
        clock_ms: now - now_ms,
        max_payload: varz.max_payload,
        connections: (varz.connections, varz.max_connections),
        storage: config.as_ref().map_or((0, 0), |config| {
            (used, u64::try_from(config.max_storage).unwrap_or(0))
        }),
        disk_free: config.as_ref().and_then(free),
    })
}

/// Whether its disk is one of this machine.
fn is_here(address: &str) -> bool {
    address.starts_with("127.") || address.starts_with("localhost") || address.starts_with("[::1]")
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARZ: &str = r#"{"server_name":"n1","version":"2.15.1","max_connections":65536,"max_payload":1048576,
        "jetstream":{"config":{"max_memory":1,"max_storage":100,"store_dir":"/","sync_interval":120000000000,
        "sync_always":true},"stats":{"memory":0,"storage":7}},"now":"1970-01-01T00:00:05Z","connections":3}"#;

    #[test]
    fn a_report_is_read() {
        let report = read(serde_json::from_str(VARZ).unwrap(), true, 4_000).unwrap();
        assert_eq!(report.syncs_always, Some(true));
        assert_eq!((report.clock_ms, report.max_payload), (1_000, 1_048_576));
        assert_eq!(
            (report.connections, report.storage),
            ((3, 65_536), (7, 100))
        );
        assert!(report.disk_free.is_some());
        let elsewhere = read(serde_json::from_str(VARZ).unwrap(), false, 0).unwrap();
        assert_eq!(elsewhere.disk_free, None);
    }

    #[test]
    fn without_the_flag_writes_are_not_synced_and_without_jetstream_nothing_is_known() {
        let plain = VARZ.replace(r#""sync_always":true"#, r#""strict":true"#);
        let report = read(serde_json::from_str(&plain).unwrap(), false, 0).unwrap();
        assert_eq!(report.syncs_always, Some(false));
        let none = r#"{"server_name":"n1","max_connections":1,"max_payload":1,"jetstream":{},
            "now":"1970-01-01T00:00:05Z","connections":0}"#;
        let report = read(serde_json::from_str(none).unwrap(), false, 0).unwrap();
        assert_eq!(report.syncs_always, None);
    }
}
