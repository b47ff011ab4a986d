//! Opening and closing.

use std::time::Instant;

use fusion_storage::{Config, open};
use fusion_types::{ErrorCode, Tenant, record::RecordWrite};
use rusqlite::Connection;
use serde_json::json;

use crate::{
    sqlite::new_store,
    suite::jobs::{HOUR, claim, insert, new_job},
};

#[tokio::test]
async fn a_folder_serves_one_server_at_a_time() {
    let store = new_store().await;
    let config = Config::new(store.folder.path().to_owned());
    let Err(refused) = open(&config).await else {
        panic!("two servers on one folder")
    };
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    assert!(refused.message.contains("in use"), "{refused}");
    assert!(
        refused.message.contains(config.data_dir.to_str().unwrap()),
        "{refused}"
    );
    store.storage.close().await.unwrap();
    open(&config).await.unwrap();
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let store = new_store().await;
    let config = Config::new(store.folder.path().to_owned());
    let job = insert(&*store.storage.jobs, new_job()).await;
    let claimed = claim(&*store.storage.jobs, 1, HOUR).await;
    store
        .storage
        .records
        .commit(vec![RecordWrite::put("space", "key", json!(1))])
        .await
        .unwrap();
    store.storage.close().await.unwrap();
    let files = std::fs::read_dir(&config.data_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut files = files.collect::<Vec<_>>();
    files.sort();
    assert_eq!(
        files,
        ["blobs", "fusiond.sqlite", "lock"],
        "the write-ahead log is emptied and removed"
    );

    let storage = open(&config).await.unwrap();
    let found = storage
        .jobs
        .get(&Tenant::default(), &job.job_id)
        .await
        .unwrap();
    assert_eq!(found.as_ref(), Some(&claimed[0].job));
    assert!(storage.records.get("space", "key").await.unwrap().is_some());
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let store = new_store().await;
    let parts = store.storage.clone();
    assert!(parts.is_healthy().await);
    store.storage.close().await.unwrap();
    assert!(!parts.is_healthy().await);
    let read = parts
        .jobs
        .get(&Tenant::default(), &new_job().id)
        .await
        .unwrap_err();
    let write = parts.jobs.insert(vec![new_job()]).await.unwrap_err();
    assert_eq!(
        (read.code, write.code),
        (ErrorCode::StoreUnavailable, ErrorCode::StoreUnavailable)
    );
    parts.close().await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let store = new_store().await;
    let config = Config::new(store.folder.path().to_owned());
    store.storage.close().await.unwrap();
    let file = config.data_dir.join("fusiond.sqlite");
    Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    let Err(refused) = open(&config).await else {
        panic!("a newer schema was opened")
    };
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    assert!(refused.message.contains("schema version 1000"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let store = new_store().await;
    let config = Config::new(store.folder.path().to_owned());
    store.storage.close().await.unwrap();
    std::fs::write(
        config.data_dir.join("fusiond.sqlite"),
        "not a database ".repeat(1000),
    )
    .unwrap();
    let Err(refused) = open(&config).await else {
        panic!("garbage was opened")
    };
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    assert!(refused.message.contains("not a database"), "{refused}");
}

/// A folder that can't be made, as on a read-only disk.
#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let Err(refused) = open(&Config::new(file.join("data"))).await else {
        panic!("a folder in a file")
    };
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    assert!(
        refused.message.contains(file.to_str().unwrap()),
        "{refused}"
    );
}

/// One caller's failure, or absence, is nobody else's.
#[tokio::test]
async fn a_failed_write_takes_nobody_with_it() {
    let store = new_store().await;
    let jobs = &*store.storage.jobs;
    let twin = new_job();
    let (good, bad, fine) = tokio::join!(
        jobs.insert(vec![new_job()]),
        jobs.insert(vec![twin.clone(), twin]),
        jobs.insert(vec![new_job()]),
    );
    assert!(good.is_ok() && bad.is_err() && fine.is_ok());
    assert_eq!(jobs.counts().await.unwrap().queued, 2);
    assert!(store.storage.is_healthy().await);
}

/// While another process holds the database, as a disk that is full or gone would, writes are refused and reads go on; then the
/// store recovers by itself.
#[tokio::test]
async fn a_store_that_cannot_write_says_so_and_recovers() {
    let store = new_store().await;
    let jobs = &*store.storage.jobs;
    let job = insert(jobs, new_job()).await;
    let other = Connection::open(store.folder.path().join("fusiond.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = jobs.insert(vec![new_job()]).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::StoreUnavailable);
    assert!(refused.retry_after.is_some());
    assert!(!store.storage.is_healthy().await);
    assert_eq!(
        jobs.get(&Tenant::default(), &job.job_id).await.unwrap(),
        Some(job)
    );
    other.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + HOUR / 120;
    while !store.storage.is_healthy().await {
        assert!(Instant::now() < deadline, "the store doesn't recover");
        tokio::task::yield_now().await;
    }
    insert(jobs, new_job()).await;
}
