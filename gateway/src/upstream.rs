//! The live feed.

pub mod feed;
