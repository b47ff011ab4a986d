//! `fusiond`: the server, and the commands that talk to it.

mod app;
mod cli;
mod config;
mod drain;
mod http;
mod leader;
mod media;
mod memory;
mod nodes;
mod outgoing;
mod owner_file;
mod payload_key;
mod secret;
mod state;
mod telemetry;

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A request allocates some eighty times, which costs less than half the instructions of the system's allocator. That one
/// keeps a heap for each thread besides, and gives little of it back.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
