//! One process: what it has once, what each of its services gets, and the order of start and stop.

use std::pin::Pin;
use std::time::Duration;

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{NatsArgs, Problems};
use crate::health::Health;
use crate::nats::{Nats, NatsError};
use crate::shutdown::{Shutdown, Signals};
use crate::tasks::{Failure, TaskFailure, Tasks, chain};

/// How long the services together may take to end after a task failed.
const FAILURE_GRACE: Duration = Duration::from_secs(3);

/// Letters and digits in an instance id: 62^12 is 71 bits, so no two ever meet.
const INSTANCE_LENGTH: usize = 12;

/// What a process has once, however many services run in it.
#[derive(Debug, Clone)]
pub struct Process {
    /// When to stop.
    pub shutdown: Shutdown,
    /// The first failed task; its token ends the process.
    pub failure: Failure,
    /// The conditions of all components, shown by `/readyz`.
    pub health: Health,
    /// All metrics, shown by `/metrics`.
    pub registry: Registry,
    /// The time.
    pub clock: Clock,
}

/// What one service gets to live with; clones share everything.
#[derive(Debug, Clone)]
pub struct Context {
    /// The service's own connection to the broker.
    pub nats: Nats,
    /// The service's tasks.
    pub tasks: Tasks,
    /// Cancelled when this service has to stop; services are stopped one after another.
    pub shutdown: CancellationToken,
    /// The board of conditions, scoped to this service.
    pub health: Health,
    /// Where the service registers its metrics.
    pub registry: Registry,
    /// The time.
    pub clock: Clock,
    /// Random, new at each start, `[A-Za-z0-9]{12}`.
    pub instance: String,
}

/// Why a service or the process ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong: exit code 64.
    #[error(transparent)]
    Config(#[from] Problems),
    /// The broker connection could not be set up; being unreachable is no such error.
    #[error("setting up the connection to NATS failed")]
    Nats(#[from] NatsError),
    /// An address could not be bound.
    #[error("listening on {address} failed")]
    Listen {
        /// The address from the configuration.
        address: String,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A task panicked or failed.
    #[error(transparent)]
    Task(#[from] TaskFailure),
    /// A service ended although nobody had asked it to.
    #[error("service {service} ended by itself")]
    EndedEarly {
        /// The service's name.
        service: &'static str,
    },
    /// Anything else that a service cannot live with.
    #[error("{doing} failed")]
    Failed {
        /// The operation and its object, as in "registering the metrics".
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RunError {
    /// A failure of `doing`, an operation and its object.
    pub fn failed(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// The exit code of a process that ends with this error (sysexits.h).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => crate::config::EXIT_CONFIG,
            Self::Nats(_)
            | Self::Listen { .. }
            | Self::Task(_)
            | Self::EndedEarly { .. }
            | Self::Failed { .. } => EXIT_FAILURE,
        }
    }

    /// The error and its causes as one line, for a person.
    #[must_use]
    pub fn line(&self) -> String {
        chain(self)
    }
}

/// The exit code after a failure that is not the configuration's (`EX_SOFTWARE`).
pub const EXIT_FAILURE: u8 = 70;

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Process {
    /// A process with no services yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shutdown: Shutdown::default(),
            failure: Failure::default(),
            health: Health::new(),
            registry: registry(),
            clock: Clock::system(),
        }
    }

    /// Makes a service's context, with a broker connection of its own named after it.
    ///
    /// Returns at once, connected or not; the connection is tried for ever.
    /// The service is not ready until it calls [`Context::started`].
    ///
    /// # Errors
    /// If the broker's address or credentials cannot be used at all.
    pub async fn context(
        &self,
        service: &'static str,
        nats: &NatsArgs,
    ) -> Result<Context, NatsError> {
        let servers = nats.servers(&mut Problems::new()).len();
        let instance = instance_id();
        let health = self.health.scope(service);
        health.set_down(STARTED, "starting");
        let nats = crate::nats::connect(nats, &format!("{service}-{instance}"), &health).await?;
        let tasks = Tasks::new(service, self.failure.clone());
        let shutdown = CancellationToken::new();
        tasks.spawn(
            "nats-health",
            nats.clone().keep_health(health.clone(), shutdown.clone()),
        );
        if servers > 1 {
            tasks.spawn(
                "nats-stranded",
                nats.clone().leave_when_stranded(shutdown.clone()),
            );
        }
        Ok(Context {
            nats,
            tasks,
            shutdown,
            health,
            registry: self.registry.clone(),
            clock: self.clock.clone(),
            instance,
        })
    }
}

/// A registry with the process's own CPU, memory and file descriptors.
fn registry() -> Registry {
    let registry = Registry::new();
    let collector = Box::new(ProcessCollector::for_self());
    registry.register(collector).expect("the registry is empty");
    registry
}

/// The component that says whether a service has started and is not stopping.
const STARTED: &str = "started";

impl Context {
    /// Reports that the service has started: its other components decide about readiness now.
    pub fn started(&self) {
        self.health.set_ready(STARTED);
    }

    /// Reports that the service is stopping, so nothing new is sent here.
    pub fn stopping(&self) {
        self.health.set_down(STARTED, "stopping");
    }
}

/// A service's `run` future, which ends after its context's `shutdown` was cancelled.
pub type Run = Pin<Box<dyn Future<Output = Result<(), RunError>> + Send>>;

/// A service that [`run`] starts and stops.
pub struct Service {
    /// The service's name, as in the context.
    pub name: &'static str,
    /// The context that was given to the service.
    pub context: Context,
    /// How long the service may take to stop.
    pub grace: Duration,
    /// The service's `run`.
    pub run: Run,
}

/// Runs services until a signal, a failed task, or the end of one of them; then stops them in order.
///
/// Stopping: each service in the order given is told to stop and waited for, `grace` at most, before
/// the next; so put those first that others serve (gateway, messages, history). After a failure all
/// are told at once and have three seconds together.
///
/// # Errors
/// The first failure, be it of a task or of a service.
pub async fn run(process: &Process, services: Vec<Service>) -> Result<(), RunError> {
    let signals = Signals::install()
        .map_err(|source| RunError::failed("installing the signal handlers", source))?;
    let tasks = Tasks::new("process", process.failure.clone());
    tasks.spawn("signals", signals.cancel(process.shutdown.clone()));
    let result = supervise(process, services).await;
    process.shutdown.gently.cancel();
    result
}

async fn supervise(process: &Process, services: Vec<Service>) -> Result<(), RunError> {
    let (ended_tx, mut ended_rx) = tokio::sync::mpsc::channel(services.len().max(1));
    let mut contexts = Vec::with_capacity(services.len());
    for service in services {
        let Service {
            name,
            context,
            grace,
            run,
        } = service;
        let ended_tx = ended_tx.clone();
        context.tasks.spawn("run", async move {
            let result = run.await;
            // The receiver is gone only when the process no longer waits for this service.
            ended_tx.try_send((name, result)).ok();
        });
        contexts.push((name, context, grace));
    }
    drop(ended_tx);
    let mut first = tokio::select! {
        biased;
        () = process.failure.token().cancelled() => Ok(()),
        () = process.shutdown.gently.cancelled() => Ok(()),
        Some((name, result)) = ended_rx.recv() => match result {
            Ok(()) => Err(RunError::EndedEarly { service: name }),
            Err(error) => Err(error),
        },
    };
    process.shutdown.gently.cancel();
    for (_, context, _) in &contexts {
        context.stopping();
    }
    stop(process, &contexts, first.is_err()).await;
    if first.is_ok() {
        while let Ok((_, result)) = ended_rx.try_recv() {
            if result.is_err() {
                first = result;
                break;
            }
        }
    }
    match process.failure.first() {
        Some(failure) => Err(failure.into()),
        None => first,
    }
}

async fn stop(process: &Process, contexts: &[(&str, Context, Duration)], failed: bool) {
    let hurry = failed || process.failure.first().is_some();
    let orderly = async {
        for (name, context, grace) in contexts {
            context.shutdown.cancel();
            match context.tasks.close_and_wait(*grace).await {
                Ok(()) => tracing::info!("{name} has stopped"),
                Err(error) => tracing::warn!(%error, "{name} did not stop in time"),
            }
            context.nats.close().await;
        }
    };
    let abrupt = async {
        if !hurry {
            tokio::select! {
                () = process.shutdown.at_once.cancelled() => return,
                () = process.failure.token().cancelled() => {}
            }
        }
        for (_, context, _) in contexts {
            context.shutdown.cancel();
        }
        tokio::time::sleep(FAILURE_GRACE).await;
    };
    tokio::select! {
        biased;
        () = orderly => {}
        () = abrupt => tracing::warn!("ended without waiting any longer"),
    }
}

fn instance_id() -> String {
    random_alphanumeric(INSTANCE_LENGTH)
}

/// Random letters and digits, from the thread's cryptographic generator.
pub(crate) fn random_alphanumeric(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .map(|_| char::from(rng.sample(rand::distr::Alphanumeric)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Which services have stopped, in order.
    type Stopped = Arc<Mutex<Vec<&'static str>>>;

    /// Nobody listens there: a context must do without a broker.
    fn nowhere() -> NatsArgs {
        NatsArgs::to("nats://127.0.0.1:1")
    }

    async fn service(process: &Process, name: &'static str, stopped: &Stopped) -> Service {
        let context = process.context(name, &nowhere()).await.unwrap();
        let (shutdown, stopped) = (context.shutdown.clone(), Arc::clone(stopped));
        let run = Box::pin(async move {
            shutdown.cancelled().await;
            stopped.lock().unwrap().push(name);
            Ok(())
        });
        Service {
            name,
            context,
            grace: Duration::from_secs(20),
            run,
        }
    }

    #[tokio::test]
    async fn services_stop_one_after_another_in_the_order_given() {
        let (process, stopped) = (Process::new(), Stopped::default());
        let mut services = Vec::new();
        for name in ["gateway", "messages", "history"] {
            services.push(service(&process, name, &stopped).await);
        }
        services[0].context.started();
        process.shutdown.gently.cancel();
        let context = services[0].context.clone();
        supervise(&process, services).await.unwrap();
        assert_eq!(*stopped.lock().unwrap(), ["gateway", "messages", "history"]);
        assert!(
            !context.health.ready(),
            "a service that has stopped is not ready"
        );
    }

    #[tokio::test]
    async fn a_panic_in_a_task_stops_every_service_and_is_the_error() {
        let (process, stopped) = (Process::new(), Stopped::default());
        let services = vec![
            service(&process, "gateway", &stopped).await,
            service(&process, "messages", &stopped).await,
        ];
        services[1]
            .context
            .tasks
            .spawn("writer", async { panic!("out of order") });
        let error = supervise(&process, services).await.unwrap_err();
        assert_eq!(error.line(), "task writer of messages failed: out of order");
        assert_eq!(error.exit_code(), EXIT_FAILURE);
        assert_eq!(stopped.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_service_that_ends_unasked_ends_the_process() {
        let (process, stopped) = (Process::new(), Stopped::default());
        let mut early = service(&process, "history", &stopped).await;
        early.run = Box::pin(std::future::ready(Ok(())));
        let services = vec![service(&process, "messages", &stopped).await, early];
        let error = supervise(&process, services).await.unwrap_err();
        assert_eq!(error.line(), "service history ended by itself");
        assert_eq!(*stopped.lock().unwrap(), ["messages"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_stops_the_waiting() {
        let (process, stopped) = (Process::new(), Stopped::default());
        let mut stuck = service(&process, "gateway", &stopped).await;
        stuck.run = Box::pin(std::future::pending());
        stuck.grace = Duration::from_secs(3_600);
        process.shutdown.gently.cancel();
        process.shutdown.at_once.cancel();
        let before = tokio::time::Instant::now();
        supervise(&process, vec![stuck]).await.unwrap();
        assert!(before.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn every_context_has_an_instance_id_of_its_own() {
        let process = Process::new();
        let one = process.context("gateway", &nowhere()).await.unwrap();
        let other = process.context("gateway", &nowhere()).await.unwrap();
        assert_ne!(one.instance, other.instance);
        assert!(
            one.instance.len() == 12 && one.instance.bytes().all(|b| b.is_ascii_alphanumeric())
        );
    }
}
