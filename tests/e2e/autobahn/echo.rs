//! A server that sends every message back, over the gateway's own reader and writer of frames.
//!
//! The cases that look at what comes back need one, and natter sends back nothing. Only the loop between
//! reading and writing, and the answer to an upgrade, are made here.

use std::net::SocketAddr;
use std::rc::Rc;

use actix_http::ws::{CloseCode, CloseReason};
use gateway::socket::incoming::{Breach, Incoming, Unread};
use gateway::socket::wire::Wire;
use gateway::transport::{Transport as _, Writing};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Listens on a thread of its own, which lives as long as the test's process.
pub(crate) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    listener.set_nonblocking(true).expect("it can be made so");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime can be made");
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            let listener = TcpListener::from_std(listener).expect("it is nonblocking");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream));
            }
        });
    });
    address
}

async fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).expect("a socket can be made so");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let key = head
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
    let accept = derive_accept_key(key.expect("the driver sends one").as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    );
    if stream.write_all(answer.as_bytes()).await.is_ok() {
        echo(&Rc::new(Wire::new(stream))).await;
    }
}

async fn echo(wire: &Wire) {
    let (mut unread, mut buffer) = (Unread::default(), vec![0; 16 * 1024]);
    loop {
        if !is_flushed(wire).await || wire.readable().await.is_err() {
            return;
        }
        match wire.read(&mut buffer) {
            Ok(Some(0)) | Err(_) => return,
            Ok(None) => {}
            Ok(Some(count)) => unread.feed(&buffer[..count]),
        }
        let end = loop {
            match unread.poll() {
                Ok(None) => break None,
                Ok(Some(Incoming::Text(text))) => wire.send(text),
                Ok(Some(Incoming::Ping(payload))) => {
                    wire.pong(&payload);
                    // The suite wants each of them; a gateway that has no room answers the newest.
                    wire.flush();
                }
                Ok(Some(Incoming::Pong)) => {}
                Ok(Some(Incoming::Close(reason))) => break Some(reason),
                Err(breach) => break Some(Some(reason_of(breach))),
            }
        };
        if let Some(reason) = end {
            wire.close(reason);
            if is_flushed(wire).await {
                wire.end();
                discard(wire, &mut buffer).await;
            }
            return;
        }
    }
}

/// Writes what there is; whether the connection still stands.
async fn is_flushed(wire: &Wire) -> bool {
    loop {
        match wire.flush() {
            Writing::Done => return true,
            Writing::Gone => return false,
            Writing::More | Writing::Full => {
                if wire.writable().await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// To close with bytes unread would reset the connection.
async fn discard(wire: &Wire, buffer: &mut [u8]) {
    while wire.readable().await.is_ok() && !matches!(wire.read(buffer), Ok(Some(0)) | Err(_)) {}
}

fn reason_of(breach: Breach) -> CloseReason {
    let code = match breach {
        Breach::TooLarge => CloseCode::Size,
        Breach::BadUtf8 => CloseCode::Invalid,
        Breach::Protocol => CloseCode::Protocol,
    };
    code.into()
}
