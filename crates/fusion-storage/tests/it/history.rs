//! Measured, not asserted: what a long history costs those who come after. Run with `--ignored --nocapture` on a quiet machine.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use fusion_storage::{Config, open};
use fusion_types::{
    Tenant,
    job::{JobQuery, JobSort, JobStatus, Outcome},
    page::Window,
    store::JobStore,
};
use serde_json::json;

use crate::{
    sqlite::new_store,
    suite::jobs::{claim_one, finish, insert, new_job},
};

const REPEATS: u32 = 200;
/// Finished jobs, with three changes each; one in a thousand failed.
const FINISHED: u32 = 1_000_000;

#[tokio::test]
#[ignore = "a measurement"]
async fn a_million_finished_jobs() {
    let store = new_store().await;
    let template = insert(&*store.storage.jobs, new_job()).await;
    let claimed = claim_one(&*store.storage.jobs).await;
    finish(
        &*store.storage.jobs,
        &claimed,
        Outcome::Completed(json!({"content": "done"})),
    )
    .await;
    let empty = times(&*store.storage.jobs).await;
    store.storage.close().await.unwrap();

    let began = Instant::now();
    multiply(store.folder.path(), template.job_id.as_str());
    println!("{FINISHED} jobs made in {:?}", began.elapsed());
    let config = Config::new(store.folder.path());
    let began = Instant::now();
    let storage = open(&config).await.unwrap();
    println!("opened in {:?}", began.elapsed());
    let full = times(&*storage.jobs).await;
    for ((what, before), (_, after)) in empty.into_iter().zip(full) {
        let ratio = after.as_secs_f64() / before.as_secs_f64();
        println!("{what:30} {before:>10.1?} {after:>10.1?}  × {ratio:.2}");
    }
}

/// The same finished job again and again, as the store itself would have it.
fn multiply(folder: &Path, id: &str) {
    let connection = rusqlite::Connection::open(folder.join("fusiond.sqlite")).unwrap();
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)";
    let columns = "tenant, operation, model_id, run_at, sort_key, timeout_ms, max_attempts, ttl_ms, fence, callback_url, result";
    let jobs = format!(
        "INSERT INTO jobs (id, status, created_at, completed_at, failed_at, expires_at, record, {columns}) \
         {numbers} SELECT 'job-' || printf('%032x', i * 7919), iif(i % 1000, 'completed', 'failed'), created_at - i, completed_at, \
         completed_at, expires_at, replace(record, '\"completed\"', iif(i % 1000, '\"completed\"', '\"failed\"')), {columns} \
         FROM n, jobs WHERE id = ?1"
    );
    let changes = format!(
        "INSERT INTO changes (job, at, event, record) {numbers} \
         SELECT i + 1, at, event, record FROM n, changes WHERE job = (SELECT number FROM jobs WHERE id = ?1)"
    );
    connection
        .execute_batch("PRAGMA synchronous = OFF; BEGIN")
        .unwrap();
    connection.execute(&jobs, (id, FINISHED)).unwrap();
    connection.execute(&changes, (id, FINISHED)).unwrap();
    connection
        .execute_batch(
            "DELETE FROM job_counts; \
             INSERT INTO job_counts SELECT tenant, status, operation, ifnull(model_id, ''), count(*) FROM jobs GROUP BY 1, 2, 3, 4; \
             COMMIT; PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
}

/// The median of each.
async fn times(jobs: &dyn JobStore) -> Vec<(&'static str, Duration)> {
    let tenant = Tenant::default();
    let mut ids = Vec::new();
    let submit = median(async || ids.push(insert(jobs, new_job()).await.job_id)).await;
    let mut next = ids.iter().cycle();
    let get = median(async || {
        let found = jobs.get(&tenant, next.next().unwrap()).await.unwrap();
        assert!(found.is_some());
    })
    .await;
    let list = |change: fn(&mut JobQuery)| {
        let mut query = JobQuery {
            tenant: Tenant::default(),
            status: None,
            model_id: None,
            operation: None,
            group: None,
            metadata: Vec::new(),
            sort: JobSort::CreatedAt,
            descending: true,
            window: Window::default(),
        };
        change(&mut query);
        median(async move || {
            jobs.list(&query).await.unwrap();
        })
    };
    let newest = list(|_| {}).await;
    let queued = list(|query| query.status = Some(JobStatus::Queued)).await;
    let by_completion = list(|query| query.sort = JobSort::CompletedAt).await;
    let claim = median(async || {
        claim_one(jobs).await;
    })
    .await;
    vec![
        ("submit", submit),
        ("get", get),
        ("list, newest first", newest),
        ("list, the queued ones", queued),
        ("list, last completed first", by_completion),
        ("claim", claim),
    ]
}

async fn median(mut work: impl AsyncFnMut()) -> Duration {
    let mut took = Vec::new();
    for _ in 0..REPEATS {
        let began = Instant::now();
        work().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}
