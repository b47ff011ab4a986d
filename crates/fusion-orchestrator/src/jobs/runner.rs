//! The worker: claims what it can run, keeps its leases, lets go of what was cancelled or lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fusion_types::{
    Result,
    id::JobId,
    job::{Claim, Fence, Held, JobWrite, Outcome, Owner, Seq},
    model::{ModelCard, ModelStatus},
};
use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Parts,
    attempt::{attempt, write_through},
    changes::wait_for_changes,
};

/// Jobs that may run while no model is loaded: enough for one to bring its model in while another waits.
const FEWEST: u32 = 2;

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

/// Owns the jobs that run in this process. Dropped, it drops their work and leaves their leases to run out.
pub struct Runner {
    parts: Arc<Parts>,
    config: RunnerConfig,
    attempts: JoinSet<()>,
    running: HashMap<Id, Running>,
    /// The last change before the last claim.
    seen: Seq,
}

struct Running {
    id: JobId,
    fence: Fence,
    abort: AbortHandle,
}

/// What there is to wait for once a claim was made.
#[derive(Clone, Copy)]
enum Idle {
    /// Jobs that come in.
    Changes(Seq),
    /// Nothing but time: all places are taken, or the store failed.
    Tick,
}

impl Runner {
    pub(super) fn new(parts: Arc<Parts>, config: RunnerConfig) -> Self {
        Self {
            parts,
            config,
            attempts: JoinSet::new(),
            running: HashMap::new(),
            seen: Seq::default(),
        }
    }

    /// Works until the token is cancelled, and what was running has ended or gone back to the queue.
    pub async fn run(mut self, tasks: TaskTracker, token: CancellationToken) {
        let parts = Arc::clone(&self.parts);
        let tick = self.config.tick;
        let mut renewals = time::interval_at(
            Instant::now() + self.config.renew_every,
            self.config.renew_every,
        );
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let owner = self.config.owner.clone();
        let mut cancellation = parts.store.wait_for_cancellation(&owner);
        while !token.is_cancelled() {
            let idle = self.claim(&tasks).await;
            tokio::select! {
                () = token.cancelled() => {}
                Some(ended) = self.attempts.join_next_with_id() => self.forget(&ended),
                _ = renewals.tick() => self.renew(&tasks).await,
                () = parts.cancellation.notified() => self.renew(&tasks).await,
                () = &mut cancellation => {
                    cancellation = parts.store.wait_for_cancellation(&owner);
                    self.renew(&tasks).await;
                }
                () = wait(&parts, idle, tick) => {}
            }
        }
        self.drain(&tasks, renewals).await;
    }

    async fn claim(&mut self, tasks: &TaskTracker) -> Idle {
        // All that ended, so that one commit fills all their places.
        self.forget_ended();
        let running = u32::try_from(self.running.len()).unwrap_or(u32::MAX);
        let room = appetite(&self.parts.planner.models(), self.parts.config.parallel)
            .saturating_sub(running);
        if room == 0 {
            return Idle::Tick;
        }
        match self.start(room, tasks).await {
            Ok(()) => Idle::Changes(self.seen),
            Err(error) => {
                tracing::warn!(%error, "no jobs can be claimed");
                Idle::Tick
            }
        }
    }

    async fn start(&mut self, limit: u32, tasks: &TaskTracker) -> Result<()> {
        // Taken first, so that a job that comes in during the claim ends the wait after it.
        self.seen = self.parts.store.head().await?;
        let claim = Claim {
            owner: self.config.owner.clone(),
            limit,
            lease: self.config.lease,
            held_models: held(&self.parts.planner.models()),
            known_models: self.parts.planner.names(),
        };
        for claimed in self.parts.store.claim(claim).await? {
            let (id, fence) = (claimed.job.job_id.clone(), claimed.fence);
            let attempt = attempt(Arc::clone(&self.parts), claimed);
            let abort = self.attempts.spawn(tasks.track_future(attempt));
            self.running
                .insert(abort.id(), Running { id, fence, abort });
        }
        Ok(())
    }

    /// Extends all leases in one call, and acts on what comes back.
    async fn renew(&mut self, tasks: &TaskTracker) {
        self.forget_ended();
        let (tasks_held, jobs): (Vec<Id>, Vec<(JobId, Fence)>) = self
            .running
            .iter()
            .map(|(task, job)| (*task, (job.id.clone(), job.fence)))
            .unzip();
        if jobs.is_empty() {
            return;
        }
        match self
            .parts
            .store
            .renew(&self.config.owner, self.config.lease, &jobs)
            .await
        {
            Ok(held) => {
                // Those that ended meanwhile are not lost.
                self.forget_ended();
                for (task, held) in tasks_held.into_iter().zip(held) {
                    self.act(task, held, tasks);
                }
            }
            // Work goes on: if a lease runs out meanwhile, the fence keeps its writes out.
            Err(error) => tracing::warn!(%error, "leases can't be renewed"),
        }
    }

    fn act(&mut self, task: Id, held: Held, tasks: &TaskTracker) {
        if held == Held::Kept {
            return;
        }
        let Some(job) = self.running.remove(&task) else {
            return;
        };
        job.abort.abort();
        if held == Held::CancelWanted {
            let parts = Arc::clone(&self.parts);
            let cancelled = async move {
                let write = JobWrite::Finish(Outcome::Cancelled);
                write_through(&parts, &job.id, job.fence, write).await;
            };
            self.attempts.spawn(tasks.track_future(cancelled));
        } else {
            metrics::counter!("fusiond_job_leases_lost_total").increment(1);
            tracing::warn!(job_id = %job.id, fence = job.fence.0, "a job's lease was lost");
        }
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.attempts.try_join_next_with_id() {
            self.forget(&ended);
        }
    }

    fn forget(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        self.running.remove(&task);
    }

    /// Lets what runs end within the grace, then gives the rest back.
    async fn drain(mut self, tasks: &TaskTracker, mut renewals: Interval) {
        let parts = Arc::clone(&self.parts);
        let until = Instant::now() + self.config.grace;
        loop {
            tokio::select! {
                () = time::sleep_until(until) => break,
                ended = self.attempts.join_next_with_id() => match ended {
                    Some(ended) => self.forget(&ended),
                    None => return,
                },
                _ = renewals.tick() => self.renew(tasks).await,
                () = parts.cancellation.notified() => self.renew(tasks).await,
            }
        }
        self.attempts.shutdown().await;
        for job in self.running.into_values() {
            if let Err(error) = parts
                .store
                .write(&job.id, job.fence, JobWrite::Return)
                .await
            {
                tracing::info!(job_id = %job.id, %error, "a job was not given back");
            }
        }
    }
}

async fn wait(parts: &Parts, idle: Idle, tick: Duration) {
    match idle {
        Idle::Changes(seen) => wait_for_changes(&*parts.store, seen, tick).await,
        Idle::Tick => time::sleep(tick).await,
    }
}

/// The loaded models by every name that a job may call them.
fn held(models: &[ModelCard]) -> Vec<String> {
    let loaded = models
        .iter()
        .filter(|model| model.status == ModelStatus::Loaded);
    loaded
        .flat_map(|model| {
            let id = std::iter::once(model.id.as_str());
            id.chain(model.aliases.iter().map(|alias| alias.as_ref()))
                .map(str::to_owned)
        })
        .collect()
}

/// How many jobs to have running: twice what the loaded models' slots hold, so that none falls idle between two jobs.
fn appetite(models: &[ModelCard], most: u32) -> u32 {
    let loaded = models
        .iter()
        .filter(|model| model.status == ModelStatus::Loaded);
    let slots = loaded.fold(0_u32, |slots, model| slots.saturating_add(model.slots));
    slots.saturating_mul(2).max(FEWEST).min(most)
}

#[cfg(test)]
mod tests {
    use fusion_types::{
        Timestamp,
        model::{ModelId, ModelType, Priority},
    };
    use serde_json::Map;

    use super::*;

    fn model(status: ModelStatus, slots: u32) -> ModelCard {
        ModelCard {
            id: ModelId::new("m"),
            model_type: ModelType::Lm,
            status,
            family: None,
            description: None,
            tags: Vec::new(),
            capabilities: Vec::new(),
            context_length: None,
            dimension: None,
            fingerprint: None,
            footprint_bytes: None,
            file_bytes: 0,
            load: 0.0,
            slots,
            pinned: false,
            priority: Priority::Normal,
            aliases: Vec::new(),
            adapters: Vec::new(),
            created_at: Timestamp::from_millis(0),
            metadata: Map::new(),
        }
    }

    #[test]
    fn the_appetite_is_twice_the_loaded_slots_within_bounds() {
        let (loaded, unloaded) = (ModelStatus::Loaded, ModelStatus::Unloaded);
        assert_eq!(appetite(&[], 8), 2);
        assert_eq!(appetite(&[model(unloaded, 4)], 8), 2);
        assert_eq!(appetite(&[model(loaded, 2), model(unloaded, 4)], 8), 4);
        assert_eq!(appetite(&[model(loaded, 4), model(loaded, 4)], 8), 8);
        assert_eq!(appetite(&[], 1), 1);
    }
}
