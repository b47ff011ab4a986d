//! Waiting on the change log.

use std::time::Duration;

use fusion_types::{job::Seq, store::JobStore};
use tokio::time::{self, Instant};

/// Between looks where the store wakes its waiters for changes that are swept by now.
const PAUSE: Duration = Duration::from_millis(250);

/// Returns once there is a change after `after`, the store fails, or the time is up. A store may wake for what it has swept
/// since; taken as news, that would make a loop around this spin.
pub(crate) async fn wait_for_changes(store: &dyn JobStore, after: Seq, at_most: Duration) {
    let until = Instant::now() + at_most;
    loop {
        store
            .wait_for_changes(after, until.saturating_duration_since(Instant::now()))
            .await;
        let left = until.saturating_duration_since(Instant::now());
        let is_swept = store
            .changes(after, 1)
            .await
            .is_ok_and(|changes| changes.is_empty());
        if left.is_zero() || !is_swept {
            return;
        }
        time::sleep(PAUSE.min(left)).await;
    }
}
