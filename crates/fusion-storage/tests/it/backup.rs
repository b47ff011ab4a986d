//! A copy of the store, and the way back.

use std::{fs, path::Path};

use fusion_storage::{Config, Storage, backup, open, restore};
use fusion_types::{ErrorCode, Tenant, job::Outcome, record::RecordWrite};
use serde_json::json;

use crate::{
    sqlite::new_store,
    suite::jobs::{claim_one, finish, get, insert, new_job},
};

async fn open_in(folder: &Path) -> Storage {
    open(&Config::new(folder)).await.unwrap()
}

#[tokio::test]
async fn a_backup_of_a_running_store_brings_everything_back() {
    let store = new_store().await;
    let jobs = &*store.storage.jobs;
    let done = insert(jobs, new_job()).await;
    let claimed = claim_one(jobs).await;
    finish(jobs, &claimed, Outcome::Completed(json!("done"))).await;
    let waiting = insert(jobs, new_job()).await;
    let write = RecordWrite::put("things", "a", json!(1));
    store.storage.records.commit(vec![write]).await.unwrap();
    fs::write(store.folder.path().join("webhook-secret"), "secret").unwrap();
    fs::create_dir_all(store.folder.path().join("files/ab")).unwrap();
    fs::write(store.folder.path().join("files/ab/x"), "bytes").unwrap();

    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("backup");
    let copied = backup(store.folder.path(), &to).unwrap();
    assert_eq!(copied.files, 3);
    let later = insert(jobs, new_job()).await;
    let again = backup(store.folder.path(), &to).unwrap_err();
    assert_eq!(again.code, ErrorCode::InvalidValue);

    // Into a folder of its own, with a secret of its own only where the backup has none.
    let fresh = elsewhere.path().join("fresh");
    restore(&to, &fresh, false).unwrap();
    let restored = open_in(&fresh).await;
    assert_eq!(
        get(&*restored.jobs, &done.job_id).await.result,
        Some(json!("done"))
    );
    assert_eq!(claim_one(&*restored.jobs).await.input, new_job().input);
    let unknown = restored.jobs.get(&Tenant::default(), &later.job_id).await;
    assert_eq!(unknown.unwrap(), None);
    let record = restored.records.get("things", "a").await.unwrap();
    assert_eq!(record.unwrap().value, json!(1));
    assert_eq!(
        fs::read_to_string(fresh.join("webhook-secret")).unwrap(),
        "secret"
    );
    assert_eq!(
        fs::read_to_string(fresh.join("files/ab/x")).unwrap(),
        "bytes"
    );

    // The running server's own folder is not touched, and not in use by accident.
    let busy = restore(&to, store.folder.path(), true).unwrap_err();
    assert_eq!(busy.code, ErrorCode::StoreUnavailable);
    assert_eq!(get(jobs, &waiting.job_id).await.job_id, waiting.job_id);
}

#[tokio::test]
async fn a_store_that_is_there_is_set_aside_only_when_asked() {
    let store = new_store().await;
    insert(&*store.storage.jobs, new_job()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("backup");
    backup(store.folder.path(), &to).unwrap();
    let newer = insert(&*store.storage.jobs, new_job()).await;
    store.storage.close().await.unwrap();
    let folder = store.folder.path();
    let refused = restore(&to, folder, false).unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidValue);
    let aside = restore(&to, folder, true).unwrap().set_aside.unwrap();
    let restored = open_in(folder).await;
    assert_eq!(restored.jobs.counts().await.unwrap().queued, 1);
    restored.close().await.unwrap();
    let before = open_in(&aside).await;
    assert_eq!(get(&*before.jobs, &newer.job_id).await.job_id, newer.job_id);
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused() {
    let store = new_store().await;
    insert(&*store.storage.jobs, new_job()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("backup");
    backup(store.folder.path(), &to).unwrap();
    let fresh = elsewhere.path().join("fresh");

    let nothing = restore(elsewhere.path(), &fresh, false).unwrap_err();
    assert_eq!(nothing.code, ErrorCode::InvalidValue);
    let manifest = fs::read_to_string(to.join("backup.json")).unwrap();
    let newer = manifest.replace("\"schema\":", "\"schema\":9");
    fs::write(to.join("backup.json"), newer).unwrap();
    let newer = restore(&to, &fresh, false).unwrap_err();
    assert!(newer.message.contains("schema version"), "{newer}");
    fs::write(to.join("backup.json"), manifest).unwrap();
    let mut database = fs::read(to.join("fusiond.sqlite")).unwrap();
    let middle = database.len() / 2;
    database[100..middle].fill(0xaa);
    fs::write(to.join("fusiond.sqlite"), database).unwrap();
    let damaged = restore(&to, &fresh, false).unwrap_err();
    assert_eq!(damaged.code, ErrorCode::StoreUnavailable);
    assert!(!fresh.join("fusiond.sqlite").exists());

    let empty = backup(&fresh, &elsewhere.path().join("other")).unwrap_err();
    assert_eq!(empty.code, ErrorCode::InvalidValue);
}

#[tokio::test]
async fn half_a_restore_starts_no_server() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("restoring"), "").unwrap();
    let config = Config::new(folder.path());
    let error = open(&config).await.err().unwrap();
    assert!(error.message.contains("restore"), "{error}");
}
