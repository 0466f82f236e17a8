//! What `natter dev` says: the banner when everything is ready, and notes afterwards.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::token::{Claims, Key};

/// Users that a newcomer can be at once.
const DEMO_USERS: [(&str, &str); 3] = [("alice", "Alice"), ("bob", "Bob"), ("carol", "Carol")];

/// Addresses of everything, also written to the state file for programs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct State {
    /// Public HTTP and sockets.
    pub(crate) url: String,
    /// The socket.
    pub(crate) socket: String,
    /// Health and metrics, by process.
    pub(crate) ops: Vec<Ops>,
    /// The broker.
    pub(crate) nats_url: String,
    /// The database.
    pub(crate) database_url: String,
    /// Process id of `natter dev`.
    pub(crate) pid: u32,
}

/// One process's ops address.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ops {
    /// The process's name.
    pub(crate) name: &'static str,
    /// Its base address.
    pub(crate) url: String,
}

/// Prints the banner.
///
/// # Errors
///
/// A token cannot be signed.
pub(crate) fn print(
    state: &State,
    data: &Path,
    key: &Key,
    started_in: std::time::Duration,
) -> anyhow::Result<()> {
    let mut text = format!(
        "\nnatter is ready after {:.1} s. Its data is in {}.\n\n",
        started_in.as_secs_f64(),
        data.display()
    );
    text.push_str(&format!(
        "  web       {}\n  socket    {}\n",
        state.url, state.socket
    ));
    for ops in &state.ops {
        text.push_str(&format!(
            "  ops       {}/metrics  ({})\n",
            ops.url, ops.name
        ));
    }
    text.push_str(&format!("  NATS      {}\n", state.nats_url));
    text.push_str(&format!("  Postgres  {}\n", shown(&state.database_url)));
    text.push_str(&format!(
        "  logs      {}/*.log\n\n",
        data.join("log").display()
    ));
    if !state.ops.is_empty() {
        text.push_str(&format!(
            "Talk from two other terminals:\n{}\n",
            chat_lines(&state.socket)
        ));
    }
    text.push_str("Tokens for twelve hours, more with `natter token USER`:\n");
    for (user, name) in DEMO_USERS {
        text.push_str(&format!(
            "  {user:<6}{}\n",
            key.sign(&Claims::of_user(user, name)?)?
        ));
    }
    text.push_str("\nCtrl-C stops everything, in order.\n");
    say(&text);
    Ok(())
}

/// How to chat with this server, ready to be pasted.
fn chat_lines(socket: &str) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "natter".into());
    let here = std::env::current_dir().unwrap_or_default();
    let program = program.strip_prefix(&here).unwrap_or(&program);
    let server = socket.trim_end_matches("/v1/ws");
    let line = |user| {
        format!(
            "  {} chat --url {server} --user {user}\n",
            program.display()
        )
    };
    DEMO_USERS
        .iter()
        .take(2)
        .map(|(user, _)| line(user))
        .collect()
}

/// The address without a password, should there be one.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((credentials, place))) if credentials.matches(':').count() > 1 => {
            format!("{scheme}://***@{place}")
        }
        _ => url.to_owned(),
    }
}

/// One line about something that happened.
pub(crate) fn note(line: &str) {
    say(&format!("natter dev: {line}\n"));
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // With nobody reading there is nobody to tell.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(
            shown("postgres://me:secret@host/db"),
            "postgres://***@host/db"
        );
        assert_eq!(
            shown("postgres://natter@host:1/db"),
            "postgres://natter@host:1/db"
        );
        assert_eq!(shown("nats://127.0.0.1:4222"), "nats://127.0.0.1:4222");
    }
}
