//! The store by its public face.

mod durability;
mod job_model;
mod lifecycle;
mod privacy;
mod speed;
mod sqlite;
mod suite;
