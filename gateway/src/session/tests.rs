//! Conversations, without a socket and in virtual time.

mod catch_up;
mod talk;
mod world;
