//! The change log.
//!
//! A transition leaves its change in the job's own document. From there it is moved into the log, under the next number, by whoever
//! looks first: each read of the log moves what is pending. It needs no lease. A number is taken once and a change is in the log
//! once, both by unique indexes, and a mover stops at the first that is taken and looks again: however many move side by side, the
//! log has no gap and nothing twice. What was acknowledged before another change began comes before it, since a mover reads a
//! snapshot, which has both or the first alone, and puts in what it has in order of the store's time.

use std::collections::{HashMap, HashSet};

use fusion_types::{
    Tenant,
    id::JobId,
    job::{Change, JobEvent, JobStatus, Seq},
};
use mongodb::{
    bson::{Bson, DateTime, Document, RawDocumentBuf, doc},
    options::ReadConcern,
};
use serde::Deserialize;

use super::{
    super::{
        Mongo, all, from_stored, is_duplicate, read,
        schema::{CHANGES, CONTROL, JOBS},
        time, to_stored,
        transaction::pause,
        value, written,
    },
    Jobs, dependencies,
    row::{Entry, Fixed, public},
    too_busy,
};
use crate::{error::StoreError, mongo::blobs::Blob};

/// Jobs whose changes one step moves.
const MOVED_AT_ONCE: i64 = 200;
/// Steps in which other movers may be quicker.
const ROUNDS: u32 = 200;
const MOST: u32 = 1000;
/// Jobs whose results are read together.
const READ_AT_ONCE: usize = 50;
/// An answer ends after the change that passes this, so that large results don't pile up in memory.
const MOST_BYTES: usize = 16 << 20;
/// The document that says where the swept part of the log ends.
pub(super) const FLOOR: &str = "job_changes";

#[derive(Deserialize)]
struct Pending {
    pending: Vec<Entry>,
}

/// Changes of several jobs that the log may not have yet.
struct Batch {
    /// In the order in which they are to be in the log.
    entries: Vec<(Entry, Fixed)>,
    is_last: bool,
}

impl Jobs {
    /// Moves what is pending into the log.
    pub(super) async fn move_pending(&self) -> Result<(), StoreError> {
        let _turn = self.moving.acquire().await.map_err(|_| too_busy())?;
        for round in 0..ROUNDS {
            let batch = pending(&self.store).await?;
            if batch.entries.is_empty() {
                return Ok(());
            }
            let is_last = batch.is_last;
            if !self.move_batch(batch).await? {
                pause(round / 8).await;
            } else if is_last {
                return Ok(());
            }
        }
        Err(too_busy())
    }

    /// True once all of the batch is in.
    ///
    /// 1. Whoever waits for a job that ended is settled.
    /// 2. What the log has already is told apart, should a mover have died, or be at it.
    /// 3. The rest is put in, in order, until somebody else was quicker.
    /// 4. What is in leaves the jobs' documents.
    async fn move_batch(&self, batch: Batch) -> Result<bool, StoreError> {
        let ended = batch
            .entries
            .iter()
            .filter(|(entry, _)| entry.shown.status.is_terminal());
        let ended: HashSet<&JobId> = ended.map(|(_, fixed)| &fixed.job_id).collect();
        for id in ended {
            dependencies::settle(self, id.clone()).await?;
        }
        let known = known(&self.store, &batch).await?;
        let mut next = head(&self.store).await?.0;
        let mut documents = Vec::new();
        for (entry, fixed) in &batch.entries {
            if !known.contains(&entry.entry) {
                next += 1;
                documents.push(logged(next, entry, fixed)?);
            }
        }
        let is_whole = put(&self.store, documents).await?;
        if is_whole {
            let entries = batch.entries.iter().map(|(entry, _)| entry.entry.clone());
            forget(&self.store, &batch, entries.collect()).await?;
        } else {
            forget(&self.store, &batch, known.into_iter().collect()).await?;
        }
        Ok(is_whole)
    }
}

/// The oldest changes that are pending, from one snapshot.
async fn pending(store: &Mongo) -> Result<Batch, StoreError> {
    let cursor = store
        .raw(JOBS)
        .find(doc! { "pending_since": { "$exists": true } })
        .sort(doc! { "pending_since": 1 })
        .limit(MOVED_AT_ONCE)
        .read_concern(ReadConcern::snapshot())
        .await?;
    let documents: Vec<RawDocumentBuf> = all(cursor).await?;
    let is_last = (documents.len() as i64) < MOVED_AT_ONCE;
    let mut entries = Vec::new();
    let mut newest_first = DateTime::MIN;
    for document in &documents {
        let fixed: Fixed = read(document)?;
        let mut at = DateTime::MIN;
        for (index, mut entry) in read::<Pending>(document)?.pending.into_iter().enumerate() {
            // Of one job they stay in their order, whatever became of the clock.
            at = at.max(entry.at);
            entry.at = at;
            if index == 0 {
                newest_first = newest_first.max(at);
            }
            entries.push((entry, fixed.clone()));
        }
    }
    if !is_last {
        // A job that isn't in the batch may have a change at this time, and none before.
        entries.retain(|(entry, _)| entry.at <= newest_first);
    }
    entries.sort_by(|(a, a_of), (b, b_of)| {
        (a.at, &a_of.job_id, a.number).cmp(&(b.at, &b_of.job_id, b.number))
    });
    Ok(Batch { entries, is_last })
}

/// Those of the batch that are in the log.
async fn known(store: &Mongo, batch: &Batch) -> Result<HashSet<String>, StoreError> {
    let entries: Vec<&str> = batch
        .entries
        .iter()
        .map(|(entry, _)| entry.entry.as_str())
        .collect();
    let cursor = store
        .collection(CHANGES)
        .find(doc! { "entry": { "$in": entries } })
        .projection(doc! { "entry": 1 })
        .await?;
    let known = all(cursor).await?;
    let known = known.iter().filter_map(|known| known.get_str("entry").ok());
    Ok(known.map(str::to_owned).collect())
}

pub(super) fn logged(seq: u64, entry: &Entry, fixed: &Fixed) -> Result<Document, StoreError> {
    let mut document = doc! { "_id": to_stored(seq) };
    document.extend(written(fixed)?);
    document.extend(written(entry)?);
    Ok(document)
}

/// False where somebody else was quicker with a number, or a change.
async fn put(store: &Mongo, documents: Vec<Document>) -> Result<bool, StoreError> {
    if documents.is_empty() {
        return Ok(true);
    }
    match store.collection(CHANGES).insert_many(documents).await {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn forget(store: &Mongo, batch: &Batch, entries: Vec<String>) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let jobs: HashSet<&str> = batch
        .entries
        .iter()
        .map(|(_, fixed)| fixed.job_id.as_str())
        .collect();
    let jobs: Vec<&str> = jobs.into_iter().collect();
    let is_moved = doc! { "$in": ["$$change.entry", entries] };
    let rest =
        doc! { "$filter": { "input": "$pending", "as": "change", "cond": { "$not": [is_moved] } } };
    let oldest = doc! { "$let": { "vars": { "first": { "$arrayElemAt": ["$pending", 0] } }, "in": "$$first.at" } };
    let since = doc! { "$cond": [
        { "$gt": [{ "$size": "$pending" }, 0] },
        oldest,
        "$$REMOVE",
    ] };
    let update = vec![
        doc! { "$set": { "pending": rest } },
        doc! { "$set": { "pending_since": since } },
    ];
    store
        .collection(JOBS)
        .update_many(doc! { "job_id": { "$in": jobs } }, update)
        .await?;
    Ok(())
}

/// The log's end, swept changes included.
pub(super) async fn head(store: &Mongo) -> Result<Seq, StoreError> {
    let newest = store
        .collection(CHANGES)
        .find_one(doc! {})
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": -1 })
        .await?;
    let newest = newest.and_then(|newest| newest.get_i64("_id").ok());
    let floor = store
        .collection(CONTROL)
        .find_one(doc! { "_id": FLOOR })
        .await?;
    let floor = floor.and_then(|floor| floor.get_i64("swept").ok());
    Ok(Seq(from_stored(newest.max(floor).unwrap_or_default())))
}

/// Forgets the jobs' changes; their numbers are never used again.
pub(super) async fn sweep(store: &Mongo, jobs: &[&str]) -> Result<(), StoreError> {
    let of_jobs = doc! { "job_id": { "$in": jobs } };
    let newest = store
        .collection(CHANGES)
        .find_one(of_jobs.clone())
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": -1 })
        .await?;
    let Some(newest) = newest.and_then(|newest| newest.get_i64("_id").ok()) else {
        return Ok(());
    };
    store
        .collection(CONTROL)
        .update_one(doc! { "_id": FLOOR }, doc! { "$max": { "swept": newest } })
        .upsert(true)
        .await?;
    store.collection(CHANGES).delete_many(of_jobs).await?;
    Ok(())
}

/// What the log has after `after`; changes of jobs that are gone count as swept.
pub(super) async fn after(
    store: &Mongo,
    after: Seq,
    limit: u32,
) -> Result<Vec<Change>, StoreError> {
    let limit = limit.min(MOST) as usize;
    let mut changes = Vec::new();
    let mut bytes = 0;
    let mut last = to_stored(after.0);
    while changes.len() < limit && bytes < MOST_BYTES {
        let wanted = READ_AT_ONCE.min(limit - changes.len());
        let cursor = store
            .raw(CHANGES)
            .find(doc! { "_id": { "$gt": last } })
            .sort(doc! { "_id": 1 })
            .limit(wanted as i64)
            .await?;
        let documents: Vec<RawDocumentBuf> = all(cursor).await?;
        let mut results = results(store, &documents).await?;
        for document in &documents {
            last = document.get_i64("_id").unwrap_or(last);
            let mut change = change(document)?;
            let Some(result) = results.get_mut(&change.job.job_id) else {
                continue;
            };
            bytes += document.as_bytes().len();
            if change.job.status == JobStatus::Completed {
                bytes += result.bytes;
                change.job.result = result.load(store).await?;
            }
            changes.push(change);
            if bytes >= MOST_BYTES {
                break;
            }
        }
        if documents.len() < wanted {
            break;
        }
    }
    Ok(changes)
}

fn change(document: &RawDocumentBuf) -> Result<Change, StoreError> {
    let fixed: Fixed = read(document)?;
    let entry: Entry = read(document)?;
    let (tenant, callback_url) = (Tenant::new(&fixed.tenant), fixed.callback_url.clone());
    let job = public(fixed, entry.shown)?;
    Ok(Change {
        seq: Seq(from_stored(document.get_i64("_id").unwrap_or_default())),
        at: time(entry.at),
        event: JobEvent::from(job.status),
        tenant,
        job,
        callback_url,
    })
}

/// A result where the job's document has it, or the name of one beside it.
#[derive(Deserialize)]
struct JobResult {
    job_id: JobId,
    #[serde(default)]
    result: Option<Bson>,
    #[serde(default)]
    result_blob: Option<Blob>,
    #[serde(skip)]
    bytes: usize,
}

impl JobResult {
    async fn load(&self, store: &Mongo) -> Result<Option<serde_json::Value>, StoreError> {
        match self.result_blob {
            Some(blob) => store.result(blob).await,
            None => {
                let result = self.result.clone().unwrap_or(Bson::Null);
                Ok(Some(value::from_bson(result)?))
            }
        }
    }
}

async fn results(
    store: &Mongo,
    changes: &[RawDocumentBuf],
) -> Result<HashMap<JobId, JobResult>, StoreError> {
    let ids: HashSet<&str> = changes
        .iter()
        .filter_map(|change| change.get_str("job_id").ok())
        .collect();
    let ids: Vec<&str> = ids.into_iter().collect();
    let cursor = store
        .raw(JOBS)
        .find(doc! { "job_id": { "$in": ids } })
        .projection(doc! { "job_id": 1, "result": 1, "result_blob": 1 })
        .await?;
    let documents: Vec<RawDocumentBuf> = all(cursor).await?;
    let mut results = HashMap::new();
    for document in &documents {
        let mut result: JobResult = read(document)?;
        // Of a value in parts about so much is known before it is read.
        const PART: usize = 4 << 20;
        let beside = result
            .result_blob
            .map_or(0, |blob| blob.parts as usize * PART);
        result.bytes = document.as_bytes().len() + beside;
        results.insert(result.job_id.clone(), result);
    }
    Ok(results)
}
