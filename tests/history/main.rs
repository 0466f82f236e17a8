//! History against a real broker and a real database, without the rest of natter: the tests write the
//! log as owners do and ask as gateways and owners ask.
//!
//! Every statement of `history/src/store` is run by one of these tests.

mod archive;
mod checks;
mod ingestion;
mod owners;
mod pages;
mod people;
mod resume;
