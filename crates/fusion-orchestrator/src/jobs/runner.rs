//! The worker: claims what it can run, keeps its leases, lets go of what was cancelled or lost.

use std::{sync::Arc, time::Duration};

use fusion_types::job::Owner;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Parts;

#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Unique to this run of this server.
    pub owner: Owner,
    pub lease: Duration,
    pub renew_every: Duration,
    /// How often to look for jobs that have become due.
    pub tick: Duration,
    /// What running jobs get at shutdown before they go back to the queue.
    pub grace: Duration,
}

impl RunnerConfig {
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            lease: Duration::from_secs(15),
            renew_every: Duration::from_secs(5),
            tick: Duration::from_secs(1),
            grace: Duration::from_secs(5),
        }
    }
}

/// Owns the jobs that run in this process.
pub struct Runner {
    parts: Arc<Parts>,
    config: RunnerConfig,
}

impl Runner {
    pub(super) fn new(parts: Arc<Parts>, config: RunnerConfig) -> Self {
        Self { parts, config }
    }

    /// Works until the token is cancelled and what was running has ended or gone back to the queue.
    pub async fn run(self, tasks: TaskTracker, token: CancellationToken) {
        let _ = (&self.parts, &self.config, tasks);
        token.cancelled().await;
    }
}
