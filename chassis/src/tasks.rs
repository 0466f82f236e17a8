//! Named tasks of a service, and what happens when one of them panics.
//!
//! Every task of a process is spawned here, so that stopping can wait for it and a panic is never
//! lost: it ends the process, and the orchestrator starts it again. A half-dead process would keep
//! its leases and sockets and serve nobody.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a process has to end: the first task that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task} of {service} failed: {reason}")]
pub struct TaskFailure {
    /// The service that the task belongs to.
    pub service: String,
    /// The task's name.
    pub task: &'static str,
    /// The panic's message, or the error that the task ended with.
    pub reason: String,
}

/// Where the first failure of a process is kept, and what it cancels.
#[derive(Debug, Clone, Default)]
pub struct Failure {
    first: Arc<Mutex<Option<TaskFailure>>>,
    token: CancellationToken,
}

impl Failure {
    /// Keeps the failure if it is the first, and cancels the token.
    pub fn report(&self, failure: TaskFailure) {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(failure);
        self.token.cancel();
    }

    /// The first failure, if there is one.
    #[must_use]
    pub fn first(&self) -> Option<TaskFailure> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Cancelled at the first failure.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// Tasks that were still running when the grace period ended; they have been aborted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tasks did not stop within {grace:?} and were aborted: {}", names.join(", "))]
pub struct Unfinished {
    /// The grace period that was not enough.
    pub grace: Duration,
    /// The tasks' names.
    pub names: Vec<&'static str>,
}

/// The tasks of one service; clones share them.
#[derive(Debug, Clone)]
pub struct Tasks {
    service: Arc<str>,
    tracker: TaskTracker,
    failure: Failure,
    abort: CancellationToken,
    next_id: Arc<AtomicU64>,
    running: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

impl Tasks {
    /// No tasks yet; a panic in one is reported to `failure`.
    #[must_use]
    pub fn new(service: &str, failure: Failure) -> Self {
        Self {
            service: service.into(),
            tracker: TaskTracker::new(),
            failure,
            abort: CancellationToken::new(),
            next_id: Arc::default(),
            running: Arc::default(),
        }
    }

    /// Spawns a task; a panic in it ends the process.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(self.watch(name, future))
    }

    /// Spawns a task that must not end with an error: one ends the process, as a panic does.
    pub fn spawn_fallible<F, E>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error,
    {
        let tasks = self.clone();
        self.spawn(name, async move {
            if let Err(error) = future.await {
                tasks.fail(name, chain(&error));
            }
        })
    }

    /// Spawns a task that stays on this thread, in a `LocalSet` or an actix worker.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn spawn_local<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + 'static,
    {
        self.tracker.spawn_local(self.watch(name, future))
    }

    /// How many tasks run now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended, `grace` at most; then aborts those that remain.
    ///
    /// Does not tell the tasks to stop: cancel the context's `shutdown` first.
    ///
    /// # Errors
    /// Names the tasks that had to be aborted.
    pub async fn close_and_wait(&self, grace: Duration) -> Result<(), Unfinished> {
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let names = self.names();
        self.abort.cancel();
        Err(Unfinished { grace, names })
    }

    fn names(&self) -> Vec<&'static str> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .copied()
            .collect()
    }

    fn fail(&self, task: &'static str, reason: String) {
        tracing::error!(task, service = %self.service, reason, "a task failed, the process ends");
        self.failure.report(TaskFailure {
            service: self.service.to_string(),
            task,
            reason,
        });
    }

    fn watch<F: Future<Output = ()>>(
        &self,
        name: &'static str,
        future: F,
    ) -> impl Future<Output = ()> + use<F> {
        let entry = Entry::new(self, name);
        async move {
            let tasks = &entry.tasks;
            let caught = AssertUnwindSafe(future).catch_unwind();
            if let Some(Err(panic)) = tasks.abort.run_until_cancelled(caught).await {
                tasks.fail(name, message(panic.as_ref()).to_owned());
            }
        }
    }
}

/// A running task's place in the list; leaves it when dropped, however the task ends.
struct Entry {
    tasks: Tasks,
    id: u64,
}

impl Entry {
    fn new(tasks: &Tasks, name: &'static str) -> Self {
        let id = tasks.next_id.fetch_add(1, Ordering::Relaxed);
        tasks
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, name);
        Self {
            tasks: tasks.clone(),
            id,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tasks
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "panicked without a message"
    }
}

/// An error with its causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_task_ends_the_process() {
        let failure = Failure::default();
        let tasks = Tasks::new("messages", failure.clone());
        tasks.spawn("writer", async { panic!("the log is on fire") });
        failure.token().cancelled().await;
        let first = failure.first().unwrap();
        assert_eq!((first.service.as_str(), first.task), ("messages", "writer"));
        assert_eq!(first.reason, "the log is on fire");
    }

    #[tokio::test]
    async fn only_the_first_failure_is_kept() {
        let failure = Failure::default();
        let tasks = Tasks::new("messages", failure.clone());
        tasks
            .spawn_fallible("first", async { Err(std::io::Error::other("one")) })
            .await
            .unwrap();
        tasks
            .spawn_fallible("second", async { Err(std::io::Error::other("two")) })
            .await
            .unwrap();
        assert_eq!(failure.first().unwrap().reason, "one");
    }

    #[tokio::test]
    async fn stopping_waits_for_tasks_that_end() {
        let tasks = Tasks::new("gateway", Failure::default());
        let stop = CancellationToken::new();
        tasks.spawn("socket", stop.clone().cancelled_owned());
        assert_eq!(tasks.count(), 1);
        stop.cancel();
        tasks.close_and_wait(Duration::from_secs(10)).await.unwrap();
        assert_eq!(tasks.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_named_and_aborted() {
        let tasks = Tasks::new("gateway", Failure::default());
        let stuck = tasks.spawn("stuck", std::future::pending());
        let unfinished = tasks
            .close_and_wait(Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(unfinished.names, ["stuck"]);
        stuck.await.unwrap();
        assert!(tasks.names().is_empty());
    }
}
