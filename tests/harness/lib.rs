//! The harness of the end-to-end tests: real processes, a real broker, a real database, and a client
//! that shares no code with natter's own.
//!
//! ```ignore
//! let stack = Stack::start().await;
//! let (mut alice, mut bob) = (stack.user("alice").await, stack.user("bob").await);
//! let room = alice.creates_room("ops").await;
//! bob.joins(&room).await;
//! alice.sends(&room, "hi").await;
//! bob.sees(&room, "hi").await;
//! ```
//! Every wait has a deadline and waits for a state. A failed wait panics with what was seen instead.

mod broker;
mod cluster;
mod eventually;
pub mod http;
mod look;
mod lossy;
mod nats_server;
mod port;
pub mod program;
mod proxy;
mod soak;
mod socket;
mod stack;
mod tamper;
mod template;
mod token;
mod twin;
mod user;
mod verbs;

pub use broker::SmallBroker;
pub use cluster::{Cluster, NODES};
pub use eventually::{PATIENCE, eventually};
pub use look::{Report, Running, all_end};
pub use lossy::LossyBroker;
pub use nats_server::{Folder, NatsServer, NatsSettings};
pub use proxy::{Proxy, Weather};
pub use soak::{Rounds, either, figure, is_soak, not_run, tool};
pub use socket::{Closed, Greeting, Socket};
pub use stack::{Part, Stack, StackBuilder};
pub use tamper::{Lie, Tamperer};
pub use token::{Claims, Tokens, now_s};
pub use twin::Twin;
pub use user::{RoomView, User, cid, cid_at};
pub use verbs::{message, with_cid};
