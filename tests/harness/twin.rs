//! A second process of a service, beside the stack's own: as in a cluster, or in a rolling upgrade.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use tokio::process::Child;

use crate::eventually::{PATIENCE, eventually};
use crate::http::Request;
use crate::look;
use crate::port::Port;
use crate::stack::{Part, Stack, send};
use crate::template;

/// Ends with the test at the latest.
#[derive(Debug)]
pub struct Twin {
    recipe: Recipe,
    child: Child,
    public: Port,
    ops: Port,
}

/// How to start it, again and again.
#[derive(Debug)]
struct Recipe {
    part: Part,
    variables: Vec<(String, String)>,
    log: std::path::PathBuf,
}

impl Stack {
    /// Starts another process like this part and waits until it is ready.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub async fn twin(&self, part: Part) -> Twin {
        self.twin_with(part, &[]).await
    }

    /// The same with other settings, such as the broker's address.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub async fn twin_with(&self, part: Part, settings: &[(&str, &str)]) -> Twin {
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid(part)));
        let environment = environment.expect("the part is ours");
        let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
            std::str::from_utf8(variable)
                .expect("settings are text")
                .split_once('=')
        });
        let (public, ops) = (Port::claim(), Port::claim());
        let own = [
            ("NATTER_LISTEN", format!("127.0.0.1:{}", public.number)),
            ("NATTER_OPS_LISTEN", format!("127.0.0.1:{}", ops.number)),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let recipe = Recipe {
            part,
            variables: variables
                .chain(settings.iter().copied())
                .chain(own)
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            log: self.data().join(format!("log/{}-twin.log", part.name())),
        };
        let child = recipe.start();
        let twin = Twin {
            recipe,
            child,
            public,
            ops,
        };
        twin.is_ready().await;
        twin
    }
}

impl Recipe {
    fn start(&self) -> Child {
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(&self.log);
        let log = log.expect("the folder is ours");
        let variables = self.variables.iter().map(|(name, value)| (name, value));
        let mut command = Command::new(template::natter());
        command
            .args([
                "child",
                "--parent",
                &std::process::id().to_string(),
                "--die",
                "kill",
                "--",
            ])
            .arg(template::natter())
            .arg(self.part.name())
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has another handle"))
            .stderr(log);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn();
        child.expect("natter can be started")
    }
}

impl Twin {
    /// The socket's address, of a gateway.
    pub fn socket_url(&self) -> String {
        format!("ws://127.0.0.1:{}/v1/ws", self.public.number)
    }

    /// An address of its operators' port.
    pub fn ops_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ops.number)
    }

    /// Waits until it says that it is ready.
    pub async fn is_ready(&self) {
        eventually(PATIENCE, async || {
            let answer = Request::get(self.ops_url("/readyz")).try_send().await;
            match answer {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Is asked to stop, and stops in order.
    pub async fn stops(&mut self) {
        self.is_asked_to_stop();
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("it stops").expect("it can be waited for");
        assert!(status.success(), "it ended with {status}");
    }

    /// Is asked to stop, which may take a while.
    pub fn is_asked_to_stop(&self) {
        send(self.pid(), Signal::TERM);
    }

    /// `kill -9`.
    pub async fn dies(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Starts after it has ended, at the same addresses; does not wait until it is ready.
    ///
    /// # Panics
    ///
    /// If it still runs.
    pub fn starts_again(&mut self) {
        assert!(self.child.id().is_none(), "it still runs");
        self.child = self.recipe.start();
    }

    /// Stands still in the middle of whatever it does; returns when it does.
    pub async fn freezes(&self) {
        send(self.pid(), Signal::STOP);
        look::stands_still(self.pid()).await;
    }

    /// Goes on.
    pub fn thaws(&self) {
        send(self.pid(), Signal::CONT);
    }
}
