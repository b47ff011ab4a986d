//! What became of the lines, as the text of the two files: answers, and what has none.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fusion_types::{
    Error, Result,
    blob::ByteStream,
    job::{Job, JobStatus},
};
use futures::{StreamExt, stream};

use super::{
    Parts,
    line::{CANCELLED, EXPIRED, Outcome, Response, refusal},
    lines::{Line, Lines, Place},
    progress::open,
    record::Batch,
    validate::request,
};

/// Written at once.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines that were answered.
    Output,
    /// All others.
    Error,
}

struct Writing {
    outcomes: Outcomes,
    lines: Lines,
}

struct Outcomes {
    parts: Arc<Parts>,
    batch: Batch,
    kind: Kind,
}

/// The file's text, one line and one job in memory at a time.
pub(super) async fn text(
    parts: Arc<Parts>,
    batch: Batch,
    kind: Kind,
) -> Result<ByteStream<'static>> {
    let lines = open(&parts, &batch, Place::default()).await?;
    let outcomes = Outcomes { parts, batch, kind };
    Ok(stream::try_unfold(Writing { outcomes, lines }, piece).boxed())
}

async fn piece(mut writing: Writing) -> Result<Option<(Bytes, Writing)>> {
    let mut text = BytesMut::with_capacity(PIECE);
    while text.len() < PIECE {
        let Some(line) = writing.lines.next().await? else {
            break;
        };
        writing.outcomes.add(&mut text, &line).await?;
    }
    Ok((!text.is_empty()).then(|| (text.freeze(), writing)))
}

impl Outcomes {
    async fn add(&self, text: &mut BytesMut, line: &Line) -> Result<()> {
        let batch = &self.batch;
        // Only a line that was checked is here.
        let custom_id = request(batch, line).map_or_else(
            |error| format!("line {}: {}", line.number, error.code),
            |request| request.custom_id,
        );
        let id = batch.job_id(line.number);
        let job = self.parts.jobs.find(&batch.tenant, &id).await?;
        let (kind, response) = self.became(job);
        if kind != self.kind {
            return Ok(());
        }
        let reason = match batch.times.expired {
            Some(_) => EXPIRED,
            None => CANCELLED,
        };
        let outcome = Outcome {
            id: batch.answer_id(line.number),
            custom_id,
            error: response.is_none().then_some(reason),
            response,
        };
        serde_json::to_writer((&mut *text).writer(), &outcome)
            .map_err(|error| Error::internal(error.to_string()))?;
        text.put_u8(b'\n');
        Ok(())
    }

    fn became(&self, job: Option<Job>) -> (Kind, Option<Response>) {
        let Some(job) = job else {
            return (Kind::Error, None);
        };
        let request_id = job.request_id.to_string();
        match job.status {
            JobStatus::Completed => match self.parts.dialect.answer(self.batch.endpoint, &job) {
                Ok(body) => {
                    let status_code = 200;
                    let response = Response {
                        status_code,
                        request_id,
                        body,
                    };
                    (Kind::Output, Some(response))
                }
                Err(error) => (Kind::Error, Some(refusal(request_id, &error))),
            },
            JobStatus::Failed => {
                let error = failure(&job);
                (Kind::Error, Some(refusal(request_id, &error)))
            }
            _ => (Kind::Error, None),
        }
    }
}

fn failure(job: &Job) -> Error {
    let message = job.error.clone().unwrap_or_default();
    match job.error_detail {
        Some(detail) => Error::new(detail.code, message),
        None => Error::internal(message),
    }
}
