//! Benches of whole processes: a real broker, a real database, CPU time per operation.
//!
//! ```text
//! cargo build --release -p natter && cargo run --release -p tests --bin bench -- ack
//! ```
//! Each bench starts its own `natter dev --separate` on a fresh data folder, with fsync on, and prints
//! its figures as one line of JSON. Nothing is asserted: CPU time per operation is to be compared with an
//! earlier figure taken on the same machine in the same run.

mod ack;
mod cpu;
mod fanout;
mod ingest;
mod partition;
mod socket;
mod stack;

use std::process::ExitCode;

const USAGE: &str = "usage: bench ack|partition|ingest|fanout [SECONDS|COUNT]";

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let amount = args.next().map(|text| text.parse::<u64>()).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let figures = match name.as_str() {
        "ack" => runtime.block_on(ack::run(amount.unwrap_or(30)))?,
        "partition" => runtime.block_on(partition::run(amount.unwrap_or(30)))?,
        "ingest" => runtime.block_on(ingest::run(amount.unwrap_or(200_000)))?,
        "fanout" => runtime.block_on(fanout::run(amount.unwrap_or(2_000)))?,
        _ => {
            println!("{USAGE}");
            return Ok(ExitCode::FAILURE);
        }
    };
    println!("{figures}");
    Ok(ExitCode::SUCCESS)
}
