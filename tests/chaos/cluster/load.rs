//! `natter bench` beside a test: people who talk, and the judge of what came of it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tests::Stack;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// It gives up by itself before that.
const ENDS_WITHIN: Duration = Duration::from_secs(300);

/// A running bench.
#[derive(Debug)]
pub(super) struct Load {
    child: Child,
    acked: watch::Receiver<u64>,
    errors: JoinHandle<String>,
}

impl Load {
    /// Begins with so many messages to be sent.
    pub(super) fn begins(stack: &Stack, messages: usize, rate: usize) -> Self {
        let (messages, rate) = (messages.to_string(), rate.to_string());
        let url = stack.socket_url();
        let arguments = [
            "bench",
            "--url",
            url,
            "--rooms",
            "6",
            "--members",
            "4",
            "--observers",
            "8",
            "--rate",
            &rate,
            "--messages",
            &messages,
            "--patience-s",
            "120",
            "--json",
        ];
        let mut command = stack.natter(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("natter can be started");
        let stderr = child.stderr.take().expect("it was piped");
        let (told, acked) = watch::channel(0);
        let errors = tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            let mut rest = String::new();
            while let Ok(Some(line)) = lines.next_line().await {
                let progress = serde_json::from_str::<Value>(&line).unwrap_or_default();
                match progress["acked"].as_u64() {
                    Some(acked) => drop(told.send_replace(acked)),
                    None => rest.push_str(&format!("{line}\n")),
                }
            }
            rest
        });
        Self {
            child,
            acked,
            errors,
        }
    }

    /// Waits until so many messages are stored.
    pub(super) async fn has_stored(&self, count: u64) {
        let mut acked = self.acked.clone();
        let reached = acked.wait_for(|acked| *acked >= count);
        let reached = tokio::time::timeout(ENDS_WITHIN, reached).await;
        let reached = reached.expect("it goes on");
        drop(reached.expect("it has not ended before"));
    }

    /// How many are stored now.
    pub(super) fn stored(&self) -> u64 {
        *self.acked.borrow()
    }

    /// Waits until it ends, and its judge must have found nothing; returns how many are stored,
    /// and in which rooms.
    pub(super) async fn ends_clean(mut self) -> (u64, Vec<String>) {
        let mut out = String::new();
        let mut stdout = self.child.stdout.take().expect("it was piped");
        let ended = async {
            stdout.read_to_string(&mut out).await?;
            self.child.wait().await
        };
        let status = tokio::time::timeout(ENDS_WITHIN, ended).await;
        let status = status.expect("it ends").expect("it can be waited for");
        let errors = self.errors.await.expect("its words can be read");
        assert!(status.success(), "{status}\n{out}\n{errors}");
        let report: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"));
        let audit = report["audit"].as_object().expect("it has judged");
        for (what, count) in audit {
            assert!(
                count.as_u64().is_none_or(|count| count == 0),
                "{what}: {report}"
            );
        }
        let rooms = report["rooms"]
            .as_array()
            .expect("it names its rooms")
            .iter();
        let rooms = rooms
            .filter_map(|room| room["room"].as_str())
            .map(str::to_owned);
        let acked = report["acked"].as_u64().expect("it counts");
        (acked, rooms.collect())
    }
}
