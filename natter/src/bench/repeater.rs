//! Copies of commands that are long answered: the same user sends them once more, at once or much later.
//!
//! A server must answer each as it did the first time, whoever orders the room by then.

use std::sync::Arc;
use std::time::Duration;

use protocol::command::Write;
use protocol::{Cid, RoomId, UserId};
use rand::RngExt as _;
use tokio::sync::mpsc;

use super::progress::Progress;
use super::witness::Witness;
use crate::audit::Answer;

/// Commands that wait to be sent again; others are not.
pub(crate) const COPIES_MAX: usize = 16;
/// Later than this no copy is sent.
const DELAY_MS_MAX: u64 = 5_000;

/// A command that was answered.
pub(crate) struct Copy {
    pub(crate) cid: Cid,
    pub(crate) write: Write,
}

/// What became of a copy.
pub(crate) struct Repeat {
    pub(crate) cid: Cid,
    pub(crate) by: UserId,
    pub(crate) answer: Answer,
}

/// Sends copies until no more come.
pub(crate) async fn run(
    witness: Arc<Witness>,
    (by, room): (UserId, RoomId),
    mut copies: mpsc::Receiver<Copy>,
    progress: Arc<Progress>,
) -> Vec<Repeat> {
    let mut repeats = Vec::new();
    while let Some(Copy { cid, write }) = copies.recv().await {
        // Half of them at once: some while the first is hardly stored.
        let delay = rand::rng().random_range(0..DELAY_MS_MAX * 2);
        if delay < DELAY_MS_MAX && !copies.is_closed() {
            progress.pause(Duration::from_millis(delay)).await;
        }
        let answered = progress.or_over(witness.repeat(&room, cid, write)).await;
        let Ok(Some((_, answer))) = answered else {
            continue;
        };
        let by = by.clone();
        repeats.push(Repeat { cid, by, answer });
    }
    repeats
}
