#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

mod adapter_file;
mod adapters;
mod bad_files;
mod batching;
mod chat;
mod limits;
mod model;
mod prefix;
mod shared;
mod speculation;
mod speed;
mod structured;
mod support;
