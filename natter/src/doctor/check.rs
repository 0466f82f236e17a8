//! From facts to findings: what is well, what is not, and what to do about it. Pure.

mod database;
mod rights;
#[cfg(test)]
mod tests;

use chassis::nats::clocks::{SPREAD_MS_MAX, spread_ms};
use chassis::topology::Review;

use super::facts::{Broker, Facts, ServerReport};
use super::finding::Finding;

/// The oldest nats-server.
const VERSION_MIN: [u64; 2] = [2, 15];
/// States of very large rooms travel in one message.
const PAYLOAD_MIN: u64 = 8 * 1024 * 1024;
/// A disk with less room is nearly full.
const DISK_FREE_MIN: u64 = 1024 * 1024 * 1024;
/// A gateway needs a file for each socket.
const OPEN_FILES_MIN: u64 = 65_536;

/// Judges everything.
pub(crate) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.broker {
        Ok(broker) => {
            findings.push(Finding::ok("broker.reachable", "it answers"));
            findings.extend(broker_findings(broker, facts));
        }
        Err(error) => findings.push(Finding::problem(
            "broker.reachable",
            error.as_str(),
            "check --nats-url and that nats-server runs; after an authorization violation check the user and \
             its password",
        )),
    }
    findings.extend(rights::findings(facts));
    findings.extend(reports(facts));
    findings.extend(database::findings(&facts.database));
    findings.push(clocks(facts));
    findings.push(open_files(facts.open_files_max));
    findings
}

fn broker_findings(broker: &Broker, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![version(&broker.version), payload(broker.max_payload as u64)];
    findings.push(if broker.jetstream {
        let domain = broker.domain.as_deref().unwrap_or("none");
        Finding::ok("broker.jetstream", format!("enabled, domain: {domain}"))
    } else {
        Finding::problem(
            "broker.jetstream",
            "not enabled",
            "add a jetstream block with a store_dir and sync_interval: always to nats-server's configuration",
        )
    });
    findings.extend(streams(broker));
    findings.push(replicas(broker, facts));
    findings
}

fn version(version: &str) -> Finding {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u64>);
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
    if [number(), number()] >= VERSION_MIN {
        Finding::ok("broker.version", version)
    } else {
        Finding::problem(
            "broker.version",
            format!("nats-server {version} is too old"),
            "install nats-server 2.15 or newer",
        )
    }
}

fn payload(max: u64) -> Finding {
    if max >= PAYLOAD_MIN {
        Finding::ok("broker.max_payload", format!("{max} bytes"))
    } else {
        Finding::problem(
            "broker.max_payload",
            format!("{max} bytes, which is less than 8 MB"),
            "set max_payload: 8MB in nats-server's configuration",
        )
    }
}

fn streams(broker: &Broker) -> Vec<Finding> {
    let reviews = match &broker.streams {
        Ok(reviews) => reviews,
        Err(error) => {
            return vec![Finding::warning(
                "broker.streams",
                format!("cannot be seen: {error}"),
                "run natter doctor as the user messages, or as one that may read stream info",
            )];
        }
    };
    let finding = |(stream, review): &(&str, Review)| match review {
        Review::Fits => Finding::ok("broker.streams", format!("{stream} is as it must be")),
        Review::Absent => Finding::ok(
            "broker.streams",
            format!("{stream} is not there yet: messages makes it at its start"),
        ),
        Review::Changes(settings) => Finding::warning(
            "broker.streams",
            format!("{stream} differs in {}", settings.join(", ")),
            "messages brings it in line at its next start; if you meant it so, set it by natter's settings",
        ),
        Review::CannotChange {
            setting,
            found,
            wanted,
        } => Finding::problem(
            "broker.streams",
            format!(
                "{stream} has {setting} = {found}, which must be {wanted} and cannot be changed"
            ),
            "it was not made by natter: use another JetStream account, or move that stream away",
        ),
    };
    reviews.iter().map(finding).collect()
}

fn replicas(broker: &Broker, facts: &Facts) -> Finding {
    let wanted = facts.replicas;
    // A cluster need not tell of its servers: what has shown a clock or a report is there too.
    let seen = broker.clocks.len().max(facts.reports.len());
    let servers = broker.known_servers.max(seen).max(1);
    let found = format!("{wanted} replica(s) wanted, {servers} server(s) known");
    if wanted as usize > servers && broker.cluster.is_none() {
        Finding::problem(
            "broker.replicas",
            found,
            "add servers to the cluster, or lower NATTER_STREAM_REPLICAS",
        )
    } else if wanted as usize > servers {
        Finding::warning(
            "broker.replicas",
            found,
            "name every server in --nats-url, or add servers to the cluster",
        )
    } else if wanted == 1 && broker.cluster.is_some() {
        Finding::warning(
            "broker.replicas",
            found,
            "set NATTER_STREAM_REPLICAS=3: with one replica the loss of one server is the loss of the log",
        )
    } else {
        Finding::ok("broker.replicas", found)
    }
}

/// What only a monitoring port tells.
fn reports(facts: &Facts) -> Vec<Finding> {
    if facts.reports.is_empty() {
        return vec![Finding::warning(
            "broker.sync_interval",
            "cannot be seen by a client",
            "give --nats-monitor-url of every server, or look for sync_interval: always in its configuration",
        )];
    }
    let mut findings = Vec::new();
    for (url, report) in &facts.reports {
        match report {
            Ok(report) => findings.extend(report_findings(report)),
            Err(error) => findings.push(Finding::problem(
                "broker.monitor",
                format!("{url}: {error}"),
                "check --nats-monitor-url; nats-server serves it if http_port is set",
            )),
        }
    }
    findings
}

fn report_findings(report: &ServerReport) -> Vec<Finding> {
    let name = &report.name;
    let mut findings = Vec::new();
    match report.syncs_always {
        Some(true) => findings.push(Finding::ok(
            "broker.sync_interval",
            format!("{name}: always"),
        )),
        Some(false) => findings.push(Finding::problem(
            "broker.sync_interval",
            format!("{name}: not always: a power loss loses acknowledged messages"),
            "set sync_interval: always in the jetstream block of every server",
        )),
        None => {}
    }
    if report.max_payload < PAYLOAD_MIN {
        findings.push(payload(report.max_payload));
    }
    let (now, max) = report.connections;
    let found = format!("{name}: {now} of {max}");
    findings.push(if now.saturating_mul(10) > max.saturating_mul(8) {
        Finding::warning(
            "broker.connections",
            found,
            "raise max_connections and the server's limit of open files",
        )
    } else {
        Finding::ok("broker.connections", found)
    });
    findings.extend(storage(report));
    findings
}

fn storage(report: &ServerReport) -> Option<Finding> {
    let (used, max) = report.storage;
    report.syncs_always?;
    let mega = |bytes: u64| bytes / (1024 * 1024);
    let disk = report.disk_free.map_or_else(
        || "the disk cannot be seen from here".to_owned(),
        |free| format!("{} MB free on its disk", mega(free)),
    );
    let found = format!(
        "{}: {} of {} MB used, {disk}",
        report.name,
        mega(used),
        mega(max)
    );
    let is_tight = max > 0 && used.saturating_mul(10) > max.saturating_mul(8)
        || report.disk_free.is_some_and(|free| free < DISK_FREE_MIN);
    Some(if is_tight {
        Finding::problem(
            "broker.disk",
            found,
            "make room or raise max_file_store: a stream whose disk was full stays stuck until its server \
             is restarted",
        )
    } else {
        Finding::ok("broker.disk", found)
    })
}

/// All clocks that could be seen, with ours.
fn clocks(facts: &Facts) -> Finding {
    let mut offsets = facts
        .broker
        .as_ref()
        .map(|broker| broker.clocks.clone())
        .unwrap_or_default();
    for (_, report) in &facts.reports {
        if let Ok(report) = report {
            offsets.insert(report.name.clone(), report.clock_ms);
        }
    }
    if let Ok((_, offset_ms)) = &facts.database {
        offsets.insert("Postgres".to_owned(), *offset_ms);
    }
    let seen: Vec<String> = offsets
        .iter()
        .map(|(name, ms)| format!("{name} {ms:+} ms"))
        .collect();
    let found = format!("against this machine: {}", seen.join(", "));
    offsets.insert("this machine".to_owned(), 0);
    if spread_ms(&offsets) > SPREAD_MS_MAX {
        Finding::problem(
            "clocks",
            found,
            "let NTP set the clock of every machine: they must agree within 5 s",
        )
    } else if offsets.len() == 1 {
        Finding::warning(
            "clocks",
            "no other clock can be seen",
            "start messages once, or give --nats-monitor-url",
        )
    } else {
        Finding::ok("clocks", found)
    }
}

fn open_files(max: Option<u64>) -> Finding {
    match max {
        Some(max) if max < OPEN_FILES_MIN => Finding::warning(
            "machine.open_files",
            format!("{max} for a process on this machine"),
            "a gateway needs one for each socket: raise it (ulimit -n, LimitNOFILE) where gateways run",
        ),
        Some(max) => Finding::ok("machine.open_files", format!("{max}")),
        None => Finding::ok("machine.open_files", "no limit"),
    }
}
