//! Three nats-servers as one cluster: nodes are killed, stopped, and cut off from each other.
//!
//! Each node reaches each other one by a cable of its own, so that a node can be cut off from its peers
//! while its clients still reach it: the worst of all partitions.

use std::time::Duration;

use async_nats::jetstream::stream::Info;

use crate::eventually::eventually;
use crate::http::Request;
use crate::nats_server::{Folder, NatsServer, NatsSettings};
use crate::port::Port;
use crate::proxy::{Proxy, Weather};

/// How many nodes there are.
pub const NODES: usize = 3;
/// Elections take up to ten seconds, and a node that was away is brought up to date after that.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Streams that natter needs.
const STREAMS: [&str; 2] = ["NATTER_LOG", "KV_NATTER_LEASE"];

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<NatsServer>,
    /// Of each node the cables to the others.
    cables: Vec<Vec<(usize, Proxy)>>,
    monitors: Vec<Port>,
    _routes: Vec<Port>,
    _folder: Folder,
}

impl Cluster {
    /// Starts it and waits until it is one.
    ///
    /// # Panics
    ///
    /// If it does not become one.
    pub async fn start() -> Self {
        let folder = Folder::new("cluster");
        let routes: Vec<Port> = (0..NODES).map(|_| Port::claim()).collect();
        let monitors: Vec<Port> = (0..NODES).map(|_| Port::claim()).collect();
        let urls: Vec<String> = routes
            .iter()
            .map(|port| format!("nats://127.0.0.1:{}", port.number))
            .collect();
        let cables: Vec<Vec<(usize, Proxy)>> = (0..NODES)
            .map(|from| {
                let others = (0..NODES).filter(|to| *to != from);
                others.map(|to| (to, Proxy::to(&urls[to]))).collect()
            })
            .collect();
        let nodes = (0..NODES).map(|node| {
            let peers = cables[node].iter().map(|(to, cable)| cable.url(&urls[*to]));
            let peers: Vec<String> = peers.map(|url| format!("\"{url}\"")).collect();
            // Nobody tells anybody else an address that would lead past the cables.
            let more = format!(
                "http: \"127.0.0.1:{}\"\n\
                 cluster {{ name: natter, host: \"127.0.0.1\", port: {}, advertise: \"127.0.0.1:1\", \
                 no_advertise: true, routes: [{}] }}",
                monitors[node].number,
                routes[node].number,
                peers.join(", ")
            );
            let settings = NatsSettings {
                name: name(node),
                more,
                ..NatsSettings::default()
            };
            NatsServer::prepare(folder.path(), settings, Port::claim())
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            cables,
            monitors,
            _routes: routes,
            _folder: folder,
        };
        for node in &mut cluster.nodes {
            node.launch();
        }
        cluster.is_healthy().await;
        cluster
    }

    /// Where all nodes are, as natter takes it.
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// Where one node is.
    pub fn url_of(&self, node: usize) -> String {
        self.nodes[node].url()
    }

    /// `kill -9` of a node.
    pub fn dies(&mut self, node: usize) {
        self.nodes[node].dies();
    }

    /// Starts a node on what it has stored, without waiting.
    pub fn starts_again(&mut self, node: usize) {
        self.nodes[node].launch();
    }

    /// Nothing passes between a node and the others, who may or may not be told.
    pub fn is_cut_off(&self, node: usize, weather: Weather) {
        self.each_cable_of(node, weather);
    }

    /// The node and the others reach each other again.
    pub fn is_whole_again(&self, node: usize) {
        self.each_cable_of(node, Weather::Clear);
    }

    fn each_cable_of(&self, node: usize, weather: Weather) {
        for (from, cables) in self.cables.iter().enumerate() {
            for (to, cable) in cables {
                if from == node || *to == node {
                    cable.has(weather);
                }
            }
        }
    }

    /// The node that leads a stream, as the nodes say that answer.
    pub async fn leader_of(&self, stream: &str) -> usize {
        eventually(SETTLED_WITHIN, async || {
            let info = self.info(stream, None).await?;
            let leader = info.cluster.and_then(|cluster| cluster.leader);
            let leader = leader.ok_or("it has no leader")?;
            (0..NODES)
                .find(|node| name(*node) == leader)
                .ok_or_else(|| format!("{leader} leads"))
        })
        .await
    }

    /// Waits until a stream is led by another node than this one, and says by which.
    pub async fn has_another_leader(&self, stream: &str, than: usize) -> usize {
        eventually(SETTLED_WITHIN, async || {
            let info = self.info(stream, Some(than)).await?;
            let leader = info.cluster.and_then(|cluster| cluster.leader);
            let led = |node: &usize| leader.as_deref() == Some(&*name(*node));
            (0..NODES)
                .filter(|node| *node != than)
                .find(led)
                .ok_or_else(|| format!("{leader:?} leads"))
        })
        .await
    }

    /// The node that a service is connected to, such as `messages`.
    pub async fn node_of(&self, service: &str) -> usize {
        eventually(SETTLED_WITHIN, async || {
            for (node, monitor) in self.monitors.iter().enumerate() {
                let url = format!("http://127.0.0.1:{}/connz", monitor.number);
                let answer = Request::get(url).try_send().await;
                let connections = answer.map(|answer| answer.json()).unwrap_or_default();
                let names = connections["connections"].as_array().into_iter().flatten();
                let mut names = names.filter_map(|it| it["name"].as_str());
                if names.any(|name| name.starts_with(&format!("{service}-"))) {
                    return Ok(node);
                }
            }
            Err(format!("{service} is not connected"))
        })
        .await
    }

    /// Waits until every node is up to date in all that it takes part in: then any one may be lost.
    pub async fn is_healthy(&self) {
        for monitor in &self.monitors {
            let url = format!("http://127.0.0.1:{}/healthz", monitor.number);
            eventually(SETTLED_WITHIN, async || {
                match Request::get(url.clone()).try_send().await {
                    Ok(answer) if answer.status == 200 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
    }

    /// The same, and every replica of natter's streams has all that its leader has.
    pub async fn is_current(&self) {
        self.is_healthy().await;
        for stream in STREAMS {
            eventually(SETTLED_WITHIN, async || {
                let info = self.info(stream, None).await?;
                let cluster = info.cluster.ok_or("it is not in a cluster")?;
                let current = cluster
                    .replicas
                    .iter()
                    .filter(|it| it.current && !it.offline);
                if cluster.leader.is_some() && current.count() == NODES - 1 {
                    Ok(())
                } else {
                    Err(format!("{stream}: {cluster:?}"))
                }
            })
            .await;
        }
    }

    /// What a stream's leader says, asked through any node but one.
    async fn info(&self, stream: &str, but: Option<usize>) -> Result<Info, String> {
        let mut complaint = "no node is asked".to_owned();
        for (number, node) in self.nodes.iter().enumerate() {
            if Some(number) == but {
                continue;
            }
            let asked = async {
                let client = async_nats::connect(node.url()).await;
                let client = client.map_err(|error| error.to_string())?;
                let jetstream = async_nats::jetstream::new(client);
                let stream = jetstream.get_stream(stream).await;
                let stream = stream.map_err(|error| error.to_string())?;
                Ok::<_, String>(stream.cached_info().clone())
            };
            match tokio::time::timeout(Duration::from_secs(2), asked).await {
                Ok(Ok(info)) => return Ok(info),
                Ok(Err(why)) => complaint = why,
                Err(_) => complaint = format!("{} does not answer", name(number)),
            }
        }
        Err(complaint)
    }
}

fn name(node: usize) -> String {
    format!("n{node}")
}
