//! The natter binary on a command line: errands that end, and dialogues over pipes.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::eventually::PATIENCE;
use crate::stack::send;
use crate::template;

/// An errand such as a replay may take this long on a busy machine.
const ERRAND_WITHIN: Duration = Duration::from_secs(60);

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// The exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// The natter binary with these arguments, to be configured further.
pub fn natter(arguments: &[&str]) -> Command {
    let mut command = Command::new(template::natter());
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a program to its end.
///
/// # Panics
///
/// If it does not end.
pub async fn run(mut command: Command) -> Said {
    let ended = tokio::time::timeout(ERRAND_WITHIN, command.output()).await;
    let output = ended
        .expect("the program ends")
        .expect("the program starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program that is typed to and read from through pipes.
#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    typed: Option<ChildStdin>,
    shown: ChildStdout,
    text: String,
}

impl Dialogue {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().expect("the program starts");
        let typed = child.stdin.take();
        let shown = child.stdout.take().expect("it was piped");
        Self {
            child,
            typed,
            shown,
            text: String::new(),
        }
    }

    /// Types a line.
    pub async fn types(&mut self, line: &str) {
        let typed = self.typed.as_mut().expect("its input is open");
        let written = typed.write_all(format!("{line}\n").as_bytes()).await;
        written.and(typed.flush().await).expect("the program reads");
    }

    /// Reads until all that was shown so far matches; `what` names it should it not come.
    pub async fn shows_where(&mut self, what: &str, matches: impl Fn(&str) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        while !matches(&self.text) {
            let read = tokio::time::timeout_at(deadline, self.shown.read(&mut bytes)).await;
            match read {
                Ok(Ok(count)) if count > 0 => {
                    self.text
                        .push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
                ended => panic!(
                    "{ended:?} before {what} was shown; shown was:\n{}",
                    self.text
                ),
            }
        }
    }

    /// Reads until this text has been shown.
    pub async fn shows(&mut self, text: &str) {
        self.shows_where(text, |shown| shown.contains(text)).await;
    }

    /// All that was read so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Ends its input, and waits until it ends of itself.
    pub async fn hangs_up(mut self) -> Said {
        self.typed = None;
        let mut rest = Vec::new();
        let ended = async {
            self.shown.read_to_end(&mut rest).await?;
            self.child.wait().await
        };
        let status = tokio::time::timeout(PATIENCE, ended).await;
        let status = status.expect("it ends").expect("it can be waited for");
        self.text.push_str(&String::from_utf8_lossy(&rest));
        Said {
            code: status.code(),
            out: self.text,
            err: String::new(),
        }
    }

    /// It stands still until it goes on.
    pub fn pauses(&self) {
        send(self.child.id().expect("it runs"), Signal::STOP);
    }

    /// It stood still and goes on.
    pub fn goes_on(&self) {
        send(self.child.id().expect("it runs"), Signal::CONT);
    }

    /// `kill -9`.
    pub async fn dies(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}
