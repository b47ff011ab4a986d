//! Jobs that wait for others. A row of `job_dependencies` stands for one that is still waited for.

use fusion_types::{Error, Tenant, Timestamp, id::JobId, job::JobStatus};

use super::{
    super::writer::Transaction,
    job_not_found,
    row::{self, JobRow},
};
use crate::error::StoreError;

/// Those of the jobs that are not completed yet.
///
/// # Errors
/// `job_not_found` for one that isn't there, `invalid_value` for one that will not complete.
pub(super) fn unfinished(
    transaction: &Transaction<'_>,
    tenant: &Tenant,
    depends_on: &[JobId],
    now: Timestamp,
) -> Result<Vec<JobId>, StoreError> {
    let mut unfinished: Vec<JobId> = Vec::new();
    for id in depends_on {
        let parent = row::find_public(transaction, tenant, id, now)?
            .ok_or_else(|| job_not_found(id).with_param("depends_on"))?;
        match parent.state.job.status {
            JobStatus::Completed => {}
            status @ (JobStatus::Failed | JobStatus::Cancelled) => {
                let message = format!("job {id} is {}: it will not complete", status.as_str());
                return Err(Error::invalid("depends_on", message).into());
            }
            JobStatus::Queued | JobStatus::Processing if unfinished.contains(id) => {}
            JobStatus::Queued | JobStatus::Processing => unfinished.push(id.clone()),
        }
    }
    Ok(unfinished)
}

pub(super) fn keep(
    transaction: &Transaction<'_>,
    child: i64,
    waits_for: &[JobId],
) -> Result<(), StoreError> {
    let sql = "INSERT INTO job_dependencies (parent, child) VALUES (?1, ?2)";
    for parent in waits_for {
        transaction
            .prepare_cached(sql)?
            .execute((parent.as_str(), child))?;
    }
    Ok(())
}

/// The job has ended: those that wait for it may run, or end with it, and so on.
pub(super) fn settle(
    transaction: &Transaction<'_>,
    ended: &JobRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    waits_no_more(transaction, ended)?;
    let mut rest = Vec::new();
    settle_one(transaction, ended, now, &mut rest)?;
    while let Some(ended) = rest.pop() {
        settle_one(transaction, &ended, now, &mut rest)?;
    }
    Ok(())
}

fn settle_one(
    transaction: &Transaction<'_>,
    ended: &JobRow,
    now: Timestamp,
    rest: &mut Vec<JobRow>,
) -> Result<(), StoreError> {
    for number in take_children(transaction, &ended.state.job.job_id)? {
        let Some(mut child) = row::by_number(transaction, number)? else {
            continue;
        };
        match ended.state.outcome_for_dependents() {
            None => {
                child.blocked = child.blocked.saturating_sub(1);
                row::save(transaction, &mut child)?;
            }
            Some(outcome) => {
                child.blocked = 0;
                child.state.finish(outcome, now);
                row::save_alone(transaction, &mut child, now)?;
                waits_no_more(transaction, &child)?;
                rest.push(child);
            }
        }
    }
    Ok(())
}

fn take_children(transaction: &Transaction<'_>, parent: &JobId) -> Result<Vec<i64>, StoreError> {
    let sql = "DELETE FROM job_dependencies WHERE parent = ?1 RETURNING child";
    let mut statement = transaction.prepare_cached(sql)?;
    let children = statement
        .query_map([parent.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(children)
}

fn waits_no_more(transaction: &Transaction<'_>, child: &JobRow) -> Result<(), StoreError> {
    if child.state.job.depends_on.is_empty() {
        return Ok(());
    }
    transaction
        .prepare_cached("DELETE FROM job_dependencies WHERE child = ?1")?
        .execute([child.number])?;
    Ok(())
}
