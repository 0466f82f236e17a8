//! A second process of a service, beside the stack's own: as in a cluster, or in a rolling upgrade.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use tokio::process::Child;

use crate::eventually::{PATIENCE, eventually};
use crate::http::Request;
use crate::port::Port;
use crate::stack::{Part, Stack, send};
use crate::template;

/// Ends with the test at the latest.
#[derive(Debug)]
pub struct Twin {
    child: Child,
    public: Port,
    ops: Port,
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

    /// The same, with other settings: names and values of its environment.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub async fn twin_with(&self, part: Part, changes: &[(&str, &str)]) -> Twin {
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid(part)));
        let environment = environment.expect("the part is ours");
        let variables = environment.split(|byte| *byte == 0).filter_map(|variable| {
            std::str::from_utf8(variable)
                .expect("settings are text")
                .split_once('=')
        });
        let (public, ops) = (Port::claim(), Port::claim());
        let log = self.data().join(format!("log/{}-twin.log", part.name()));
        let log = std::fs::File::create(log).expect("the folder is ours");
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
            .arg(part.name())
            .env_clear()
            .envs(variables)
            .env("NATTER_LISTEN", format!("127.0.0.1:{}", public.number))
            .env("NATTER_OPS_LISTEN", format!("127.0.0.1:{}", ops.number))
            .envs(changes.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has another handle"))
            .stderr(log);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn();
        let twin = Twin {
            child: child.expect("natter can be started"),
            public,
            ops,
        };
        eventually(PATIENCE, async || {
            let answer = Request::get(twin.ops_url("/readyz")).try_send().await;
            match answer {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        twin
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

    /// Is asked to stop, and stops in order.
    pub async fn stops(&mut self) {
        send(self.child.id().expect("it runs"), Signal::TERM);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("it stops").expect("it can be waited for");
        assert!(status.success(), "it ended with {status}");
    }

    /// Is asked to stop, which may take a while.
    pub fn is_asked_to_stop(&self) {
        send(self.child.id().expect("it runs"), Signal::TERM);
    }

    /// `kill -9`.
    pub async fn dies(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}
