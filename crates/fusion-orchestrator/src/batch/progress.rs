//! `in_progress`: lines become jobs, a few at a time, until all are and all of these have ended.

use std::time::Duration;

use fusion_types::{Error, ErrorCode, Result};
use serde_json::{Map, Value, json};
use tokio::time::{self, Instant};

use super::{
    Parts, Status,
    hold::Held,
    lines::{Line, Lines, Place},
    record::Batch,
    validate::request,
};
use crate::jobs::{Member, Work};

/// Lines of one commit, so that other writers needn't wait.
const CHUNK: usize = 500;
/// The same in bytes.
const CHUNK_BYTES: u64 = 4_000_000;
/// Lines that wait as jobs: enough to keep every model busy, and few to whoever looks at the queue.
const WAITING: u64 = 1_000;
/// Between two looks at the jobs, at least and at most; counting many takes a while, and gets a twentieth of the time.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const SHARE: u32 = 20;
/// Until the next look where no job changes.
const TICK: Duration = Duration::from_secs(1);

pub(super) async fn progress(held: &mut Held) -> Result<()> {
    let parts = held.parts.clone();
    let group = held.batch.group();
    let mut lines = open(&parts, &held.batch, held.batch.fed).await?;
    loop {
        held.refresh().await?;
        if held.batch.status != Status::InProgress {
            return Ok(());
        }
        if held.batch.times.expires <= parts.now() {
            return finalize(held, true).await;
        }
        let began = Instant::now();
        let unfinished = parts.jobs.counts_of(&group).await?.unfinished();
        let pause = (began.elapsed() * SHARE).clamp(PAUSE, LONGEST_PAUSE);
        if held.batch.is_fed && unfinished == 0 {
            return finalize(held, false).await;
        }
        if !held.batch.is_fed && unfinished < WAITING {
            match feed(held, &mut lines).await {
                Ok(()) => continue,
                Err(error) if error.code == ErrorCode::QueueFull => {
                    // What was read of the chunk is read again.
                    lines = open(&parts, &held.batch, held.batch.fed).await?;
                }
                Err(error) => return Err(error),
            }
        }
        time::sleep(pause).await;
        parts.jobs.wait_for_any(TICK).await?;
    }
}

pub(super) async fn open(parts: &Parts, batch: &Batch, place: Place) -> Result<Lines> {
    let input = parts.files.bytes(&batch.blob, place.offset).await?;
    Ok(Lines::new(input, place, parts.longest_line()))
}

async fn finalize(held: &mut Held, expired: bool) -> Result<()> {
    held.update(|batch, now| {
        // A cancellation that came first stands.
        if batch.status == Status::InProgress {
            batch.status = Status::Finalizing;
            batch.times.finalizing = Some(now);
            batch.times.expired = expired.then_some(now);
        }
    })
    .await
}

/// Makes jobs of the next lines. Where the server dies before it has noted that, they are the same jobs the next time.
async fn feed(held: &mut Held, lines: &mut Lines) -> Result<()> {
    let (parts, batch) = (held.parts.clone(), held.batch.clone());
    let from = lines.place().offset;
    let mut members = Vec::with_capacity(CHUNK);
    let mut is_fed = false;
    while members.len() < CHUNK && lines.place().offset - from < CHUNK_BYTES {
        let Some(line) = lines.next().await? else {
            is_fed = true;
            break;
        };
        members.push(member(&parts, &batch, &line)?);
    }
    if !members.is_empty() {
        parts.jobs.keep(&batch.group(), members).await?;
    }
    let place = lines.place();
    held.update(|batch, _| {
        batch.fed = place;
        batch.is_fed = is_fed;
    })
    .await
}

fn member(parts: &Parts, batch: &Batch, line: &Line) -> Result<Member> {
    let request = request(batch, line).map_err(|error| {
        // It was checked, and the file doesn't change.
        Error::internal(format!(
            "line {} can't be read: {}",
            line.number, error.message
        ))
    })?;
    let asked = parts.dialect.read(batch.endpoint, request.body)?;
    let mut metadata = Map::from_iter([
        ("batch_id".to_owned(), json!(batch.id)),
        ("custom_id".to_owned(), Value::from(request.custom_id)),
    ]);
    metadata.extend(asked.answer);
    Ok(Member {
        id: batch.job_id(line.number),
        work: Work {
            operation: batch.endpoint.operation(),
            model_id: Some(asked.model),
            input: asked.input,
        },
        metadata,
    })
}
