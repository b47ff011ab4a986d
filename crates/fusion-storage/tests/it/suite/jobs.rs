//! The suite of `JobStore`.

use std::time::{Duration, Instant};

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::{JobId, RequestId},
    job::{
        Claim, Claimed, ErrorDetail, Fence, Held, Idempotency, Inserted, Job, JobCounts, JobError,
        JobEvent, JobQuery, JobSort, JobStatus, JobWrite, NewJob, Operation, Outcome, Owner, Seq,
    },
    model::Priority,
    page::Window,
    store::JobStore,
};
use serde_json::{Map, json};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn new_job() -> NewJob {
    let now = Timestamp::now();
    NewJob {
        id: JobId::generate(),
        tenant: Tenant::default(),
        request_id: RequestId::generate(),
        operation: Operation::Chat,
        model_id: Some("small".to_owned()),
        input: json!({"messages": [{"role": "user", "content": "hello"}]}),
        priority: Priority::Normal,
        metadata: Map::new(),
        callback_url: None,
        idempotency: None,
        created_at: now,
        run_at: now,
        sort_key: now.as_millis(),
        timeout: HOUR,
        max_attempts: 3,
        ttl: HOUR,
        group: None,
    }
}

/// Inserts one job that is new.
pub(crate) async fn insert(store: &dyn JobStore, job: NewJob) -> Job {
    match store.insert(vec![job]).await.unwrap().remove(0) {
        Inserted::New(job) => job,
        other => panic!("not new: {other:?}"),
    }
}

pub(crate) fn owner() -> Owner {
    Owner("worker".to_owned())
}

/// A lease of zero has run out at once.
pub(crate) async fn claim(store: &dyn JobStore, limit: u32, lease: Duration) -> Vec<Claimed> {
    store
        .claim(Claim {
            owner: owner(),
            limit,
            lease,
        })
        .await
        .unwrap()
}

async fn claim_one(store: &dyn JobStore) -> Claimed {
    claim(store, 1, HOUR).await.remove(0)
}

async fn get(store: &dyn JobStore, id: &JobId) -> Job {
    store.get(&Tenant::default(), id).await.unwrap().unwrap()
}

async fn finish(store: &dyn JobStore, claimed: &Claimed, outcome: Outcome) -> Job {
    store
        .write(
            &claimed.job.job_id,
            claimed.fence,
            JobWrite::Finish(outcome),
        )
        .await
        .unwrap()
}

pub(crate) fn failure(code: ErrorCode) -> JobError {
    JobError {
        message: "it broke".to_owned(),
        detail: ErrorDetail {
            code,
            retryable: code.is_retryable(),
        },
    }
}

async fn events(store: &dyn JobStore) -> Vec<JobEvent> {
    store
        .changes(Seq(0), 1000)
        .await
        .unwrap()
        .into_iter()
        .map(|change| change.event)
        .collect()
}

pub(crate) async fn a_job_runs_from_queue_to_result(store: &dyn JobStore) {
    let mut new = new_job();
    new.metadata.insert("color".to_owned(), json!("blue"));
    let job = insert(store, new.clone()).await;
    assert_eq!(job.status, JobStatus::Queued);
    assert_eq!(get(store, &new.id).await, job);

    let claimed = claim_one(store).await;
    assert_eq!(claimed.input, new.input);
    assert_eq!(
        (claimed.timeout, claimed.max_attempts),
        (new.timeout, new.max_attempts)
    );
    assert_eq!(
        (claimed.job.status, claimed.job.attempt),
        (JobStatus::Processing, 1)
    );
    assert!(claimed.job.started_at.is_some());

    let halfway = store
        .write(&new.id, claimed.fence, JobWrite::Progress(0.5))
        .await
        .unwrap();
    assert_eq!(halfway.progress, Some(0.5));
    let done = finish(
        store,
        &claimed,
        Outcome::Completed(json!({"content": "hi"})),
    )
    .await;
    assert_eq!(done.status, JobStatus::Completed);
    assert_eq!(done.result, Some(json!({"content": "hi"})));
    assert!(done.completed_at.is_some());
    assert_eq!(get(store, &new.id).await, done);
    assert!(claim(store, 1, HOUR).await.is_empty());
}

pub(crate) async fn claims_are_exclusive_and_in_order(store: &dyn JobStore) {
    let mut expected = Vec::new();
    for sort_key in [30, 10, 20, 10] {
        let job = NewJob {
            sort_key,
            ..new_job()
        };
        expected.push((sort_key, expected.len(), job.id.clone()));
        insert(store, job).await;
    }
    expected.sort();
    let (first, second) = tokio::join!(claim(store, 2, HOUR), claim(store, 2, HOUR));
    let mut claimed = first
        .iter()
        .map(|claimed| claimed.job.job_id.clone())
        .collect::<Vec<_>>();
    claimed.extend(second.iter().map(|claimed| claimed.job.job_id.clone()));
    let expected = expected
        .into_iter()
        .map(|(_, _, id)| id)
        .collect::<Vec<_>>();
    assert!(
        claimed == expected || [&claimed[2..], &claimed[..2]].concat() == expected,
        "{claimed:?} {expected:?}"
    );
}

pub(crate) async fn a_job_waits_for_its_time(store: &dyn JobStore) {
    insert(
        store,
        NewJob {
            run_at: Timestamp::now().plus(HOUR),
            sort_key: 0,
            ..new_job()
        },
    )
    .await;
    let due = insert(store, new_job()).await;
    let claimed = claim(store, 10, HOUR).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].job.job_id, due.job_id);
}

pub(crate) async fn a_stale_fence_is_refused(store: &dyn JobStore) {
    let job = insert(store, new_job()).await;
    let first = claim(store, 1, Duration::ZERO).await.remove(0);
    let second = claim_one(store).await;
    assert!(second.fence > first.fence);
    for write in [
        JobWrite::Progress(0.9),
        JobWrite::Return,
        JobWrite::Finish(Outcome::Completed(json!(1))),
    ] {
        let refused = store
            .write(&job.job_id, first.fence, write)
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::VersionConflict);
    }
    let ids = [
        (job.job_id.clone(), first.fence),
        (job.job_id.clone(), second.fence),
    ];
    assert_eq!(
        store.renew(&owner(), HOUR, &ids).await.unwrap(),
        [Held::Lost, Held::Kept]
    );
    let stranger = Owner("stranger".to_owned());
    assert_eq!(
        store.renew(&stranger, HOUR, &ids[1..]).await.unwrap(),
        [Held::Lost]
    );
    finish(store, &second, Outcome::Completed(json!(2))).await;
    let late = store
        .write(
            &job.job_id,
            second.fence,
            JobWrite::Finish(Outcome::Cancelled),
        )
        .await
        .unwrap_err();
    assert_eq!(late.code, ErrorCode::VersionConflict);
    assert_eq!(get(store, &job.job_id).await.result, Some(json!(2)));
}

pub(crate) async fn a_lapsed_lease_is_taken_over(store: &dyn JobStore) {
    insert(store, new_job()).await;
    let first = claim(store, 1, Duration::ZERO).await.remove(0);
    let ids = [(first.job.job_id.clone(), first.fence)];
    assert_eq!(
        store.renew(&owner(), HOUR, &ids).await.unwrap(),
        [Held::Kept]
    );
    assert!(
        claim(store, 1, HOUR).await.is_empty(),
        "a renewed lease holds"
    );
    assert_eq!(
        store.renew(&owner(), Duration::ZERO, &ids).await.unwrap(),
        [Held::Kept]
    );
    let second = claim_one(store).await;
    assert_eq!((second.job.attempt, second.input), (2, first.input));
}

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

pub(crate) async fn a_released_job_is_tried_again(store: &dyn JobStore) {
    let job = insert(store, new_job()).await;
    let first = claim_one(store).await;
    let release = |run_at| JobWrite::Release {
        run_at,
        error: failure(ErrorCode::Timeout),
    };
    let queued = store
        .write(&job.job_id, first.fence, release(Timestamp::now()))
        .await
        .unwrap();
    assert_eq!((queued.status, queued.attempt), (JobStatus::Queued, 1));
    assert_eq!(queued.error.as_deref(), Some("it broke"));
    let second = claim_one(store).await;
    assert_eq!(second.job.attempt, 2);
    let later = Timestamp::now().plus(HOUR);
    store
        .write(&job.job_id, second.fence, release(later))
        .await
        .unwrap();
    assert!(
        claim(store, 1, HOUR).await.is_empty(),
        "not before its time"
    );
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

pub(crate) async fn a_returned_job_was_not_counted(store: &dyn JobStore) {
    let job = insert(
        store,
        NewJob {
            max_attempts: 1,
            ..new_job()
        },
    )
    .await;
    for _ in 0..3 {
        let claimed = claim_one(store).await;
        assert_eq!(claimed.job.attempt, 1);
        let queued = store
            .write(&job.job_id, claimed.fence, JobWrite::Return)
            .await
            .unwrap();
        assert_eq!(
            (queued.status, queued.attempt, queued.started_at),
            (JobStatus::Queued, 0, None)
        );
    }
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
    finish(store, &again, Outcome::Completed(json!(1))).await;
    assert_eq!(
        store.retry(&tenant, &job.job_id).await.unwrap_err().code,
        ErrorCode::InvalidValue
    );
}

pub(crate) async fn a_key_makes_one_job(store: &dyn JobStore) {
    let with_key = |body_hash: &str| NewJob {
        idempotency: Some(Idempotency {
            key: "key".to_owned(),
            body_hash: body_hash.to_owned(),
        }),
        ..new_job()
    };
    let (first, second, third, fourth) = tokio::join!(
        store.insert(vec![with_key("a")]),
        store.insert(vec![with_key("a")]),
        store.insert(vec![with_key("a")]),
        store.insert(vec![with_key("a")]),
    );
    let answers = [first, second, third, fourth].map(|answer| answer.unwrap().remove(0));
    let news = answers
        .iter()
        .filter(|answer| matches!(answer, Inserted::New(_)))
        .count();
    assert_eq!(news, 1);
    let ids = answers.iter().map(|answer| match answer {
        Inserted::New(job) | Inserted::Existing(job) => &job.job_id,
        Inserted::KeyReused => panic!("the body is the same"),
    });
    assert_eq!(ids.collect::<std::collections::HashSet<_>>().len(), 1);
    assert_eq!(
        store.insert(vec![with_key("b")]).await.unwrap(),
        [Inserted::KeyReused]
    );
    let elsewhere = NewJob {
        tenant: Tenant::new("other"),
        ..with_key("b")
    };
    insert(store, elsewhere).await;

    let claimed = claim(store, 1, HOUR).await.remove(0);
    finish(store, &claimed, Outcome::Completed(json!(1))).await;
    let existing = store.insert(vec![with_key("a")]).await.unwrap().remove(0);
    assert!(matches!(existing, Inserted::Existing(job) if job.result == Some(json!(1))));
}

pub(crate) async fn a_group_of_jobs_is_inserted_whole_or_not_at_all(store: &dyn JobStore) {
    let twin = new_job();
    store
        .insert(vec![new_job(), twin.clone(), twin])
        .await
        .unwrap_err();
    assert_eq!(store.counts().await.unwrap(), JobCounts::default());
    assert!(events(store).await.is_empty());
    let group = (0..20).map(|_| new_job()).collect::<Vec<_>>();
    let ids = group.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
    let inserted = store.insert(group).await.unwrap();
    let inserted = inserted.into_iter().map(|answer| match answer {
        Inserted::New(job) => job.job_id,
        other => panic!("not new: {other:?}"),
    });
    assert_eq!(inserted.collect::<Vec<_>>(), ids);
}

pub(crate) async fn lists_filter_sort_and_count(store: &dyn JobStore) {
    let mut ids = Vec::new();
    for number in 0..6_i64 {
        let operation = if number % 2 == 0 {
            Operation::Embed
        } else {
            Operation::Chat
        };
        let group = (number < 2).then(|| "batch".to_owned());
        let model_id = Some(format!("model-{}", number / 3));
        let created_at = Timestamp::from_millis(1_000 + number);
        let job = NewJob {
            operation,
            group,
            model_id,
            created_at,
            sort_key: number,
            ..new_job()
        };
        ids.push(insert(store, job).await.job_id);
    }
    for claimed in claim(store, 2, HOUR).await {
        finish(store, &claimed, Outcome::Completed(json!(null))).await;
    }
    let all = JobQuery {
        tenant: Tenant::default(),
        status: None,
        model_id: None,
        operation: None,
        group: None,
        sort: JobSort::CreatedAt,
        descending: false,
        window: Window::default(),
    };
    let list = |query: JobQuery| {
        let ids = &ids;
        async move {
            let page = store.list(&query).await.unwrap();
            let place = |job: &Job| ids.iter().position(|id| *id == job.job_id).unwrap();
            (page.items.iter().map(place).collect::<Vec<_>>(), page.total)
        }
    };
    assert_eq!(list(all.clone()).await, (vec![0, 1, 2, 3, 4, 5], 6));
    let window = Window {
        limit: 2,
        offset: 1,
    };
    assert_eq!(
        list(JobQuery {
            descending: true,
            window,
            ..all.clone()
        })
        .await,
        (vec![4, 3], 6)
    );
    assert_eq!(
        list(JobQuery {
            operation: Some(Operation::Embed),
            ..all.clone()
        })
        .await,
        (vec![0, 2, 4], 3)
    );
    assert_eq!(
        list(JobQuery {
            status: Some(JobStatus::Completed),
            ..all.clone()
        })
        .await,
        (vec![0, 1], 2)
    );
    assert_eq!(
        list(JobQuery {
            group: Some("batch".to_owned()),
            ..all.clone()
        })
        .await,
        (vec![0, 1], 2)
    );
    assert_eq!(
        list(JobQuery {
            model_id: Some("model-1".to_owned()),
            ..all.clone()
        })
        .await,
        (vec![3, 4, 5], 3)
    );
    let (by_completion, _) = list(JobQuery {
        sort: JobSort::CompletedAt,
        descending: true,
        ..all
    })
    .await;
    assert_eq!(
        by_completion
            .iter()
            .copied()
            .take(2)
            .collect::<std::collections::BTreeSet<_>>(),
        [0, 1].into()
    );
}

pub(crate) async fn tenants_see_only_their_own(store: &dyn JobStore) {
    let stranger = Tenant::new("stranger");
    let job = insert(store, new_job()).await;
    assert_eq!(store.get(&stranger, &job.job_id).await.unwrap(), None);
    assert_eq!(
        store.cancel(&stranger, &job.job_id).await.unwrap_err().code,
        ErrorCode::JobNotFound
    );
    assert_eq!(
        store.retry(&stranger, &job.job_id).await.unwrap_err().code,
        ErrorCode::JobNotFound
    );
    assert_eq!(get(store, &job.job_id).await.status, JobStatus::Queued);
}

pub(crate) async fn positions_and_counts_follow_the_queue(store: &dyn JobStore) {
    let mut ids = Vec::new();
    for sort_key in [10, 20, 30] {
        ids.push(
            insert(
                store,
                NewJob {
                    sort_key,
                    ..new_job()
                },
            )
            .await
            .job_id,
        );
    }
    insert(
        store,
        NewJob {
            sort_key: 5,
            run_at: Timestamp::now().plus(HOUR),
            ..new_job()
        },
    )
    .await;
    assert_eq!(
        store.position(&ids[0]).await.unwrap(),
        Some(0),
        "what isn't due doesn't come before"
    );
    assert_eq!(store.position(&ids[2]).await.unwrap(), Some(2));
    let claimed = claim_one(store).await;
    assert_eq!(store.position(&ids[0]).await.unwrap(), None);
    assert_eq!(store.position(&ids[2]).await.unwrap(), Some(1));
    store.cancel(&Tenant::default(), &ids[1]).await.unwrap();
    finish(store, &claimed, Outcome::Completed(json!(1))).await;
    let expected = JobCounts {
        queued: 2,
        processing: 0,
        completed: 1,
        failed: 0,
        cancelled: 1,
    };
    assert_eq!(store.counts().await.unwrap(), expected);
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

pub(crate) async fn restart_makes_running_jobs_claimable(store: &dyn JobStore) {
    for _ in 0..3 {
        insert(store, new_job()).await;
    }
    let before = claim(store, 2, HOUR).await;
    assert_eq!(store.release_all_leases().await.unwrap(), 2);
    let after = claim(store, 10, HOUR).await;
    assert_eq!(after.len(), 3);
    let stale = store
        .write(&before[0].job.job_id, before[0].fence, JobWrite::Return)
        .await
        .unwrap_err();
    assert_eq!(stale.code, ErrorCode::VersionConflict);
}

pub(crate) async fn every_transition_is_in_the_change_log(store: &dyn JobStore) {
    let url = Some("http://localhost/hook".to_owned());
    let job = insert(
        store,
        NewJob {
            callback_url: url.clone(),
            ..new_job()
        },
    )
    .await;
    let first = claim_one(store).await;
    store
        .write(&job.job_id, first.fence, JobWrite::Progress(0.1))
        .await
        .unwrap();
    store
        .write(&job.job_id, first.fence, JobWrite::Return)
        .await
        .unwrap();
    let second = claim_one(store).await;
    let done = finish(store, &second, Outcome::Completed(json!({"content": "hi"}))).await;

    let changes = store.changes(Seq(0), 100).await.unwrap();
    let events = changes
        .iter()
        .map(|change| change.event)
        .collect::<Vec<_>>();
    use JobEvent::{Completed, Processing, Queued};
    assert_eq!(events, [Queued, Processing, Queued, Processing, Completed]);
    let seqs = changes
        .iter()
        .map(|change| change.seq.0)
        .collect::<Vec<_>>();
    assert_eq!(seqs, (seqs[0]..seqs[0] + 5).collect::<Vec<_>>(), "dense");
    assert_eq!(changes[0].job, job);
    assert_eq!(changes[4].job, done);
    assert!(
        changes
            .iter()
            .all(|change| change.callback_url == url && change.tenant == Tenant::default())
    );
    assert_eq!(
        store.changes(changes[2].seq, 1).await.unwrap(),
        changes[3..4]
    );
    assert!(store.changes(changes[4].seq, 10).await.unwrap().is_empty());
}

pub(crate) async fn waiting_for_changes_ends_with_one_or_with_time(store: &dyn JobStore) {
    store
        .wait_for_changes(Seq(0), Duration::from_millis(20))
        .await;
    let began = Instant::now();
    tokio::join!(
        store.wait_for_changes(Seq(0), HOUR),
        insert(store, new_job())
    );
    assert!(began.elapsed() < Duration::from_secs(10));
    let last = store.changes(Seq(0), 10).await.unwrap()[0].seq;
    store.wait_for_changes(Seq(last.0 - 1), HOUR).await;
    // A write that fails wakes nobody.
    let twin = new_job();
    store.insert(vec![twin.clone(), twin]).await.unwrap_err();
    let began = Instant::now();
    store
        .wait_for_changes(last, Duration::from_millis(50))
        .await;
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert!(
        store
            .write(&JobId::generate(), Fence(1), JobWrite::Return)
            .await
            .is_err()
    );
}
