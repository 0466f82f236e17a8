//! natter's own services as children of `natter dev`: one process for all, or one for each.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::banner::{Ops, State};
use super::broker_users::{BrokerUsers, User};
use super::layout::Layout;
use super::ports::{self, Claim};
use super::supervisor::{Name, Spec};
use super::{Args, probe};
use crate::child::DeathSignal;
use crate::token;

/// The subcommand, and so the name, of all services in one process.
const ALL: &str = "all";
/// A service gets this long to stop in order: the gateway's drain is the longest.
const GRACE: Duration = Duration::from_secs(20);

/// Seconds over which the gateway asks its clients to move.
const DRAIN: &str = "NATTER_GATEWAY_DRAIN_SECONDS";
/// There is no other gateway to move to, and somebody waits for Ctrl-C.
const DRAIN_SECONDS: &str = "1";

/// A service that can be a process of its own, in the order of starting.
///
/// They are stopped from the end: the gateway, whose clients need the others to drain, is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Service {
    /// The archive.
    History,
    /// The order.
    Messages,
    /// Sockets and HTTP.
    Gateway,
}

impl Service {
    /// Its subcommand and the name of its process.
    fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Messages => "messages",
            Self::Gateway => "gateway",
        }
    }
}

/// Which processes, and where they listen.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Held so that the port stays ours.
    _listen: Claim,
    processes: Vec<(&'static str, Claim)>,
    environment: Vec<(&'static str, String)>,
    state: State,
}

impl Plan {
    /// Claims the ports.
    ///
    /// # Errors
    ///
    /// No port is free.
    pub(crate) fn new(
        args: &Args,
        layout: &Layout,
        nats_url: &str,
        database_url: &str,
    ) -> anyhow::Result<Self> {
        let listen = ports::claim(args.listen)?;
        let names = names(args);
        let mut processes = Vec::new();
        // The gateway gets the wanted ops port, and the others the next ones.
        for name in names.into_iter().rev() {
            processes.push((name, ports::claim(args.ops)?));
        }
        processes.reverse();
        let place = reachable(listen.address);
        let state = State {
            url: format!("http://{place}"),
            socket: format!("ws://{place}/v1/ws"),
            ops: processes
                .iter()
                .rev()
                .map(|(name, claim)| Ops {
                    name,
                    url: format!("http://{}", reachable(claim.address)),
                })
                .collect(),
            nats_url: nats_url.to_owned(),
            database_url: database_url.to_owned(),
            pid: std::process::id(),
        };
        let key = layout.data.join(token::KEY_FILE);
        let mut environment = vec![
            ("NATTER_NATS_URL", nats_url.to_owned()),
            ("NATTER_DATABASE_URL", database_url.to_owned()),
            ("NATTER_LISTEN", listen.address.to_string()),
            (
                "NATTER_JWT_HS256_SECRET_FILE",
                key.to_string_lossy().into_owned(),
            ),
            ("NATTER_JWT_ISSUER", token::ISSUER.to_owned()),
            ("NATTER_JWT_AUDIENCE", token::AUDIENCE.to_owned()),
            ("NATTER_DEV_TOKENS", "true".to_owned()),
            // They write to a file.
            ("NO_COLOR", "1".to_owned()),
        ];
        if std::env::var_os(DRAIN).is_none() {
            environment.push((DRAIN, DRAIN_SECONDS.to_owned()));
        }
        Ok(Self {
            _listen: listen,
            processes,
            environment,
            state,
        })
    }

    /// The commands; each process connects to the broker as its user, if the broker is ours.
    ///
    /// # Errors
    ///
    /// Our own program is not found.
    pub(crate) fn specs(&self, users: Option<&BrokerUsers>) -> anyhow::Result<Vec<Spec>> {
        let program = std::env::current_exe()?;
        let specs = self.processes.iter().map(|(name, ops)| {
            let mut command = std::process::Command::new(&program);
            let parent = std::process::id().to_string();
            command
                .args([
                    "child",
                    "--parent",
                    &parent,
                    "--die",
                    DeathSignal::Kill.word(),
                    "--",
                ])
                .arg(&program)
                .arg(name)
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .env("NATTER_OPS_LISTEN", ops.address.to_string())
                .envs(
                    users
                        .and_then(|users| users.of(name))
                        .into_iter()
                        .flat_map(credentials),
                )
                .stdin(std::process::Stdio::null());
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            Spec {
                name: Name(name),
                command,
                stop: DeathSignal::Term,
                grace: GRACE,
            }
        });
        Ok(specs.collect())
    }

    /// Returns when every process says that it is ready.
    ///
    /// Cancel safety: may be dropped at any time.
    pub(crate) async fn ready(&self) {
        for (_, ops) in &self.processes {
            probe::ready(SocketAddr::new(
                reachable(ops.address).ip(),
                ops.address.port(),
            ))
            .await;
        }
    }

    /// Addresses of everything.
    pub(crate) fn state(&self) -> State {
        self.state.clone()
    }
}

fn credentials(user: &User) -> [(&'static str, &str); 2] {
    [
        ("NATTER_NATS_USER", user.name),
        ("NATTER_NATS_PASSWORD", &user.password),
    ]
}

/// The processes in the order of starting.
fn names(args: &Args) -> Vec<&'static str> {
    match (args.servers_only, args.separate) {
        (true, _) => Vec::new(),
        (false, false) => vec![ALL],
        (false, true) => {
            let services: BTreeSet<Service> = args.services.iter().copied().collect();
            services.into_iter().map(Service::name).collect()
        }
    }
}

/// Where a client on this machine finds what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port())
    } else {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_everywhere_is_reached_by_loopback() {
        assert_eq!(
            reachable("0.0.0.0:80".parse().unwrap()),
            "127.0.0.1:80".parse().unwrap()
        );
        assert_eq!(
            reachable("10.0.0.1:80".parse().unwrap()),
            "10.0.0.1:80".parse().unwrap()
        );
    }
}
