//! What works and what does not: named components, and whether the process is ready.
//!
//! Components report changes here; nothing is probed. `/readyz` shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// How a component is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "lowercase")]
pub enum Condition {
    /// It works.
    Ready,
    /// It works in part; the process stays ready.
    Degraded(String),
    /// It does not work; the process is not ready.
    Down(String),
}

impl Condition {
    /// Whether work that needs this component may be sent here.
    #[must_use]
    pub fn serves(&self) -> bool {
        match self {
            Self::Ready | Self::Degraded(_) => true,
            Self::Down(_) => false,
        }
    }
}

/// A shared board of conditions; clones and scopes write to the same board.
#[derive(Debug, Clone, Default)]
pub struct Health {
    scope: String,
    board: Arc<Mutex<BTreeMap<String, Condition>>>,
}

/// The overall state of a board or scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether no component is down.
    pub ready: bool,
    /// Whether a component is degraded.
    pub degraded: bool,
    /// Every component by its full name (`gateway.nats`).
    pub components: BTreeMap<String, Condition>,
}

impl Health {
    /// An empty board, which is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same board, where `set("nats", ..)` writes `SCOPE.nats` and only that scope is reported.
    #[must_use]
    pub fn scope(&self, scope: &str) -> Self {
        Self {
            scope: format!("{}{scope}.", self.scope),
            board: Arc::clone(&self.board),
        }
    }

    /// Reports the condition of a component; a change is logged.
    pub fn set(&self, component: &str, condition: Condition) {
        let name = format!("{}{component}", self.scope);
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        if board.get(&name) == Some(&condition) {
            return;
        }
        match &condition {
            Condition::Ready => tracing::info!(component = %name, "{name} is ready"),
            Condition::Degraded(reason) => {
                tracing::warn!(component = %name, %reason, "{name} is degraded");
            }
            Condition::Down(reason) => {
                tracing::warn!(component = %name, %reason, "{name} is down");
            }
        }
        board.insert(name, condition);
    }

    /// Reports that a component works.
    pub fn set_ready(&self, component: &str) {
        self.set(component, Condition::Ready);
    }

    /// Reports that a component works in part; the process stays ready.
    pub fn set_degraded(&self, component: &str, reason: impl Into<String>) {
        self.set(component, Condition::Degraded(reason.into()));
    }

    /// Reports that a component does not work; the process is not ready.
    pub fn set_down(&self, component: &str, reason: impl Into<String>) {
        self.set(component, Condition::Down(reason.into()));
    }

    /// What a component last reported, by its name within this scope.
    #[must_use]
    pub fn get(&self, component: &str) -> Option<Condition> {
        let name = format!("{}{component}", self.scope);
        self.board
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&name)
            .cloned()
    }

    /// Whether nothing in this scope is down.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.report().ready
    }

    /// Every component of this scope.
    #[must_use]
    pub fn report(&self) -> Report {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let components: BTreeMap<_, _> = board
            .iter()
            .filter(|(name, _)| name.starts_with(&self.scope))
            .map(|(name, condition)| (name.clone(), condition.clone()))
            .collect();
        Report {
            ready: components.values().all(Condition::serves),
            degraded: components
                .values()
                .any(|c| matches!(c, Condition::Degraded(_))),
            components,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_component_down_makes_the_process_not_ready() {
        let health = Health::new();
        let (gateway, history) = (health.scope("gateway"), health.scope("history"));
        gateway.set_ready("nats");
        history.set_down("postgres", "connection refused");
        assert!(!health.ready());
        assert!(
            gateway.ready(),
            "another service's component must not count here"
        );
        history.set_ready("postgres");
        assert!(health.ready());
    }

    #[test]
    fn degraded_stays_ready_and_is_shown() {
        let health = Health::new();
        health.set_degraded("history", "no answer");
        let json = serde_json::to_string(&health.report()).unwrap();
        assert_eq!(
            json,
            r#"{"ready":true,"degraded":true,"components":{"history":{"state":"degraded","reason":"no answer"}}}"#
        );
    }
}
