//! A cable that can be pulled, held or made long: connections to a server pass through it.
//!
//! What is held is not lost, as TCP sends again what a network lost: it comes when the cable is mended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::port::Port;

/// Bytes that are passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a cable does with what goes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weather {
    /// All passes.
    Clear,
    /// Every connection is ended, and new ones are refused.
    Cut,
    /// Nothing passes in either direction, and nobody is told.
    Silent,
    /// What the server says does not arrive; what the client says does.
    Deaf,
    /// What the client says does not arrive; what the server says does.
    Mute,
    /// Each chunk takes so much longer, in either direction.
    Slow(Duration),
}

impl Weather {
    /// Whether bytes in this direction are held.
    fn holds(self, way: Way) -> bool {
        match self {
            Self::Clear | Self::Cut | Self::Slow(_) => false,
            Self::Silent => true,
            Self::Deaf => way == Way::Down,
            Self::Mute => way == Way::Up,
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Slow(delay) => delay,
            Self::Clear | Self::Cut | Self::Silent | Self::Deaf | Self::Mute => Duration::ZERO,
        }
    }
}

/// Up is to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// Passes connections on, on a thread of its own so that a waiting test does not stop it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _port: Port,
}

impl Proxy {
    /// A cable to the server in this URL, such as `nats://127.0.0.1:4222`.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn to(url: &str) -> Self {
        Self::before(&[url])
    }

    /// A balancer before several servers: each connection goes to the next one that takes it.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn before(urls: &[&str]) -> Self {
        let servers = urls.iter().map(|url| server(url)).collect();
        let port = Port::claim();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number));
        let listener = std::net::TcpListener::bind(address).expect("the port is ours");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made nonblocking");
        let (weather, watched) = watch::channel(Weather::Clear);
        let behind = Arc::new(Behind {
            servers,
            next: AtomicUsize::new(0),
            weather: watched,
        });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime can be made")
                .block_on(passes(listener, behind));
        });
        Self {
            address,
            weather,
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
        self.has(Weather::Cut);
    }

    /// Lets connections pass again.
    pub fn is_mended(&self) {
        self.has(Weather::Clear);
    }

    /// From now on it does this with what goes through it.
    pub fn has(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

/// What stands between `://` and the path.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn server(url: &str) -> SocketAddr {
    let server = authority(url).rsplit('@').next();
    let server = server.expect("split gives one part at least").parse();
    server.expect("the stack names its servers by address")
}

/// What a connection needs to know.
#[derive(Debug)]
struct Behind {
    servers: Vec<SocketAddr>,
    next: AtomicUsize,
    weather: watch::Receiver<Weather>,
}

impl Behind {
    /// To the next server that takes it.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut refused = None;
        for offset in 0..self.servers.len() {
            let server = self.servers[(first + offset) % self.servers.len()];
            match TcpStream::connect(server).await {
                Ok(stream) => return Ok(stream),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("there is a server at least"))
    }
}

/// Runs until the proxy is dropped.
async fn passes(first: std::net::TcpListener, behind: Arc<Behind>) {
    let mut weather = behind.weather.clone();
    let address = first.local_addr().expect("it is bound");
    let mut listener = TcpListener::from_std(first).expect("it is nonblocking");
    loop {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                cut = weather.wait_for(|weather| *weather == Weather::Cut) => match cut {
                    Ok(_) => break,
                    Err(_) => return,
                },
                accepted = listener.accept() => {
                    let Ok((from, _)) = accepted else { continue };
                    connections.spawn(connection(from, Arc::clone(&behind)));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop((listener, connections));
        if weather
            .wait_for(|weather| *weather != Weather::Cut)
            .await
            .is_err()
        {
            return;
        }
        listener = TcpListener::bind(address).await.expect("the port is ours");
    }
}

/// One connection, until either side ends it: then the other hears of it, as if nothing stood between.
async fn connection(from: TcpStream, behind: Arc<Behind>) -> std::io::Result<()> {
    clears(&mut behind.weather.clone(), Way::Up).await;
    let to = behind.connect().await?;
    // As the cable would not delay, neither does this.
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let ((from_reads, from_writes), (to_reads, to_writes)) = (from.into_split(), to.into_split());
    let up = pumps(from_reads, to_writes, (behind.weather.clone(), Way::Up));
    let down = pumps(to_reads, from_writes, (behind.weather.clone(), Way::Down));
    tokio::try_join!(up, down).map(|_| ())
}

/// Waits until what goes this way is not held; for ever, if the proxy is gone, which ends its thread.
async fn clears(weather: &mut watch::Receiver<Weather>, way: Way) -> Duration {
    let cleared = weather.wait_for(|weather| !weather.holds(way)).await;
    cleared.map_or(Duration::ZERO, |weather| weather.delay())
}

/// Copies in one direction until that ends.
async fn pumps(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (mut weather, way): (watch::Receiver<Weather>, Way),
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        // Held, it also reads nothing, so that the sender's buffers fill as they would.
        clears(&mut weather, way).await;
        let count = from.read(&mut chunk).await?;
        let delay = clears(&mut weather, way).await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually::{PATIENCE, eventually};

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

    /// A server and a connection to it through a proxy: (proxy, client's end, server's end).
    async fn connected() -> (Proxy, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(&format!("tcp://{}", server.local_addr().unwrap()));
        let client = TcpStream::connect(proxy.address).await.unwrap();
        let (server, _) = server.accept().await.unwrap();
        (proxy, client, server)
    }

    async fn arrives(from: &mut TcpStream, to: &mut TcpStream) {
        from.write_all(b"x").await.unwrap();
        let read = tokio::time::timeout(PATIENCE, to.read_u8()).await;
        assert_eq!(read.expect("it arrives").unwrap(), b'x');
    }

    /// Bytes that were read so far, without waiting.
    fn came(at: &TcpStream) -> usize {
        at.try_read(&mut [0; 64]).unwrap_or(0)
    }

    #[tokio::test]
    async fn a_deaf_client_is_still_heard_and_gets_the_rest_later() {
        let (proxy, mut client, mut server) = connected().await;
        arrives(&mut client, &mut server).await;
        arrives(&mut server, &mut client).await;
        proxy.has(Weather::Deaf);
        server.write_all(b"late").await.unwrap();
        // What goes the other way passes the same thread, so the proxy had its turn.
        for _ in 0..10 {
            arrives(&mut client, &mut server).await;
        }
        assert_eq!(came(&client), 0);
        proxy.is_mended();
        let mut late = [0; 4];
        let read = tokio::time::timeout(PATIENCE, client.read_exact(&mut late)).await;
        read.expect("it comes").unwrap();
        assert_eq!(&late, b"late");
    }

    #[tokio::test]
    async fn a_mute_client_is_not_heard_until_it_is_mended() {
        let (proxy, mut client, mut server) = connected().await;
        proxy.has(Weather::Mute);
        client.write_all(b"x").await.unwrap();
        for _ in 0..10 {
            arrives(&mut server, &mut client).await;
        }
        assert_eq!(came(&server), 0);
        proxy.is_mended();
        let read = tokio::time::timeout(PATIENCE, server.read_u8()).await;
        assert_eq!(read.expect("it comes").unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_slow_cable_takes_as_long_as_it_says() {
        let (proxy, mut client, mut server) = connected().await;
        let delay = Duration::from_millis(80);
        proxy.has(Weather::Slow(delay));
        let since = tokio::time::Instant::now();
        arrives(&mut client, &mut server).await;
        assert!(since.elapsed() >= delay);
    }

    #[tokio::test]
    async fn a_cut_ends_a_connection() {
        let (proxy, mut client, _server) = connected().await;
        proxy.is_cut();
        let ended = tokio::time::timeout(PATIENCE, client.read_u8()).await;
        ended.expect("it is told").unwrap_err();
        eventually(PATIENCE, async || {
            match TcpStream::connect(proxy.address).await {
                Err(_) => Ok(()),
                Ok(_) => Err("it is taken"),
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_balancer_passes_over_who_is_not_there() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = format!("tcp://{}", server.local_addr().unwrap());
        let proxy = Proxy::before(&["tcp://127.0.0.1:1", &there]);
        for _ in 0..4 {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            let (mut server, _) = server.accept().await.unwrap();
            arrives(&mut client, &mut server).await;
        }
    }
}
