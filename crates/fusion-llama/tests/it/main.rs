#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

mod bad_files;
mod batching;
mod chat;
mod limits;
mod model;
mod prefix;
mod shared;
mod speed;
mod structured;
mod support;
