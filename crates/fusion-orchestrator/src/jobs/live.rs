//! The output of jobs that run in this process, for whoever wants to see it grow. It lives with the attempt: what is promised of
//! a job is its result.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fusion_types::id::JobId;
use tokio::sync::{Notify, futures::Notified, watch};

use super::operation::Partial;

#[derive(Clone, Default)]
pub(super) struct Live {
    attempts: Arc<Mutex<HashMap<JobId, Attempt>>>,
    begun: Arc<Notify>,
}

#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) number: u32,
    pub(super) output: watch::Receiver<Partial>,
}

/// Lets go of the attempt when dropped.
pub(super) struct Shown {
    live: Live,
    id: JobId,
    number: u32,
}

impl Live {
    pub(super) fn show(&self, id: &JobId, attempt: Attempt) -> Shown {
        let number = attempt.number;
        self.attempts().insert(id.clone(), attempt);
        self.begun.notify_waiters();
        Shown {
            live: self.clone(),
            id: id.clone(),
            number,
        }
    }

    pub(super) fn of(&self, id: &JobId) -> Option<Attempt> {
        self.attempts().get(id).cloned()
    }

    /// Resolves at the next attempt of any job that begins after this call, also where it is awaited later.
    pub(super) fn begun(&self) -> Notified<'_> {
        self.begun.notified()
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<JobId, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut attempts = self.live.attempts();
        if attempts
            .get(&self.id)
            .is_some_and(|shown| shown.number == self.number)
        {
            attempts.remove(&self.id);
        }
    }
}
