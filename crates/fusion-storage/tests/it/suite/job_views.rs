//! The suite of `JobStore`: how jobs are looked at.

use std::time::{Duration, Instant};

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{
        Fence, Job, JobCounts, JobEvent, JobQuery, JobSort, JobStatus, JobWrite, NewJob, Operation,
        Outcome, Seq,
    },
    page::Window,
    store::JobStore,
};
use serde_json::json;

use super::jobs::{HOUR, claim, claim_one, finish, get, insert, new_job};

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
        metadata: Vec::new(),
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
