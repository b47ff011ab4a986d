//! How long an answer is waited for: the driver waits for as long as its connection stands, and so may hold what others wait for.

use std::time::Duration;

use fusion_types::Result;
use tokio::time::timeout;

use crate::error::{StoreError, unavailable};

/// Longer than anything takes on a server that works. Whether what was cut off was done is as unknown as after a lost connection.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// # Errors
/// The work's own; `store_unavailable` where it takes too long.
pub(super) async fn within<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T> {
    match timeout(ANSWERS_WITHIN, work).await {
        Ok(done) => Ok(done?),
        Err(_elapsed) => Err(unavailable("MongoDB did not answer in time")),
    }
}

#[cfg(test)]
mod tests {
    use fusion_types::ErrorCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_never_answers_is_given_up() {
        let error = within(std::future::pending::<Result<(), StoreError>>()).await;
        assert_eq!(error.unwrap_err().code, ErrorCode::StoreUnavailable);
        assert_eq!(within(async { Ok(1) }).await.unwrap(), 1);
    }
}
