//! Handing jobs to workers.

use fusion_types::{
    Timestamp,
    job::{Claim, Claimed, Outcome},
};

use super::{
    super::writer::Transaction,
    payload,
    row::{self, JobRow, save_transition},
};
use crate::{error::StoreError, job_state::Lapsed};

/// Jobs that one call hands out, or gives up, at most.
const MOST: u32 = 1000;

/// Queued jobs whose time has come. The index alone answers it, also where many wait for a later time.
const DUE: &str = "SELECT number FROM jobs INDEXED BY jobs_claim WHERE status = 'queued' AND blocked = 0 AND run_at <= ?1 \
                   ORDER BY sort_key, number LIMIT ?2";

/// Jobs whose worker has vanished.
const LAPSED: &str = "SELECT number FROM jobs INDEXED BY jobs_lease WHERE status = 'processing' AND lease_until <= ?1 \
                      ORDER BY sort_key, number LIMIT ?2";

pub(super) fn claim(
    transaction: &Transaction<'_>,
    claim: &Claim,
    now: Timestamp,
) -> Result<Vec<Claimed>, StoreError> {
    let limit = claim.limit.min(MOST);
    let mut candidates = settle_lapsed(transaction, now)?;
    candidates.extend(load(transaction, DUE, now, limit)?);
    candidates.sort_by_key(|row| (row.state.sort_key, row.number));
    candidates.truncate(limit as usize);
    candidates
        .into_iter()
        .map(|row| start(transaction, row, claim, now))
        .collect()
}

/// Finishes jobs that deserve no further attempt, and returns those that do.
fn settle_lapsed(transaction: &Transaction<'_>, now: Timestamp) -> Result<Vec<JobRow>, StoreError> {
    let mut claimable = Vec::new();
    for mut row in load(transaction, LAPSED, now, MOST)? {
        match row.state.after_lapse() {
            Lapsed::Claimable => {
                claimable.push(row);
                continue;
            }
            Lapsed::Cancel => row.state.finish(Outcome::Cancelled, now),
            Lapsed::GiveUp => {
                let error = row.state.gave_up();
                row.state.finish(Outcome::Failed(error), now);
            }
        }
        save_transition(transaction, &mut row, now)?;
    }
    Ok(claimable)
}

fn load(
    transaction: &Transaction<'_>,
    sql: &str,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<JobRow>, StoreError> {
    let mut statement = transaction.prepare_cached(sql)?;
    let numbers = statement
        .query_map((now.as_millis(), limit), |row| row.get::<_, i64>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    numbers
        .into_iter()
        .filter_map(|number| row::by_number(transaction, number).transpose())
        .collect()
}

fn start(
    transaction: &Transaction<'_>,
    mut row: JobRow,
    claim: &Claim,
    now: Timestamp,
) -> Result<Claimed, StoreError> {
    row.state.start(&claim.owner.0, now.plus(claim.lease), now);
    save_transition(transaction, &mut row, now)?;
    let input = row
        .payload
        .map(|payload| payload::load(transaction, payload))
        .transpose()?
        .unwrap_or_default();
    Ok(Claimed {
        job: row.state.job,
        tenant: row.state.tenant,
        input,
        fence: row.state.fence,
        timeout: row.state.timeout,
        max_attempts: row.state.max_attempts,
    })
}

pub(super) fn release_all_leases(transaction: &Transaction<'_>) -> Result<u64, StoreError> {
    let released = transaction.execute(
        "UPDATE jobs SET lease_until = 0 WHERE status = 'processing'",
        [],
    )?;
    Ok(released as u64)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::schema::migrate;

    fn plan(sql: &str) -> String {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap();
        let steps = statement
            .query_map((0, 1), |row| row.get::<_, String>(3))
            .unwrap();
        steps
            .collect::<rusqlite::Result<Vec<_>>>()
            .unwrap()
            .join("; ")
    }

    #[test]
    fn due_jobs_come_from_the_index_in_order() {
        assert_eq!(plan(DUE), "SCAN jobs USING COVERING INDEX jobs_claim");
    }

    #[test]
    fn lapsed_leases_are_searched_among_running_jobs_alone() {
        let plan = plan(LAPSED);
        assert!(
            plan.starts_with("SEARCH jobs USING INDEX jobs_lease (lease_until<?)"),
            "{plan}"
        );
    }
}
