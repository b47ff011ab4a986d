//! Reads the change log, makes deliveries of it, and sends them when they are due.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fusion_types::{ErrorCode, Result};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Parts,
    attempt::{Attempted, attempt},
    intake::Intake,
    record::{Delivery, OUTBOX, all, read},
    schedule::{Due, Schedule},
};
use crate::jobs::wait_for_changes;

/// Looked at the clock at least this often, since it may be set, and the machine may sleep.
const TICK: Duration = Duration::from_secs(30);
/// Until the next try where the store failed.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// For a delivery whose attempt ended without an answer.
const AFTER_PANIC: Duration = Duration::from_secs(60);
/// What attempts under way get at shutdown. Those that need longer are made again after the next start.
const GRACE: Duration = Duration::from_secs(2);

/// Owns the deliveries that are under way. Dropped, it drops them; the store still has them.
pub struct Dispatcher {
    parts: Arc<Parts>,
    intake: Intake,
    schedule: Schedule,
    attempts: JoinSet<Attempted>,
    under_way: HashMap<Id, Due>,
    /// Whether the store may hold more than is known here.
    stale: bool,
}

impl Dispatcher {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self {
            parts,
            intake: Intake::default(),
            schedule: Schedule::default(),
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            stale: true,
        }
    }

    /// Delivers until the token is cancelled.
    pub async fn run(mut self, tasks: TaskTracker, token: CancellationToken) {
        let parts = Arc::clone(&self.parts);
        // What other servers were asked to deliver again.
        let mut reloads = time::interval_at(Instant::now() + TICK, TICK);
        while !token.is_cancelled() {
            let looked = self.look().await;
            self.start_due(&tasks);
            let (cursor, until_due) = (self.intake.cursor, self.until_due());
            let news = async {
                match looked {
                    Ok(()) => wait_for_changes(&*parts.jobs, cursor, TICK).await,
                    Err(_) => time::sleep(STORE_PAUSE).await,
                }
            };
            tokio::select! {
                () = token.cancelled() => {}
                Some(ended) = self.attempts.join_next_with_id() => self.settle(ended),
                () = parts.more.notified() => self.stale = true,
                _ = reloads.tick() => self.stale = true,
                () = time::sleep(until_due) => {}
                () = news => {}
            }
        }
        self.drain().await;
    }

    /// Takes in what is new.
    async fn look(&mut self) -> Result<()> {
        let looked = self.take_in().await;
        if let Err(error) = &looked {
            self.stale |= error.code == ErrorCode::VersionConflict;
            tracing::warn!(%error, "changes can't be made into deliveries");
        }
        looked
    }

    async fn take_in(&mut self) -> Result<()> {
        if self.stale {
            self.intake = Intake::load(&self.parts).await?;
            for record in all(&*self.parts.records, OUTBOX, "").await? {
                self.add(&read(record)?);
            }
            self.stale = false;
        }
        for delivery in self.intake.take(&self.parts).await? {
            self.add(&delivery);
        }
        Ok(())
    }

    fn add(&mut self, delivery: &Delivery) {
        let at = delivery.next_attempt_at.unwrap_or(delivery.created_at);
        self.schedule.add(&delivery.url, delivery.key(), at);
    }

    fn start_due(&mut self, tasks: &TaskTracker) {
        for due in self.schedule.take_due(self.parts.now()) {
            let attempt = attempt(Arc::clone(&self.parts), due.key.clone());
            let handle = self.attempts.spawn(tasks.track_future(attempt));
            self.under_way.insert(handle.id(), due);
        }
    }

    fn until_due(&self) -> Duration {
        self.schedule
            .next()
            .map_or(TICK, |at| at.since(self.parts.now()).min(TICK))
    }

    fn settle(&mut self, ended: Result<(Id, Attempted), JoinError>) {
        let (task, attempted) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an attempt at a delivery ended unexpectedly");
                let again = Some(self.parts.now().plus(AFTER_PANIC));
                (
                    error.id(),
                    Attempted {
                        again,
                        worked: None,
                    },
                )
            }
        };
        if let Some(due) = self.under_way.remove(&task) {
            let now = self.parts.now();
            self.schedule
                .ended(due, attempted.again, attempted.worked, now);
        }
    }

    async fn drain(mut self) {
        let ended = async { while self.attempts.join_next().await.is_some() {} };
        // Past the grace the rest is dropped with the set.
        let _elapsed = time::timeout(GRACE, ended).await;
    }
}
