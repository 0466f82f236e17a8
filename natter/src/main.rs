//! The natter binary: one program, a subcommand per service and per errand.
//!
//! It picks the allocator and the crypto provider and hands over to [`cli`]; it decides nothing else.

mod audit;
mod bench;
mod chat;
mod child;
mod cli;
mod dev;
mod dev_token;
mod doctor;
mod migrate;
mod replay;
mod reseed;
mod serve;
mod servers;
mod token;
mod verify;

use std::process::ExitCode;

/// jemalloc gave memory back after 10,000 closed connections; the system's allocator kept it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        // Nothing ran before this line, so no other provider can be there.
        return ExitCode::FAILURE;
    }
    cli::main()
}
