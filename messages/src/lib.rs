//! messages: the service that orders. Takes commands, judges them, appends them to the log.
//!
//! | module | is |
//! |---|---|
//! | [`policy`] | whether a command may happen, and which events it becomes (pure) |
//! | [`dedup`] | which commands the log holds (pure) |
//! | [`rate`] | how many stored commands a user may have in a room (pure) |
//! | [`partition`] | what an owner knows of its partition (pure) |
//! | [`sequencer`] | the state machine of one owner of one partition (pure) |

pub mod dedup;
pub mod partition;
pub mod policy;
pub mod rate;
pub mod sequencer;
