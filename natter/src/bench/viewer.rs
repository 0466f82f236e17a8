//! One who watches through the client of the crate `client`: what an application, and so a user, sees.

use std::sync::{Arc, Mutex, PoisonError};

use client::{Client, ConnectionState, Update};
use protocol::{RoomId, Seq};

use super::track::Tape;
use crate::audit::{Seen, Step};

/// Updates that may wait; the client stops reading beyond.
const UPDATES_MAX: usize = 1_024;

/// Who wants to know that something came.
pub(crate) trait Listener: Send + Sync + 'static {
    /// An event was delivered.
    fn delivered(&self);
    /// A connection was lost.
    fn lost_connection(&self);
}

/// A watching client that follows everything.
pub(crate) struct Viewer {
    /// Its client.
    pub(crate) client: Client,
    tape: Arc<Mutex<Tape>>,
}

impl Viewer {
    /// Begins to watch.
    ///
    /// # Errors
    /// The client is closed.
    pub(crate) async fn new(client: Client, listener: Arc<impl Listener>) -> anyhow::Result<Self> {
        let mut updates = client.subscribe(UPDATES_MAX).await?;
        let tape = Arc::new(Mutex::new(Tape::new()));
        let kept = Arc::clone(&tape);
        // It ends with its client.
        drop(tokio::spawn(async move {
            while let Some(update) = updates.next().await {
                match update {
                    Update::Event(event) => {
                        push(&kept, &event.room, Step::Event(Seen::of(&event)));
                        listener.delivered();
                    }
                    // The client says what it could not get; the judge says whether it may.
                    Update::Missing { room, from, to } | Update::Skipped { room, from, to, .. } => {
                        push(&kept, &room, Step::Skipped { from, to });
                    }
                    Update::Gone(room) => push(&kept, &room, Step::Gone),
                    Update::Connection(ConnectionState::Waiting { .. }) => {
                        listener.lost_connection();
                    }
                    Update::Connection(_)
                    | Update::Hello(_)
                    | Update::Live
                    | Update::Room(_)
                    | Update::Delivery { .. } => {}
                }
            }
        }));
        Ok(Self { client, tape })
    }

    /// The greatest seq that came of a room.
    pub(crate) fn last(&self, room: &RoomId) -> Seq {
        let tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        let last = tape.get(room).and_then(|steps| steps.last());
        last.map_or(Seq(0), |step| match step {
            Step::Event(seen) | Step::Read(seen) => seen.seq(),
            Step::Skipped { to, .. } | Step::Waived { to, .. } => *to,
            Step::Entered { at } | Step::Resumed { after: at } => *at,
            Step::Gone | Step::Forgotten | Step::Probed { .. } => Seq(0),
        })
    }

    /// What came of a room.
    pub(crate) fn steps(&self, room: &RoomId) -> Vec<Step> {
        let tape = self.tape.lock().unwrap_or_else(PoisonError::into_inner);
        tape.get(room).cloned().unwrap_or_default()
    }

    /// Stops watching.
    pub(crate) async fn close(&self) {
        self.client.close().await;
    }
}

/// A client that follows everything has each room from its first event on.
fn push(tape: &Mutex<Tape>, room: &RoomId, step: Step) {
    let mut tape = tape.lock().unwrap_or_else(PoisonError::into_inner);
    match tape.get_mut(room) {
        Some(steps) => steps.push(step),
        None => drop(tape.insert(room.clone(), vec![Step::Entered { at: Seq(0) }, step])),
    }
}
