//! One attempt at one job: the work, and the write that ends it.

use std::{
    convert::Infallible, future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use fusion_types::{
    Call, Class, Error, ErrorCode, Result, Timestamp,
    id::JobId,
    job::{Claimed, ErrorDetail, Fence, JobError, JobWrite, Outcome},
};
use futures::FutureExt;
use serde_json::Value;
use tokio::{sync::watch, time};

use super::{
    Parts, Progress, Work,
    backoff::{Next, after_failure},
    live::Attempt,
    operation::Reported,
    seal,
};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Between tries to write while the store can't.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Does the job and writes what came of it. Dropping the future cancels the work and writes nothing.
pub(super) async fn attempt(parts: Arc<Parts>, claimed: Claimed) {
    let (id, fence) = (claimed.job.job_id.clone(), claimed.fence);
    let (attempt, most) = (claimed.job.attempt, claimed.max_attempts);
    let (progress, Reported { part, partial }) = Progress::new();
    let shown = parts.live.show(
        &id,
        Attempt {
            number: attempt,
            output: partial,
        },
    );
    let result = tokio::select! {
        result = work(&parts, claimed, progress) => result,
        never = report(&parts, &id, fence, part) => match never {},
    };
    drop(shown);
    let write = ending(result, attempt, most, (parts.clock)());
    write_through(&parts, &id, fence, write).await;
}

/// Writes, and while the store can't, tries again. A stale fence means that the job is another's by now, whose word counts.
pub(super) async fn write_through(parts: &Parts, id: &JobId, fence: Fence, write: JobWrite) {
    loop {
        let Err(error) = parts.store.write(id, fence, write.clone()).await else {
            return;
        };
        match error.code {
            ErrorCode::StoreUnavailable | ErrorCode::Timeout => time::sleep(STORE_PAUSE).await,
            ErrorCode::VersionConflict => {
                metrics::counter!("fusiond_job_stale_writes_total").increment(1);
                tracing::info!(job_id = %id, fence = fence.0, "a write with a stale fence was refused");
                return;
            }
            _ => {
                tracing::error!(job_id = %id, %error, "the end of a job can't be written");
                return;
            }
        }
    }
}

async fn work(parts: &Parts, claimed: Claimed, progress: Progress) -> Result<Value> {
    let call = Call::interactive(claimed.job.request_id, claimed.tenant)
        .with_class(Class::Job)
        .with_deadline(std::time::Instant::now() + claimed.timeout);
    let seal = parts.config.seal.as_deref();
    let work = Work {
        operation: claimed.job.operation,
        model_id: claimed.job.model_id,
        input: seal::open(seal, &claimed.job.job_id, claimed.input)?,
    };
    let running = AssertUnwindSafe(parts.operations.run(&call, work, progress)).catch_unwind();
    match time::timeout(claimed.timeout, running).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => {
            tracing::error!(job_id = %claimed.job.job_id, "a job panicked");
            Err(Error::internal("the operation failed unexpectedly"))
        }
        Err(_elapsed) => {
            let message = format!(
                "the job took longer than its {} ms",
                claimed.timeout.as_millis()
            );
            Err(Error::new(ErrorCode::Timeout, message))
        }
    }
}

/// Writes the progress down, not oftener than it is worth. Best effort: the next one says more.
async fn report(
    parts: &Parts,
    id: &JobId,
    fence: Fence,
    mut reported: watch::Receiver<f32>,
) -> Infallible {
    while reported.changed().await.is_ok() {
        let part = *reported.borrow_and_update();
        if let Err(error) = parts.store.write(id, fence, JobWrite::Progress(part)).await {
            tracing::debug!(job_id = %id, %error, "progress was not written");
        }
        time::sleep(PROGRESS_EVERY).await;
    }
    pending().await
}

/// The write that ends an attempt.
fn ending(result: Result<Value>, attempt: u32, max_attempts: u32, now: Timestamp) -> JobWrite {
    let error = match result {
        Ok(value) => return JobWrite::Finish(Outcome::Completed(value)),
        Err(error) => error,
    };
    let next = after_failure(&error, attempt, max_attempts, rand::random());
    let detail = ErrorDetail {
        code: error.code,
        retryable: error.code.is_retryable(),
    };
    let error = JobError {
        message: error.message,
        detail,
    };
    match next {
        Next::Retry(delay) => JobWrite::Release {
            run_at: now.plus(delay),
            error,
        },
        Next::Fail => JobWrite::Finish(Outcome::Failed(error)),
    }
}
