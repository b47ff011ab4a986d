//! Jobs and their change log.
//!
//! A transition is one write of one document: the job is read with the server's time, decided on by the rules that all backends
//! share, and stored where nobody wrote it in between. The write carries the change along, in an array from which [`log`] moves it
//! into the change log.

mod claim;
mod dependencies;
mod import;
mod insert;
mod list;
mod log;
mod row;
mod sweep;
mod wake;
mod write;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Tenant,
    id::JobId,
    job::{
        Change, Claim, Claimed, Fence, Held, Inserted, Job, JobCounts, JobQuery, JobWrite, NewJob,
        Owner, Seq,
    },
    page::Page,
    store::JobStore,
};
use tokio::{sync::Semaphore, time::timeout};

use self::wake::Wake;
use super::{
    Mongo,
    deadline::{ANSWERS_WITHIN, within},
};
use crate::{
    Inputs,
    error::StoreError,
    kick::Kick,
    queue::{Queue, Ready},
};

pub(crate) struct Jobs {
    store: Arc<Mongo>,
    inputs: Inputs,
    wake: Wake,
    /// One claim of this server at a time: side by side they would only take each other's jobs.
    claiming: Semaphore,
    /// One mover of this server at a time.
    moving: Semaphore,
    walk: sweep::Walk,
}

impl Jobs {
    /// `kick` is given when another server may have changed something.
    pub(crate) fn new(store: Arc<Mongo>, inputs: Inputs, kick: Kick) -> Self {
        Self {
            store,
            inputs,
            wake: Wake::new(kick),
            claiming: Semaphore::new(1),
            moving: Semaphore::new(1),
            walk: sweep::Walk::default(),
        }
    }
}

#[async_trait]
impl JobStore for Jobs {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>> {
        within(self.insert_all(jobs)).await
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        within(self.claim_due(&claim)).await
    }

    async fn renew(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>> {
        within(self.renew_leases(owner, lease, jobs)).await
    }

    async fn write(&self, id: &JobId, fence: Fence, write: JobWrite) -> Result<Job> {
        within(self.write_job(id, fence, write)).await
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        within(self.cancel_job(tenant, id)).await
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        within(self.retry_job(tenant, id)).await
    }

    async fn cancel_group(&self, tenant: &Tenant, group: &str) -> Result<u64> {
        within(self.cancel_all(tenant, group)).await
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>> {
        let job = async {
            Ok(match self.store.public_job(tenant, id).await? {
                Some(row) => Some(self.store.with_result(row).await?),
                None => None,
            })
        };
        within(job).await
    }

    async fn group(&self, tenant: &Tenant, group: &str) -> Result<JobCounts> {
        within(list::group(&self.store, tenant, group)).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>> {
        within(list::list(&self.store, query)).await
    }

    async fn position(&self, id: &JobId) -> Result<Option<u64>> {
        within(list::position(&self.store, id)).await
    }

    async fn counts(&self) -> Result<JobCounts> {
        within(list::counts(&self.store)).await
    }

    async fn changes(&self, after: Seq, limit: u32) -> Result<Vec<Change>> {
        within(self.move_pending()).await?;
        within(log::after(&self.store, after, limit)).await
    }

    async fn wait_for_changes(&self, after: Seq, at_most: Duration) {
        // What it can't find out in time, the caller looks for.
        let _ = timeout(at_most + ANSWERS_WITHIN, self.wait(after, at_most)).await;
    }

    async fn head(&self) -> Result<Seq> {
        within(log::head(&self.store)).await
    }

    async fn wait_for_cancellation(&self, owner: &Owner) {
        self.cancellation(owner).await;
    }

    /// Other servers are alive, and hold their leases rightly; those of the dead run out.
    async fn release_all_leases(&self) -> Result<u64> {
        Ok(0)
    }

    async fn sweep(&self) -> Result<u64> {
        self.sweep_expired().await
    }
}

#[async_trait]
impl Queue for Jobs {
    async fn due(&self, limit: u32) -> Result<Vec<Ready>> {
        within(self.list_due(limit)).await
    }

    async fn claim_of(&self, claim: &Claim, jobs: &[JobId]) -> Result<Vec<Claimed>> {
        within(self.claim_these(claim, jobs)).await
    }
}

fn job_not_found(id: &JobId) -> Error {
    Error::new(ErrorCode::JobNotFound, format!("job {id} not found"))
}

/// A job that so many others write at the same time isn't stored.
fn too_busy() -> StoreError {
    crate::error::unavailable("the store is too busy").into()
}
