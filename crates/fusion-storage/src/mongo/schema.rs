//! Collections and their indexes, made where they are missing.

use std::time::Duration;

use mongodb::{
    Database, IndexModel,
    bson::{Document, doc},
    error::{ErrorKind, Result},
    options::IndexOptions,
};

pub(super) const JOBS: &str = "jobs";
pub(super) const CHANGES: &str = "job_changes";
/// Where the change log's swept part ends.
pub(super) const CONTROL: &str = "control";
pub(super) const BLOBS: &str = "blobs";
pub(super) const FILES: &str = "files";
pub(super) const FILE_PARTS: &str = "file_parts";
pub(super) const WEBHOOKS: &str = "webhooks";
pub(super) const RECORDS: &str = "records";
pub(super) const COLLECTIONS: &str = "rag_collections";
pub(super) const DROPPED: &str = "rag_dropped_collections";
pub(super) const DOCUMENTS: &str = "rag_documents";
pub(super) const CHUNKS: &str = "rag_chunks";
pub(super) const INDEX_CHANGES: &str = "rag_index_changes";

/// Servers sweep what has expired, together with all that belongs to it. This is for when none has run for that long.
const TTL_AFTER: Duration = Duration::from_secs(24 * 3600);

/// # Errors
/// What the database says.
pub(super) async fn prepare(database: &Database) -> Result<()> {
    // Made at once, since a transaction can't make some of them on its way.
    for name in [CONTROL, DROPPED, FILES] {
        create(database, name).await?;
    }
    for (name, indexes) in [
        (JOBS, jobs()),
        (CHANGES, changes()),
        (BLOBS, blobs()),
        (FILE_PARTS, file_parts()),
        (WEBHOOKS, records()),
        (RECORDS, records()),
        (COLLECTIONS, collections()),
        (DOCUMENTS, documents()),
        (CHUNKS, chunks()),
        (INDEX_CHANGES, index_changes()),
    ] {
        create(database, name).await?;
        database
            .collection::<Document>(name)
            .create_indexes(indexes)
            .await?;
    }
    Ok(())
}

async fn create(database: &Database, name: &str) -> Result<()> {
    const NAMESPACE_EXISTS: i32 = 48;
    match database.create_collection(name).await {
        Err(error) if !matches!(&*error.kind, ErrorKind::Command(error) if error.code == NAMESPACE_EXISTS) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn jobs() -> Vec<IndexModel> {
    vec![
        unique(doc! { "job_id": 1 }),
        plain(doc! { "status": 1, "created_at": 1 }),
        plain(doc! { "model_id": 1, "created_at": 1 }),
        expiring("ttl_expire_at"),
        // A key makes one job.
        where_(
            unique(doc! { "tenant": 1, "idempotency_key": 1 }),
            there("idempotency_key"),
        ),
        // Claims: all due jobs in order, and those of certain models.
        plain(doc! { "status": 1, "blocked": 1, "sort_key": 1, "job_id": 1, "run_at": 1 }),
        plain(
            doc! { "status": 1, "blocked": 1, "model_id": 1, "sort_key": 1, "job_id": 1, "run_at": 1 },
        ),
        plain(doc! { "status": 1, "lease_until": 1 }),
        where_(plain(doc! { "claim": 1 }), there("claim")),
        where_(plain(doc! { "owner": 1 }), doc! { "cancel_wanted": true }),
        // What the change log doesn't have yet.
        where_(plain(doc! { "pending_since": 1 }), there("pending_since")),
        where_(
            plain(doc! { "waiting_for": 1 }),
            doc! { "blocked": { "$gt": 0 } },
        ),
        plain(doc! { "status": 1, "failed_at": 1 }),
        // Lists.
        plain(doc! { "tenant": 1, "created_at": 1, "job_id": 1 }),
        plain(doc! { "tenant": 1, "status": 1, "created_at": 1, "job_id": 1 }),
        plain(doc! { "tenant": 1, "model_id": 1, "created_at": 1, "job_id": 1 }),
        plain(doc! { "tenant": 1, "completed_at": 1, "job_id": 1 }),
        plain(doc! { "tenant": 1, "group": 1, "job_id": 1, "status": 1 }),
        plain(doc! { "tenant": 1, "labels": 1 }),
    ]
}

fn changes() -> Vec<IndexModel> {
    vec![unique(doc! { "entry": 1 }), plain(doc! { "job_id": 1 })]
}

fn blobs() -> Vec<IndexModel> {
    vec![unique(doc! { "blob": 1, "part": 1 })]
}

fn file_parts() -> Vec<IndexModel> {
    vec![
        unique(doc! { "file": 1, "part": 1 }),
        expiring("unfinished_since"),
    ]
}

fn records() -> Vec<IndexModel> {
    vec![
        unique(doc! { "record_namespace": 1, "record_key": 1 }),
        expiring("ttl_expire_at"),
    ]
}

fn collections() -> Vec<IndexModel> {
    vec![unique(doc! { "tenant": 1, "collection_name": 1 })]
}

fn documents() -> Vec<IndexModel> {
    vec![unique(doc! { "collection": 1, "document_id": 1 })]
}

fn chunks() -> Vec<IndexModel> {
    vec![
        unique(doc! { "collection": 1, "chunk_id": 1 }),
        plain(doc! { "document": 1, "position": 1 }),
        plain(doc! { "collection": 1, "added": 1 }),
    ]
}

fn index_changes() -> Vec<IndexModel> {
    vec![unique(doc! { "collection": 1, "seq": 1 })]
}

fn plain(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn unique(keys: Document) -> IndexModel {
    let options = IndexOptions::builder().unique(true).build();
    IndexModel::builder().keys(keys).options(options).build()
}

fn expiring(field: &str) -> IndexModel {
    let options = IndexOptions::builder().expire_after(TTL_AFTER).build();
    IndexModel::builder()
        .keys(doc! { field: 1 })
        .options(options)
        .build()
}

/// The database uses such an index for every query that needs the field.
fn there(field: &str) -> Document {
    doc! { field: { "$exists": true } }
}

fn where_(mut index: IndexModel, filter: Document) -> IndexModel {
    let mut options = index.options.take().unwrap_or_default();
    options.partial_filter_expression = Some(filter);
    index.options = Some(options);
    index
}
