//! Several servers on one MongoDB, and what one of them leaves when it dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use fusion_storage::{Config, Inputs, MongoConfig, open};
use fusion_types::{
    ErrorCode, Tenant,
    id::JobId,
    job::{Change, JobEvent, JobStatus, NewJob, Outcome, Seq},
    record::{Expect, RecordWrite},
    store::JobStore,
};
use mongodb::bson::{Document, doc, oid::ObjectId};
use serde_json::json;

use crate::{
    mongo::TestDatabase,
    servers,
    suite::job_ends,
    suite::jobs::{HOUR, claim, finish, get, insert, new_job},
};

async fn whole_log(store: &dyn JobStore) -> Vec<Change> {
    store.changes(Seq(0), 1000).await.unwrap()
}

fn assert_dense(log: &[Change]) {
    let seqs: Vec<u64> = log.iter().map(|change| change.seq.0).collect();
    assert_eq!(seqs, (1..=log.len() as u64).collect::<Vec<_>>());
}

/// What happened to each job, in the log's order.
fn histories(log: &[Change]) -> BTreeMap<String, Vec<JobEvent>> {
    let mut histories = BTreeMap::<String, Vec<JobEvent>>::new();
    for change in log {
        let id = change.job.job_id.as_str().to_owned();
        histories.entry(id).or_default().push(change.event);
    }
    histories
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_kept_as_long_as_the_store_is_told() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let at_once = Inputs::UntilDone {
        after_failure: Duration::ZERO,
    };
    for inputs in [at_once, Inputs::Keep] {
        let config = Config {
            inputs,
            ..database.store_config(&folder)
        };
        let storage = open(&config).await.unwrap();
        let jobs = &*storage.jobs;
        if inputs == Inputs::Keep {
            job_ends::a_kept_input_outlives_the_sweep(jobs).await;
            let done = insert(jobs, new_job()).await.job_id;
            let blobs = database.raw().await.collection::<Document>("blobs");
            let kept = doc! { "job_id": done.as_str() };
            jobs.cancel(&Tenant::default(), &done).await.unwrap();
            assert_eq!(blobs.count_documents(kept).await.unwrap(), 1);
        } else {
            job_ends::without_its_input_no_failed_job_is_retried(jobs).await;
        }
        storage.close().await.unwrap();
    }
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_do_each_job_once_and_agree_on_the_log() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let ((first, _a), (second, _b)) = tokio::join!(database.open(), database.open());
    const JOBS: usize = 30;
    let submit = async |store: &dyn JobStore| {
        for _ in 0..JOBS / 2 {
            insert(store, new_job()).await;
        }
    };
    let work = async |store: &dyn JobStore| {
        let mut done = 0;
        let began = Instant::now();
        while store.counts().await.unwrap().completed < JOBS as u64 {
            assert!(began.elapsed() < Duration::from_secs(120));
            for claimed in claim(store, 3, HOUR).await {
                assert_eq!(claimed.job.attempt, 1);
                finish(store, &claimed, Outcome::Completed(json!(done))).await;
                done += 1;
            }
        }
        done
    };
    let read = async |store: &dyn JobStore| {
        let mut log = Vec::new();
        while log.len() < 3 * JOBS {
            let after = log.last().map_or(Seq(0), |change: &Change| change.seq);
            store.wait_for_changes(after, Duration::from_secs(1)).await;
            log.extend(store.changes(after, 7).await.unwrap());
        }
        log
    };
    let (a, b) = (&*first.jobs, &*second.jobs);
    let ((), (), by_a, by_b, log_a, log_b) =
        tokio::join!(submit(a), submit(b), work(a), work(b), read(a), read(b));
    assert_eq!(by_a + by_b, JOBS, "each job was done by one of them");
    assert_dense(&log_a);
    assert_eq!(log_a, log_b);
    let histories = histories(&log_a);
    assert_eq!(histories.len(), JOBS);
    let whole = [JobEvent::Queued, JobEvent::Processing, JobEvent::Completed];
    assert!(histories.values().all(|history| *history == whole));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_job_over_two_servers() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let ((first, _a), (second, _b)) = tokio::join!(database.open(), database.open());
    let one = |store: &'static str| {
        (RecordWrite::put("space", "key", json!(store))).expecting(Expect::Absent)
    };
    let (a, b) = tokio::join!(
        first.records.commit(vec![one("a")]),
        second.records.commit(vec![one("b")])
    );
    let refused = match (a, b) {
        (Ok(()), Err(error)) | (Err(error), Ok(())) => error,
        other => panic!("one gets it: {other:?}"),
    };
    assert_eq!(refused.code, ErrorCode::VersionConflict);
    database.drop().await;
}

/// A server dies between what is one step elsewhere. Each time the rest is done by whoever comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_server_left_undone_is_done() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let (storage, _folder) = database.open().await;
    let raw = database.raw().await;
    let documents = raw.collection::<Document>("jobs");
    let store = &*storage.jobs;

    // The change is in the log, and still in the job's document.
    let job = insert(store, new_job()).await;
    let named = doc! { "job_id": job.job_id.as_str() };
    let before = documents.find_one(named.clone()).await.unwrap().unwrap();
    assert_eq!(before.get_array("pending").unwrap().len(), 1);
    assert_eq!(whole_log(store).await.len(), 1);
    let again = doc! { "$set": {
        "pending": before.get_array("pending").unwrap().clone(),
        "pending_since": before.get_datetime("pending_since").unwrap(),
    } };
    documents.update_one(named.clone(), again).await.unwrap();
    assert_eq!(whole_log(store).await.len(), 1, "once is enough");
    let after = documents.find_one(named).await.unwrap().unwrap();
    assert!(after.get_array("pending").unwrap().is_empty());
    assert!(after.get("pending_since").is_none());

    // A job has ended, and the one that waits for it was not told.
    let child = NewJob {
        depends_on: vec![job.job_id.clone()],
        ..new_job()
    };
    let child = insert(store, child).await.job_id;
    let ended = doc! { "$set": { "status": "completed" } };
    let parent = doc! { "job_id": job.job_id.as_str() };
    documents.update_one(parent, ended).await.unwrap();
    assert!(claim(store, 1, HOUR).await.is_empty());
    store.sweep().await.unwrap();
    assert_eq!(claim(store, 1, HOUR).await[0].job.job_id, child);

    // One whose parent is gone altogether can't run.
    let parent = insert(store, new_job()).await.job_id;
    let orphan = NewJob {
        depends_on: vec![parent.clone()],
        ..new_job()
    };
    let orphan = insert(store, orphan).await.job_id;
    let gone = doc! { "job_id": parent.as_str() };
    documents.delete_one(gone).await.unwrap();
    store.sweep().await.unwrap();
    assert_eq!(get(store, &orphan).await.status, JobStatus::Failed);

    // An input whose job never came.
    let parts = raw.collection::<Document>("blobs");
    let hours_ago = ObjectId::from_parts(1_700_000_000, [1; 5], [1; 3]);
    let part =
        doc! { "_id": hours_ago, "blob": ObjectId::new(), "part": 0_i64, "job_id": "job-never" };
    parts.insert_one(part).await.unwrap();
    store.sweep().await.unwrap();
    let left = parts.find_one(doc! { "_id": hours_ago }).await.unwrap();
    assert_eq!(left, None);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inputs_are_gone_when_nobody_needs_them() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let (storage, _folder) = database.open().await;
    let raw = database.raw().await;
    let parts = raw.collection::<Document>("blobs");
    let kept = async || parts.count_documents(doc! {}).await.unwrap();
    let store = &*storage.jobs;
    insert(store, new_job()).await;
    let queued = insert(store, new_job()).await.job_id;
    assert_eq!(kept().await, 2);
    let claimed = claim(store, 1, HOUR).await.remove(0);
    finish(store, &claimed, Outcome::Completed(json!(1))).await;
    store.cancel(&Tenant::default(), &queued).await.unwrap();
    assert_eq!(kept().await, 0);

    // None is put down in vain.
    let unknown = NewJob {
        depends_on: vec![JobId::generate()],
        ..new_job()
    };
    store.insert(vec![new_job(), unknown]).await.unwrap_err();
    assert_eq!(kept().await, 0);
    let names = raw.list_collection_names().await.unwrap();
    let expected = ["jobs", "webhooks", "rag_collections"].map(str::to_owned);
    assert!(BTreeSet::from(expected).is_subset(&names.into_iter().collect()));
    database.drop().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        mongo: Some(MongoConfig {
            uri: "mongodb://me:hush@127.0.0.1:1/".to_owned(),
            database: "test".to_owned(),
        }),
        ..Config::new(folder.path())
    };
    let began = Instant::now();
    let Err(error) = open(&config).await else {
        panic!("nobody listens there");
    };
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(error.code, ErrorCode::StoreUnavailable);
    assert!(error.message.contains("127.0.0.1:1"), "{}", error.message);
    assert!(error.message.contains("MONGO_URI"), "{}", error.message);
    assert!(!error.message.contains("hush"), "{}", error.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_away_is_missed_in_time() {
    let Some(server) = servers::start("mongo", None) else {
        return;
    };
    let database = TestDatabase::new(&server);
    let (storage, _folder) = database.open().await;
    insert(&*storage.jobs, new_job()).await;
    assert!(storage.is_healthy().await);
    drop(server);
    let began = Instant::now();
    assert!(!storage.is_healthy().await);
    let refused = storage.jobs.insert(vec![new_job()]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    let read = storage.jobs.counts().await.unwrap_err();
    assert_eq!(read.code, ErrorCode::StoreUnavailable);
    assert!(began.elapsed() < Duration::from_secs(40));
    storage.close().await.unwrap();
}
