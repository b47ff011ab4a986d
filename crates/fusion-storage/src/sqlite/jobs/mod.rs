//! Jobs and their change log.

mod change;
mod claim;
pub(super) mod counts;
mod dependencies;
mod export;
mod insert;
mod list;
mod payload;
mod row;
mod sweep;
mod write;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Tenant, Timestamp,
    id::JobId,
    job::{
        Change, Claim, Claimed, Fence, Held, Inserted, Job, JobCounts, JobQuery, JobWrite, NewJob,
        Owner, Seq,
    },
    page::Page,
    store::JobStore,
};
use tokio::time::timeout;

use super::{Sqlite, documents::purge_dropped_collections};

/// Jobs that one transaction removes, so that a large sweep lets other writes in between.
const SWEPT_AT_ONCE: u32 = 200;

pub(crate) struct Jobs {
    store: Arc<Sqlite>,
}

impl Jobs {
    pub(crate) fn new(store: Arc<Sqlite>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl JobStore for Jobs {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>> {
        self.store
            .write(move |transaction| insert::insert_all(transaction, &jobs, Timestamp::now()))
            .await
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        self.store
            .write(move |transaction| claim::claim(transaction, &claim, Timestamp::now()))
            .await
    }

    async fn renew(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>> {
        let (owner, jobs) = (owner.clone(), jobs.to_vec());
        self.store
            .write(move |transaction| {
                let until = Timestamp::now().plus(lease);
                jobs.iter()
                    .map(|(id, fence)| write::renew(transaction, &owner, id, *fence, until))
                    .collect()
            })
            .await
    }

    async fn write(&self, id: &JobId, fence: Fence, write: JobWrite) -> Result<Job> {
        let id = id.clone();
        self.store
            .write(move |transaction| {
                write::write(transaction, &id, fence, write, Timestamp::now())
            })
            .await
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.store
            .write(move |transaction| write::cancel(transaction, &tenant, &id, Timestamp::now()))
            .await
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.store
            .write(move |transaction| write::retry(transaction, &tenant, &id, Timestamp::now()))
            .await
    }

    async fn cancel_group(&self, tenant: &Tenant, group: &str) -> Result<u64> {
        let (mut asked, mut after) = (0, 0);
        loop {
            let (tenant, group) = (tenant.clone(), group.to_owned());
            let some = self
                .store
                .write(move |transaction| {
                    let now = Timestamp::now();
                    write::cancel_group(transaction, &tenant, &group, after, now)
                })
                .await?;
            let Some(last) = some.last else {
                return Ok(asked);
            };
            (asked, after) = (asked + some.asked, last);
        }
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.store
            .read(move |connection| {
                let row = row::find_public(connection, &tenant, &id, Timestamp::now())?;
                Ok(row.map(|row| row.state.job))
            })
            .await
    }

    async fn group(&self, tenant: &Tenant, group: &str) -> Result<JobCounts> {
        let (tenant, group) = (tenant.clone(), group.to_owned());
        self.store
            .read(move |connection| list::group(connection, &tenant, &group, Timestamp::now()))
            .await
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>> {
        let query = query.clone();
        self.store
            .read(move |connection| list::list(connection, &query, Timestamp::now()))
            .await
    }

    async fn position(&self, id: &JobId) -> Result<Option<u64>> {
        let id = id.clone();
        self.store
            .read(move |connection| list::position(connection, &id, Timestamp::now()))
            .await
    }

    async fn counts(&self) -> Result<JobCounts> {
        self.store.read(list::counts).await
    }

    async fn changes(&self, after: Seq, limit: u32) -> Result<Vec<Change>> {
        self.store
            .read(move |connection| change::after(connection, after, limit))
            .await
    }

    async fn wait_for_changes(&self, after: Seq, at_most: Duration) {
        let mut newest = self.store.newest_change();
        // The time is up, there is a change, or the store is closed: each ends the wait.
        let _ = timeout(at_most, newest.wait_for(|newest| *newest > after.0)).await;
    }

    async fn head(&self) -> Result<Seq> {
        Ok(Seq(*self.store.newest_change().borrow()))
    }

    async fn release_all_leases(&self) -> Result<u64> {
        self.store.write(claim::release_all_leases).await
    }

    async fn sweep(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let now = Timestamp::now();
            let swept = self
                .store
                .write(move |transaction| sweep::sweep(transaction, now, SWEPT_AT_ONCE))
                .await?;
            removed += swept.jobs;
            if !swept.is_more {
                break;
            }
        }
        purge_dropped_collections(&self.store).await?;
        Ok(removed)
    }
}

fn job_not_found(id: &JobId) -> Error {
    Error::new(ErrorCode::JobNotFound, format!("job {id} not found"))
}
