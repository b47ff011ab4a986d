//! A job store in memory that keeps the promises of the trait, on tokio's clock so that tests can pause it.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Tenant, Timestamp,
    id::JobId,
    job::{
        Change, Claim, Claimed, Fence, Held, Inserted, Job, JobCounts, JobError, JobEvent,
        JobQuery, JobStatus, JobWrite, NewJob, Outcome, Owner, Seq,
    },
    page::Page,
    store::JobStore,
};
use tokio::{sync::watch, time::Instant};

pub(crate) struct MemoryJobs {
    rows: Mutex<Vec<Row>>,
    changes: Mutex<Vec<Change>>,
    newest: watch::Sender<u64>,
    base: (Instant, Timestamp),
    refused: Mutex<u32>,
}

struct Row {
    new: NewJob,
    job: Job,
    fence: Fence,
    owner: Option<Owner>,
    lease_until: Timestamp,
    run_at: Timestamp,
    cancel_wanted: bool,
}

impl MemoryJobs {
    pub(crate) fn new() -> Self {
        Self {
            rows: Mutex::default(),
            changes: Mutex::default(),
            newest: watch::channel(0).0,
            base: (Instant::now(), Timestamp::now()),
            refused: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.base.1.plus(self.base.0.elapsed())
    }

    /// Another worker takes the job over, as after a lease that ran out.
    pub(crate) fn steal(&self, id: &JobId) {
        let mut rows = self.rows();
        let row = find(&mut rows, id).unwrap();
        row.fence.0 += 1;
        row.owner = Some(Owner("thief".to_owned()));
        row.lease_until = self.now().plus(Duration::from_secs(3600));
    }

    /// Forgets the log up to and with `seq`.
    pub(crate) fn forget_changes(&self, seq: Seq) {
        self.changes
            .lock()
            .unwrap()
            .retain(|change| change.seq > seq);
    }

    /// Writes that came with a stale fence.
    pub(crate) fn refused(&self) -> u32 {
        *self.refused.lock().unwrap()
    }

    pub(crate) fn job(&self, id: &JobId) -> Job {
        find(&mut self.rows(), id).unwrap().job.clone()
    }

    pub(crate) fn job_count(&self) -> usize {
        self.rows().len()
    }

    /// Sort key, run_at and the like of a job as it was handed in.
    pub(crate) fn handed_in(&self, id: &JobId) -> NewJob {
        find(&mut self.rows(), id).unwrap().new.clone()
    }

    pub(crate) fn events(&self, id: &JobId) -> Vec<JobEvent> {
        let changes = self.changes.lock().unwrap();
        changes
            .iter()
            .filter(|change| change.job.job_id == *id)
            .map(|change| change.event)
            .collect()
    }

    /// Once the job is in the status.
    pub(crate) async fn reached(&self, id: &JobId, status: JobStatus) -> Job {
        self.until(|| Some(self.job(id)).filter(|job| job.status == status))
            .await
    }

    /// Once there is an answer; asked again at every change.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let mut newest = self.newest.subscribe();
        let wait = async {
            loop {
                newest.mark_unchanged();
                if let Some(found) = look() {
                    return found;
                }
                newest.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(24 * 3600), wait)
            .await
            .expect("it never came to this")
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap()
    }

    fn append(&self, row: &Row) {
        let seq = *self.newest.borrow() + 1;
        self.changes.lock().unwrap().push(Change {
            seq: Seq(seq),
            at: self.now(),
            event: JobEvent::from(row.job.status),
            tenant: row.new.tenant.clone(),
            job: row.job.clone(),
            callback_url: row.new.callback_url.clone(),
        });
        self.newest.send_replace(seq);
    }
}

fn find<'a>(rows: &'a mut [Row], id: &JobId) -> Option<&'a mut Row> {
    rows.iter_mut().find(|row| row.job.job_id == *id)
}

fn not_found() -> Error {
    Error::new(ErrorCode::JobNotFound, "no such job")
}

fn fail(job: &mut Job, error: JobError) {
    job.error = Some(error.message);
    job.error_detail = Some(error.detail);
}

fn count<'a>(rows: impl Iterator<Item = &'a Row>) -> JobCounts {
    let mut counts = JobCounts::default();
    for row in rows {
        *match row.job.status {
            JobStatus::Queued => &mut counts.queued,
            JobStatus::Processing => &mut counts.processing,
            JobStatus::Completed => &mut counts.completed,
            JobStatus::Failed => &mut counts.failed,
            JobStatus::Cancelled => &mut counts.cancelled,
        } += 1;
    }
    counts
}

fn public(new: &NewJob) -> Job {
    Job {
        job_id: new.id.clone(),
        status: JobStatus::Queued,
        model_id: new.model_id.clone(),
        operation: new.operation,
        priority: new.priority,
        created_at: new.created_at,
        started_at: None,
        completed_at: None,
        failed_at: None,
        cancelled_at: None,
        progress: None,
        attempt: 0,
        result: None,
        error: None,
        error_detail: None,
        group: new.group.clone(),
        depends_on: new.depends_on.clone(),
        metadata: new.metadata.clone(),
        request_id: new.request_id.clone(),
    }
}

#[async_trait]
impl JobStore for MemoryJobs {
    async fn insert(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>> {
        let mut rows = self.rows();
        let mut answers = Vec::new();
        for new in jobs {
            let used = new.idempotency.as_ref().and_then(|idempotency| {
                rows.iter().find(|row| {
                    row.new.tenant == new.tenant
                        && row
                            .new
                            .idempotency
                            .as_ref()
                            .is_some_and(|old| old.key == idempotency.key)
                })
            });
            if let Some(row) = used {
                let is_same = row.new.idempotency == new.idempotency;
                answers.push(if is_same {
                    Inserted::Existing(row.job.clone())
                } else {
                    Inserted::KeyReused
                });
                continue;
            }
            let row = Row {
                job: public(&new),
                fence: Fence(0),
                owner: None,
                lease_until: new.created_at,
                run_at: new.run_at,
                cancel_wanted: false,
                new,
            };
            self.append(&row);
            answers.push(Inserted::New(row.job.clone()));
            rows.push(row);
        }
        Ok(answers)
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        let now = self.now();
        let mut rows = self.rows();
        let mut due: Vec<&mut Row> = rows
            .iter_mut()
            .filter(|row| match row.job.status {
                JobStatus::Queued => row.run_at <= now,
                JobStatus::Processing => row.lease_until <= now,
                _ => false,
            })
            .collect();
        due.sort_by_key(|row| row.new.sort_key);
        due.truncate(claim.limit as usize);
        let mut claimed = Vec::new();
        for row in due {
            row.fence.0 += 1;
            row.owner = Some(claim.owner.clone());
            row.lease_until = now.plus(claim.lease);
            row.job.status = JobStatus::Processing;
            row.job.started_at = Some(now);
            row.job.attempt += 1;
            self.append(row);
            claimed.push(Claimed {
                job: row.job.clone(),
                tenant: row.new.tenant.clone(),
                input: row.new.input.clone(),
                fence: row.fence,
                timeout: row.new.timeout,
                max_attempts: row.new.max_attempts,
            });
        }
        Ok(claimed)
    }

    async fn renew(
        &self,
        owner: &Owner,
        lease: Duration,
        jobs: &[(JobId, Fence)],
    ) -> Result<Vec<Held>> {
        let until = self.now().plus(lease);
        let mut rows = self.rows();
        let renew = |(id, fence): &(JobId, Fence)| match find(&mut rows, id) {
            Some(row)
                if row.fence == *fence
                    && row.owner.as_ref() == Some(owner)
                    && !row.job.status.is_terminal() =>
            {
                row.lease_until = until;
                if row.cancel_wanted {
                    Held::CancelWanted
                } else {
                    Held::Kept
                }
            }
            _ => Held::Lost,
        };
        Ok(jobs.iter().map(renew).collect())
    }

    async fn write(&self, id: &JobId, fence: Fence, write: JobWrite) -> Result<Job> {
        let now = self.now();
        let mut rows = self.rows();
        let row = find(&mut rows, id).unwrap();
        if row.fence != fence || row.job.status != JobStatus::Processing {
            *self.refused.lock().unwrap() += 1;
            return Err(Error::new(ErrorCode::VersionConflict, "a stale fence"));
        }
        match write {
            JobWrite::Progress(part) => {
                row.job.progress = Some(part);
                return Ok(row.job.clone());
            }
            JobWrite::Release { run_at, error } => {
                row.job.status = JobStatus::Queued;
                row.run_at = run_at;
                fail(&mut row.job, error);
            }
            JobWrite::Return => {
                row.job.status = JobStatus::Queued;
                row.job.attempt -= 1;
            }
            JobWrite::Finish(Outcome::Completed(result)) => {
                row.job.status = JobStatus::Completed;
                row.job.completed_at = Some(now);
                row.job.result = Some(result);
            }
            JobWrite::Finish(Outcome::Failed(error)) => {
                row.job.status = JobStatus::Failed;
                row.job.failed_at = Some(now);
                fail(&mut row.job, error);
            }
            JobWrite::Finish(Outcome::Cancelled) => {
                row.job.status = JobStatus::Cancelled;
                row.job.cancelled_at = Some(now);
            }
        }
        self.append(row);
        Ok(row.job.clone())
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        let now = self.now();
        let mut rows = self.rows();
        let row = find(&mut rows, id)
            .filter(|row| row.new.tenant == *tenant)
            .ok_or_else(not_found)?;
        match row.job.status {
            JobStatus::Queued => {
                row.job.status = JobStatus::Cancelled;
                row.job.cancelled_at = Some(now);
                self.append(row);
            }
            JobStatus::Processing => row.cancel_wanted = true,
            _ => return Err(Error::new(ErrorCode::JobFinished, "finished already")),
        }
        Ok(row.job.clone())
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job> {
        let now = self.now();
        let mut rows = self.rows();
        let row = find(&mut rows, id)
            .filter(|row| row.new.tenant == *tenant)
            .ok_or_else(not_found)?;
        if row.job.status != JobStatus::Failed {
            return Err(Error::invalid("job_id", "it didn't fail"));
        }
        row.job = public(&row.new);
        row.run_at = now;
        self.append(row);
        Ok(row.job.clone())
    }

    async fn cancel_group(&self, tenant: &Tenant, group: &str) -> Result<u64> {
        let ids: Vec<JobId> = self
            .rows()
            .iter()
            .filter(|row| row.new.group.as_deref() == Some(group))
            .map(|row| row.job.job_id.clone())
            .collect();
        let mut asked = 0;
        for id in ids {
            asked += u64::from(self.cancel(tenant, &id).await.is_ok());
        }
        Ok(asked)
    }

    async fn group(&self, _tenant: &Tenant, group: &str) -> Result<JobCounts> {
        let rows = self.rows();
        let of_group = rows
            .iter()
            .filter(|row| row.new.group.as_deref() == Some(group));
        Ok(count(of_group))
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>> {
        let mut rows = self.rows();
        Ok(find(&mut rows, id)
            .filter(|row| row.new.tenant == *tenant)
            .map(|row| row.job.clone()))
    }

    async fn list(&self, query: &JobQuery) -> Result<Page<Job>> {
        let rows = self.rows();
        let matching = rows.iter().filter(|row| {
            row.new.tenant == query.tenant
                && query.status.is_none_or(|status| row.job.status == status)
        });
        let items: Vec<Job> = matching.map(|row| row.job.clone()).collect();
        Ok(Page {
            total: items.len() as u64,
            items,
        })
    }

    async fn position(&self, id: &JobId) -> Result<Option<u64>> {
        let mut rows = self.rows();
        let Some(key) = find(&mut rows, id)
            .filter(|row| row.job.status == JobStatus::Queued)
            .map(|row| row.new.sort_key)
        else {
            return Ok(None);
        };
        let ahead = rows
            .iter()
            .filter(|row| row.job.status == JobStatus::Queued && row.new.sort_key < key);
        Ok(Some(ahead.count() as u64))
    }

    async fn counts(&self) -> Result<JobCounts> {
        Ok(count(self.rows().iter()))
    }

    async fn changes(&self, after: Seq, limit: u32) -> Result<Vec<Change>> {
        let changes = self.changes.lock().unwrap();
        Ok(changes
            .iter()
            .filter(|change| change.seq > after)
            .take(limit as usize)
            .cloned()
            .collect())
    }

    async fn wait_for_changes(&self, after: Seq, at_most: Duration) {
        let mut newest = self.newest.subscribe();
        let _ = tokio::time::timeout(at_most, newest.wait_for(|newest| *newest > after.0)).await;
    }

    async fn head(&self) -> Result<Seq> {
        Ok(Seq(*self.newest.borrow()))
    }

    async fn release_all_leases(&self) -> Result<u64> {
        Ok(0)
    }

    async fn sweep(&self) -> Result<u64> {
        Ok(0)
    }
}
