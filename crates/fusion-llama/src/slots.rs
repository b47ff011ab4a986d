//! Requests that an engine serves side by side; the server has the queue for more.

use fusion_engine::{
    Launch,
    types::{Error, ErrorCode, Result},
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// More would only wait.
const MOST: u32 = 256;

pub(crate) struct Slots {
    count: u32,
    free: Semaphore,
}

impl Slots {
    pub(crate) fn of(launch: &Launch) -> Self {
        let count = launch.slots.clamp(1, MOST);
        Self {
            count,
            free: Semaphore::new(count as usize),
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn busy(&self) -> u32 {
        let free = u32::try_from(self.free.available_permits()).unwrap_or(u32::MAX);
        self.count.saturating_sub(free)
    }

    /// # Errors
    /// `engine_unavailable` where all are busy.
    pub(crate) fn take(&self) -> Result<SemaphorePermit<'_>> {
        self.free.try_acquire().map_err(|_| {
            let message = format!("all {} slots are busy", self.count);
            Error::new(ErrorCode::EngineUnavailable, message)
        })
    }
}
