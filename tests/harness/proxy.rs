//! A cable that can be pulled: connections to a server pass through it until it is cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::port::Port;

/// Passes connections on to one server, on a thread of its own so that a waiting test does not stop it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    _port: Port,
}

impl Proxy {
    /// A cable to the server in this URL, such as `nats://127.0.0.1:4222`.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn to(url: &str) -> Self {
        let server = authority(url)
            .rsplit('@')
            .next()
            .expect("split gives one part at least");
        let server = server
            .parse()
            .expect("the stack names its servers by address");
        let port = Port::claim();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number));
        let listener = std::net::TcpListener::bind(address).expect("the port is ours");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made nonblocking");
        let (whole, watched) = watch::channel(true);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime can be made")
                .block_on(passes(listener, server, watched));
        });
        Self {
            address,
            whole,
            _port: port,
        }
    }

    /// The same URL, through the cable.
    pub fn url(&self, url: &str) -> String {
        let authority = authority(url);
        let through = match authority.rsplit_once('@') {
            Some((user, _)) => format!("{user}@{}", self.address),
            None => self.address.to_string(),
        };
        url.replacen(authority, &through, 1)
    }

    /// Ends every connection and refuses new ones.
    pub fn is_cut(&self) {
        self.whole.send_replace(false);
    }

    /// Lets connections pass again.
    pub fn is_mended(&self) {
        self.whole.send_replace(true);
    }
}

/// What stands between `://` and the path.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Runs until the proxy is dropped.
async fn passes(
    first: std::net::TcpListener,
    server: SocketAddr,
    mut whole: watch::Receiver<bool>,
) {
    let address = first.local_addr().expect("it is bound");
    let mut listener = TcpListener::from_std(first).expect("it is nonblocking");
    loop {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                cut = whole.wait_for(|whole| !whole) => match cut {
                    Ok(_) => break,
                    Err(_) => return,
                },
                accepted = listener.accept() => {
                    let Ok((mut from, _)) = accepted else { continue };
                    connections.spawn(async move {
                        let mut to = TcpStream::connect(server).await?;
                        // As the cable would not delay, neither does this.
                        from.set_nodelay(true)?;
                        to.set_nodelay(true)?;
                        tokio::io::copy_bidirectional(&mut from, &mut to).await
                    });
                }
            }
        }
        drop((listener, connections));
        if whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        listener = TcpListener::bind(address).await.expect("the port is ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_replaced_and_nothing_else() {
        let proxy = Proxy::to("nats://127.0.0.1:1");
        let url = proxy.url("postgres://natter@127.0.0.1:5432/natter");
        assert_eq!(url, format!("postgres://natter@{}/natter", proxy.address));
        assert_eq!(
            proxy.url("nats://127.0.0.1:1"),
            format!("nats://{}", proxy.address)
        );
    }
}
