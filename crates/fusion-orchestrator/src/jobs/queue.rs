//! How long the queue is, and where a job is in it, roughly and cheaply.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    job::NewJob,
    store::{JobStore, POSITIONS_COUNTED},
};
use serde_json::json;
use tokio::time::Instant;

/// Counting a long queue costs more than a submission may take, so a count serves for this long.
const FRESH: Duration = Duration::from_millis(500);
/// When a full queue is worth another try.
const RETRY_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct QueueLength {
    /// The last count, and what was let in since.
    counted: Mutex<Option<(Instant, u64)>>,
    /// A job that had as many before it as a store counts.
    far: Mutex<Option<(Instant, Place)>>,
}

/// What decides about a job's place in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    sort_key: i64,
    run_at: Timestamp,
}

impl Place {
    pub(super) fn of(job: &NewJob) -> Self {
        Self {
            sort_key: job.sort_key,
            run_at: job.run_at,
        }
    }

    /// Whether all that is before the other is before this too.
    fn is_behind(self, other: Self) -> bool {
        self.sort_key >= other.sort_key && self.run_at >= other.run_at
    }
}

impl QueueLength {
    /// Lets `more` jobs in while there is room for them.
    ///
    /// # Errors
    /// `queue_full`, `store_unavailable`.
    pub(super) async fn admit(&self, store: &dyn JobStore, more: u64, most: u64) -> Result<()> {
        let queued = match self.queued() {
            Some(queued) => queued,
            None => {
                let queued = store.counts().await?.queued;
                *lock(&self.counted) = Some((Instant::now(), queued));
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
        if let Some((_, queued)) = &mut *lock(&self.counted) {
            *queued = queued.saturating_add(more);
        }
        Ok(())
    }

    /// The position of a job that is farther behind than a store counts: the queue's length. `None` where only a look can tell.
    pub(super) fn position_far_behind(&self, place: Place) -> Option<u64> {
        let (at, far) = (*lock(&self.far))?;
        if at.elapsed() >= FRESH || !place.is_behind(far) {
            return None;
        }
        self.queued().map(|queued| queued.max(POSITIONS_COUNTED))
    }

    pub(super) fn learn(&self, place: Place, position: u64) {
        if position >= POSITIONS_COUNTED {
            *lock(&self.far) = Some((Instant::now(), place));
        }
    }

    fn queued(&self) -> Option<u64> {
        let counted = *lock(&self.counted);
        counted
            .filter(|(at, _)| at.elapsed() < FRESH)
            .map(|(_, queued)| queued)
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sort_key: i64, run_at: i64) -> Place {
        Place {
            sort_key,
            run_at: Timestamp::from_millis(run_at),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_behind_one_that_is_far_behind_is_as_far_for_a_while() {
        let queue = QueueLength::default();
        *lock(&queue.counted) = Some((Instant::now(), 5_000));
        queue.learn(place(7, 7), 999);
        assert_eq!(queue.position_far_behind(place(8, 8)), None);
        queue.learn(place(7, 7), 5_000);
        assert_eq!(queue.position_far_behind(place(7, 7)), Some(5_000));
        assert_eq!(queue.position_far_behind(place(8, 8)), Some(5_000));
        // Of a higher priority, or due while others that were counted are not.
        assert_eq!(queue.position_far_behind(place(6, 8)), None);
        assert_eq!(queue.position_far_behind(place(8, 6)), None);
        tokio::time::advance(FRESH).await;
        assert_eq!(queue.position_far_behind(place(8, 8)), None);
    }
}
