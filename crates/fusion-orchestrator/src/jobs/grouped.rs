//! What batches need of jobs: many of one group, kept without refusing any, and looked at by their ids.

use std::{cmp::max, time::Duration};

use fusion_types::{
    Result, Tenant, Timestamp,
    id::{JobId, RequestId},
    job::{Idempotency, Job, JobCounts, NewJob, handicap},
    model::Priority,
};
use serde_json::{Map, Value};

use super::{Jobs, Work, wait_for_changes};

/// One job of a group. Its id is its key as well, so that keeping it again makes no second one.
pub(crate) struct Member {
    pub(crate) id: JobId,
    pub(crate) work: Work,
    pub(crate) metadata: Map<String, Value>,
}

/// What the jobs of a group have in common.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) tenant: Tenant,
    /// Until then its jobs go after all others that wait; afterwards in the order of time.
    pub(crate) behind_until: Timestamp,
    /// The least time that finished jobs are kept for.
    pub(crate) ttl: Duration,
}

impl Jobs {
    /// Refuses what could never run.
    pub(crate) fn check(&self, work: &Work) -> Result<()> {
        self.parts.operations.check(work).map(|_forecast| ())
    }

    pub(crate) fn max_input_bytes(&self) -> usize {
        self.parts.config.max_input_bytes
    }

    /// Keeps the jobs, in one commit. Half of the queue is left to others.
    ///
    /// # Errors
    /// `queue_full`, `store_unavailable`; none is kept then.
    pub(crate) async fn keep(&self, group: &Group, members: Vec<Member>) -> Result<()> {
        let parts = &self.parts;
        let (more, most) = (members.len() as u64, max(parts.config.max_queued / 2, 1));
        parts.queue.admit(&*parts.store, more, most).await?;
        let now = (parts.clock)();
        let jobs = members
            .into_iter()
            .map(|member| self.new_job(group, member, now));
        parts.store.insert(jobs.collect()).await?;
        Ok(())
    }

    pub(crate) async fn counts_of(&self, group: &Group) -> Result<JobCounts> {
        self.parts.store.group(&group.tenant, &group.name).await
    }

    pub(crate) async fn cancel_members(&self, group: &Group) -> Result<()> {
        let store = &self.parts.store;
        store.cancel_group(&group.tenant, &group.name).await?;
        self.parts.cancellation.notify_one();
        Ok(())
    }

    pub(crate) async fn find(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>> {
        self.parts.store.get(tenant, id).await
    }

    /// Returns once some job changes, or the time is up.
    pub(crate) async fn wait_for_any(&self, at_most: Duration) -> Result<()> {
        let seen = self.parts.store.head().await?;
        wait_for_changes(&*self.parts.store, seen, at_most).await;
        Ok(())
    }

    fn new_job(&self, group: &Group, member: Member, now: Timestamp) -> NewJob {
        let (config, key) = (&self.parts.config, member.id.to_string());
        NewJob {
            id: member.id,
            tenant: group.tenant.clone(),
            request_id: RequestId::generate(),
            operation: member.work.operation,
            model_id: member.work.model_id,
            input: member.work.input,
            priority: Priority::Low,
            metadata: member.metadata,
            callback_url: None,
            // The id stands for the line of an input that never changes, so that it is the body's hash as well.
            idempotency: Some(Idempotency {
                body_hash: key.clone(),
                key,
            }),
            created_at: now,
            run_at: now,
            sort_key: max(
                now.as_millis().saturating_add(handicap(Priority::Low)),
                group.behind_until.as_millis(),
            ),
            timeout: config.default_timeout,
            max_attempts: config.max_attempts,
            ttl: max(config.job_ttl, group.ttl),
            group: Some(group.name.clone()),
            depends_on: Vec::new(),
        }
    }
}
