//! The tensor engine, entered where fusiond enters it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod folders;
mod model;
mod parity;
mod queue;
mod rerank;
mod texts;
mod tiny;
