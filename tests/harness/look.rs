//! Looking at a stack from outside, as an operator would: readiness, the database, the processes.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;

use crate::eventually::eventually;
use crate::http::Request;
use crate::program;
use crate::stack::{Part, Stack};

/// Nothing natter starts may outlive `natter dev` for longer.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// What `/readyz` says.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whether the status is 200.
    pub ready: bool,
    /// The body.
    pub body: Value,
}

impl Report {
    /// Whether some component works only in part.
    pub fn degraded(&self) -> bool {
        self.body["degraded"] == true
    }
}

/// A process, told apart from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Running {
    /// Its number.
    pub pid: u32,
    /// Its program, as the kernel names it.
    pub name: String,
    started: String,
    parent: u32,
}

impl Stack {
    /// A public address.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// What a process says of its readiness.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub async fn report(&self, part: Part) -> std::io::Result<Report> {
        let answer = Request::get(format!("{}/readyz", self.ops_url(part)))
            .try_send()
            .await?;
        Ok(Report {
            ready: answer.status == 200,
            body: answer.json(),
        })
    }

    /// Waits until the report of a process matches; `what` names it should it not come.
    pub async fn reports(&self, part: Part, what: &str, matches: impl Fn(&Report) -> bool) {
        let patience = Duration::from_secs(20);
        eventually(patience, async || match self.report(part).await {
            Ok(report) if matches(&report) => Ok(()),
            other => Err(format!("{} is not {what}: {other:?}", part.name())),
        })
        .await;
    }

    /// Changes the database by hand; returns how many rows.
    pub async fn sql(&self, statement: String) -> u64 {
        let connected = PgConnection::connect(self.database_url()).await;
        let mut connection = connected.expect("the database takes connections");
        let done = sqlx::query(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await;
        done.expect("the statement is right").rows_affected()
    }

    /// Stops a part in the middle of whatever it does, and waits until it stands still.
    pub async fn freezes(&self, part: Part) {
        self.signal(part, Signal::STOP);
        stands_still(self.pid(part)).await;
    }

    /// Lets a part go on that stood still.
    pub fn thaws(&self, part: Part) {
        self.signal(part, Signal::CONT);
    }

    /// Asks the database for one number.
    pub async fn number(&self, query: &'static str) -> u64 {
        let connected = PgConnection::connect(self.database_url()).await;
        let mut connection = connected.expect("the database takes connections");
        let asked = sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&mut connection)
            .await;
        u64::try_from(asked.expect("the query is right")).expect("a count")
    }

    /// The natter binary with these arguments, using this stack's data folder and address.
    pub fn natter(&self, arguments: &[&str]) -> Command {
        let mut command = program::natter(arguments);
        command
            .env("NATTER_DATA", self.data())
            .env("NATTER_DATABASE_URL", self.database_url())
            .env("NATTER_NATS_URL", self.nats_url());
        command
    }

    /// Every process that `natter dev` started, and what they started.
    pub fn processes(&self) -> BTreeSet<Running> {
        descendants(self.dev_pid())
    }
}

/// Waits until no thread of a process moves.
pub(crate) async fn stands_still(pid: u32) {
    let tasks = format!("/proc/{pid}/task");
    eventually(ENDS_WITHIN, async || {
        let threads = std::fs::read_dir(&tasks).map_err(|error| error.to_string())?;
        let stats = threads
            .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        let moving = stats.filter(|stat| !stat.contains(") T ")).count();
        if moving == 0 {
            Ok(())
        } else {
            Err(format!("{moving} threads run on"))
        }
    })
    .await;
}

/// Every process that this one started, and what they started.
pub(crate) fn descendants(ancestor: u32) -> BTreeSet<Running> {
    let all = running();
    let mut found = BTreeSet::new();
    let mut parents = BTreeSet::from([ancestor]);
    loop {
        let children: Vec<Running> = all
            .iter()
            .filter(|it| parents.contains(&it.parent) && !parents.contains(&it.pid))
            .cloned()
            .collect();
        if children.is_empty() {
            return found;
        }
        parents.extend(children.iter().map(|it| it.pid));
        found.extend(children);
    }
}

/// Like [`all_end`] for who cannot await; gives up silently, since something else fails then.
#[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
pub(crate) fn outlive(processes: &BTreeSet<Running>) {
    const PAUSE: Duration = Duration::from_millis(10);
    let looks = ENDS_WITHIN.as_millis() / PAUSE.as_millis();
    for _ in 0..looks {
        if !running().iter().any(|it| is_among(it, processes)) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until none of these processes is left.
pub async fn all_end(processes: &BTreeSet<Running>) {
    eventually(ENDS_WITHIN, async || {
        let left: Vec<Running> = running()
            .into_iter()
            .filter(|it| is_among(it, processes))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// A process that lost its parent has another one, and is the same.
fn is_among(it: &Running, processes: &BTreeSet<Running>) -> bool {
    processes
        .iter()
        .any(|known| known.pid == it.pid && known.started == it.started)
}

/// Every process of the machine that is not just waiting to be collected.
fn running() -> Vec<Running> {
    let entries = std::fs::read_dir("/proc").expect("this is Linux");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(look_at).collect()
}

fn look_at(pid: u32) -> Option<Running> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let (state, parent, started) = (fields.first()?, fields.get(1)?, fields.get(19)?);
    let parent = parent.parse().ok()?;
    (*state != "Z").then(|| Running {
        pid,
        name,
        started: (*started).to_owned(),
        parent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_seen_to_run() {
        let own = std::process::id();
        assert!(running().iter().any(|it| it.pid == own));
    }
}
