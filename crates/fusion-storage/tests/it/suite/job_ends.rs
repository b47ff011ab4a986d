//! The suite of `JobStore`: how jobs end, and what comes after.

use std::time::Duration;

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Held, Idempotency, JobEvent, JobStatus, JobWrite, NewJob, Outcome, Seq},
    store::JobStore,
};
use serde_json::json;

use super::jobs::{HOUR, claim, claim_one, events, failure, finish, get, insert, new_job, owner};

pub(crate) async fn a_job_whose_workers_vanish_fails_in_the_end(store: &dyn JobStore) {
    let job = insert(
        store,
        NewJob {
            max_attempts: 2,
            ..new_job()
        },
    )
    .await;
    for attempt in 1..=2 {
        assert_eq!(
            claim(store, 1, Duration::ZERO).await[0].job.attempt,
            attempt
        );
    }
    assert!(claim(store, 1, Duration::ZERO).await.is_empty());
    let failed = get(store, &job.job_id).await;
    assert_eq!(failed.status, JobStatus::Failed);
    assert_eq!(
        failed.error_detail.map(|detail| detail.code),
        Some(ErrorCode::EngineCrashed)
    );
    assert!(
        failed
            .error
            .unwrap()
            .starts_with("gave up after 2 attempts")
    );
    assert_eq!(events(store).await.last(), Some(&JobEvent::Failed));
}

pub(crate) async fn a_release_of_the_last_attempt_fails_the_job(store: &dyn JobStore) {
    let job = insert(
        store,
        NewJob {
            max_attempts: 1,
            ..new_job()
        },
    )
    .await;
    let claimed = claim_one(store).await;
    let release = JobWrite::Release {
        run_at: Timestamp::now(),
        error: failure(ErrorCode::Timeout),
    };
    let failed = store
        .write(&job.job_id, claimed.fence, release)
        .await
        .unwrap();
    assert_eq!(
        (failed.status, failed.error.as_deref()),
        (JobStatus::Failed, Some("it broke"))
    );
    assert!(claim(store, 1, HOUR).await.is_empty());
}

pub(crate) async fn a_queued_job_is_cancelled_at_once(store: &dyn JobStore) {
    let job = insert(store, new_job()).await;
    let cancelled = store.cancel(&Tenant::default(), &job.job_id).await.unwrap();
    assert_eq!(cancelled.status, JobStatus::Cancelled);
    assert!(cancelled.cancelled_at.is_some());
    assert!(claim(store, 1, HOUR).await.is_empty());
    let again = store
        .cancel(&Tenant::default(), &job.job_id)
        .await
        .unwrap_err();
    assert_eq!(again.code, ErrorCode::JobFinished);
    let missing = store
        .cancel(&Tenant::default(), &JobId::generate())
        .await
        .unwrap_err();
    assert_eq!(missing.code, ErrorCode::JobNotFound);
}

pub(crate) async fn a_running_job_is_cancelled_by_its_worker(store: &dyn JobStore) {
    let job = insert(store, new_job()).await;
    let claimed = claim_one(store).await;
    let asked = store.cancel(&Tenant::default(), &job.job_id).await.unwrap();
    assert_eq!(asked.status, JobStatus::Processing);
    let ids = [(job.job_id.clone(), claimed.fence)];
    assert_eq!(
        store.renew(&owner(), HOUR, &ids).await.unwrap(),
        [Held::CancelWanted]
    );
    assert_eq!(
        finish(store, &claimed, Outcome::Cancelled).await.status,
        JobStatus::Cancelled
    );
    let late = store
        .write(
            &job.job_id,
            claimed.fence,
            JobWrite::Finish(Outcome::Completed(json!(1))),
        )
        .await;
    assert_eq!(late.unwrap_err().code, ErrorCode::VersionConflict);
}

pub(crate) async fn a_cancelled_job_is_not_tried_again(store: &dyn JobStore) {
    for lease in [HOUR, Duration::ZERO] {
        let job = insert(store, new_job()).await;
        let claimed = claim(store, 1, lease).await.remove(0);
        store.cancel(&Tenant::default(), &job.job_id).await.unwrap();
        if lease == HOUR {
            let release = JobWrite::Release {
                run_at: Timestamp::now(),
                error: failure(ErrorCode::Timeout),
            };
            store
                .write(&job.job_id, claimed.fence, release)
                .await
                .unwrap();
        }
        assert!(claim(store, 1, HOUR).await.is_empty());
        assert_eq!(get(store, &job.job_id).await.status, JobStatus::Cancelled);
    }
}

pub(crate) async fn a_failed_job_can_be_retried(store: &dyn JobStore) {
    let tenant = Tenant::default();
    let job = insert(store, new_job()).await;
    let queued = store.retry(&tenant, &job.job_id).await.unwrap_err();
    assert_eq!(queued.code, ErrorCode::InvalidValue);
    let claimed = claim_one(store).await;
    store.cancel(&tenant, &job.job_id).await.unwrap();
    finish(
        store,
        &claimed,
        Outcome::Failed(failure(ErrorCode::InternalError)),
    )
    .await;
    let retried = store.retry(&tenant, &job.job_id).await.unwrap();
    assert_eq!(
        (retried.status, retried.attempt, retried.error),
        (JobStatus::Queued, 0, None)
    );
    let again = claim_one(store).await;
    assert_eq!((again.job.attempt, &again.input), (1, &claimed.input));
    assert!(again.fence > claimed.fence);
    let held = store
        .renew(&owner(), HOUR, &[(job.job_id.clone(), again.fence)])
        .await
        .unwrap();
    assert_eq!(
        held,
        [Held::Kept],
        "the wish to cancel was about the run before"
    );
    finish(store, &again, Outcome::Completed(json!(1))).await;
    assert_eq!(
        store.retry(&tenant, &job.job_id).await.unwrap_err().code,
        ErrorCode::InvalidValue
    );
}

pub(crate) async fn expired_is_gone_at_once_and_swept_later(store: &dyn JobStore) {
    let key = Some(Idempotency {
        key: "key".to_owned(),
        body_hash: "a".to_owned(),
    });
    let job = insert(
        store,
        NewJob {
            ttl: Duration::ZERO,
            idempotency: key.clone(),
            ..new_job()
        },
    )
    .await;
    let kept = insert(store, new_job()).await;
    assert_eq!(
        store.sweep().await.unwrap(),
        0,
        "an unfinished job never expires"
    );
    store.cancel(&Tenant::default(), &job.job_id).await.unwrap();
    assert_eq!(
        store.get(&Tenant::default(), &job.job_id).await.unwrap(),
        None
    );
    let retried = store
        .retry(&Tenant::default(), &job.job_id)
        .await
        .unwrap_err();
    assert_eq!(retried.code, ErrorCode::JobNotFound);
    assert_eq!(store.sweep().await.unwrap(), 1);
    let left = store.changes(Seq(0), 10).await.unwrap();
    assert_eq!(
        left.into_iter()
            .map(|change| change.job.job_id)
            .collect::<Vec<_>>(),
        [kept.job_id]
    );

    // A key is free again once its job has expired, swept or not.
    let again = insert(
        store,
        NewJob {
            ttl: Duration::ZERO,
            idempotency: key.clone(),
            ..new_job()
        },
    )
    .await;
    store
        .cancel(&Tenant::default(), &again.job_id)
        .await
        .unwrap();
    insert(
        store,
        NewJob {
            idempotency: key,
            ..new_job()
        },
    )
    .await;
}

/// Of a store that keeps no failed job's input.
pub(crate) async fn without_its_input_no_failed_job_is_retried(store: &dyn JobStore) {
    let id = failed(store).await;
    let error = store.retry(&Tenant::default(), &id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PayloadGone);
    store.sweep().await.unwrap();
    let error = store.retry(&Tenant::default(), &id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::PayloadGone);
}

/// Of a store that keeps inputs as long as jobs.
pub(crate) async fn a_kept_input_outlives_the_sweep(store: &dyn JobStore) {
    let id = failed(store).await;
    store.sweep().await.unwrap();
    store.retry(&Tenant::default(), &id).await.unwrap();
    assert_eq!(claim_one(store).await.input, new_job().input);
}

async fn failed(store: &dyn JobStore) -> JobId {
    insert(store, new_job()).await;
    let claimed = claim_one(store).await;
    let outcome = Outcome::Failed(failure(ErrorCode::InternalError));
    finish(store, &claimed, outcome).await.job_id
}
