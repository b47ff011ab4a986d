//! Handing jobs to workers.

use fusion_types::{
    Timestamp,
    id::JobId,
    job::{Claim, Claimed, Outcome},
};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};

use super::{
    super::{Mongo, all, schema::JOBS, stored_time},
    Jobs,
    row::JobRow,
    too_busy,
    write::Changed,
};
use crate::{error::StoreError, job_state::Lapsed, queue::Ready};

/// Jobs that one call hands out, or gives up, at most.
const MOST: u32 = 1000;
/// Rounds in which other servers may take everything that was found.
const ROUNDS: u32 = 20;

impl Jobs {
    /// 1. Jobs whose worker vanished and that deserve no further attempt are finished.
    /// 2. Due jobs that could run here are found, in order; those of held models first.
    /// 3. One write takes those that nobody took meanwhile. From 2 again while there is room.
    pub(super) async fn claim_due(&self, claim: &Claim) -> Result<Vec<Claimed>, StoreError> {
        let _turn = self.claiming.acquire().await.map_err(|_| too_busy())?;
        self.settle_lapsed().await?;
        let limit = claim.limit.min(MOST) as usize;
        let mut rows: Vec<JobRow> = Vec::new();
        for _ in 0..ROUNDS {
            let wanted = limit - rows.len();
            if wanted == 0 {
                break;
            }
            let mut found = self.find_due(claim, wanted).await?;
            let is_all = found.len() < wanted;
            // A lease may be shorter than this takes; a job is handed out once all the same.
            found.retain(|id| rows.iter().all(|row| row.state.job.job_id != *id));
            let taken = take(&self.store, claim, &found).await?;
            let is_whole = taken.len() == found.len();
            rows.extend(taken);
            if is_whole && is_all {
                break;
            }
        }
        self.hand_out(rows).await
    }

    /// Those of the jobs that can be had now.
    pub(super) async fn claim_these(
        &self,
        claim: &Claim,
        found: &[JobId],
    ) -> Result<Vec<Claimed>, StoreError> {
        let rows = take(&self.store, claim, found).await?;
        self.hand_out(rows).await
    }

    async fn hand_out(&self, mut rows: Vec<JobRow>) -> Result<Vec<Claimed>, StoreError> {
        if !rows.is_empty() {
            self.wake.written();
        }
        rows.sort_by(|a, b| place(a).cmp(&place(b)));
        self.with_inputs(rows).await
    }

    /// What a claim would find, in order.
    pub(super) async fn list_due(&self, limit: u32) -> Result<Vec<Ready>, StoreError> {
        self.settle_lapsed().await?;
        self.due_where(&doc! {}, limit.min(MOST) as usize).await
    }

    /// Finishes jobs that deserve no further attempt.
    async fn settle_lapsed(&self) -> Result<(), StoreError> {
        let now = stored_time(self.store.now().await?);
        let is_last = doc! { "$or": [{ "$eq": ["$cancel_wanted", true] }, { "$gte": ["$attempt", "$max_attempts"] }] };
        let hopeless =
            doc! { "status": "processing", "lease_until": { "$lte": now }, "$expr": is_last };
        let ids = super::dependencies::ids(self, hopeless, i64::from(MOST)).await?;
        for id in ids {
            self.change(&id, |row| {
                let is_lapsed = row.state.lease_until.is_some_and(|until| until <= row.now);
                if !is_lapsed {
                    return Ok(Changed::Nothing);
                }
                let outcome = match row.state.after_lapse() {
                    Lapsed::Claimable => return Ok(Changed::Nothing),
                    Lapsed::Cancel => Outcome::Cancelled,
                    Lapsed::GiveUp => Outcome::Failed(row.state.gave_up()),
                };
                row.state.finish(outcome, row.now);
                Ok(Changed::State)
            })
            .await?;
        }
        Ok(())
    }

    /// In order, those of held models first.
    async fn find_due(&self, claim: &Claim, wanted: usize) -> Result<Vec<JobId>, StoreError> {
        let mut found = Vec::new();
        if !claim.held_models.is_empty() {
            let held = doc! { "model_id": { "$in": &claim.held_models } };
            found = self.due_where(&held, wanted).await?;
        }
        if found.len() < wanted {
            let nameless = std::iter::once(Bson::Null);
            let known = nameless.chain(claim.known_models.iter().map(Bson::from));
            let known = doc! { "model_id": { "$in": known.collect::<Vec<_>>() } };
            for ready in self.due_where(&known, wanted).await? {
                if !found.contains(&ready) && found.len() < wanted {
                    found.push(ready);
                }
            }
        }
        Ok(found.into_iter().map(|ready| ready.job_id).collect())
    }

    async fn due_where(
        &self,
        condition: &Document,
        wanted: usize,
    ) -> Result<Vec<Ready>, StoreError> {
        let mut found: Vec<Ready> = Vec::new();
        let now = self.store.now().await?;
        for mut filter in [due(now), lapsed(now)] {
            filter.extend(condition.clone());
            filter.extend(may_go_on());
            let cursor = self
                .store
                .database
                .collection::<Ready>(JOBS)
                .find(filter)
                .projection(doc! { "sort_key": 1, "job_id": 1, "model_id": 1 })
                .sort(doc! { "sort_key": 1, "job_id": 1 })
                .limit(wanted as i64)
                .await?;
            found.extend(all(cursor).await?);
        }
        found.sort();
        found.truncate(wanted);
        Ok(found)
    }

    async fn with_inputs(&self, rows: Vec<JobRow>) -> Result<Vec<Claimed>, StoreError> {
        let mut claimed = Vec::new();
        for row in rows {
            let bytes = match row.input {
                Some(blob) => self.store.blob(blob).await?,
                None => None,
            };
            let input = bytes
                .map(|bytes| serde_json::from_slice(&bytes))
                .transpose()?;
            claimed.push(Claimed {
                input: input.unwrap_or_default(),
                tenant: row.state.tenant,
                fence: row.state.fence,
                timeout: row.state.timeout,
                max_attempts: row.state.max_attempts,
                job: row.state.job,
            });
        }
        Ok(claimed)
    }
}

fn place(row: &JobRow) -> (i64, &JobId) {
    (row.state.sort_key, &row.state.job.job_id)
}

/// Queued jobs whose time has come.
fn due(now: Timestamp) -> Document {
    doc! { "status": "queued", "blocked": 0, "run_at": { "$lte": stored_time(now) } }
}

/// Jobs whose worker has vanished.
fn lapsed(now: Timestamp) -> Document {
    doc! { "status": "processing", "lease_until": { "$lte": stored_time(now) } }
}

/// True of every queued job, and of a lapsed one that deserves another attempt.
fn may_go_on() -> Document {
    doc! { "cancel_wanted": false, "$expr": { "$lt": ["$attempt", "$max_attempts"] } }
}

/// Those of the jobs that nobody took meanwhile, in one write: what `JobState::start` does, by the server's clock.
async fn take(store: &Mongo, claim: &Claim, found: &[JobId]) -> Result<Vec<JobRow>, StoreError> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let token = ObjectId::new().to_hex();
    let ids: Vec<&str> = found.iter().map(JobId::as_str).collect();
    let ids = doc! { "job_id": { "$in": ids } };
    let now = store.now().await?;
    let mut free = doc! { "$or": [due(now), lapsed(now)] };
    free.extend(ids);
    free.extend(may_go_on());
    let lease = i64::try_from(claim.lease.as_millis()).unwrap_or(i64::MAX);
    let one_more = |field: &str| doc! { "$add": [format!("${field}"), 1_i64] };
    let shown = doc! {
        "status": "processing",
        "started_at": "$$NOW",
        "completed_at": null,
        "failed_at": null,
        "cancelled_at": null,
        "progress": null,
        "attempt": one_more("attempt"),
        "error": "$error",
        "error_detail": "$error_detail",
    };
    let number = doc! { "$toString": one_more("changes") };
    let entry = doc! {
        "entry": { "$concat": ["$job_id", "/", number] },
        "number": one_more("changes"),
        "at": "$$NOW",
        "shown": shown.clone(),
    };
    let mut set = shown;
    set.extend(doc! {
        "fence": one_more("fence"),
        "owner": { "$literal": &claim.owner.0 },
        "lease_until": { "$add": ["$$NOW", lease] },
        "claim": &token,
        "rev": one_more("rev"),
        "changes": one_more("changes"),
        "pending": { "$concatArrays": ["$pending", [entry]] },
        "pending_since": { "$ifNull": ["$pending_since", "$$NOW"] },
    });
    let collection = store.collection(JOBS);
    let taken = collection
        .update_many(free, vec![doc! { "$set": set }])
        .await?;
    if taken.modified_count == 0 {
        return Ok(Vec::new());
    }
    let cursor = store.raw(JOBS).find(doc! { "claim": token }).await?;
    let rows: Vec<RawDocumentBuf> = all(cursor).await?;
    rows.iter().map(|row| JobRow::read(row)).collect()
}
