//! The end of a batch: what still runs is ended where it has to be, then the files are written, then the record says so.

use std::time::Duration;

use fusion_types::{ErrorCode, Result, Timestamp, record::RecordWrite};
use tokio::time;

use super::{
    Status, TRIES, contended,
    hold::Held,
    line::LineError,
    outcome::{Kind, text},
    record::Batch,
};
use crate::files::Files;

/// Between looks at jobs that are to let go.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn finish(held: &mut Held) -> Result<()> {
    let group = held.batch.group();
    let jobs = held.parts.jobs.clone();
    if held.batch.status == Status::Cancelling || held.batch.times.expired.is_some() {
        end_jobs(held).await?;
    }
    let completed = jobs.counts_of(&group).await?.completed;
    if completed > 0 && held.batch.output.is_none() {
        write(held, Kind::Output).await?;
    }
    if completed < held.batch.total && held.batch.error.is_none() {
        write(held, Kind::Error).await?;
    }
    end(held, |batch, now| {
        let (status, time) = match (batch.status, batch.times.expired) {
            (Status::Cancelling, _) => (Status::Cancelled, &mut batch.times.cancelled),
            (_, Some(_)) => (Status::Expired, &mut batch.times.expired),
            _ => (Status::Completed, &mut batch.times.completed),
        };
        (batch.status, *time) = (status, Some(now));
        batch.completed = completed.min(batch.total);
        batch.failed = batch.total - batch.completed;
    })
    .await
}

/// Ends a batch whose input can't be done.
pub(super) async fn fail(held: &mut Held, errors: Vec<LineError>) -> Result<()> {
    end(held, |batch, now| {
        if batch.status == Status::Cancelling {
            (batch.status, batch.times.cancelled) = (Status::Cancelled, Some(now));
        } else {
            (batch.status, batch.times.failed) = (Status::Failed, Some(now));
            batch.errors.clone_from(&errors);
        }
    })
    .await
}

/// Cancels the jobs that have not ended, and waits until those that run have let go.
async fn end_jobs(held: &mut Held) -> Result<()> {
    let (jobs, group) = (held.parts.jobs.clone(), held.batch.group());
    loop {
        jobs.cancel_members(&group).await?;
        if jobs.counts_of(&group).await?.unfinished() == 0 {
            return Ok(());
        }
        held.refresh().await?;
        time::sleep(PAUSE).await;
        jobs.wait_for_any(LONGEST_PAUSE).await?;
    }
}

/// Writes one of the files. It is the batch's in the commit that makes it a file, or nobody's.
async fn write(held: &mut Held, kind: Kind) -> Result<()> {
    let (parts, batch) = (held.parts.clone(), held.batch.clone());
    let files = parts.files.clone();
    let text = text(parts, batch.clone(), kind).await?;
    let upload = held.during(files.upload(text)).await?;
    let name = match kind {
        Kind::Output => format!("{}_output.jsonl", batch.id),
        Kind::Error => format!("{}_error.jsonl", batch.id),
    };
    let kept = batch.output_seconds.map(Duration::from_secs);
    let (file, writes) = files.made(&batch.tenant, upload, name, "batch_output", kept)?;
    for _ in 0..TRIES {
        let named = |batch: &mut Batch, _: Timestamp| {
            let place = match kind {
                Kind::Output => &mut batch.output,
                Kind::Error => &mut batch.error,
            };
            *place = Some(file.id.clone());
        };
        if held.try_update(named, writes.clone()).await? {
            return Ok(());
        }
    }
    Err(contended())
}

/// The last commit: the input is free again.
async fn end(held: &mut Held, change: impl Fn(&mut Batch, Timestamp)) -> Result<()> {
    for _ in 0..TRIES {
        let writes = freed(&held.parts.files, &held.batch).await?;
        if held.try_update(&change, writes).await? {
            return Ok(());
        }
    }
    Err(contended())
}

async fn freed(files: &Files, batch: &Batch) -> Result<Vec<RecordWrite>> {
    match files.find(&batch.tenant, &batch.input).await {
        Ok((file, version)) => Ok(vec![file.used(version, false)?]),
        Err(error) if error.code == ErrorCode::FileNotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
