//! The users of the private broker: one for each service, with the rights that `protocol` names.
//!
//! Passwords are made anew at each start. Who connects without any, a tool or a test on this machine,
//! may do everything but write the live feed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::subject::rights::{BrokerUser, Rights, inbox_of};

/// The user of the process that runs all services.
const ALL: &str = "all";
/// The user of whoever names none.
const LOCAL: &str = "local";

/// A user of the broker.
#[derive(Debug)]
pub(crate) struct User {
    /// Its name: that of the process.
    pub(crate) name: &'static str,
    /// Its password.
    pub(crate) password: String,
    rights: Rights,
}

/// All users, with passwords.
#[derive(Debug)]
pub(crate) struct BrokerUsers(Vec<User>);

impl BrokerUsers {
    /// With new passwords.
    pub(crate) fn new() -> Self {
        let mut users: Vec<User> = BrokerUser::ALL
            .iter()
            .map(|user| User::new(user.name(), user.rights()))
            .collect();
        users.push(User::new(
            ALL,
            union(BrokerUser::ALL.iter().map(|user| user.rights())),
        ));
        Self(users)
    }

    /// The user for a process.
    pub(crate) fn of(&self, process: &str) -> Option<&User> {
        self.0.iter().find(|user| user.name == process)
    }

    /// Their part of nats-server's configuration.
    pub(crate) fn configuration(&self) -> String {
        let mut text = format!("no_auth_user: {LOCAL}\nauthorization {{\n  users: [\n");
        for User {
            name,
            password,
            rights,
        } in &self.0
        {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "    {{ user: {name}, password: \"{password}\", permissions: {{ publish: {{ allow: {}, \
                 deny: {} }}, subscribe: {{ allow: {} }} }} }}",
                list(&rights.publish),
                list(&rights.publish_never),
                list(&rights.subscribe)
            )
            .ok();
        }
        let (never, password) = (list(&never_for_anybody()), new_password());
        writeln!(
            text,
            "    {{ user: {LOCAL}, password: \"{password}\", permissions: {{ publish: {{ deny: {never} }} }} }}\n  ]\n}}"
        )
        .ok();
        text
    }

    /// Writes names and passwords where only this user can read them, for tests of the rights.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let users: serde_json::Map<String, serde_json::Value> = self
            .0
            .iter()
            .map(|user| (user.name.to_owned(), user.password.clone().into()))
            .collect();
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(file.write_all(&serde_json::to_vec_pretty(&users)?)?)
    }
}

impl User {
    fn new(name: &'static str, rights: Rights) -> Self {
        Self {
            name,
            password: new_password(),
            rights,
        }
    }
}

fn new_password() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

/// What is denied to every one of them.
fn never_for_anybody() -> Vec<String> {
    let denials: Vec<Vec<String>> = BrokerUser::ALL
        .iter()
        .map(|user| user.rights().publish_never)
        .collect();
    let first = denials.first().cloned().unwrap_or_default();
    first
        .into_iter()
        .filter(|subject| denials.iter().all(|all| all.contains(subject)))
        .collect()
}

/// What any of them may, and what any of them is denied.
fn union(all: impl Iterator<Item = Rights>) -> Rights {
    let all: Vec<Rights> = all.collect();
    let sum = |part: fn(&Rights) -> &Vec<String>| {
        let subjects: BTreeSet<String> = all.iter().flat_map(part).cloned().collect();
        subjects.into_iter().collect()
    };
    let inbox = format!("{}.>", inbox_of(ALL));
    let mut rights = Rights {
        publish: sum(|rights| &rights.publish),
        publish_never: sum(|rights| &rights.publish_never),
        subscribe: sum(|rights| &rights.subscribe),
    };
    rights.subscribe.push(inbox);
    rights
}

fn list(subjects: &[String]) -> String {
    let quoted: Vec<String> = subjects
        .iter()
        .map(|subject| format!("\"{subject}\""))
        .collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_to_all_is_denied_to_whoever_names_no_user() {
        assert_eq!(never_for_anybody(), ["live.>"]);
    }

    #[test]
    fn every_process_has_a_user_and_no_two_have_one_password() {
        let users = BrokerUsers::new();
        let passwords: BTreeSet<&str> = ["all", "gateway", "messages", "history"]
            .iter()
            .map(|name| users.of(name).unwrap().password.as_str())
            .collect();
        assert_eq!(passwords.len(), 4);
    }
}
