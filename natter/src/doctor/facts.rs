//! What was seen of the broker, the database and this machine; nothing here is judged yet.

use std::collections::BTreeMap;

use chassis::topology::Review;
use history::store::examine::Examination;

/// Everything that was seen; an error is what was answered instead.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The broker.
    pub(crate) broker: Result<Broker, String>,
    /// What each user of the broker may do; empty if none was named.
    pub(crate) users: Vec<User>,
    /// What whoever names no user may do; `None` if that is nobody.
    pub(crate) anonymous: Option<Vec<Probe>>,
    /// The brokers' own reports, by address.
    pub(crate) reports: Vec<(String, Result<ServerReport, String>)>,
    /// The database, and its clock minus ours in ms.
    pub(crate) database: Result<(Examination, i64), String>,
    /// Files that this machine lets a process open; `None` if there is no limit.
    pub(crate) open_files_max: Option<u64>,
    /// Replicas that streams shall have.
    pub(crate) replicas: u32,
}

/// The broker, as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    /// nats-server's version.
    pub(crate) version: String,
    /// Bytes of a message.
    pub(crate) max_payload: usize,
    /// Whether it has JetStream.
    pub(crate) jetstream: bool,
    /// The JetStream domain.
    pub(crate) domain: Option<String>,
    /// The cluster's name, if it is in one.
    pub(crate) cluster: Option<String>,
    /// Servers that were named, or that it tells its clients of.
    pub(crate) known_servers: usize,
    /// The streams, or why they cannot be seen.
    pub(crate) streams: Result<Vec<(&'static str, Review)>, String>,
    /// Clocks minus ours in ms, by server, as far as they can be seen.
    pub(crate) clocks: BTreeMap<String, i64>,
}

/// A user of the broker, tried out.
#[derive(Debug, Clone)]
pub(crate) struct User {
    /// Its name.
    pub(crate) name: String,
    /// What it may do, or why it could not connect.
    pub(crate) probes: Result<Vec<Probe>, String>,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Sends a message that nothing comes of.
    Publish,
    /// Listens for a moment.
    Subscribe,
}

/// One thing that a user tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    /// What.
    pub(crate) act: Act,
    /// Where.
    pub(crate) subject: String,
    /// Whether the broker let it.
    pub(crate) allowed: bool,
}

/// What a broker reports about itself at its monitoring port.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerReport {
    /// Its name.
    pub(crate) name: String,
    /// Whether every write is synced before it is acknowledged; `None` without JetStream.
    pub(crate) syncs_always: Option<bool>,
    /// Its clock minus ours, in ms.
    pub(crate) clock_ms: i64,
    /// Bytes of a message.
    pub(crate) max_payload: u64,
    /// Connections now, and at most.
    pub(crate) connections: (u64, u64),
    /// Bytes that JetStream uses, and may use.
    pub(crate) storage: (u64, u64),
    /// Bytes free on its disk, if that is this machine's.
    pub(crate) disk_free: Option<u64>,
}
