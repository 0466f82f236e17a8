//! What one partition orders: 64 requesters at the messages service, without gateway and history.

use crate::cpu;
use crate::stack::Stack;
use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use protocol::request::{CommandReply, CommandResult};
use protocol::subject::Door;
use protocol::{Cid, RoomId, Subject, UserId};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::time::Instant;

/// Requesters, each with one request in flight.
const REQUESTERS: usize = 64;
/// How far ahead of the request its deadline lies.
const DEADLINE_MS: i64 = 5_000;

static AUTHOR: LazyLock<UserId> = LazyLock::new(|| UserId::parse("bench").expect("a plain id"));

/// Runs for `seconds` and returns the figures.
pub async fn run(seconds: u64) -> anyhow::Result<Value> {
    let stack = Stack::start("messages", &[("NATTER_MESSAGES_RATE_LIMITS", "false")]).await?;
    let nats = async_nats::connect(stack.address("nats_url")?).await?;
    let room = create(&nats).await?;
    let sent = Arc::new(AtomicU64::new(0));
    let before = stack.cpu("messages")?;
    let broker_before = stack.cpu("nats-server")?;
    let start = Instant::now();
    let until = start + Duration::from_secs(seconds);
    let tasks: Vec<_> = (0..REQUESTERS)
        .map(|_| {
            tokio::spawn(requester(
                nats.clone(),
                room.clone(),
                until,
                Arc::clone(&sent),
            ))
        })
        .collect();
    let mut latency = Histogram::<u64>::new(3)?;
    for task in tasks {
        latency.add(task.await??)?;
    }
    let wall = start.elapsed().as_secs_f64();
    let count = sent.load(Ordering::Relaxed);
    Ok(json!({
        "bench": "partition", "messages": count,
        "messages_per_second": (count as f64 / wall).round(),
        "messages_cpu_us_per_message": cpu::per_operation(stack.cpu("messages")? - before, count),
        "broker_cpu_us_per_message": cpu::per_operation(stack.cpu("nats-server")? - broker_before, count),
        "p50_ms": latency.value_at_quantile(0.5) as f64 / 1e3,
        "p99_ms": latency.value_at_quantile(0.99) as f64 / 1e3,
    }))
}

/// A public room of the bench's user; shared with the ingest bench.
pub async fn create(nats: &async_nats::Client) -> anyhow::Result<RoomId> {
    let cid = new_cid()?;
    let room = RoomId::created(&AUTHOR, cid);
    let command = json!({"cid": cid, "op": "create", "kind": "public", "name": "bench"});
    ask(nats, &room, "create", command).await?;
    Ok(room)
}

/// Sends one message, answered once it is durable.
pub async fn send(nats: &async_nats::Client, room: &RoomId) -> anyhow::Result<()> {
    let text = "the quick brown fox jumps over the lazy dog";
    ask(
        nats,
        room,
        "send",
        json!({"cid": new_cid()?, "op": "send", "text": text}),
    )
    .await
}

async fn requester(
    nats: async_nats::Client,
    room: RoomId,
    until: Instant,
    sent: Arc<AtomicU64>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = Histogram::<u64>::new(3)?;
    while Instant::now() < until {
        let begun = Instant::now();
        send(&nats, &room).await?;
        latency.record(u64::try_from(begun.elapsed().as_micros())?)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(latency)
}

fn new_cid() -> anyhow::Result<Cid> {
    Ok(Cid::from_uuid(uuid::Uuid::now_v7())?)
}

async fn ask(
    nats: &async_nats::Client,
    room: &RoomId,
    verb: &str,
    command: Value,
) -> anyhow::Result<()> {
    let subject = Subject::Command {
        partition: room.partition(),
        door: Door::User,
        actor: AUTHOR.clone(),
        verb: verb.to_owned(),
        room: room.clone(),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let deadline = i64::try_from(now.as_millis())? + DEADLINE_MS;
    let body = json!({"deadline": deadline, "commands": [command]}).to_string();
    let reply = nats.request(subject.to_string(), body.into()).await?;
    let reply: CommandReply = serde_json::from_slice(&reply.payload)?;
    match reply.results.first().context("no result")? {
        CommandResult::Ok(_) => Ok(()),
        CommandResult::Err(refusal) => bail!("refused: {refusal:?}"),
    }
}
