//! The tensor engine, entered where fusiond enters it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]

mod folders;
mod model;
mod parity;
mod queue;
mod rerank;
mod texts;
mod tiny;
