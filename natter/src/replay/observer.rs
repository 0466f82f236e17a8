//! A user who only watches: keeps what was delivered, in the order of delivery.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Client, ConnectionState, Update};
use protocol::{RoomId, Seq};

use super::audit::Fingerprint;
use super::progress::Progress;

/// Updates that may wait; the client stops reading beyond.
const UPDATES_MAX: usize = 1_024;

type Seen = BTreeMap<RoomId, Vec<(Seq, Fingerprint)>>;

/// A watching client.
pub(crate) struct Observer {
    /// Its client.
    pub(crate) client: Client,
    seen: Arc<Mutex<Seen>>,
}

impl Observer {
    /// Begins to watch.
    pub(crate) async fn new(client: Client, progress: Arc<Progress>) -> anyhow::Result<Self> {
        let mut updates = client.subscribe(UPDATES_MAX).await?;
        let seen = Arc::new(Mutex::new(Seen::new()));
        let kept = Arc::clone(&seen);
        drop(tokio::spawn(async move {
            while let Some(update) = updates.next().await {
                match update {
                    Update::Event(event) => {
                        let entry = (event.seq, Fingerprint::of(&event));
                        let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.entry(event.room.clone()).or_default().push(entry);
                        drop(seen);
                        progress.moved();
                    }
                    Update::Connection(ConnectionState::Waiting { .. }) => {
                        progress.lost_connection();
                    }
                    // What was left out shows as a gap, since its events never come.
                    Update::Skipped { .. } | Update::Missing { .. } => {}
                    Update::Connection(_)
                    | Update::Hello(_)
                    | Update::Live
                    | Update::Room(_)
                    | Update::Gone(_)
                    | Update::Delivery { .. } => {}
                }
            }
        }));
        Ok(Self { client, seen })
    }

    /// The greatest seq delivered of a room.
    pub(crate) fn last(&self, room: &RoomId) -> Seq {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(room)
            .and_then(|list| list.last())
            .map_or(Seq(0), |(seq, _)| *seq)
    }

    /// Everything delivered of a room.
    pub(crate) fn seen(&self, room: &RoomId) -> Vec<(Seq, Fingerprint)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(room).cloned().unwrap_or_default()
    }

    /// Stops watching.
    pub(crate) async fn close(&self) {
        self.client.close().await;
    }
}
