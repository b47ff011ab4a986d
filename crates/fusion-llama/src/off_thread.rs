//! Work that takes a while, away from the thread that carries the sockets.

use fusion_engine::types::{Error, Result};
use tokio::task::spawn_blocking;

/// # Errors
/// What the work says, or `internal_error` where it panics.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let outcome = spawn_blocking(work).await;
    outcome.map_err(|error| Error::internal(error.to_string()))?
}
