//! Two processes that order messages, and what the broker and they say of who owns what.

use futures_util::TryStreamExt as _;
use tests::http::Request;
use tests::{PATIENCE, Part, Stack, StackBuilder, Twin, eventually};

/// A rate that no test reaches.
const UNLIMITED: &str = "1000000";

/// A stack of separate processes whose users may write as fast as they can.
pub(crate) fn unhurried() -> StackBuilder {
    Stack::builder()
        .separate()
        .env("NATTER_GATEWAY_USER_RATE", UNLIMITED)
        .env("NATTER_GATEWAY_USER_BURST", UNLIMITED)
        .env("NATTER_MESSAGES_RATE_LIMITS", "false")
}

/// How many partitions each of these owns, by its own word.
async fn owned(urls: &[String]) -> Vec<Option<u32>> {
    let mut owned = Vec::new();
    for url in urls {
        let text = Request::get(url.clone()).try_send().await;
        let text = text.map_or_else(|_| String::new(), |answer| answer.body);
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("natter_messages_partitions "));
        owned.push(count.and_then(|count| count.parse().ok()));
    }
    owned
}

fn own_url(stack: &Stack) -> String {
    format!("{}/metrics", stack.ops_url(Part::Messages))
}

/// Waits until both owners have their share of the partitions.
pub(crate) async fn are_shared(stack: &Stack, twin: &Twin) {
    let urls = [own_url(stack), twin.ops_url("/metrics")];
    eventually(PATIENCE, async || match owned(&urls).await[..] {
        [Some(one), Some(two)] if one > 10 && two > 10 && one + two == 64 => Ok(()),
        ref other => Err(format!("{other:?}")),
    })
    .await;
}

/// Waits until the stack's own process owns everything and no other is known to live.
pub(crate) async fn is_alone(stack: &Stack) {
    let urls = [own_url(stack)];
    eventually(PATIENCE, async || {
        let (owned, living) = (owned(&urls).await, living(stack).await?);
        match (&owned[..], living.len()) {
            ([Some(64)], 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// The names of those that are known to live.
pub(crate) async fn living(stack: &Stack) -> Result<Vec<String>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let client = async_nats::connect(stack.nats_url()).await;
    let client = client.map_err(|error| said(&error))?;
    let jetstream = async_nats::jetstream::new(client);
    let bucket = jetstream.get_key_value("NATTER_LEASE").await;
    let bucket = bucket.map_err(|error| said(&error))?;
    let keys = bucket.keys().await.map_err(|error| said(&error))?;
    let keys: Vec<String> = keys.try_collect().await.map_err(|error| said(&error))?;
    Ok(keys
        .into_iter()
        .filter(|key| key.starts_with("i."))
        .collect())
}
