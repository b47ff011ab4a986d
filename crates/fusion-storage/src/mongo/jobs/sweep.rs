//! Removing what nobody may see or need any more, and finishing what a crash cut off.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fusion_types::{Result, job::JobStatus};
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    super::{
        all,
        deadline::within,
        documents::purge_dropped_collections,
        schema::{BLOBS, CHANGES, JOBS},
        stored_time,
    },
    Jobs, dependencies, log,
    row::JobRow,
    write::Changed,
};
use crate::error::StoreError;

const SWEPT_AT_ONCE: i64 = 200;
/// Parts and changes that one sweep asks after, round by round through all of them.
const ASKED_AT_ONCE: i64 = 1000;
/// A value is put down before the job that names it: so long it isn't taken for one that nobody needs.
const YOUNG: Duration = Duration::from_secs(3600);

/// Where the next sweep goes on asking.
#[derive(Default)]
pub(super) struct Walk {
    blob: Mutex<Option<ObjectId>>,
    change: Mutex<i64>,
}

impl Jobs {
    pub(super) async fn sweep_expired(&self) -> Result<u64> {
        // The changes of what is removed are to be in the log first.
        within(self.move_pending()).await?;
        let mut removed = 0;
        loop {
            let swept = within(self.remove_expired()).await?;
            removed += swept;
            if swept < SWEPT_AT_ONCE as u64 {
                break;
            }
        }
        within(self.forget_inputs_of_failed()).await?;
        within(dependencies::settle_forgotten(self)).await?;
        within(self.forget_unneeded_values()).await?;
        within(self.forget_changes_without_job()).await?;
        purge_dropped_collections(&self.store).await?;
        Ok(removed)
    }

    async fn remove_expired(&self) -> Result<u64, StoreError> {
        let expired = self.expired().await?;
        remove(self, &expired).await?;
        Ok(expired.len() as u64)
    }

    async fn expired(&self) -> Result<Vec<JobRow>, StoreError> {
        let filter = doc! {
            "ttl_expire_at": { "$lte": stored_time(self.store.now().await?) },
            "pending_since": null,
        };
        let cursor = self
            .store
            .raw(JOBS)
            .find(filter)
            .projection(doc! { "pending": 0, "result": 0 })
            .limit(SWEPT_AT_ONCE)
            .await?;
        let documents: Vec<RawDocumentBuf> = all(cursor).await?;
        documents.iter().map(|row| JobRow::read(row)).collect()
    }

    async fn forget_inputs_of_failed(&self) -> Result<(), StoreError> {
        let now = self.store.now().await?;
        let Some(until) = self.inputs.forgotten_if_failed_by(now) else {
            return Ok(());
        };
        let failed = doc! {
            "status": "failed",
            "failed_at": { "$lte": stored_time(until) },
            "input": { "$type": "object" },
        };
        for id in dependencies::ids(self, failed, SWEPT_AT_ONCE).await? {
            let mut input = None;
            self.change(&id, |row| {
                let is_due = row.state.job.failed_at.is_some_and(|at| at <= until);
                if row.state.job.status != JobStatus::Failed || !is_due {
                    return Ok(Changed::Nothing);
                }
                input = row.input.take();
                Ok(Changed::Quietly)
            })
            .await?;
            let gone: Vec<ObjectId> = input.iter().map(|input| input.blob).collect();
            self.forget(&gone).await;
        }
        Ok(())
    }

    /// Values whose job never came, ended, or is gone.
    async fn forget_unneeded_values(&self) -> Result<(), StoreError> {
        let after = *lock(&self.walk.blob);
        let oldest_young = ObjectId::from_parts(seconds_ago(YOUNG), [0; 5], [0; 3]);
        let mut range = doc! { "$lt": oldest_young };
        if let Some(after) = after {
            range.insert("$gt", after);
        }
        let cursor = self
            .store
            .collection(BLOBS)
            .find(doc! { "_id": range, "job_id": { "$type": "string" } })
            .projection(doc! { "blob": 1, "job_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(ASKED_AT_ONCE)
            .await?;
        let parts = all(cursor).await?;
        *lock(&self.walk.blob) = parts.last().and_then(|part| part.get_object_id("_id").ok());
        let needed = self.needed(&parts).await?;
        let unneeded: HashSet<ObjectId> = parts
            .iter()
            .filter_map(|part| part.get_object_id("blob").ok())
            .filter(|blob| !needed.contains(blob))
            .collect();
        self.store
            .delete_blobs(&unneeded.into_iter().collect::<Vec<_>>())
            .await
    }

    /// The values that the jobs of these parts name.
    async fn needed(&self, parts: &[Document]) -> Result<HashSet<ObjectId>, StoreError> {
        let jobs: HashSet<&str> = parts
            .iter()
            .filter_map(|part| part.get_str("job_id").ok())
            .collect();
        let jobs: Vec<&str> = jobs.into_iter().collect();
        let cursor = self
            .store
            .collection(JOBS)
            .find(doc! { "job_id": { "$in": jobs } })
            .projection(doc! { "input": 1, "result_blob": 1 })
            .await?;
        let jobs = all(cursor).await?;
        let named = jobs.iter().flat_map(|job| {
            ["input", "result_blob"]
                .into_iter()
                .filter_map(|name| job.get_document(name).ok())
                .filter_map(|value| value.get_object_id("blob").ok())
        });
        Ok(named.collect())
    }

    /// Where the database itself removed an expired job because no server ran.
    async fn forget_changes_without_job(&self) -> Result<(), StoreError> {
        let after = *lock(&self.walk.change);
        let young = DateTime::from_millis(i64::from(seconds_ago(YOUNG)) * 1000);
        let cursor = self
            .store
            .collection(CHANGES)
            .find(doc! { "_id": { "$gt": after }, "at": { "$lt": young } })
            .projection(doc! { "job_id": 1 })
            .sort(doc! { "_id": 1 })
            .limit(ASKED_AT_ONCE)
            .await?;
        let changes = all(cursor).await?;
        let last = changes.last().and_then(|change| change.get_i64("_id").ok());
        *lock(&self.walk.change) = last.unwrap_or_default();
        let mut jobs: HashSet<&str> = changes
            .iter()
            .filter_map(|change| change.get_str("job_id").ok())
            .collect();
        let asked = doc! { "job_id": { "$in": jobs.iter().copied().collect::<Vec<_>>() } };
        let there = dependencies::ids(self, asked, 0).await?;
        for id in &there {
            jobs.remove(id.as_str());
        }
        log::sweep(&self.store, &jobs.into_iter().collect::<Vec<_>>()).await
    }
}

/// The jobs with all that belongs to them.
pub(super) async fn remove(jobs: &Jobs, rows: &[JobRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = rows
        .iter()
        .map(|row| row.state.job.job_id.as_str())
        .collect();
    log::sweep(&jobs.store, &ids).await?;
    jobs.store
        .collection(JOBS)
        .delete_many(doc! { "job_id": { "$in": ids }, "ttl_expire_at": { "$type": "date" } })
        .await?;
    let blobs: Vec<ObjectId> = rows.iter().flat_map(JobRow::blobs).collect();
    jobs.store.delete_blobs(&blobs).await
}

fn seconds_ago(age: Duration) -> u32 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(now.saturating_sub(age).as_secs()).unwrap_or(u32::MAX)
}

fn lock<T>(place: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}
