//! Waiting for changes: this server's own are known at once, those of others when a hint comes or the log is looked at again.

use std::time::Duration;

use fusion_types::job::{Owner, Seq};
use mongodb::bson::doc;
use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};

use super::{
    super::{deadline::within, schema::JOBS},
    Jobs, log,
};
use crate::kick::Kick;

/// Between looks at what other servers did.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A cancellation is to be heard of within two seconds.
const LOOK_FOR_CANCELLATIONS_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Wake {
    kick: Kick,
    /// The end of the log, as far as a waiter saw it.
    newest: watch::Sender<Seq>,
    /// One waiter looks for all.
    looking: Semaphore,
}

impl Wake {
    pub(super) fn new(kick: Kick) -> Self {
        Self {
            kick,
            newest: watch::Sender::new(Seq(0)),
            looking: Semaphore::new(1),
        }
    }

    /// This server has written a transition.
    pub(super) fn written(&self) {
        self.kick.written_here();
    }
}

impl Jobs {
    pub(super) async fn wait(&self, after: Seq, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut newest = self.wake.newest.subscribe();
        let seen = newest.wait_for(|newest| *newest > after);
        tokio::select! {
            _ = seen => {}
            () = time::sleep_until(until) => {}
            () = self.look(after) => {}
        }
    }

    /// Looks for whoever waits until there is something after `after`.
    async fn look(&self, after: Seq) {
        let Ok(_turn) = self.wake.looking.acquire().await else {
            return;
        };
        let mut kicks = self.wake.kick.listen();
        loop {
            kicks.forget();
            if let Ok(newest) = self.newest().await {
                self.wake.newest.send_if_modified(|known| {
                    let is_newer = newest > *known;
                    *known = newest.max(*known);
                    is_newer
                });
                if newest > after {
                    return;
                }
            }
            let _ = time::timeout(LOOK_EVERY, kicks.hear()).await;
        }
    }

    async fn newest(&self) -> Result<Seq, crate::error::StoreError> {
        self.move_pending().await?;
        log::head(&self.store).await
    }

    /// Returns when a running job of the owner is to be cancelled.
    pub(super) async fn cancellation(&self, owner: &Owner) {
        let mut kicks = self.wake.kick.listen();
        loop {
            // First, since who acts on a cancellation asks for the next while the job still carries the wish.
            let _ = time::timeout(LOOK_FOR_CANCELLATIONS_EVERY, kicks.hear()).await;
            let wanted = doc! { "owner": &owner.0, "cancel_wanted": true, "status": "processing" };
            let jobs = self.store.collection(JOBS);
            let found = within(async { Ok(jobs.find_one(wanted).await?) });
            if let Ok(Some(_)) = found.await {
                return;
            }
        }
    }
}
