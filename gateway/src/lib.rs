//! The gateway: terminates sockets.
//!
//! | module | does |
//! |---|---|
//! | [`session`] | the protocol of one socket, pure |
//! | [`upstream`], [`ring`], [`views`] | the live feed in order, the recent past, who was where |
//! | [`auth`], [`config`], [`moment`] | tokens, settings, time as an argument |

pub mod auth;
pub mod config;
pub mod moment;
pub mod ring;
pub mod session;
pub mod upstream;
pub mod views;
