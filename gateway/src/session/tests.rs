//! Conversations, without a socket and in virtual time.

mod catch_up;
mod enter;
mod talk;
mod world;
