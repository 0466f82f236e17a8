//! One who watches without the client's mercy: a raw socket, and what came on it.
//!
//! This is the handle; what runs behind it is [`task`], and what it decides is [`super::track`]'s.

mod task;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::command::Write;
use protocol::query::ReadCommand;
use protocol::{Cid, Refusal, RoomId, Seq, UserId};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use self::task::Task;
use super::place::Place;
use super::prints::Prints;
use super::progress::Progress;
use super::track::{Tally, Tape};
use crate::audit::{Answer, Step};

/// Wants that wait.
const WANTS_MAX: usize = 64;

/// How it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As fast as it can, and fetches what is left out.
    Eager,
    /// Slowly while the load lasts, and content with what it is told.
    Slow,
}

/// What it is told to do.
pub(crate) enum Want {
    /// Lose the socket without a word, and resume.
    Cut,
    /// Send a command until it has a last word, under this name or a new one.
    Submit(
        RoomId,
        (Option<Cid>, Box<Write>),
        oneshot::Sender<(Cid, Answer)>,
    ),
    /// Ask once; refusals for now are waited out.
    Ask(ReadCommand, oneshot::Sender<Result<Value, Refusal>>),
}

/// What is known of it from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) user: Option<UserId>,
    pub(crate) is_live: bool,
    pub(crate) tally: Tally,
    pub(crate) connections: u64,
    /// Why it will never connect again.
    pub(crate) stopped: Option<String>,
}

#[derive(Default)]
struct Shared {
    tape: Tape,
    known: Known,
    lasts: BTreeMap<RoomId, Seq>,
}

/// Whether it is in a room, and on which of its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    is_in: bool,
    is_live: bool,
    connections: u64,
}

impl Shared {
    fn standing(&self, room: &RoomId) -> Standing {
        Standing {
            is_in: self.lasts.contains_key(room),
            is_live: self.known.is_live,
            connections: self.known.connections,
        }
    }
}

/// A handle to one who watches.
pub(crate) struct Witness {
    pub(crate) name: String,
    wants: mpsc::Sender<Want>,
    shared: Arc<Mutex<Shared>>,
    hurry: watch::Sender<bool>,
}

impl Witness {
    /// Begins to watch.
    pub(crate) fn start(
        name: &str,
        place: Place,
        manner: Manner,
        (prints, progress): (Arc<Prints>, Arc<Progress>),
    ) -> Self {
        let (wants, wanted) = mpsc::channel(WANTS_MAX);
        let (hurry, hurried) = watch::channel(true);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let channels = (wanted, hurried);
        let task = Task::new(
            place,
            manner,
            (prints, progress),
            Arc::clone(&shared),
            channels,
        );
        // The run ends with the process; until then a handle is kept.
        drop(tokio::spawn(task.run()));
        Self {
            name: name.to_owned(),
            wants,
            shared,
            hurry,
        }
    }

    pub(crate) fn known(&self) -> Known {
        lock(&self.shared).known.clone()
    }

    /// Whether everything of the room up to `seq` has come, or been skipped.
    pub(crate) fn has(&self, room: &RoomId, seq: Seq) -> bool {
        lock(&self.shared)
            .lasts
            .get(room)
            .is_some_and(|last| *last >= seq)
    }

    /// Whether the room has been entered, and not been left since.
    pub(crate) fn is_in(&self, room: &RoomId) -> bool {
        lock(&self.shared).lasts.contains_key(room)
    }

    /// What it was given of a room.
    pub(crate) fn steps(&self, room: &RoomId) -> Vec<Step> {
        lock(&self.shared)
            .tape
            .get(room)
            .cloned()
            .unwrap_or_default()
    }

    /// Where it is with a room, to be compared later.
    pub(crate) fn standing(&self, room: &RoomId) -> Standing {
        lock(&self.shared).standing(room)
    }

    /// Notes what history gave when it was asked what this user may read, unless it stands elsewhere now.
    pub(crate) fn note(&self, room: &RoomId, (before, step): (Standing, Step)) {
        let mut shared = lock(&self.shared);
        if before.is_live && shared.standing(room) == before {
            shared.tape.entry(room.clone()).or_default().push(step);
        }
    }

    /// Cuts its socket, if it is not busy with other wants.
    pub(crate) fn cut(&self) -> bool {
        self.wants.try_send(Want::Cut).is_ok()
    }

    /// One who reads slowly reads as fast as it can, or not.
    pub(crate) fn hurries(&self, hurries: bool) {
        self.hurry.send_replace(hurries);
    }

    /// Sends a command until it has its last word.
    pub(crate) async fn submit(&self, room: &RoomId, write: Write) -> Option<(Cid, Answer)> {
        self.send(room, (None, Box::new(write))).await
    }

    /// The same with a name that was used before.
    pub(crate) async fn repeat(
        &self,
        room: &RoomId,
        cid: Cid,
        write: Write,
    ) -> Option<(Cid, Answer)> {
        self.send(room, (Some(cid), Box::new(write))).await
    }

    async fn send(
        &self,
        room: &RoomId,
        command: (Option<Cid>, Box<Write>),
    ) -> Option<(Cid, Answer)> {
        let (tx, rx) = oneshot::channel();
        let want = Want::Submit(room.clone(), command, tx);
        self.wants.send(want).await.ok()?;
        rx.await.ok()
    }

    /// Asks until there is an answer that is not only for now.
    pub(crate) async fn ask(&self, read: ReadCommand) -> Option<Result<Value, Refusal>> {
        let (tx, rx) = oneshot::channel();
        self.wants.send(Want::Ask(read, tx)).await.ok()?;
        rx.await.ok()
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
