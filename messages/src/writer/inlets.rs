//! Where a partition's commands come in, and how they get to the next owner when this one ends.
//!
//! An unsubscription drops what is on its way. So the old owner stays subscribed until the next one is,
//! keeps what arrives meanwhile, sends it on, and goes on sending on for a moment: a copy that both have got
//! is a repeat.
//!
//! Commands come in only once the epoch record is stored. An owner before that is not gone gets them
//! too; had it refused one, with a proof, before that record, this one could find the reason gone later
//! and store it (`tests/model`, `requests_taken_in_before_the_epoch_record_belie_a_refusal`). Until then
//! nobody listens, or the old owner keeps; a door tries again as long as nobody listens.

use super::io;
use crate::shared::Shared;
use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt as _;
use futures_util::stream::ReadyChunks;
use protocol::limits::PARTITION_PENDING_MAX;
use protocol::subject::Subject;
use protocol::{ErrorCode, Partition, Refusal};
use std::time::Duration;
use tokio::time::Instant;

/// Commands taken from the subscription at once.
const COMMANDS_AT_ONCE: usize = 128;
/// How long the next owner may take to come.
const NEXT_OWNER: Duration = Duration::from_secs(2);
/// How often it is asked whether it is there.
const ASK: Duration = Duration::from_millis(20);
/// How long an answer to that may take.
const ANSWER: Duration = Duration::from_millis(200);
/// How long the subscription outlives the work: far longer than the brokers of a cluster need to tell each
/// other of the next owner's.
const LINGER: Duration = Duration::from_millis(250);
/// The header that says who has sent a message on.
const SENT_ON_BY: &str = "Natter-Sent-On-By";
/// How soon a client that could not be sent on should try again.
const RETRY_AFTER_MS: u64 = 200;

/// Subscriptions of a partition.
pub(crate) struct Inlets {
    /// `None` until the epoch record is stored.
    commands: Option<ReadyChunks<Subscriber>>,
    alive: Subscriber,
    /// Commands that came after this owner stopped taking them.
    kept: Vec<Message>,
}

impl Inlets {
    /// Subscribes to the question whether a partition's owner is alive.
    pub(crate) async fn open(
        shared: &Shared,
        partition: Partition,
    ) -> Result<Self, chassis::nats::SendError> {
        let alive = Subject::Own(partition).to_string();
        Ok(Self {
            commands: None,
            alive: shared.nats.subscribe(alive).await?,
            kept: Vec::new(),
        })
    }

    /// Whether commands come in.
    pub(super) const fn listens(&self) -> bool {
        self.commands.is_some()
    }

    /// Lets commands in: the epoch record is stored.
    pub(super) async fn listen(
        &mut self,
        shared: &Shared,
        partition: Partition,
    ) -> Result<(), chassis::nats::SendError> {
        let commands = Subject::Commands(partition).to_string();
        let commands = shared.nats.subscribe(commands).await?;
        self.commands = Some(commands.ready_chunks(COMMANDS_AT_ONCE));
        Ok(())
    }

    /// What waits for the writer: commands, if they come in, or the question whether it is alive.
    ///
    /// Cancel safety: safe, nothing is taken that is not returned.
    pub(super) async fn next(&mut self) -> Inlet {
        tokio::select! {
            biased;
            Some(message) = self.alive.next() => Inlet::Alive(message),
            messages = next_of(&mut self.commands) => Inlet::Commands(messages),
        }
    }

    /// Keeps commands for the next owner; what is too much is answered `unavailable`.
    pub(super) async fn keep(&mut self, shared: &Shared, messages: Vec<Message>) {
        for message in messages {
            if self.kept.len() < PARTITION_PENDING_MAX {
                self.kept.push(message);
            } else {
                refuse(shared, &message).await;
            }
        }
    }

    /// Waits for the next owner and sends it what was kept; `alone` says that none will come.
    pub(crate) async fn hand_over(self, shared: &Shared, partition: Partition, alone: bool) {
        let Self {
            mut commands,
            alive,
            mut kept,
        } = self;
        drop(alive);
        let until = Instant::now() + NEXT_OWNER;
        let mut found = false;
        while !alone && !found && Instant::now() < until {
            found = has_next_owner(shared, partition).await;
            let pause = tokio::time::sleep(if found { Duration::ZERO } else { ASK });
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    biased;
                    messages = next_of(&mut commands) => {
                        let space = PARTITION_PENDING_MAX.saturating_sub(kept.len());
                        kept.extend(messages.into_iter().take(space));
                    }
                    () = &mut pause => break,
                }
            }
        }
        for message in kept {
            if found {
                send_on(shared, message).await;
            } else {
                refuse(shared, &message).await;
            }
        }
        if found {
            linger(shared, &mut commands).await;
        }
    }
}

/// Sends on what still comes this way: a broker elsewhere in a cluster may hear of this owner's end before
/// it hears of the next one's beginning, and what it has sent here would be dropped.
async fn linger(shared: &Shared, commands: &mut Option<ReadyChunks<Subscriber>>) {
    let until = Instant::now() + LINGER;
    while let Ok(messages) = tokio::time::timeout_at(until, next_of(commands)).await {
        for message in messages.into_iter().filter(|it| !is_sent_on(shared, it)) {
            send_on(shared, message).await;
        }
    }
}

/// Whether this is a message that this process has sent on itself.
fn is_sent_on(shared: &Shared, message: &Message) -> bool {
    let by = message.headers.as_ref().and_then(|it| it.get(SENT_ON_BY));
    by.is_some_and(|by| by.as_str() == shared.instance.as_str())
}

/// What came in.
pub(super) enum Inlet {
    Commands(Vec<Message>),
    Alive(Message),
}

/// The next commands; never, if there will be none.
async fn next_of(commands: &mut Option<ReadyChunks<Subscriber>>) -> Vec<Message> {
    if let Some(commands) = commands
        && let Some(messages) = commands.next().await
    {
        return messages;
    }
    std::future::pending().await
}

/// Whether another owner lets commands in.
async fn has_next_owner(shared: &Shared, partition: Partition) -> bool {
    let subject = Subject::Own(partition).to_string();
    let answer = shared
        .nats
        .request(subject, HeaderMap::new(), bytes::Bytes::new(), ANSWER)
        .await;
    // One that does not let commands in yet gives no name.
    let me = shared.instance.as_str().as_bytes();
    answer.is_ok_and(|instance| !instance.is_empty() && *instance != *me)
}

/// The same message once more, with the reply subject of the first.
async fn send_on(shared: &Shared, message: Message) {
    let Message {
        subject,
        reply,
        payload,
        headers,
        ..
    } = message;
    let mut headers = headers.unwrap_or_default();
    headers.insert(SENT_ON_BY, shared.instance.as_str());
    let client = &shared.nats.client;
    let sent = async {
        match reply {
            Some(reply) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
            None => client.publish_with_headers(subject, headers, payload).await,
        }
    };
    match tokio::time::timeout(ANSWER, sent).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a command could not be sent on"),
        Err(_) => tracing::debug!("a command could not be sent on in time"),
    }
}

async fn refuse(shared: &Shared, message: &Message) {
    let refusal = Refusal::new(
        ErrorCode::Unavailable,
        "the partition is changing its owner",
    );
    io::refuse(shared, message, refusal.after_ms(RETRY_AFTER_MS)).await;
}
