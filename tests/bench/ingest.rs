//! How fast history archives: the log is filled first, then history starts and catches up.

use crate::cpu;
use crate::partition;
use crate::stack::Stack;
use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::Row as _;
use std::time::Duration;
use tokio::time::Instant;

/// Requesters that fill the log.
const REQUESTERS: u64 = 64;
/// Ingest counts as hung after this.
const WITHIN: Duration = Duration::from_secs(300);

/// Archives about `count` events and returns the figures.
pub async fn run(count: u64) -> anyhow::Result<Value> {
    // With history there from the start its cursor is at 0; it is paused while the log fills.
    let stack = Stack::start(
        "messages,history",
        &[("NATTER_MESSAGES_RATE_LIMITS", "false")],
    )
    .await?;
    let nats = async_nats::connect(stack.address("nats_url")?).await?;
    let room = partition::create(&nats).await?;
    stack.signal("history", rustix::process::Signal::STOP)?;
    let tasks: Vec<_> = (0..REQUESTERS)
        .map(|_| {
            let (nats, room) = (nats.clone(), room.clone());
            tokio::spawn(async move {
                for _ in 0..count / REQUESTERS {
                    partition::send(&nats, &room).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let pool = sqlx::PgPool::connect(&stack.address("database_url")?).await?;
    let first = archived(&pool).await?;
    let before = stack.cpu("history")?;
    stack.signal("history", rustix::process::Signal::CONT)?;
    let start = Instant::now();
    let target = i64::try_from(count / REQUESTERS * REQUESTERS)?;
    let last = tokio::time::timeout(WITHIN, async {
        loop {
            let now = archived(&pool).await?;
            if now >= target {
                return anyhow::Ok(now);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .context("history did not catch up")??;
    let events = u64::try_from(last - first)?;
    Ok(json!({
        "bench": "ingest", "events": events,
        "events_per_second": (events as f64 / start.elapsed().as_secs_f64()).round(),
        "history_cpu_us_per_event": cpu::per_operation(stack.cpu("history")? - before, events),
    }))
}

async fn archived(pool: &sqlx::PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query("select count(*) from events")
        .fetch_one(pool)
        .await?
        .try_get(0)?)
}
