//! Jobs and changes that another store had. Each step can be done again: what is there already stays.

use std::collections::HashSet;

use mongodb::bson::doc;

use super::{
    super::{
        Mongo, all, from_stored,
        schema::{CHANGES, CONTROL, JOBS},
        to_stored,
    },
    log::{self, FLOOR},
    row::{self, Entry, Fixed},
};
use crate::{
    error::StoreError,
    migrate::moved::{MovedChange, MovedJob},
};

impl Mongo {
    /// With their inputs and results.
    pub(crate) async fn take_jobs(&self, jobs: &[MovedJob]) -> Result<(), StoreError> {
        let ids: Vec<&str> = jobs
            .iter()
            .map(|job| job.state.job.job_id.as_str())
            .collect();
        let cursor = self
            .collection(JOBS)
            .find(doc! { "job_id": { "$in": ids } })
            .projection(doc! { "job_id": 1 })
            .await?;
        let there = all(cursor).await?;
        let there: HashSet<&str> = there
            .iter()
            .filter_map(|job| job.get_str("job_id").ok())
            .collect();
        let mut documents = Vec::new();
        for job in jobs {
            if !there.contains(job.state.job.job_id.as_str()) {
                documents.push(row::moved(self, job).await?);
            }
        }
        self.insert_missing(JOBS, documents).await
    }

    /// The change that was taken over last; 0 before the first.
    pub(crate) async fn last_taken_change(&self) -> Result<u64, StoreError> {
        let newest = self
            .collection(CHANGES)
            .find_one(doc! {})
            .projection(doc! { "_id": 1 })
            .sort(doc! { "_id": -1 })
            .await?;
        let newest = newest.and_then(|newest| newest.get_i64("_id").ok());
        Ok(from_stored(newest.unwrap_or_default()))
    }

    /// In order, under the numbers that they had.
    pub(crate) async fn take_changes(&self, changes: &[MovedChange]) -> Result<(), StoreError> {
        let documents = changes
            .iter()
            .map(|MovedChange { number, change }| {
                let fixed = Fixed::of(&change.tenant, &change.job, change.callback_url.as_deref())?;
                let entry = Entry::of(&change.job, to_stored(*number), change.at);
                log::logged(change.seq.0, &entry, &fixed)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.insert_missing(CHANGES, documents).await
    }

    /// Numbers up to this one are never given again.
    pub(crate) async fn number_changes_from(&self, last: u64) -> Result<(), StoreError> {
        let floor = doc! { "$max": { "swept": to_stored(last) } };
        self.collection(CONTROL)
            .update_one(doc! { "_id": FLOOR }, floor)
            .upsert(true)
            .await?;
        Ok(())
    }
}
