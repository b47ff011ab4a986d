//! Jobs and changes as another store takes them over.

use fusion_types::{
    Timestamp,
    id::JobId,
    job::{Idempotency, JobStatus, Seq},
};
use rusqlite::Connection;

use super::{
    super::{Sqlite, from_stored, to_stored},
    change, payload, row,
};
use crate::{
    error::StoreError,
    migrate::moved::{MovedChange, MovedJob},
};

impl Sqlite {
    /// Those behind the job with that number, in the order in which they came in.
    pub(crate) async fn jobs_after(
        &self,
        number: i64,
        limit: u32,
    ) -> fusion_types::Result<Vec<MovedJob>> {
        self.read(move |connection| jobs_after(connection, number, limit))
            .await
    }

    pub(crate) async fn changes_after(
        &self,
        after: Seq,
        limit: u32,
    ) -> fusion_types::Result<Vec<MovedChange>> {
        self.read(move |connection| changes_after(connection, after, limit))
            .await
    }
}

fn jobs_after(
    connection: &Connection,
    number: i64,
    limit: u32,
) -> Result<Vec<MovedJob>, StoreError> {
    let sql = "SELECT number, callback_url, idempotency_key, body_hash, \
               (SELECT count(*) FROM changes WHERE changes.job = jobs.number) \
               FROM jobs WHERE number > ?1 ORDER BY number LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut found = statement.query((number, limit))?;
    let mut jobs = Vec::new();
    while let Some(columns) = found.next()? {
        let Some(row) = row::by_number(connection, columns.get(0)?)? else {
            continue;
        };
        let mut state = row.state;
        if state.job.status == JobStatus::Processing {
            // No server has the folder, so nobody works on it.
            state.lease_until = Some(Timestamp::from_millis(0));
        }
        let (key, body_hash) = (columns.get(2)?, columns.get(3)?);
        let (key, body_hash): (Option<String>, Option<String>) = (key, body_hash);
        jobs.push(MovedJob {
            number: row.number,
            state,
            callback_url: columns.get(1)?,
            idempotency: key
                .zip(body_hash)
                .map(|(key, body_hash)| Idempotency { key, body_hash }),
            input: row
                .payload
                .map(|payload| payload::load(connection, payload))
                .transpose()?,
            waits_for: waits_for(connection, row.number)?,
            changes: from_stored(columns.get(4)?),
        });
    }
    Ok(jobs)
}

fn waits_for(connection: &Connection, number: i64) -> Result<Vec<JobId>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT parent FROM job_dependencies WHERE child = ?1")?;
    let parents = statement
        .query_map([number], |row| row.get::<_, String>(0))?
        .map(|parent| Ok(JobId::from_text(&parent?)))
        .collect::<rusqlite::Result<_>>()?;
    Ok(parents)
}

fn changes_after(
    connection: &Connection,
    after: Seq,
    limit: u32,
) -> Result<Vec<MovedChange>, StoreError> {
    let sql = "SELECT (SELECT count(*) FROM changes AS earlier WHERE earlier.job = changes.job AND earlier.seq <= changes.seq) \
               FROM changes WHERE seq = ?1";
    let mut number = connection.prepare_cached(sql)?;
    change::after(connection, after, limit)?
        .into_iter()
        .map(|change| {
            let number = number.query_row([to_stored(change.seq.0)], |row| row.get(0))?;
            Ok(MovedChange {
                number: from_stored(number),
                change,
            })
        })
        .collect()
}
