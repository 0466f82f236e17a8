//! Settings of the services that stories change, in one place.

use tests::{Stack, StackBuilder};

/// A rate that no test reaches.
const UNLIMITED: &str = "1000000";

/// A stack whose users may write as fast as they can.
pub(crate) fn unhurried() -> StackBuilder {
    Stack::builder()
        .env("NATTER_GATEWAY_USER_RATE", UNLIMITED)
        .env("NATTER_GATEWAY_USER_BURST", UNLIMITED)
        .env("NATTER_MESSAGES_RATE_LIMITS", "false")
}

/// The same, and messages remembers next to nothing that history knows too.
pub(crate) fn forgetful() -> StackBuilder {
    unhurried()
        .env("NATTER_MESSAGES_DEDUP_AGE_MS", "1")
        .env("NATTER_MESSAGES_DEDUP_COMMANDS", "1")
        .env("NATTER_MESSAGES_EVENTS_SOFT", "1")
        .env("NATTER_MESSAGES_REPLAY_WHOLE_RECORDS", "0")
}
