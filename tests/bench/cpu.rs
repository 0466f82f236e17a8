//! CPU time of other processes, from `/proc`.

use std::time::Duration;

/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that natter runs on.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process and of what it has waited for; zero if it is gone.
pub fn of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in parentheses and may hold spaces.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|index| fields.get(*index))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// Microseconds per operation, with one decimal.
pub fn per_operation(spent: Duration, operations: u64) -> f64 {
    (spent.as_secs_f64() * 1e7 / operations.max(1) as f64).round() / 10.0
}
