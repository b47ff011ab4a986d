//! A data folder's store in MongoDB: all of it, once, whatever interrupted the move.

use fusion_storage::{Config, Migrated, Storage, migrate, open};
use fusion_types::{
    ErrorCode, Tenant,
    document::{CollectionRef, DocumentVersion},
    id::BlobId,
    job::{Change, Idempotency, Inserted, JobStatus, NewJob, Outcome, Seq},
    record::{Expect, RecordWrite},
    store::JobStore,
};
use futures::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::{
    mongo::TestDatabase,
    servers,
    suite::{
        documents::{collection, version},
        jobs::{HOUR, claim, claim_one, failure, finish, insert, new_job},
    },
};

const OWN: [&str; 1] = ["models"];

/// What the store had before it moved.
struct Before {
    log: Vec<Change>,
    keyed: NewJob,
    blob: BlobId,
}

/// Some of everything: jobs in every state, one that waits for another, records, a file, documents.
async fn filled(storage: &Storage) -> Before {
    let jobs = &*storage.jobs;
    let keyed = NewJob {
        idempotency: Some(Idempotency {
            key: "once".to_owned(),
            body_hash: "hash".to_owned(),
        }),
        ..new_job()
    };
    insert(jobs, keyed.clone()).await;
    let done = claim_one(jobs).await;
    let large = json!({"content": "x".repeat(300_000)});
    finish(jobs, &done, Outcome::Completed(large)).await;
    insert(jobs, new_job()).await;
    let failed = claim_one(jobs).await;
    let why = failure(ErrorCode::InternalError);
    finish(jobs, &failed, Outcome::Failed(why)).await;
    let cancelled = insert(jobs, new_job()).await.job_id;
    jobs.cancel(&Tenant::default(), &cancelled).await.unwrap();
    insert(jobs, new_job()).await;
    claim(jobs, 1, HOUR).await;
    let parent = insert(jobs, new_job()).await.job_id;
    let child = NewJob {
        depends_on: vec![parent],
        ..new_job()
    };
    insert(jobs, child).await;

    let mut webhook = RecordWrite::put("webhooks", "one", json!({"url": "http://x"}));
    for _ in 0..3 {
        storage.records.commit(vec![webhook.clone()]).await.unwrap();
        webhook.value = Some(json!({"url": "http://y"}));
    }
    let own = RecordWrite::put("models", "small", json!({}));
    storage.records.commit(vec![own]).await.unwrap();
    let blob = BlobId::generate();
    let bytes = stream::iter([Ok(vec![7_u8; 5 << 20].into())]).boxed();
    storage.blobs.put(&blob, bytes).await.unwrap();
    let key = collection(&*storage.documents).await;
    for id in ["one", "two", "two"] {
        storage.documents.commit(document(&key, id)).await.unwrap();
    }
    let log = jobs.changes(Seq(0), 1000).await.unwrap();
    Before { log, keyed, blob }
}

fn document(key: &CollectionRef, id: &str) -> DocumentVersion {
    version(key, id, &["some ", "words"])
}

async fn move_there(config: &Config) -> fusion_types::Result<Migrated> {
    let mongo = config.mongo.clone().unwrap();
    let folder = Config::new(&config.data_dir);
    migrate(&folder, &mongo, &OWN, &|_| {}).await
}

async fn is_all_there(storage: &Storage, before: &Before) {
    let jobs = &*storage.jobs;
    assert_eq!(jobs.changes(Seq(0), 1000).await.unwrap(), before.log);
    let again = jobs.insert(vec![before.keyed.clone()]).await.unwrap();
    let [Inserted::Existing(job)] = &again[..] else {
        panic!("{again:?}");
    };
    assert_eq!(job.job_id, before.keyed.id);
    assert_eq!(job.status, JobStatus::Completed);
    let counts = jobs.counts().await.unwrap();
    assert_eq!((counts.queued, counts.processing), (2, 1));
    assert_eq!(
        (counts.completed, counts.failed, counts.cancelled),
        (1, 1, 1)
    );

    let webhook = storage
        .records
        .get("webhooks", "one")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (webhook.value, webhook.version),
        (json!({"url": "http://y"}), 3)
    );
    let next = RecordWrite::put("webhooks", "one", json!({})).expecting(Expect::Version(3));
    storage.records.commit(vec![next]).await.unwrap();
    assert_eq!(storage.records.get("models", "small").await.unwrap(), None);
    let own = storage.own_records.get("models", "small").await.unwrap();
    assert!(own.is_some(), "it stays with its server");
    let file = storage.blobs.get(&before.blob, 0).await.unwrap();
    let bytes: Vec<_> = file.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), vec![7_u8; 5 << 20]);

    let key = collection(&*storage.documents).await;
    let there = storage.documents.collection(&key).await.unwrap().unwrap();
    assert_eq!((there.document_count, there.chunk_count), (2, 4));
    let expected = document(&key, "two");
    let id = &expected.document_id;
    let moved = storage.documents.document(&key, id).await.unwrap().unwrap();
    assert_eq!((moved.text, moved.info.version), (expected.text, 2));
    let texts: Vec<&str> = expected.chunks.iter().map(|chunk| &*chunk.text).collect();
    let vectors = storage
        .documents
        .known_vectors(&key, id, &texts)
        .await
        .unwrap();
    let kept = expected
        .chunks
        .iter()
        .map(|chunk| Some(chunk.embedding.clone()));
    assert_eq!(vectors, kept.collect::<Vec<_>>());
    work_goes_on(jobs, before).await;
}

/// What ran when the folder's server ended runs again, the child after its parent, and new changes come after the old.
async fn work_goes_on(jobs: &dyn JobStore, before: &Before) {
    for _ in 0..3 {
        let claimed = claim_one(jobs).await;
        assert_eq!(claimed.input, new_job().input);
        finish(jobs, &claimed, Outcome::Completed(json!(1))).await;
    }
    let last = before.log.last().unwrap().seq;
    let new = jobs.changes(last, 1000).await.unwrap();
    let seqs: Vec<u64> = new.iter().map(|change| change.seq.0).collect();
    assert_eq!(seqs, (last.0 + 1..=last.0 + 6).collect::<Vec<_>>());
    assert_eq!(jobs.counts().await.unwrap().completed, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_to_mongodb_and_its_work_goes_on() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let database = TestDatabase::new(&server);
    let folder = tempfile::tempdir().unwrap();
    let config = database.store_config(&folder);
    let storage = open(&Config::new(folder.path())).await.unwrap();
    let before = filled(&storage).await;
    let error = move_there(&config).await.unwrap_err();
    assert_eq!(
        error.code,
        ErrorCode::StoreUnavailable,
        "a server has the folder"
    );
    storage.close().await.unwrap();

    let moved = move_there(&config).await.unwrap();
    let expected = Migrated {
        files: 1,
        records: 1,
        collections: 1,
        documents: 2,
        jobs: 6,
        changes: before.log.len() as u64,
    };
    assert_eq!(moved, expected);
    let error = move_there(&config).await.unwrap_err();
    assert_eq!(
        error.code,
        ErrorCode::InvalidValue,
        "once is enough: {error}"
    );
    let storage = open(&config).await.unwrap();
    is_all_there(&storage, &before).await;
    storage.close().await.unwrap();

    let another = tempfile::tempdir().unwrap();
    open(&Config::new(another.path()))
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let error = move_there(&database.store_config(&another))
        .await
        .unwrap_err();
    assert_eq!(
        error.code,
        ErrorCode::InvalidValue,
        "the database is in use: {error}"
    );
    database.drop().await;
}

/// The move was cut off after each of its steps, in the middle of what the step writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_was_cut_off_is_done_again() {
    let Some(server) = servers::mongo() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&Config::new(folder.path())).await.unwrap();
    let before = filled(&storage).await;
    storage.close().await.unwrap();
    for lost in STEPS {
        let database = TestDatabase::new(&server);
        let config = database.store_config(&folder);
        move_there(&config).await.unwrap();
        let raw = database.raw().await;
        let control = raw.collection::<Document>("control");
        let undone = doc! { "$set": { "is_done": false } };
        control
            .update_one(doc! { "_id": "migration" }, undone)
            .await
            .unwrap();
        cut_off(&raw, lost).await;
        let error = open(&config).await.err().unwrap();
        assert_eq!(
            error.code,
            ErrorCode::StoreUnavailable,
            "half a store: {error}"
        );
        move_there(&config).await.unwrap();
        let storage = open(&config).await.unwrap();
        is_all_there(&storage, &before).await;
        storage.close().await.unwrap();
        database.drop().await;
    }
}

/// What each step writes.
const STEPS: [&str; 5] = ["files", "webhooks", "rag_", "jobs", "job_changes"];

/// Removes the last of what the step wrote, as if it had not come to it, and all that later steps wrote.
async fn cut_off(raw: &mongodb::Database, lost: &str) {
    for step in STEPS.iter().skip_while(|step| **step != lost) {
        for name in raw.list_collection_names().await.unwrap() {
            let collection = raw.collection::<Document>(&name);
            if name == *step && name == lost {
                let last = collection.find_one(doc! {}).sort(doc! { "_id": -1 });
                let id = last.await.unwrap().unwrap().get("_id").cloned();
                collection.delete_one(doc! { "_id": id }).await.unwrap();
            } else if name == *step || *step == "rag_" && name.starts_with("rag_") {
                collection.delete_many(doc! {}).await.unwrap();
            }
        }
    }
}
