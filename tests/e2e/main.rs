//! The stories that a user, an operator or an attacker would tell, with real processes.
//!
//! Each test has a whole natter of its own, and each file one theme. Nothing here waits for a time:
//! every wait is for a state, with a deadline.

mod autobahn;
mod broker;
mod chat;
mod dev;
mod doctor;
mod failures;
mod feed;
mod frames;
mod hostile_floods;
mod hostile_ids;
mod hostile_probe;
mod hostile_replies;
mod hostile_tokens;
mod hostile_upgrade;
mod http;
mod ids;
mod late;
mod limits;
mod load;
mod membership;
mod memory;
mod outage;
mod reads;
mod resume;
mod rights;
mod servers;
mod settings;
mod slow;
mod tokens;
mod tools;
mod twins;
