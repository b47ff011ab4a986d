//! Stopping: what ends in which order, and how long each part may take.

use std::{future::Future, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks that ends together, before the groups that it leans on.
#[derive(Clone, Default)]
pub(crate) struct Group {
    pub(crate) tasks: TaskTracker,
    pub(crate) token: CancellationToken,
}

impl Group {
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task);
    }

    /// Asks the tasks to end and waits for them.
    pub(crate) async fn end(&self, name: &str, at_most: Duration) {
        self.token.cancel();
        self.tasks.close();
        if timeout(at_most, self.tasks.wait()).await.is_err() {
            tracing::warn!(group = name, "did not end within its time");
        }
    }
}

/// Resolves at the first SIGINT or SIGTERM.
pub(crate) async fn asked_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        tracing::error!("can't listen for signals; only a kill will stop this server");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
