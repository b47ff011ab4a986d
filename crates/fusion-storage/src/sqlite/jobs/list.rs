//! Looking at jobs.

use fusion_types::{
    Tenant, Timestamp,
    id::JobId,
    job::{Job, JobCounts, JobQuery, JobSort, JobStatus},
    page::Page,
    store::POSITIONS_COUNTED,
};
use rusqlite::{Connection, ToSql, params_from_iter, types::Value};

use super::{
    super::{bounds, from_stored, to_stored},
    row,
};
use crate::error::StoreError;

pub(super) fn list(
    connection: &Connection,
    query: &JobQuery,
    now: Timestamp,
) -> Result<Page<Job>, StoreError> {
    let mut matching = Conditions::of_columns(query)?;
    let total = total(connection, query, &matching, now)?;
    matching.add("(expires_at IS NULL OR expires_at > ?)", now.as_millis());
    matching.add_group_and_metadata(query);
    let (limit, offset) = bounds(query.window);
    let sql = format!(
        "SELECT {} FROM jobs WHERE {} ORDER BY {} LIMIT ? OFFSET ?",
        row::COLUMNS,
        matching.sql(),
        order(query)
    );
    matching.values.extend([limit.into(), offset.into()]);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(&matching.values))?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(row::read(row)?.state.job);
    }
    Ok(Page { items, total })
}

/// By the kept counts where these tell; otherwise by counting what the group or the metadata leaves.
fn total(
    connection: &Connection,
    query: &JobQuery,
    columns: &Conditions,
    now: Timestamp,
) -> Result<u64, StoreError> {
    if query.group.is_none() && query.metadata.is_empty() {
        let counted = number(
            connection,
            &format!(
                "SELECT ifnull(sum(jobs), 0) FROM job_counts WHERE {}",
                columns.sql()
            ),
            &columns.values,
        )?;
        // What has expired and is not swept yet.
        let mut expired = columns.clone();
        expired.add("expires_at <= ?", now.as_millis());
        let sql = format!(
            "SELECT count(*) FROM jobs INDEXED BY jobs_expiry WHERE {}",
            expired.sql()
        );
        return Ok(counted.saturating_sub(number(connection, &sql, &expired.values)?));
    }
    let mut matching = columns.clone();
    matching.add("(expires_at IS NULL OR expires_at > ?)", now.as_millis());
    matching.add_group_and_metadata(query);
    let sql = format!("SELECT count(*) FROM jobs WHERE {}", matching.sql());
    number(connection, &sql, &matching.values)
}

fn number(connection: &Connection, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
    let number = connection
        .prepare_cached(sql)?
        .query_row(params_from_iter(values), |row| row.get(0))?;
    Ok(from_stored(number))
}

/// Conditions that all must hold, each with its value; only those that a query has, so that the right index is found.
#[derive(Clone)]
struct Conditions {
    texts: Vec<&'static str>,
    values: Vec<Value>,
}

impl Conditions {
    /// Those that `jobs` and `job_counts` both know.
    fn of_columns(query: &JobQuery) -> Result<Self, StoreError> {
        let mut conditions = Self {
            texts: Vec::new(),
            values: Vec::new(),
        };
        conditions.add("tenant = ?", query.tenant.as_str().to_owned());
        if let Some(status) = query.status {
            conditions.add("status = ?", status.as_str().to_owned());
        }
        if let Some(model) = &query.model_id {
            conditions.add("model_id = ?", model.clone());
        }
        if let Some(operation) = &query.operation {
            conditions.add("operation = ?", operation.as_str().to_owned());
        }
        Ok(conditions)
    }

    fn add_group_and_metadata(&mut self, query: &JobQuery) {
        if let Some(group) = &query.group {
            self.add("job_group = ?", group.clone());
        }
        for (key, value) in &query.metadata {
            // Numbers and truth values compare as JSON writes them.
            self.add(
                "EXISTS (SELECT 1 FROM json_each(record, '$.metadata') WHERE json_each.key = ?",
                key.clone(),
            );
            self.add(
                "CASE json_each.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' ELSE CAST(json_each.value AS TEXT) END = ?)",
                value.clone(),
            );
        }
    }

    fn add(&mut self, text: &'static str, value: impl Into<Value>) {
        self.texts.push(text);
        self.values.push(value.into());
    }

    fn sql(&self) -> String {
        self.texts.join(" AND ")
    }
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
    let Some(row) = row::by_id(connection, id)?
        .filter(|row| row.state.job.status == JobStatus::Queued && row.blocked == 0)
    else {
        return Ok(None);
    };
    let sql = "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_claim \
               WHERE status = 'queued' AND blocked = 0 AND (sort_key, number) < (?1, ?2) AND run_at <= ?3 LIMIT ?4)";
    let due = row.state.run_at.max(now).as_millis();
    let before = connection.prepare_cached(sql)?.query_row(
        (
            row.state.sort_key,
            row.number,
            due,
            to_stored(POSITIONS_COUNTED),
        ),
        |row| row.get(0),
    )?;
    let before = from_stored(before);
    if before < POSITIONS_COUNTED {
        return Ok(Some(before));
    }
    Ok(Some(counts(connection)?.queued.max(before)))
}

pub(super) fn counts(connection: &Connection) -> Result<JobCounts, StoreError> {
    let sql = "SELECT status, sum(jobs) FROM job_counts GROUP BY status";
    by_status(connection, sql, &[])
}

pub(super) fn group(
    connection: &Connection,
    tenant: &Tenant,
    group: &str,
    now: Timestamp,
) -> Result<JobCounts, StoreError> {
    let sql = "SELECT status, count(*) FROM jobs INDEXED BY jobs_group \
               WHERE tenant = ?1 AND job_group = ?2 AND (expires_at IS NULL OR expires_at > ?3) GROUP BY status";
    by_status(
        connection,
        sql,
        &[&tenant.as_str(), &group, &now.as_millis()],
    )
}

fn by_status(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
) -> Result<JobCounts, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    let mut counts = JobCounts::default();
    while let Some(row) = rows.next()? {
        let jobs = from_stored(row.get(1)?);
        match row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)? {
            "queued" => counts.queued = jobs,
            "processing" => counts.processing = jobs,
            "completed" => counts.completed = jobs,
            "failed" => counts.failed = jobs,
            _ => counts.cancelled = jobs,
        }
    }
    Ok(counts)
}
