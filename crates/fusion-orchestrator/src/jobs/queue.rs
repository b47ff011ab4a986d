//! How long the queue is, roughly and cheaply.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use fusion_types::{Error, ErrorCode, Result, store::JobStore};
use serde_json::json;
use tokio::time::Instant;

/// Counting a long queue costs more than a submission may take, so a count serves for this long.
const FRESH: Duration = Duration::from_millis(500);
/// When a full queue is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The last count, and what was let in since.
#[derive(Debug, Default)]
pub(super) struct QueueLength {
    counted: Mutex<Option<(Instant, u64)>>,
}

impl QueueLength {
    /// Lets `more` jobs in while there is room for them.
    ///
    /// # Errors
    /// `queue_full`, `store_unavailable`.
    pub(super) async fn admit(&self, store: &dyn JobStore, more: u64, most: u64) -> Result<()> {
        let queued = match self.fresh() {
            Some(queued) => queued,
            None => {
                let queued = store.counts().await?.queued;
                self.remember(queued);
                queued
            }
        };
        if queued.saturating_add(more) > most {
            let error = Error::new(
                ErrorCode::QueueFull,
                format!("{queued} jobs are queued, and {most} is the limit"),
            );
            return Err(error
                .with_details(json!({ "position": queued }))
                .with_retry_after(RETRY_AFTER));
        }
        self.add(more);
        Ok(())
    }

    fn fresh(&self) -> Option<u64> {
        let counted = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted
            .filter(|(at, _)| at.elapsed() < FRESH)
            .map(|(_, queued)| queued)
    }

    fn remember(&self, queued: u64) {
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), queued));
    }

    fn add(&self, more: u64) {
        if let Some((_, queued)) = &mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *queued = queued.saturating_add(more);
        }
    }
}
