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
mod secret;
mod state;
mod telemetry;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
