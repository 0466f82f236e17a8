//! A fresh `natter dev --separate` of the release build, stopped when dropped.

use crate::cpu;
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Building the schema and fetching servers may take this long on a cold machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The running processes.
pub struct Stack {
    dev: Child,
    data: PathBuf,
    /// What `natter dev` says of itself.
    pub state: Value,
}

impl Stack {
    /// Starts the named services (`gateway,messages,history`) with these settings.
    pub async fn start(services: &str, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/natter");
        ensure!(
            program.exists(),
            "build it first: cargo build --release -p natter"
        );
        let data = std::env::temp_dir().join(format!("natter-bench-{}", std::process::id()));
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.natter/tools");
        let dev = Command::new(program)
            .args([
                "dev",
                "--separate",
                "--fresh",
                "--listen",
                "127.0.0.1:18080",
            ])
            .args([
                "--ops",
                "127.0.0.1:18090",
                "--nats-port",
                "18222",
                "--pg-port",
                "18432",
            ])
            .args(["--services", services])
            .arg("--data")
            .arg(&data)
            .env("NATTER_TOOLS_DIR", tools)
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .context("start natter dev")?;
        let mut stack = Self {
            dev,
            data,
            state: Value::Null,
        };
        stack.state = tokio::time::timeout(READY_WITHIN, stack.ready())
            .await
            .context("not ready")??;
        Ok(stack)
    }

    async fn ready(&mut self) -> anyhow::Result<Value> {
        let file = self.data.join("run/dev.json");
        loop {
            if let Some(status) = self.dev.try_wait()? {
                anyhow::bail!("natter dev ended: {status}");
            }
            if let Ok(text) = std::fs::read_to_string(&file)
                && let Ok(state) = serde_json::from_str(&text)
            {
                return Ok(state);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An address out of the state file.
    pub fn address(&self, key: &str) -> anyhow::Result<String> {
        let text = self.state.get(key).and_then(Value::as_str);
        Ok(text
            .with_context(|| format!("no {key} in dev.json"))?
            .to_owned())
    }

    /// CPU time so far of one part (`gateway`, `messages`, `history`, `nats-server`, `postgres`).
    pub fn cpu(&self, part: &str) -> anyhow::Result<Duration> {
        Ok(cpu::of(self.pid(part)?))
    }

    /// Resident memory of one part, in bytes.
    pub fn memory(&self, part: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(part)?))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or("");
        let kib: u64 = line.split_whitespace().nth(1).unwrap_or("0").parse()?;
        Ok(kib * 1024)
    }

    /// Sends a signal to one part.
    pub fn signal(&self, part: &str, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid(part)?)?;
        let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    fn pid(&self, part: &str) -> anyhow::Result<u32> {
        let file = self.data.join(format!("run/{part}.pid"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {part}.pid"))?;
        Ok(text.trim().parse()?)
    }

    /// A development token for a user, from the gateway.
    pub async fn token(&self, user: &str) -> anyhow::Result<String> {
        crate::socket::dev_token(&self.address("url")?, user).await
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let pid = i32::try_from(self.dev.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.dev.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
