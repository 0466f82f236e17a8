//! A whole natter of one test's own: started, hurt at will, stopped and removed.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::eventually::{PATIENCE, eventually};
use crate::look;
use crate::template;
use crate::token::Tokens;
use crate::user::User;

/// Starting may wait for other tests' starts.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Lines of each log that a failed test shows.
const LOG_TAIL_LINES: usize = 25;

/// A process that can be hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The gateway; only if separate.
    Gateway,
    /// The messages service; only if separate.
    Messages,
    /// The history service; only if separate.
    History,
    /// All services in one process; only if not separate.
    All,
    /// The broker.
    NatsServer,
    /// The database.
    Postgres,
}

impl Part {
    /// Its name in `natter dev`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Messages => "messages",
            Self::History => "history",
            Self::All => "all",
            Self::NatsServer => "nats-server",
            Self::Postgres => "postgres",
        }
    }
}

/// How to start a stack.
#[derive(Debug, Default)]
pub struct StackBuilder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

impl StackBuilder {
    /// Each service is a process of its own.
    #[must_use]
    pub fn separate(self) -> Self {
        self.argument("--separate")
    }

    /// Only the broker and the database.
    #[must_use]
    pub fn servers_only(self) -> Self {
        self.argument("--servers-only")
    }

    /// A setting of the services.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A flag of `natter dev`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it and waits until everything is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready; the logs are shown.
    pub async fn start(self) -> Stack {
        let data = template::new_data();
        let mut stack = Stack {
            builder: self,
            dev: None,
            state: Value::Null,
            data,
            base_port: base_port(),
        };
        stack.launch().await;
        stack
    }
}

/// Ports are claimed by `natter dev`; another base for each only saves it the search.
fn base_port() -> u16 {
    20_000 + rand::random_range(0..1200_u16) * 10
}

/// A running `natter dev` on a data folder of its own; stopped and removed when dropped.
#[derive(Debug)]
pub struct Stack {
    builder: StackBuilder,
    dev: Option<Child>,
    state: Value,
    data: PathBuf,
    base_port: u16,
}

impl Stack {
    /// All services in one process.
    pub async fn start() -> Self {
        StackBuilder::default().start().await
    }

    /// To be configured.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Public HTTP base address.
    pub fn url(&self) -> &str {
        self.address("url")
    }

    /// The socket's address.
    pub fn socket_url(&self) -> &str {
        self.address("socket")
    }

    /// The broker.
    pub fn nats_url(&self) -> &str {
        self.address("nats_url")
    }

    /// The database.
    pub fn database_url(&self) -> &str {
        self.address("database_url")
    }

    /// The ops base address of a process.
    pub fn ops_url(&self, part: Part) -> &str {
        let all = self.state["ops"]
            .as_array()
            .expect("natter dev writes a list");
        let ours = all.iter().find(|ops| ops["name"] == part.name());
        ours.and_then(|ops| ops["url"].as_str())
            .expect("the part runs in this stack")
    }

    fn address(&self, key: &str) -> &str {
        self.state[key]
            .as_str()
            .expect("natter dev writes every address")
    }

    /// Signs tokens for this stack.
    pub fn tokens(&self) -> Tokens {
        Tokens::of(&self.data)
    }

    /// The password of a service's user at the broker.
    pub fn broker_password(&self, user: &str) -> String {
        let file = self.data.join("run/broker-users.json");
        let text = std::fs::read_to_string(file).expect("natter dev writes the broker's users");
        let users: Value = serde_json::from_str(&text).expect("it is JSON");
        users[user]
            .as_str()
            .expect("each service has a user")
            .to_owned()
    }

    /// A user with an open, live socket.
    pub async fn user(&self, name: &str) -> User {
        User::connect(self.socket_url(), name, &self.tokens().token(name)).await
    }

    /// The process id of a part.
    pub fn pid(&self, part: Part) -> u32 {
        let pid = self.pid_now(part);
        pid.unwrap_or_else(|| panic!("{} has no process id", part.name()))
    }

    /// The same; none while its file is being written.
    fn pid_now(&self, part: Part) -> Option<u32> {
        let file = self.data.join("run").join(format!("{}.pid", part.name()));
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// The process id of `natter dev`.
    pub fn dev_pid(&self) -> u32 {
        self.dev.as_ref().expect("it runs").id()
    }

    /// Sends a signal to a part, such as SIGSTOP.
    pub fn signal(&self, part: Part, signal: Signal) {
        send(self.pid(part), signal);
    }

    /// `kill -9`, and waits until another process has taken the part's place.
    pub async fn kills(&self, part: Part) {
        let killed = self.pid(part);
        send(killed, Signal::KILL);
        self.is_started_again(part, killed).await;
    }

    /// Waits until a part runs that is not this process.
    pub async fn is_started_again(&self, part: Part, ended: u32) {
        eventually(PATIENCE, async || match self.pid_now(part) {
            Some(pid) if pid != ended => Ok(()),
            _ => Err(format!("{} is not started again", part.name())),
        })
        .await;
    }

    /// Waits until every service is ready.
    pub async fn is_ready(&self) {
        let all = self.state["ops"].as_array().cloned().unwrap_or_default();
        for ops in all {
            let url = ops["url"].as_str().expect("an address is text").to_owned();
            eventually(PATIENCE, async || ready(&url).await).await;
        }
    }

    /// Stops everything in order, as Ctrl-C does, keeping the data.
    pub async fn stops(&mut self) {
        let Some(mut dev) = self.dev.take() else {
            return;
        };
        send(dev.id(), Signal::INT);
        eventually(PATIENCE, async || match dev.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("natter dev still runs: {other:?}")),
        })
        .await;
    }

    /// `kill -9` of `natter dev` itself, which must take everything with it.
    pub async fn dies(&mut self) {
        let Some(mut dev) = self.dev.take() else {
            return;
        };
        send(dev.id(), Signal::KILL);
        eventually(PATIENCE, async || match dev.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("natter dev still runs: {other:?}")),
        })
        .await;
    }

    /// Starts again on the kept data.
    pub async fn starts_again(&mut self) {
        self.launch().await;
    }

    async fn launch(&mut self) {
        assert!(self.dev.is_none(), "it runs already");
        drop(std::fs::remove_file(self.data.join("run/dev.json")));
        let port = |offset: u16| self.base_port + offset;
        let said = std::fs::File::create(self.data.join("dev.out")).expect("the folder is ours");
        let mut command = Command::new(template::natter());
        // `child` makes natter dev die with this thread, that is with this test.
        command
            .args([
                "child",
                "--parent",
                &std::process::id().to_string(),
                "--die",
                "term",
                "--",
            ])
            .arg(template::natter())
            .arg("dev")
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &format!("127.0.0.1:{}", port(0))])
            .args(["--ops", &format!("127.0.0.1:{}", port(1))])
            .args([
                "--nats-port",
                &port(4).to_string(),
                "--pg-port",
                &port(5).to_string(),
            ])
            .args(&self.builder.arguments)
            .env("NATTER_TOOLS_DIR", template::tools())
            .env_remove("NATTER_NATS_URL")
            .env_remove("NATTER_DATABASE_URL")
            .envs(
                self.builder
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a file has another handle"))
            .stderr(said)
            .process_group(0);
        let mut dev = command.spawn().expect("natter can be started");
        let file = self.data.join("run/dev.json");
        let state = eventually(READY_WITHIN, async || {
            if let Ok(Some(status)) = dev.try_wait() {
                return Ok(Err(status));
            }
            let text = std::fs::read_to_string(&file).map_err(|_| "natter dev is not ready")?;
            let state: Value = serde_json::from_str(&text).map_err(|_| "half a state file")?;
            Ok::<_, &str>(Ok(state))
        })
        .await;
        self.dev = Some(dev);
        match state {
            Ok(state) => self.state = state,
            Err(status) => panic!("natter dev ended: {status}"),
        }
    }

    /// The ends of all logs, for a failed test.
    fn logs(&self) -> String {
        let mut text = tail(&self.data.join("dev.out"));
        let entries = std::fs::read_dir(self.data.join("log"));
        for entry in entries.into_iter().flatten().filter_map(Result::ok) {
            text.push_str(&format!("--- {}\n", entry.file_name().to_string_lossy()));
            text.push_str(&tail(&entry.path()));
        }
        text
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(mut dev) = self.dev.take() {
                send(dev.id(), Signal::TERM);
                drop(dev.wait());
            }
            eprintln!("kept {}\n{}", self.data.display(), self.logs());
            return;
        }
        if let Some(mut dev) = self.dev.take() {
            // Nobody needs the data any more: a database that writes it all down would take a second.
            let processes = look::descendants(dev.id());
            if let Some(postgres) = self.pid_now(Part::Postgres) {
                send(postgres, Signal::QUIT);
            }
            send(dev.id(), Signal::KILL);
            drop(dev.wait());
            look::outlive(&processes);
        }
        drop(std::fs::remove_dir_all(&self.data));
    }
}

fn tail(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n") + "\n"
}

/// Sends a signal to a process, should it still be there.
pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id is positive");
    // It may have ended a moment ago.
    rustix::process::kill_process(pid, signal).ok();
}

/// Whether `/readyz` answers 200.
async fn ready(url: &str) -> Result<(), String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = url.trim_start_matches("http://");
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match asked.await {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}
