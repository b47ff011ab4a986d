//! The server by its front door: the real executable, a real socket, engines as real processes.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a skipped test says so"
)]

mod arrows;
mod bad_input;
mod batches;
mod budget;
mod cgroup;
mod chat;
mod choices;
mod client;
#[path = "../../../fusion-storage/tests/it/servers.rs"]
mod databases;
mod files;
mod foreign;
mod forwarding;
mod front_door;
#[path = "../../../fusion-types/tests/it/hostile.rs"]
mod hostile;
mod hostile_endpoints;
mod job_groups;
mod jobs;
mod kill;
mod known;
mod media;
mod migrate;
mod nodes;
mod pull;
mod quantize;
mod rag;
mod real;
mod real_chat;
mod real_tools;
mod receiver;
mod server;
mod stats;
mod vectors;
