//! The suite of `JobStore`: jobs that belong together, and jobs that wait for others.

use fusion_types::{
    ErrorCode, Tenant, Timestamp,
    id::JobId,
    job::{Inserted, JobCounts, JobQuery, JobSort, JobStatus, NewJob, Outcome},
    page::Window,
    store::JobStore,
};
use serde_json::json;

use super::jobs::{HOUR, claim, claim_one, failure, finish, get, insert, new_job};

fn after(parents: &[&JobId]) -> NewJob {
    NewJob {
        depends_on: parents.iter().copied().cloned().collect(),
        ..new_job()
    }
}

async fn status(store: &dyn JobStore, id: &JobId) -> JobStatus {
    get(store, id).await.status
}

pub(crate) async fn a_job_waits_for_those_it_depends_on(store: &dyn JobStore) {
    let (first, second) = (new_job(), new_job());
    let child = after(&[&first.id, &second.id, &first.id]);
    let id = child.id.clone();
    // All in one call: a job may depend on one before it.
    let inserted = store.insert(vec![first, second, child]).await.unwrap();
    assert!(inserted.iter().all(|one| matches!(one, Inserted::New(_))));
    assert_eq!(store.position(&id).await.unwrap(), None);

    let claimed = claim(store, 9, HOUR).await;
    assert_eq!(claimed.len(), 2);
    finish(store, &claimed[0], Outcome::Completed(json!(1))).await;
    assert!(claim(store, 9, HOUR).await.is_empty());
    finish(store, &claimed[1], Outcome::Completed(json!(2))).await;
    let last = claim_one(store).await;
    assert_eq!(last.job.job_id, id);
    assert_eq!(last.job.depends_on.len(), 3);
    assert_eq!(last.input, new_job().input);

    // What is complete already isn't waited for.
    let late = insert(store, after(&[&claimed[0].job.job_id])).await;
    assert_eq!(claim_one(store).await.job.job_id, late.job_id);
}

pub(crate) async fn a_failure_takes_those_that_depend_on_it_along(store: &dyn JobStore) {
    let parent = insert(store, new_job()).await;
    let child = insert(store, after(&[&parent.job_id])).await;
    let grandchild = insert(store, after(&[&child.job_id])).await;
    let other = insert(store, new_job()).await;
    let claimed = claim(store, 1, HOUR).await.remove(0);
    finish(
        store,
        &claimed,
        Outcome::Failed(failure(ErrorCode::ContextLengthExceeded)),
    )
    .await;
    for (id, because_of) in [
        (&child.job_id, &parent.job_id),
        (&grandchild.job_id, &child.job_id),
    ] {
        let job = get(store, id).await;
        assert_eq!(job.status, JobStatus::Failed);
        assert!(job.error.unwrap().contains(because_of.as_str()));
        let code = job.error_detail.unwrap().code;
        assert_eq!(code, ErrorCode::ContextLengthExceeded);
    }
    assert_eq!(claim_one(store).await.job.job_id, other.job_id);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.failed), (0, 3));
}

pub(crate) async fn a_cancellation_takes_those_that_depend_on_it_along(store: &dyn JobStore) {
    let parent = insert(store, new_job()).await;
    let child = insert(store, after(&[&parent.job_id])).await;
    store
        .cancel(&Tenant::default(), &parent.job_id)
        .await
        .unwrap();
    assert_eq!(status(store, &child.job_id).await, JobStatus::Cancelled);

    // One that is cancelled itself leaves the job it waited for alone, and is not touched when that ends.
    let parent = insert(store, new_job()).await;
    let child = insert(store, after(&[&parent.job_id])).await;
    store
        .cancel(&Tenant::default(), &child.job_id)
        .await
        .unwrap();
    let claimed = claim_one(store).await;
    assert_eq!(claimed.job.job_id, parent.job_id);
    finish(store, &claimed, Outcome::Completed(json!(null))).await;
    assert_eq!(status(store, &child.job_id).await, JobStatus::Cancelled);
}

pub(crate) async fn a_dependency_must_be_there_and_may_complete(store: &dyn JobStore) {
    let nobody = JobId::generate();
    let stranger = NewJob {
        tenant: Tenant::new("stranger"),
        ..new_job()
    };
    let of_stranger = insert(store, stranger).await.job_id;
    for id in [&nobody, &of_stranger] {
        let good = new_job();
        let good_id = good.id.clone();
        let error = store.insert(vec![good, after(&[id])]).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::JobNotFound);
        assert_eq!(error.param.as_deref(), Some("depends_on"));
        // None is kept where one is refused.
        let kept = store.get(&Tenant::default(), &good_id).await.unwrap();
        assert_eq!(kept, None);
    }
    let gone = insert(store, new_job()).await;
    store
        .cancel(&Tenant::default(), &gone.job_id)
        .await
        .unwrap();
    let error = store
        .insert(vec![after(&[&gone.job_id])])
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidValue);
}

pub(crate) async fn a_retried_job_waits_again(store: &dyn JobStore) {
    let parent = insert(store, new_job()).await;
    let child = insert(store, after(&[&parent.job_id])).await;
    let claimed = claim_one(store).await;
    finish(
        store,
        &claimed,
        Outcome::Failed(failure(ErrorCode::EngineCrashed)),
    )
    .await;
    let tenant = Tenant::default();
    let error = store.retry(&tenant, &child.job_id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidValue);
    store.retry(&tenant, &parent.job_id).await.unwrap();
    store.retry(&tenant, &child.job_id).await.unwrap();
    let claimed = claim(store, 9, HOUR).await.remove(0);
    assert_eq!(claimed.job.job_id, parent.job_id);
    finish(store, &claimed, Outcome::Completed(json!(null))).await;
    assert_eq!(claim_one(store).await.job.job_id, child.job_id);
}

pub(crate) async fn a_group_is_counted_and_cancelled(store: &dyn JobStore) {
    let tenant = Tenant::default();
    let in_group = |group: &str| NewJob {
        group: Some(group.to_owned()),
        ..new_job()
    };
    let jobs: Vec<NewJob> = (0..450).map(|_| in_group("g")).collect();
    store.insert(jobs).await.unwrap();
    insert(store, in_group("other")).await;
    let claimed = claim(store, 3, HOUR).await;
    finish(store, &claimed[0], Outcome::Completed(json!(null))).await;
    let before = JobCounts {
        queued: 447,
        processing: 2,
        completed: 1,
        ..JobCounts::default()
    };
    assert_eq!(store.group(&tenant, "g").await.unwrap(), before);
    let strange = store.group(&Tenant::new("stranger"), "g").await.unwrap();
    assert_eq!(strange.total(), 0);

    assert_eq!(store.cancel_group(&tenant, "g").await.unwrap(), 449);
    let after = JobCounts {
        processing: 2,
        completed: 1,
        cancelled: 447,
        ..JobCounts::default()
    };
    assert_eq!(store.group(&tenant, "g").await.unwrap(), after);
    finish(store, &claimed[1], Outcome::Cancelled).await;
    assert_eq!(store.group(&tenant, "g").await.unwrap().processing, 1);
    assert_eq!(store.group(&tenant, "other").await.unwrap().queued, 1);
    assert_eq!(store.cancel_group(&tenant, "nothing").await.unwrap(), 0);
}

pub(crate) async fn lists_filter_by_metadata(store: &dyn JobStore) {
    for number in 0..4_i64 {
        let mut job = NewJob {
            created_at: Timestamp::from_millis(number),
            ..new_job()
        };
        job.metadata.insert(
            "color".to_owned(),
            json!(["blue", "red"][number as usize % 2]),
        );
        job.metadata.insert("run.id \"x".to_owned(), json!(number));
        job.metadata.insert("last".to_owned(), json!(number == 3));
        insert(store, job).await;
    }
    let count = |metadata: &[(&str, &str)]| {
        let query = JobQuery {
            tenant: Tenant::default(),
            status: None,
            model_id: None,
            operation: None,
            group: None,
            metadata: metadata
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            sort: JobSort::CreatedAt,
            descending: true,
            window: Window::default(),
        };
        async move {
            let page = store.list(&query).await.unwrap();
            assert_eq!(page.items.len() as u64, page.total);
            page.total
        }
    };
    assert_eq!(count(&[]).await, 4);
    assert_eq!(count(&[("color", "blue")]).await, 2);
    assert_eq!(count(&[("run.id \"x", "2")]).await, 1);
    assert_eq!(count(&[("last", "true")]).await, 1);
    assert_eq!(count(&[("color", "red"), ("last", "false")]).await, 1);
    assert_eq!(count(&[("color", "green")]).await, 0);
    assert_eq!(count(&[("nothing", "blue")]).await, 0);
}
