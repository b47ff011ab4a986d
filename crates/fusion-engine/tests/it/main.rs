//! The dialect as a server meets it: a real child process, a real socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod dialect;
mod life;
