//! What it costs the gateway to deliver one frame to one observer of a big room.

use crate::cpu;
use crate::socket::{Socket, cid};
use crate::stack::Stack;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Messages that every observer must get.
const MESSAGES: u64 = 100;
/// Between two of them: the rate one user may send at in one room.
const INTERVAL: Duration = Duration::from_millis(200);

/// Lets `observers` sockets watch one room.
pub async fn run(observers: u64) -> anyhow::Result<Value> {
    let stack = Stack::start("gateway,messages,history", &[]).await?;
    let url = stack.address("socket")?;
    let token = stack.token("sender").await?;
    let mut sender = Socket::hello(&url, &token).await?;
    let create = json!({"op": "create", "cid": cid(), "kind": "public", "name": "big"});
    let room = sender.ask(create).await?["room"].clone();
    drop(sender);
    // Each reads from the start: joins fan out too, and who reads nothing is sent away.
    let mut readers = Vec::new();
    for observer in 0..observers {
        let token = stack.token(&format!("observer{observer}")).await?;
        let mut socket = Socket::hello(&url, &token).await?;
        socket.join(&room).await?;
        readers.push(tokio::spawn(socket.count_messages(MESSAGES)));
    }
    let mut sender = Socket::hello(&url, &token).await?;
    let idle_memory = stack.memory("gateway")?;
    let before = stack.cpu("gateway")?;
    let start = Instant::now();
    let mut ticks = tokio::time::interval(INTERVAL);
    for _ in 0..MESSAGES {
        ticks.tick().await;
        let text = "the quick brown fox jumps over the lazy dog";
        sender
            .ask(json!({"op": "send", "cid": cid(), "room": room, "text": text}))
            .await?;
    }
    let mut delivered = 0;
    for reader in readers {
        delivered += reader.await??;
    }
    Ok(json!({
        "bench": "fanout", "observers": observers, "delivered": delivered,
        "seconds": start.elapsed().as_secs_f64(),
        "gateway_cpu_us_per_delivery": cpu::per_operation(stack.cpu("gateway")? - before, delivered),
        "gateway_bytes_before": idle_memory, "gateway_bytes_after": stack.memory("gateway")?,
    }))
}
