//! A job's document: what never changes, what every transition writes, and the changes that the log doesn't have yet.

use std::time::Duration;

use fusion_types::{
    Tenant, Timestamp,
    id::{JobId, RequestId},
    job::{ErrorDetail, Fence, Idempotency, Job, JobStatus, NewJob, Operation},
    model::Priority,
};
use mongodb::bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc, oid::ObjectId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::{
    Mongo, blobs::Blob, from_stored, read, schema::JOBS, stored_time, time, to_stored, value,
    written,
};
use crate::{error::StoreError, job_state::JobState, migrate::moved::MovedJob};

/// A result beyond this many bytes is kept in parts, so that lists and claims don't carry it.
const LARGEST_INLINE: usize = 256 << 10;

/// What clients are shown and never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fixed {
    pub(super) job_id: JobId,
    pub(super) tenant: String,
    request_id: RequestId,
    operation: Operation,
    model_id: Option<String>,
    priority: Priority,
    created_at: DateTime,
    group: Option<String>,
    depends_on: Vec<JobId>,
    metadata: Bson,
    pub(super) callback_url: Option<String>,
}

/// What else never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Terms {
    timeout_ms: i64,
    max_attempts: i64,
    ttl_ms: i64,
    /// The metadata's fields as lists search them.
    labels: Vec<String>,
    /// Left out where there is none, so that the index of keys is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hash: Option<String>,
}

/// What clients are shown and changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shown {
    pub(super) status: JobStatus,
    started_at: Option<DateTime>,
    completed_at: Option<DateTime>,
    failed_at: Option<DateTime>,
    cancelled_at: Option<DateTime>,
    progress: Option<f32>,
    attempt: i64,
    error: Option<String>,
    error_detail: Option<ErrorDetail>,
}

/// What else changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    run_at: DateTime,
    sort_key: i64,
    fence: i64,
    owner: Option<String>,
    lease_until: Option<DateTime>,
    cancel_wanted: bool,
    ttl_expire_at: Option<DateTime>,
    input: Option<Blob>,
    waiting_for: Vec<JobId>,
    /// As many as it waits for.
    blocked: i64,
}

/// Beside the job itself: told apart by `rev`, which rises with each write.
#[derive(Deserialize)]
struct Place {
    _id: ObjectId,
    rev: i64,
    changes: i64,
    #[serde(default)]
    now: Option<DateTime>,
    #[serde(default)]
    result: Option<Bson>,
    #[serde(default)]
    result_blob: Option<Blob>,
}

/// One change as the job's document holds it until the log does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Unique: the job and the change's number.
    pub(super) entry: String,
    pub(super) number: i64,
    pub(super) at: DateTime,
    pub(super) shown: Shown,
}

#[derive(Clone, Debug)]
pub(super) struct JobRow {
    id: ObjectId,
    rev: i64,
    changes: i64,
    /// The store's time when it was read.
    pub(super) now: Timestamp,
    pub(super) state: JobState,
    pub(super) body_hash: Option<String>,
    pub(super) input: Option<Blob>,
    pub(super) waiting_for: Vec<JobId>,
    result_blob: Option<Blob>,
}

/// A result as it is going to be stored.
pub(super) enum NewResult {
    Inline(Bson),
    Parts(Blob),
}

impl Mongo {
    /// Results too large for the job's document are put beside it.
    pub(super) async fn put_result(
        &self,
        id: &JobId,
        result: &Value,
    ) -> Result<NewResult, StoreError> {
        let bytes = serde_json::to_vec(result)?;
        if bytes.len() <= LARGEST_INLINE {
            return Ok(NewResult::Inline(value::to_bson(result)?));
        }
        Ok(NewResult::Parts(self.put_blob(id.as_str(), &bytes).await?))
    }

    /// The job with its result, wherever that is.
    pub(super) async fn with_result(&self, mut row: JobRow) -> Result<Job, StoreError> {
        if let Some(blob) = row.result_blob {
            row.state.job.result = self.result(blob).await?;
        }
        Ok(row.state.job)
    }

    pub(super) async fn result(&self, blob: Blob) -> Result<Option<Value>, StoreError> {
        let bytes = self.blob(blob).await?;
        Ok(bytes
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose()?)
    }

    /// The job, and the store's time.
    pub(super) async fn job(&self, id: &JobId) -> Result<Option<JobRow>, StoreError> {
        let pipeline = [
            doc! { "$match": { "job_id": id.as_str() } },
            doc! { "$limit": 1 },
            doc! { "$set": { "now": "$$NOW" } },
            doc! { "$unset": "pending" },
        ];
        let mut cursor = self
            .raw(JOBS)
            .aggregate(pipeline)
            .with_type::<RawDocumentBuf>()
            .await?;
        if !cursor.advance().await? {
            return Ok(None);
        }
        Ok(Some(JobRow::read(cursor.current())?))
    }

    /// The job as its tenant sees it: not once it has expired.
    pub(super) async fn public_job(
        &self,
        tenant: &Tenant,
        id: &JobId,
    ) -> Result<Option<JobRow>, StoreError> {
        let row = self.job(id).await?;
        Ok(row.filter(|row| row.state.tenant == *tenant && !row.state.is_expired(row.now)))
    }
}

impl JobRow {
    pub(super) fn new(new: &NewJob, input: Blob, waiting_for: Vec<JobId>, now: Timestamp) -> Self {
        Self {
            id: ObjectId::new(),
            rev: 0,
            changes: 0,
            now,
            state: JobState::queued(new),
            body_hash: None,
            input: Some(input),
            waiting_for,
            result_blob: None,
        }
    }

    /// The whole document of a job that comes in, its first change included.
    pub(super) fn document(&self, new: &NewJob) -> Result<Document, StoreError> {
        let mut document = self.whole(new.callback_url.as_deref(), new.idempotency.as_ref(), 1)?;
        document.insert("pending", vec![written(&self.entry(self.now))?]);
        document.insert("pending_since", stored_time(self.now));
        Ok(document)
    }

    /// Without a result, and with no change that the log doesn't have.
    fn whole(
        &self,
        callback_url: Option<&str>,
        idempotency: Option<&Idempotency>,
        changes: i64,
    ) -> Result<Document, StoreError> {
        let state = &self.state;
        let terms = Terms {
            timeout_ms: millis(state.timeout),
            max_attempts: state.max_attempts.into(),
            ttl_ms: millis(state.ttl),
            labels: labels(&state.job.metadata)?,
            idempotency_key: idempotency.map(|idempotency| idempotency.key.clone()),
            body_hash: idempotency.map(|idempotency| idempotency.body_hash.clone()),
        };
        let mut document = doc! { "_id": self.id, "rev": 1_i64, "changes": changes };
        document.extend(written(&Fixed::of(
            &state.tenant,
            &state.job,
            callback_url,
        )?)?);
        document.extend(written(&terms)?);
        document.extend(written(&Shown::of(&state.job))?);
        document.extend(written(&self.kept())?);
        document.insert("result", Bson::Null);
        document.insert("pending", Vec::<Document>::new());
        Ok(document)
    }

    pub(super) fn read(document: &RawDocument) -> Result<Self, StoreError> {
        let fixed: Fixed = read(document)?;
        let terms: Terms = read(document)?;
        let shown: Shown = read(document)?;
        let kept: Kept = read(document)?;
        let place: Place = read(document)?;
        let mut job = public(fixed.clone(), shown)?;
        if job.status == JobStatus::Completed && place.result_blob.is_none() {
            job.result = Some(value::from_bson(place.result.unwrap_or(Bson::Null))?);
        }
        Ok(Self {
            id: place._id,
            rev: place.rev,
            changes: place.changes,
            now: place.now.map_or_else(Timestamp::now, time),
            state: JobState {
                tenant: Tenant::new(&fixed.tenant),
                job,
                run_at: time(kept.run_at),
                sort_key: kept.sort_key,
                timeout: Duration::from_millis(from_stored(terms.timeout_ms)),
                max_attempts: u32::try_from(terms.max_attempts).unwrap_or(u32::MAX),
                ttl: Duration::from_millis(from_stored(terms.ttl_ms)),
                fence: Fence(from_stored(kept.fence)),
                owner: kept.owner,
                lease_until: kept.lease_until.map(time),
                cancel_wanted: kept.cancel_wanted,
                expires_at: kept.ttl_expire_at.map(time),
            },
            body_hash: terms.body_hash,
            input: kept.input,
            waiting_for: kept.waiting_for,
            result_blob: place.result_blob,
        })
    }

    /// The values that the job owns beside its document.
    pub(super) fn blobs(&self) -> Vec<ObjectId> {
        let blobs = self.input.into_iter().chain(self.result_blob);
        blobs.map(|blob| blob.blob).collect()
    }

    /// Stores the job where nobody wrote it since it was read: false where somebody did. With a change where it is in another
    /// state than before.
    pub(super) async fn save(
        &self,
        store: &Mongo,
        is_transition: bool,
        result: Option<&NewResult>,
    ) -> Result<bool, StoreError> {
        let mut set = written(&Shown::of(&self.state.job))?;
        set.extend(written(&self.kept())?);
        set.insert("rev", self.rev + 1);
        match result {
            Some(NewResult::Inline(result)) => {
                set.insert("result", result.clone());
            }
            Some(NewResult::Parts(blob)) => {
                set.insert("result_blob", written(blob)?);
            }
            None => {}
        }
        let mut update = doc! {};
        if is_transition {
            set.insert("changes", self.changes + 1);
            update.insert("$push", doc! { "pending": written(&self.entry(self.now))? });
            update.insert("$min", doc! { "pending_since": stored_time(self.now) });
        }
        update.insert("$set", set);
        let stored = store
            .collection(JOBS)
            .update_one(doc! { "_id": self.id, "rev": self.rev }, update)
            .await?;
        Ok(stored.matched_count == 1)
    }

    fn entry(&self, at: Timestamp) -> Entry {
        Entry::of(&self.state.job, self.changes + 1, at)
    }

    fn kept(&self) -> Kept {
        let state = &self.state;
        Kept {
            run_at: stored_time(state.run_at),
            sort_key: state.sort_key,
            fence: to_stored(state.fence.0),
            owner: state.owner.clone(),
            lease_until: state.lease_until.map(stored_time),
            cancel_wanted: state.cancel_wanted,
            ttl_expire_at: state.expires_at.map(stored_time),
            input: self.input,
            waiting_for: self.waiting_for.clone(),
            blocked: self.waiting_for.len() as i64,
        }
    }
}

impl Fixed {
    pub(super) fn of(
        tenant: &Tenant,
        job: &Job,
        callback_url: Option<&str>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            job_id: job.job_id.clone(),
            tenant: tenant.as_str().to_owned(),
            request_id: job.request_id.clone(),
            operation: job.operation,
            model_id: job.model_id.clone(),
            priority: job.priority,
            created_at: stored_time(job.created_at),
            group: job.group.clone(),
            depends_on: job.depends_on.clone(),
            metadata: value::to_bson(&Value::Object(job.metadata.clone()))?,
            callback_url: callback_url.map(str::to_owned),
        })
    }
}

impl Shown {
    fn of(job: &Job) -> Self {
        Self {
            status: job.status,
            started_at: job.started_at.map(stored_time),
            completed_at: job.completed_at.map(stored_time),
            failed_at: job.failed_at.map(stored_time),
            cancelled_at: job.cancelled_at.map(stored_time),
            progress: job.progress,
            attempt: job.attempt.into(),
            error: job.error.clone(),
            error_detail: job.error_detail,
        }
    }
}

impl Entry {
    /// The change with this number among the job's, which made it what it is.
    pub(super) fn of(job: &Job, number: i64, at: Timestamp) -> Self {
        Self {
            entry: format!("{}/{number}", job.job_id),
            number,
            at: stored_time(at),
            shown: Shown::of(job),
        }
    }
}

/// The document of a job that another store had, with its input and its result put beside it where they belong there.
pub(super) async fn moved(store: &Mongo, job: &MovedJob) -> Result<Document, StoreError> {
    let id = &job.state.job.job_id;
    let input = match &job.input {
        Some(input) => Some(
            store
                .put_blob(id.as_str(), &serde_json::to_vec(input)?)
                .await?,
        ),
        None => None,
    };
    let row = JobRow {
        id: ObjectId::new(),
        rev: 0,
        changes: 0,
        now: job.state.job.created_at,
        state: job.state.clone(),
        body_hash: None,
        input,
        waiting_for: job.waits_for.clone(),
        result_blob: None,
    };
    let (callback_url, idempotency) = (job.callback_url.as_deref(), job.idempotency.as_ref());
    let mut document = row.whole(callback_url, idempotency, to_stored(job.changes))?;
    if let Some(result) = &job.state.job.result {
        match store.put_result(id, result).await? {
            NewResult::Inline(result) => document.insert("result", result),
            NewResult::Parts(blob) => document.insert("result_blob", written(&blob)?),
        };
    }
    Ok(document)
}

/// The public record without its result.
pub(super) fn public(fixed: Fixed, shown: Shown) -> Result<Job, StoreError> {
    let metadata = match value::from_bson(fixed.metadata)? {
        Value::Object(metadata) => metadata,
        _ => Map::new(),
    };
    Ok(Job {
        job_id: fixed.job_id,
        status: shown.status,
        model_id: fixed.model_id,
        operation: fixed.operation,
        priority: fixed.priority,
        created_at: time(fixed.created_at),
        started_at: shown.started_at.map(time),
        completed_at: shown.completed_at.map(time),
        failed_at: shown.failed_at.map(time),
        cancelled_at: shown.cancelled_at.map(time),
        progress: shown.progress,
        attempt: u32::try_from(shown.attempt).unwrap_or(u32::MAX),
        result: None,
        error: shown.error,
        error_detail: shown.error_detail,
        group: fixed.group,
        depends_on: fixed.depends_on,
        metadata,
        request_id: fixed.request_id,
    })
}

/// A field of the metadata as lists search it: numbers and truth values by how JSON writes them.
pub(super) fn label(key: &str, value: &str) -> Result<String, StoreError> {
    Ok(serde_json::to_string(&(key, value))?)
}

fn labels(metadata: &Map<String, Value>) -> Result<Vec<String>, StoreError> {
    let searchable = metadata.iter().filter_map(|(key, value)| match value {
        Value::Null => None,
        Value::String(text) => Some((key, text.clone())),
        other => Some((key, other.to_string())),
    });
    searchable.map(|(key, value)| label(key, &value)).collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
