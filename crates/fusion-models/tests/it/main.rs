//! The promises of this crate, on real processes of the fake engine.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it skipped"
)]

mod budget;
mod catalog;
#[cfg(target_os = "linux")]
mod devices;
mod download;
mod failures;
mod known;
mod pressure;
mod queues;
mod real;
mod replicas;
mod requests;
mod setting;
mod shutdown;
