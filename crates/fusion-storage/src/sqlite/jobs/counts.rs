//! How many jobs there are of each tenant, status, operation and model, so that a list's total needs no look at the jobs. What a
//! group of commands changes is added up, and written once when it is committed.

use std::collections::HashMap;

use fusion_types::{
    Tenant,
    job::{Job, JobStatus, Operation},
};
use rusqlite::Connection;

/// Changes of the counts that are yet to be written.
#[derive(Debug, Default)]
pub(in crate::sqlite) struct Tally(HashMap<Kind, i64>);

/// What is counted together.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    tenant: Tenant,
    status: JobStatus,
    operation: Operation,
    model_id: Option<String>,
}

impl Tally {
    /// `more` jobs like this one in the status; fewer where it is negative.
    pub(in crate::sqlite) fn add(
        &mut self,
        tenant: &Tenant,
        job: &Job,
        status: JobStatus,
        more: i64,
    ) {
        let kind = Kind {
            tenant: tenant.clone(),
            status,
            operation: job.operation,
            model_id: job.model_id.clone(),
        };
        *self.0.entry(kind).or_default() += more;
    }

    pub(in crate::sqlite) fn merge(&mut self, other: Self) {
        for (kind, more) in other.0 {
            *self.0.entry(kind).or_default() += more;
        }
    }

    pub(in crate::sqlite) fn write(self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "INSERT INTO job_counts (tenant, status, operation, model_id, jobs) VALUES (?1, ?2, ?3, ?4, ?5) \
                   ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs";
        for (kind, more) in self.0.into_iter().filter(|(_, more)| *more != 0) {
            connection.prepare_cached(sql)?.execute((
                kind.tenant.as_str(),
                kind.status.as_str(),
                kind.operation.as_str(),
                kind.model_id.as_deref().unwrap_or_default(),
                more,
            ))?;
        }
        Ok(())
    }
}
