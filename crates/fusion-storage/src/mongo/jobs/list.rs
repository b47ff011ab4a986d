//! Looking at jobs.

use fusion_types::{
    Tenant, Timestamp,
    id::JobId,
    job::{Job, JobCounts, JobQuery, JobSort, JobStatus},
    page::Page,
    store::POSITIONS_COUNTED,
};
use mongodb::bson::{Document, RawDocumentBuf, doc};

use super::{
    super::{Mongo, all, bounds, schema::JOBS, stored_time, unexpired, written},
    row::{JobRow, label},
};
use crate::error::StoreError;

pub(super) async fn list(store: &Mongo, query: &JobQuery) -> Result<Page<Job>, StoreError> {
    let filter = filter(query, store.now().await?)?;
    let collection = store.collection(JOBS);
    let total = collection.count_documents(filter.clone()).await?;
    let (limit, offset) = bounds(query.window);
    let rows = match (query.sort, query.descending) {
        (JobSort::CreatedAt, false) => {
            let order = doc! { "created_at": 1, "job_id": 1 };
            part(store, filter, order, limit, offset).await?
        }
        (JobSort::CreatedAt, true) => {
            let order = doc! { "created_at": -1, "job_id": -1 };
            part(store, filter, order, limit, offset).await?
        }
        (JobSort::CompletedAt, true) => {
            let order = doc! { "completed_at": -1, "job_id": -1 };
            part(store, filter, order, limit, offset).await?
        }
        (JobSort::CompletedAt, false) => by_completion(store, filter, limit, offset).await?,
    };
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        items.push(store.with_result(row).await?);
    }
    Ok(Page { items, total })
}

/// Jobs that aren't completed come last, which is not the database's order.
async fn by_completion(
    store: &Mongo,
    filter: Document,
    limit: i64,
    offset: u64,
) -> Result<Vec<JobRow>, StoreError> {
    let with = |condition: Document| doc! { "$and": [filter.clone(), condition] };
    let completed = with(doc! { "completed_at": { "$type": "date" } });
    let order = doc! { "completed_at": 1, "job_id": 1 };
    let mut rows = part(store, completed.clone(), order, limit, offset).await?;
    let left = limit - rows.len() as i64;
    if left > 0 {
        let before = store.collection(JOBS).count_documents(completed).await?;
        let rest = with(doc! { "completed_at": null });
        let order = doc! { "job_id": 1 };
        rows.extend(part(store, rest, order, left, offset.saturating_sub(before)).await?);
    }
    Ok(rows)
}

async fn part(
    store: &Mongo,
    filter: Document,
    order: Document,
    limit: i64,
    offset: u64,
) -> Result<Vec<JobRow>, StoreError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let cursor = store
        .raw(JOBS)
        .find(filter)
        .projection(doc! { "pending": 0 })
        .sort(order)
        .skip(offset)
        .limit(limit)
        .await?;
    let documents: Vec<RawDocumentBuf> = all(cursor).await?;
    documents.iter().map(|row| JobRow::read(row)).collect()
}

fn filter(query: &JobQuery, now: Timestamp) -> Result<Document, StoreError> {
    let mut filter = doc! { "tenant": query.tenant.as_str(), "ttl_expire_at": unexpired(now) };
    if let Some(status) = query.status {
        filter.insert("status", status.as_str());
    }
    if let Some(model) = &query.model_id {
        filter.insert("model_id", model);
    }
    if let Some(operation) = &query.operation {
        filter.extend(written(&serde_json::json!({ "operation": operation }))?);
    }
    if let Some(group) = &query.group {
        filter.insert("group", group);
    }
    if !query.metadata.is_empty() {
        let labels = query
            .metadata
            .iter()
            .map(|(key, value)| label(key, value))
            .collect::<Result<Vec<_>, _>>()?;
        filter.insert("labels", doc! { "$all": labels });
    }
    Ok(filter)
}

/// Counts the jobs before it that will be due when it is.
pub(super) async fn position(store: &Mongo, id: &JobId) -> Result<Option<u64>, StoreError> {
    let Some(row) = store
        .job(id)
        .await?
        .filter(|row| row.state.job.status == JobStatus::Queued && row.waiting_for.is_empty())
    else {
        return Ok(None);
    };
    let sort_key = row.state.sort_key;
    let before = doc! {
        "status": "queued",
        "blocked": 0,
        "run_at": { "$lte": stored_time(row.state.run_at.max(row.now)) },
        "$or": [
            { "sort_key": { "$lt": sort_key } },
            { "sort_key": sort_key, "job_id": { "$lt": id.as_str() } },
        ],
    };
    let before = store
        .collection(JOBS)
        .count_documents(before)
        .limit(POSITIONS_COUNTED)
        .await?;
    if before < POSITIONS_COUNTED {
        return Ok(Some(before));
    }
    Ok(Some(counts(store).await?.queued.max(before)))
}

pub(super) async fn counts(store: &Mongo) -> Result<JobCounts, StoreError> {
    // A condition on every status, so that the index alone answers it.
    let every = ["queued", "processing", "completed", "failed", "cancelled"];
    by_status(store, doc! { "status": { "$in": every.to_vec() } }).await
}

pub(super) async fn group(
    store: &Mongo,
    tenant: &Tenant,
    group: &str,
) -> Result<JobCounts, StoreError> {
    let filter = doc! { "tenant": tenant.as_str(), "group": group, "ttl_expire_at": unexpired(store.now().await?) };
    by_status(store, filter).await
}

async fn by_status(store: &Mongo, filter: Document) -> Result<JobCounts, StoreError> {
    let pipeline = [
        doc! { "$match": filter },
        doc! { "$group": { "_id": "$status", "jobs": { "$sum": 1_i64 } } },
    ];
    let cursor = store.collection(JOBS).aggregate(pipeline).await?;
    let mut counts = JobCounts::default();
    for counted in all(cursor).await? {
        let jobs = counted
            .get_i64("jobs")
            .or_else(|_| counted.get_i32("jobs").map(i64::from))
            .map_or(0, super::super::from_stored);
        match counted.get_str("_id").unwrap_or_default() {
            "queued" => counts.queued = jobs,
            "processing" => counts.processing = jobs,
            "completed" => counts.completed = jobs,
            "failed" => counts.failed = jobs,
            _ => counts.cancelled = jobs,
        }
    }
    Ok(counts)
}
