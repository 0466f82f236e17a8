//! A cable between some of the clients and the server, so that their sockets can be lost without a word.
//!
//! The client of the crate `client` closes in order; here the connection under it simply ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rand::RngExt as _;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::task::AbortHandle;

/// Connections at once; more are not taken.
const CONNECTIONS_MAX: usize = 1_024;

/// A listener that passes everything on.
pub(crate) struct Relay {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Relay {
    /// Listens on this machine and passes on to the server of a socket's address.
    ///
    /// # Errors
    /// There is no such server, or no port.
    pub(crate) async fn to(url: &str) -> anyhow::Result<Self> {
        let authority = authority(url)?;
        let host = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let server = lookup_host(host).await?.next().context("no address")?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let connections = Arc::default();
        drop(tokio::spawn(pass_on(
            listener,
            server,
            Arc::clone(&connections),
        )));
        Ok(Self {
            address,
            connections,
        })
    }

    /// The same address, through this.
    ///
    /// # Errors
    /// It is no address of a socket.
    pub(crate) fn url(&self, url: &str) -> anyhow::Result<String> {
        Ok(url.replacen(authority(url)?, &self.address.to_string(), 1))
    }

    /// Cuts one connection; false if there is none.
    pub(crate) fn cut(&self) -> bool {
        let mut connections = lock(&self.connections);
        connections.retain(|connection| !connection.is_finished());
        if connections.is_empty() {
            return false;
        }
        let index = rand::rng().random_range(0..connections.len());
        connections.swap_remove(index).abort();
        true
    }
}

fn lock(connections: &Mutex<Vec<AbortHandle>>) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

fn authority(url: &str) -> anyhow::Result<&str> {
    let rest = url
        .strip_prefix("ws://")
        .with_context(|| format!("{url} does not begin with ws://"))?;
    Ok(rest.split('/').next().unwrap_or(rest))
}

async fn pass_on(
    listener: TcpListener,
    server: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
) {
    loop {
        let Ok((mut from, _)) = listener.accept().await else {
            continue;
        };
        let connection = tokio::spawn(async move {
            let mut to = TcpStream::connect(server).await?;
            from.set_nodelay(true)?;
            to.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut from, &mut to).await
        });
        let mut known = lock(&connections);
        known.retain(|connection| !connection.is_finished());
        if known.len() < CONNECTIONS_MAX {
            known.push(connection.abort_handle());
        } else {
            connection.abort();
        }
    }
}
