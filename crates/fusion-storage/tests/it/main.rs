//! The store by its public face.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]

mod backup;
mod disk_full;
mod durability;
mod history;
mod job_model;
mod lifecycle;
mod mongo;
mod privacy;
mod servers;
mod speed;
mod sqlite;
mod suite;
