//! The store by its public face.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod backup;
mod disk_full;
mod durability;
mod history;
mod job_model;
mod lifecycle;
mod migrate;
mod mongo;
mod mongo_shared;
mod privacy;
mod redis;
mod servers;
mod speed;
mod sqlite;
mod suite;
