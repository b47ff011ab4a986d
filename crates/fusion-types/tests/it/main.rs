//! Bodies as clients send them, good and bad.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod hostile;
