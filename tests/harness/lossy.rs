//! A broker's connection that loses chosen messages on the way to a service, and nothing else.
//!
//! What a core NATS subscription may lose (a slow consumer, a route that is overrun) is lost without a
//! sign. This makes it happen to order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::port::Port;

/// Passes connections on to a broker and can lose what is delivered of some subjects.
#[derive(Debug)]
pub struct LossyBroker {
    port: Port,
    loss: Arc<Loss>,
}

#[derive(Debug)]
struct Loss {
    /// Messages of subjects that begin so are lost.
    prefix: &'static str,
    on: AtomicBool,
    lost: AtomicU64,
}

impl LossyBroker {
    /// A way to the broker at this URL.
    ///
    /// # Panics
    ///
    /// If the URL has no address, or no port is free.
    pub async fn to(url: &str, prefix: &'static str) -> Self {
        let broker = url.rsplit(['/', '@']).next().expect("a URL has parts");
        let broker: SocketAddr = broker
            .parse()
            .expect("the stack names its servers by address");
        let port = Port::claim();
        let listener = TcpListener::bind(("127.0.0.1", port.number)).await;
        let listener = listener.expect("the port is ours");
        let loss = Arc::new(Loss {
            prefix,
            on: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let shared = Arc::clone(&loss);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let loss = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(broker).await {
                        pass(client, server, &loss).await;
                    }
                });
            }
        });
        Self { port, loss }
    }

    /// Where a service connects to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.number)
    }

    /// From now on messages are lost, or no more.
    pub fn loses(&self, on: bool) {
        self.loss.on.store(on, Ordering::SeqCst);
    }

    /// How many were lost.
    pub fn lost(&self) -> u64 {
        self.loss.lost.load(Ordering::SeqCst)
    }
}

async fn pass(client: TcpStream, server: TcpStream, loss: &Loss) {
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    // Either end closes both.
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        _ = deliver(from_server, to_client, loss) => {}
    }
}

/// Copies the server's protocol line by line; `MSG` and `HMSG` are followed by as many bytes as they say.
async fn deliver(
    server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    loss: &Loss,
) -> std::io::Result<()> {
    let mut server = BufReader::new(server);
    let mut line = Vec::new();
    loop {
        line.clear();
        if server.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        let mut words = text.split_whitespace();
        let is_message = matches!(words.next(), Some("MSG" | "HMSG"));
        let subject = words.next().unwrap_or_default();
        let mut payload = Vec::new();
        if is_message {
            let bytes: usize = words
                .next_back()
                .and_then(|bytes| bytes.parse().ok())
                .expect("a message says how long it is");
            // The line end behind the payload counts to it.
            payload.resize(bytes + 2, 0);
            server.read_exact(&mut payload).await?;
        }
        if is_message && subject.starts_with(loss.prefix) && loss.on.load(Ordering::SeqCst) {
            loss.lost.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        client.write_all(&line).await?;
        client.write_all(&payload).await?;
    }
}
