//! A finding, and how findings are shown: a line each for people, or JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, and may hurt one day; or it cannot be seen.
    Warning,
    /// A promise does not hold, or natter does not run.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How bad it is.
    pub(crate) level: Level,
    /// What was looked at, for machines: `broker.version`.
    pub(crate) check: &'static str,
    /// What was found.
    pub(crate) found: String,
    /// What to do; empty if nothing.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) remedy: &'static str,
}

impl Finding {
    /// As it should be.
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, found, "")
    }

    /// It works, but.
    pub(crate) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self::new(Level::Warning, check, found, remedy)
    }

    /// It does not do.
    pub(crate) fn problem(
        check: &'static str,
        found: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self::new(Level::Problem, check, found, remedy)
    }

    fn new(
        level: Level,
        check: &'static str,
        found: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            level,
            check,
            found: found.into(),
            remedy,
        }
    }
}

/// The worst of all.
pub(crate) fn worst(findings: &[Finding]) -> Level {
    findings
        .iter()
        .map(|finding| finding.level)
        .max()
        .unwrap_or(Level::Ok)
}

/// A line each, what to do below it, and a sum.
pub(crate) fn for_people(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        // Writing to a string cannot fail.
        writeln!(text, "{mark}  {:<20} {}", finding.check, finding.found).ok();
        if !finding.remedy.is_empty() {
            writeln!(text, "         {:<20} -> {}", "", finding.remedy).ok();
        }
    }
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    writeln!(text, "{problems} problem(s), {warnings} warning(s)").ok();
    text
}

/// One object with all of them.
pub(crate) fn for_machines(findings: &[Finding]) -> serde_json::Value {
    serde_json::json!({"level": worst(findings), "findings": findings})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_counts_and_says_what_to_do() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::problem("b", "broken", "mend it"),
            Finding::warning("c", "odd", "look at it"),
        ];
        assert_eq!(worst(&findings), Level::Problem);
        assert_eq!(worst(&findings[..1]), Level::Ok);
        let text = for_people(&findings);
        assert!(text.contains("-> mend it"), "{text}");
        assert!(text.ends_with("1 problem(s), 1 warning(s)\n"), "{text}");
        assert_eq!(for_machines(&findings)["findings"][0]["level"], "ok");
    }
}
