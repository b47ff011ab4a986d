//! The promises of this crate, on real processes of the fake engine.

mod budget;
mod catalog;
mod download;
mod failures;
mod queues;
mod requests;
mod setting;
mod shutdown;
