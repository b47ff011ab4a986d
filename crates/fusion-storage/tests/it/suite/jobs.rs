//! The suite of `JobStore`: taking jobs in, and working on them.

use std::time::Duration;

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::{JobId, RequestId},
    job::{
        Claim, Claimed, ErrorDetail, Held, Idempotency, Inserted, Job, JobCounts, JobError,
        JobEvent, JobStatus, JobWrite, NewJob, Operation, Outcome, Owner, Seq,
    },
    model::Priority,
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
        depends_on: Vec::new(),
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

/// All that a suite's jobs name.
fn known_models() -> Vec<String> {
    let numbered = (0..6).map(|number| format!("model-{number}"));
    numbered.chain(["small".to_owned()]).collect()
}

/// A lease of zero has run out at once.
pub(crate) async fn claim(store: &dyn JobStore, limit: u32, lease: Duration) -> Vec<Claimed> {
    store
        .claim(Claim {
            owner: owner(),
            limit,
            lease,
            held_models: Vec::new(),
            known_models: known_models(),
        })
        .await
        .unwrap()
}

pub(crate) async fn claim_one(store: &dyn JobStore) -> Claimed {
    claim(store, 1, HOUR).await.remove(0)
}

pub(crate) async fn get(store: &dyn JobStore, id: &JobId) -> Job {
    store.get(&Tenant::default(), id).await.unwrap().unwrap()
}

pub(crate) async fn finish(store: &dyn JobStore, claimed: &Claimed, outcome: Outcome) -> Job {
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

pub(crate) async fn events(store: &dyn JobStore) -> Vec<JobEvent> {
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

/// Beyond what one document of a database holds.
pub(crate) async fn large_values_are_kept(store: &dyn JobStore) {
    let large = |letter: &str| json!({ "content": letter.repeat(40 << 20) });
    let new = NewJob {
        input: large("i"),
        ..new_job()
    };
    insert(store, new.clone()).await;
    let claimed = claim_one(store).await;
    assert!(claimed.input == new.input);
    let done = finish(store, &claimed, Outcome::Completed(large("r"))).await;
    assert!(done.result == Some(large("r")));
    assert!(get(store, &new.id).await == done);
    let changes = store.changes(Seq(0), 10).await.unwrap();
    assert!(changes.last().unwrap().job == done);
}

/// Where several servers share the store.
pub(crate) async fn a_claim_takes_what_is_held_first_and_leaves_what_is_unknown(
    store: &dyn JobStore,
) {
    let mut ids = Vec::new();
    for model in [
        Some("elsewhere"),
        Some("small"),
        None,
        Some("held"),
        Some("auto"),
    ] {
        let model_id = model.map(str::to_owned);
        ids.push(
            insert(
                store,
                NewJob {
                    model_id,
                    ..new_job()
                },
            )
            .await
            .job_id,
        );
    }
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let claim = async |limit, held: &[&str], known: &[&str]| {
        let (held_models, known_models) = (names(held), names(known));
        let (owner, lease) = (owner(), HOUR);
        let claim = Claim {
            owner,
            limit,
            lease,
            held_models,
            known_models,
        };
        let claimed = store.claim(claim).await.unwrap().into_iter();
        claimed
            .map(|claimed| claimed.job.job_id)
            .collect::<Vec<_>>()
    };
    let here = ["small", "held", "auto"];
    assert_eq!(claim(1, &["held"], &here).await, [ids[3].clone()]);
    assert_eq!(
        claim(9, &["held"], &here).await,
        [&ids[1..3], &ids[4..]].concat()
    );
    assert!(claim(9, &["held"], &here).await.is_empty());
    assert_eq!(claim(9, &[], &["elsewhere"]).await, ids[..1]);
}
