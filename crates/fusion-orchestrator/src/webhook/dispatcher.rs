//! Reads the change log, makes deliveries of it, sends them.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Parts;

/// Owns the deliveries that are under way.
pub struct Dispatcher {
    parts: Arc<Parts>,
}

impl Dispatcher {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// Delivers until the token is cancelled.
    pub async fn run(self, tasks: TaskTracker, token: CancellationToken) {
        let _ = (
            &self.parts.records,
            &self.parts.jobs,
            &self.parts.outgoing,
            &self.parts.config,
            tasks,
        );
        token.cancelled().await;
    }
}
