//! Removing what nobody may see or need any more.

use fusion_types::Timestamp;

use super::{
    super::writer::Transaction,
    payload,
    row::{self, JobRow},
};
use crate::error::StoreError;

pub(super) struct Swept {
    pub(super) jobs: u64,
    pub(super) is_more: bool,
}

/// Removes up to `limit` expired jobs with all that belongs to them, and as many inputs of failed ones.
pub(super) fn sweep(
    transaction: &Transaction<'_>,
    now: Timestamp,
    limit: u32,
) -> Result<Swept, StoreError> {
    let expired = "SELECT number FROM jobs WHERE expires_at <= ?1 LIMIT ?2";
    let expired = load(transaction, expired, now.as_millis(), limit)?;
    for row in &expired {
        remove(transaction, row)?;
    }
    let failed = "SELECT number FROM jobs WHERE status = 'failed' AND payload_at IS NOT NULL AND failed_at <= ?1 LIMIT ?2";
    let failed = match transaction.inputs().forgotten_if_failed_by(now) {
        Some(until) => load(transaction, failed, until.as_millis(), limit)?,
        None => Vec::new(),
    };
    let is_more = [expired.len(), failed.len()].contains(&(limit as usize));
    for mut row in failed {
        if let Some(gone) = row.payload.take() {
            payload::delete(transaction, gone)?;
        }
        row::save(transaction, &mut row)?;
    }
    Ok(Swept {
        jobs: expired.len() as u64,
        is_more,
    })
}

fn load(
    transaction: &Transaction<'_>,
    sql: &str,
    until: i64,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let mut statement = transaction.prepare_cached(sql)?;
    let numbers = statement
        .query_map((until, limit), |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<i64>>>()?;
    numbers
        .into_iter()
        .filter_map(|number| row::by_number(transaction, number).transpose())
        .collect()
}

/// The job, its changes and its input.
pub(super) fn remove(transaction: &Transaction<'_>, row: &JobRow) -> Result<(), StoreError> {
    if let Some(gone) = row.payload {
        payload::delete(transaction, gone)?;
    }
    transaction
        .prepare_cached("DELETE FROM changes WHERE job = ?1")?
        .execute([row.number])?;
    transaction
        .prepare_cached("DELETE FROM jobs WHERE number = ?1")?
        .execute([row.number])?;
    transaction.count(&row.state, row.counted, -1);
    Ok(())
}
