//! Many jobs in one commit.

use fusion_types::{
    Call, Error, ErrorCode, Result,
    error::ErrorBody,
    id::{GroupId, JobId},
    job::Inserted,
    json,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Accepted, Jobs, SubmitRequest, submit};

/// Most jobs of one [`Jobs::submit_many`].
pub const MOST_AT_ONCE: usize = 1000;

/// The body of `POST /api/mcp/jobs/bulk`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// A job may depend on one before it: `#0` in its `depends_on` is the list's first.
    pub jobs: Vec<SubmitRequest>,
    /// Of every job that names none itself.
    #[serde(default)]
    pub group: Option<String>,
    /// Called once, when all jobs of the group are finished.
    #[serde(default)]
    pub callback_url: Option<String>,
}

impl BulkRequest {
    /// From a list of jobs, or an object with one.
    ///
    /// # Errors
    /// `missing_field`, `unknown_field`, `invalid_value`.
    pub fn read(body: Value) -> Result<Self> {
        if body.is_array() {
            let jobs = json::parse_value(body)?;
            return Ok(Self {
                jobs,
                group: None,
                callback_url: None,
            });
        }
        json::parse_value(body)
    }

    /// The same with the group written into its jobs; one that is to be called back for has a group in any case.
    ///
    /// # Errors
    /// `invalid_value` for a job of another group beside a callback, which would be called for none of it.
    pub fn with_group(mut self) -> Result<Self> {
        if self.callback_url.is_some() && self.group.is_none() {
            self.group = Some(GroupId::generate().as_str().to_owned());
        }
        let Some(group) = &self.group else {
            return Ok(self);
        };
        for (index, job) in self.jobs.iter_mut().enumerate() {
            if job.group.get_or_insert_with(|| group.clone()) != group {
                let message = "the job names another group than the list";
                return Err(Error::invalid(format!("jobs[{index}].group"), message));
            }
        }
        Ok(self)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct BulkAccepted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// One for each job, in order.
    pub jobs: Vec<BulkEntry>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum BulkEntry {
    Accepted(Accepted),
    /// Its key was used before with another request; the other jobs are kept all the same.
    Refused(ErrorBody),
}

impl Jobs {
    /// Keeps many jobs in one commit, and answers for each in order, without its place in the queue. If one of them is bad none is
    /// kept.
    ///
    /// # Errors
    /// As [`Jobs::submit`], with the index of the bad request before the field's name.
    pub async fn submit_many(
        &self,
        call: &Call,
        requests: Vec<SubmitRequest>,
    ) -> Result<Vec<BulkEntry>> {
        if requests.is_empty() || requests.len() > MOST_AT_ONCE {
            return Err(Error::invalid(
                "jobs",
                format!("the list must hold from 1 to {MOST_AT_ONCE} jobs"),
            ));
        }
        let mut jobs = Vec::with_capacity(requests.len());
        let mut ids: Vec<JobId> = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let checked = submit::check(&self.parts, call, request, None);
            let (mut new, _forecast) = checked.map_err(|error| at(index, error))?;
            for parent in &mut new.depends_on {
                *parent = resolved(parent, &ids).map_err(|error| at(index, error))?;
            }
            ids.push(new.id.clone());
            jobs.push(new);
        }
        let (store, config) = (&*self.parts.store, &self.parts.config);
        let queue = &self.parts.queue;
        queue
            .admit(store, jobs.len() as u64, config.max_queued)
            .await?;
        let inserted = store.insert(jobs).await?;
        Ok(inserted.into_iter().map(entry).collect())
    }
}

/// The job that `#N` stands for; any other text is an id.
fn resolved(parent: &JobId, before: &[JobId]) -> Result<JobId> {
    let Some(number) = parent.as_str().strip_prefix('#') else {
        return Ok(parent.clone());
    };
    let index = number.parse::<usize>().ok();
    index
        .and_then(|index| before.get(index))
        .cloned()
        .ok_or_else(|| {
            let message = format!("#{number} is not a job before this one in the list");
            Error::invalid("depends_on", message)
        })
}

fn at(index: usize, error: Error) -> Error {
    let param = format!("[{index}].{}", error.param.as_deref().unwrap_or_default());
    error.with_param(param)
}

fn entry(inserted: Inserted) -> BulkEntry {
    match inserted {
        Inserted::New(job) | Inserted::Existing(job) => BulkEntry::Accepted(Accepted {
            job_id: job.job_id,
            status: job.status,
            created_at: job.created_at,
            estimated_completion_ms: None,
            position_in_queue: None,
        }),
        Inserted::KeyReused => BulkEntry::Refused(ErrorBody::from(&key_reused())),
    }
}

pub(super) fn key_reused() -> Error {
    let message = "the idempotency key was used before with another request";
    Error::new(ErrorCode::IdempotencyMismatch, message).with_param("idempotency_key")
}
