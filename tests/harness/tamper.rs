//! A cable that lies: one line of one socket's stream is lost, repeated, exchanged or changed on its way.
//!
//! It understands so much of RFC 6455 as it needs: whole text messages of the server, and the first of
//! a client, by which the socket to lie to is chosen. Everything else passes as it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::port::Port;

/// Messages that pass truly before the lie.
const TRUE_MESSAGES: usize = 20;
/// What an upgrade's header has at most.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A message is lost.
    Drop,
    /// A message comes twice.
    Repeat,
    /// A message comes after the next one of its room.
    Swap,
    /// A message has other words.
    Change,
}

/// Passes connections on to one server, and lies once.
#[derive(Debug)]
pub struct Tamperer {
    address: SocketAddr,
    lied: Arc<AtomicBool>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    _port: Port,
}

impl Tamperer {
    /// Lies to the first client whose hello contains `whom`.
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub fn to(server: SocketAddr, whom: &'static str, lie: Lie) -> Self {
        let port = Port::claim();
        let address = SocketAddr::from(([127, 0, 0, 1], port.number));
        let listener = std::net::TcpListener::bind(address).expect("the port is ours");
        listener
            .set_nonblocking(true)
            .expect("a socket can be made nonblocking");
        let lied = Arc::new(AtomicBool::new(false));
        let cable = Cable {
            server,
            whom,
            lie,
            chosen: Arc::default(),
            lied: Arc::clone(&lied),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime can be made").block_on(async {
                tokio::select! {
                    () = cable.pass(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            lied,
            stop: Some(stop),
            _port: port,
        }
    }

    /// The address of a socket through the cable.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Whether it has lied.
    pub fn has_lied(&self) -> bool {
        self.lied.load(Ordering::Relaxed)
    }
}

impl Drop for Tamperer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Its thread may have ended already.
            stop.send(()).ok();
        }
    }
}

#[derive(Clone)]
struct Cable {
    server: SocketAddr,
    whom: &'static str,
    lie: Lie,
    chosen: Arc<AtomicBool>,
    lied: Arc<AtomicBool>,
}

impl Cable {
    async fn pass(self, listener: std::net::TcpListener) {
        let listener = TcpListener::from_std(listener).expect("it is nonblocking");
        loop {
            if let Ok((client, _)) = listener.accept().await {
                let cable = self.clone();
                // A connection that breaks is no failure of the test.
                tokio::spawn(async move { cable.connect(client).await.ok() });
            }
        }
    }

    async fn connect(self, mut client: TcpStream) -> std::io::Result<()> {
        let mut server = TcpStream::connect(self.server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let request = header(&mut client).await?;
        server.write_all(&request).await?;
        if !String::from_utf8_lossy(&request)
            .to_lowercase()
            .contains("upgrade: websocket")
        {
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        let response = header(&mut server).await?;
        client.write_all(&response).await?;
        let first = Frame::read(&mut client).await?;
        let is_whom = first.text().is_some_and(|text| text.contains(self.whom));
        server.write_all(&first.bytes()).await?;
        if !is_whom || self.chosen.swap(true, Ordering::Relaxed) {
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let down = async {
            let mut liar = Liar::new(self.lie, self.lied);
            loop {
                let frame = Frame::read(&mut from_server).await?;
                if let Some(frame) = liar.pass(frame) {
                    to_client.write_all(&frame.bytes()).await?;
                }
            }
        };
        tokio::select! {
            ended = up => ended.map(|_| ()),
            ended = down => ended,
        }
    }
}

/// Changes one line of all that pass.
struct Liar {
    lie: Lie,
    passed: usize,
    held: Option<String>,
    lied: Arc<AtomicBool>,
}

impl Liar {
    fn new(lie: Lie, lied: Arc<AtomicBool>) -> Self {
        Self {
            lie,
            passed: 0,
            held: None,
            lied,
        }
    }

    /// The frame as it shall arrive; none if nothing of it is left.
    fn pass(&mut self, mut frame: Frame) -> Option<Frame> {
        let Some(text) = frame.text() else {
            return Some(frame);
        };
        let lines: Vec<String> = text
            .split('\n')
            .flat_map(|line| self.line(line.to_owned()))
            .collect();
        frame.payload = lines.join("\n").into_bytes();
        (!lines.is_empty()).then_some(frame)
    }

    fn line(&mut self, line: String) -> Vec<String> {
        if room_of_message(&line).is_none() || self.lied.load(Ordering::Relaxed) {
            return vec![line];
        }
        self.passed += 1;
        if self.passed <= TRUE_MESSAGES {
            return vec![line];
        }
        if self.lie == Lie::Swap {
            return match self.held.take() {
                None => {
                    self.held = Some(line);
                    Vec::new()
                }
                Some(held) if room_of_message(&held) == room_of_message(&line) => {
                    self.lied.store(true, Ordering::Relaxed);
                    vec![line, held]
                }
                Some(held) => {
                    // Of another room, where nothing is wrong with it.
                    self.held = Some(held);
                    vec![line]
                }
            };
        }
        self.lied.store(true, Ordering::Relaxed);
        match self.lie {
            Lie::Drop => Vec::new(),
            Lie::Repeat => vec![line.clone(), line],
            Lie::Change => vec![line.replacen(r#""text":""#, r#""text":"not "#, 1)],
            Lie::Swap => unreachable!("handled above"),
        }
    }
}

/// The room, if the line is a message.
fn room_of_message(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    (value["ev"] == "msg").then(|| value["room"].to_string())
}

/// Reads to the end of an HTTP header and not beyond.
async fn header(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") && bytes.len() < HEADER_BYTES_MAX {
        bytes.push(stream.read_u8().await?);
    }
    Ok(bytes)
}

/// A frame of RFC 6455.
struct Frame {
    first: u8,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl Frame {
    async fn read(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> std::io::Result<Self> {
        let first = stream.read_u8().await?;
        let second = stream.read_u8().await?;
        let length = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            let mut key = [0; 4];
            stream.read_exact(&mut key).await?;
            mask = Some(key);
        }
        let length = usize::try_from(length).expect("a frame of a test fits into memory");
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let mut frame = Self {
            first,
            mask,
            payload,
        };
        frame.unmask();
        Ok(frame)
    }

    /// The text, if it is a whole text message.
    fn text(&self) -> Option<String> {
        (self.first == 0x81).then(|| String::from_utf8_lossy(&self.payload).into_owned())
    }

    fn bytes(mut self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match u16::try_from(self.payload.len()) {
            Ok(length) if length < 126 => bytes.push(masked | length.to_be_bytes()[1]),
            Ok(length) => {
                bytes.push(masked | 126);
                bytes.extend(length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(masked | 127);
                bytes.extend((self.payload.len() as u64).to_be_bytes());
            }
        }
        bytes.extend(self.mask.into_iter().flatten());
        self.unmask();
        bytes.extend(self.payload);
        bytes
    }

    /// Masks what is unmasked, and the other way round.
    fn unmask(&mut self) {
        if let Some(mask) = self.mask {
            for (byte, key) in self.payload.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= key;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(lie: Lie) -> Vec<u64> {
        let mut liar = Liar::new(lie, Arc::default());
        let mut seqs = Vec::new();
        for seq in 1..=25 {
            let frame = Frame {
                first: 0x81,
                mask: None,
                payload: format!(r#"{{"ev":"msg","room":"r","seq":{seq},"text":"x"}}"#).into(),
            };
            let passed = liar.pass(frame).and_then(|frame| frame.text());
            for line in passed.iter().flat_map(|text| text.lines()) {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                seqs.push(value["seq"].as_u64().unwrap());
            }
        }
        assert!(liar.lied.load(Ordering::Relaxed));
        seqs.split_off(19)
    }

    #[test]
    fn it_lies_once() {
        assert_eq!(passes(Lie::Drop), [20, 22, 23, 24, 25]);
        assert_eq!(passes(Lie::Repeat), [20, 21, 21, 22, 23, 24, 25]);
        assert_eq!(passes(Lie::Swap), [20, 22, 21, 23, 24, 25]);
        assert_eq!(passes(Lie::Change), [20, 21, 22, 23, 24, 25]);
    }

    #[tokio::test]
    async fn a_frame_passes_as_it_is() {
        for (mask, length) in [(None, 5), (Some([1, 2, 3, 4]), 300), (None, 70_000)] {
            let frame = || Frame {
                first: 0x81,
                mask,
                payload: vec![b'x'; length],
            };
            let bytes = frame().bytes();
            let again = Frame::read(&mut bytes.as_slice()).await.unwrap();
            assert_eq!(again.text(), frame().text());
            assert_eq!(again.bytes(), bytes);
        }
    }
}
