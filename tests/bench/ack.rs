//! How long an acknowledgement takes at 100 messages per second through one gateway.

use crate::cpu;
use crate::socket::{Socket, cid};
use crate::stack::Stack;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Senders: each at the rate that one user may send into one room.
const SENDERS: u64 = 20;
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs for `seconds` and returns the figures.
pub async fn run(seconds: u64) -> anyhow::Result<Value> {
    let stack = Stack::start("gateway,messages,history", &[]).await?;
    let url = stack.address("socket")?;
    let mut first = Socket::hello(&url, &stack.token("bench0").await?).await?;
    let create = json!({"op": "create", "cid": cid(), "kind": "public", "name": "bench"});
    let room = first.ask(create).await?["room"].clone();
    let mut sockets = vec![first];
    for sender in 1..SENDERS {
        let token = stack.token(&format!("bench{sender}")).await?;
        let mut socket = Socket::hello(&url, &token).await?;
        socket
            .ask(json!({"op": "join", "cid": cid(), "room": room}))
            .await?;
        sockets.push(socket);
    }
    let parts = ["gateway", "messages", "history"];
    let before = parts.map(|part| stack.cpu(part).unwrap_or_default());
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0_u32..)
        .zip(sockets)
        .map(|(index, socket)| {
            // Spread over the interval, as people are.
            let phase = INTERVAL * index / u32::try_from(SENDERS).unwrap_or(1);
            tokio::spawn(send(socket, room.clone(), start + phase, until))
        })
        .collect();
    let mut latency = Latency::new()?;
    for task in tasks {
        let one = task.await??;
        latency.since_due.add(one.since_due)?;
        latency.since_sent.add(one.since_sent)?;
    }
    let Latency {
        since_due: latency,
        since_sent,
    } = latency;
    let after = parts.map(|part| stack.cpu(part).unwrap_or_default());
    let spent: Duration = after.iter().sum::<Duration>() - before.iter().sum::<Duration>();
    Ok(json!({
        "bench": "ack", "messages": latency.len(), "observers_per_message": SENDERS,
        "p50_ms": latency.value_at_quantile(0.5) as f64 / 1e3,
        "p99_ms": latency.value_at_quantile(0.99) as f64 / 1e3,
        "p50_since_sent_ms": since_sent.value_at_quantile(0.5) as f64 / 1e3,
        "p99_since_sent_ms": since_sent.value_at_quantile(0.99) as f64 / 1e3,
        "max_ms": latency.max() as f64 / 1e3,
        "natter_cpu_us_per_message": cpu::per_operation(spent, latency.len()),
    }))
}

/// Times of acknowledgements, in microseconds.
struct Latency {
    /// From when the message was due, so that a stall is not hidden by the waiting sender. The
    /// bench's own timer is in it: it wakes up to a millisecond late.
    since_due: Histogram<u64>,
    /// From when it was sent.
    since_sent: Histogram<u64>,
}

impl Latency {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            since_due: Histogram::new(3)?,
            since_sent: Histogram::new(3)?,
        })
    }
}

async fn send(
    mut socket: Socket,
    room: Value,
    first: Instant,
    until: Instant,
) -> anyhow::Result<Latency> {
    let mut latency = Latency::new()?;
    let mut ticks = interval_at(first, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = ticks.tick().await;
        if due >= until {
            return Ok(latency);
        }
        let text = "the quick brown fox jumps over the lazy dog";
        let sent = Instant::now();
        socket
            .ask(json!({"op": "send", "cid": cid(), "room": room, "text": text}))
            .await?;
        latency
            .since_due
            .record(u64::try_from(due.elapsed().as_micros())?)?;
        latency
            .since_sent
            .record(u64::try_from(sent.elapsed().as_micros())?)?;
    }
}
