//! Looking at jobs.

use fusion_types::{
    Timestamp,
    id::JobId,
    job::{Job, JobCounts, JobQuery, JobSort, JobStatus},
    page::Page,
};
use rusqlite::Connection;

use super::{
    super::{bounds, from_stored, name_of},
    row,
};
use crate::error::StoreError;

const MATCHING: &str = "FROM jobs WHERE tenant = ?1 AND (expires_at IS NULL OR expires_at > ?2) \
                        AND (?3 IS NULL OR status = ?3) AND (?4 IS NULL OR model_id = ?4) \
                        AND (?5 IS NULL OR operation = ?5) AND (?6 IS NULL OR job_group = ?6)";

pub(super) fn list(
    connection: &Connection,
    query: &JobQuery,
    now: Timestamp,
) -> Result<Page<Job>, StoreError> {
    let operation = query.operation.as_ref().map(name_of).transpose()?;
    let status = query.status.map(JobStatus::as_str);
    let (limit, offset) = bounds(query.window);
    let filter = (
        query.tenant.as_str(),
        now.as_millis(),
        status,
        &query.model_id,
        operation,
        &query.group,
    );
    let total = connection
        .prepare_cached(&format!("SELECT count(*) {MATCHING}"))?
        .query_row(filter.clone(), |row| row.get(0))
        .map(from_stored)?;
    let sql = format!(
        "SELECT {} {MATCHING} ORDER BY {} LIMIT ?7 OFFSET ?8",
        row::COLUMNS,
        order(query)
    );
    let (tenant, now, status, model, operation, group) = filter;
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows =
        statement.query((tenant, now, status, model, operation, group, limit, offset))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(row::read(row)?.job);
    }
    Ok(Page { items, total })
}

/// Jobs that aren't completed come last, whatever the direction.
fn order(query: &JobQuery) -> &'static str {
    match (query.sort, query.descending) {
        (JobSort::CreatedAt, false) => "created_at, number",
        (JobSort::CreatedAt, true) => "created_at DESC, number DESC",
        (JobSort::CompletedAt, false) => "completed_at NULLS LAST, number",
        (JobSort::CompletedAt, true) => "completed_at DESC NULLS LAST, number DESC",
    }
}

/// Counts the jobs before it that will be due when it is.
pub(super) fn position(
    connection: &Connection,
    id: &JobId,
    now: Timestamp,
) -> Result<Option<u64>, StoreError> {
    let Some(row) = row::by_id(connection, id)?.filter(|row| row.job.status == JobStatus::Queued)
    else {
        return Ok(None);
    };
    let sql = "SELECT count(*) FROM jobs INDEXED BY jobs_claim \
               WHERE status = 'queued' AND (sort_key, number) < (?1, ?2) AND run_at <= ?3";
    let due = row.run_at.max(now).as_millis();
    let before = connection
        .prepare_cached(sql)?
        .query_row((row.sort_key, row.number, due), |row| row.get(0))?;
    Ok(Some(from_stored(before)))
}

pub(super) fn counts(connection: &Connection) -> Result<JobCounts, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT jobs FROM job_counts WHERE status = ?1")?;
    let mut count = |status: JobStatus| {
        statement
            .query_row([status.as_str()], |row| row.get(0))
            .map(from_stored)
    };
    Ok(JobCounts {
        queued: count(JobStatus::Queued)?,
        processing: count(JobStatus::Processing)?,
        completed: count(JobStatus::Completed)?,
        failed: count(JobStatus::Failed)?,
        cancelled: count(JobStatus::Cancelled)?,
    })
}
