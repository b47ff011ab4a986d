//! Redis beside a store that servers share: which jobs are ready, and a word to the others when something changed.
//!
//! The store stays the truth. A job is claimed by the store's own fenced write, whoever named it; what Redis lost is found by a look
//! into the store, and while Redis is away, everything is.

mod link;
mod rate;
mod ready;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fusion_types::{
    Result, Tenant, Timestamp,
    id::JobId,
    job::{
        Change, Claim, Claimed, Fence, Held, Inserted, Job, JobCounts, JobQuery, JobWrite, NewJob,
        Owner, Seq,
    },
    page::Page,
    store::JobStore,
};

pub(crate) use self::link::Link;
use crate::queue::{Queue, Ready};

/// Where the shared queue is.
#[derive(Clone)]
pub struct RedisConfig {
    /// May hold a password, and is never shown.
    pub uri: String,
    /// The number of the database, where the URI names none.
    pub database: i64,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A job store that claims what Redis names first.
pub(crate) struct Hinted {
    store: Arc<dyn Queue>,
    link: Arc<Link>,
}

impl Hinted {
    pub(crate) fn new(store: Arc<dyn Queue>, link: Arc<Link>) -> Self {
        Self { store, link }
    }
}

/// What of these can be claimed now.
fn ready<'a>(
    offered: &'a [(Ready, bool)],
    inserted: &'a [Inserted],
) -> impl Iterator<Item = Ready> + 'a {
    let new = offered.iter().zip(inserted);
    new.filter(|((_, is_due), inserted)| *is_due && matches!(inserted, Inserted::New(_)))
        .map(|((ready, _), _)| ready.clone())
}

fn offered(job: &NewJob, now: Timestamp) -> (Ready, bool) {
    let ready = Ready {
        sort_key: job.sort_key,
        job_id: job.id.clone(),
        model_id: job.model_id.clone(),
    };
    (ready, job.depends_on.is_empty() && job.run_at <= now)
}

#[async_trait]
impl JobStore for Hinted {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>> {
        let now = Timestamp::now();
        let offers: Vec<_> = jobs.iter().map(|job| offered(job, now)).collect();
        let inserted = self.store.insert(jobs).await?;
        let ready: Vec<Ready> = ready(&offers, &inserted).collect();
        self.link.offer(&ready).await;
        Ok(inserted)
    }

    /// What Redis names is claimed, as far as it can be had; room that is left is filled from the store, which knows all.
    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        let mut claimed = Vec::new();
        let named = self.link.take(&claim).await;
        if !named.is_empty() {
            claimed = self.store.claim_of(&claim, &named).await?;
        }
        let taken = u32::try_from(claimed.len()).unwrap_or(u32::MAX);
        let left = claim.limit.saturating_sub(taken);
        if left > 0 || claim.limit == 0 {
            let rest = Claim {
                limit: left,
                ..claim
            };
            claimed.extend(self.store.claim(rest).await?);
        }
        Ok(claimed)
    }

    async fn renew(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>> {
        self.store.renew(owner, lease, jobs).await
    }

    async fn write(&self, id: &JobId, fence: Fence, write: JobWrite) -> Result<Job> {
        self.store.write(id, fence, write).await
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        self.store.cancel(tenant, id).await
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        self.store.retry(tenant, id).await
    }

    async fn cancel_group(&self, tenant: &Tenant, group: &str) -> Result<u64> {
        self.store.cancel_group(tenant, group).await
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>> {
        self.store.get(tenant, id).await
    }

    async fn group(&self, tenant: &Tenant, group: &str) -> Result<JobCounts> {
        self.store.group(tenant, group).await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>> {
        self.store.list(query).await
    }

    async fn position(&self, id: &JobId) -> Result<Option<u64>> {
        self.store.position(id).await
    }

    async fn counts(&self) -> Result<JobCounts> {
        self.store.counts().await
    }

    async fn changes(&self, after: Seq, limit: u32) -> Result<Vec<Change>> {
        self.store.changes(after, limit).await
    }

    async fn wait_for_changes(&self, after: Seq, at_most: Duration) {
        self.store.wait_for_changes(after, at_most).await;
    }

    async fn head(&self) -> Result<Seq> {
        self.store.head().await
    }

    async fn wait_for_cancellation(&self, owner: &Owner) {
        self.store.wait_for_cancellation(owner).await;
    }

    async fn release_all_leases(&self) -> Result<u64> {
        self.store.release_all_leases().await
    }

    async fn sweep(&self) -> Result<u64> {
        self.store.sweep().await
    }
}
