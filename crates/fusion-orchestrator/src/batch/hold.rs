//! A batch that this server works on: under a lease in its record, which every write renews and is fenced by.
//!
//! A write expects the record as it was read. Where somebody else wrote it is read again: a client's cancellation is taken in, and
//! another server's lease ends the work. Clocks that differ may cost a step done twice, never an answer: jobs are kept by their
//! ids, and files are named in the same fenced commit that they are for.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    job::Owner,
    record::{Expect, Record, RecordWrite},
};
use tokio::time::{self, Instant};

use super::{
    Parts, TRIES, contended,
    record::{BATCHES, Batch, Lease},
};
use crate::files::read;

const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Held {
    pub(super) parts: Arc<Parts>,
    pub(super) batch: Batch,
    version: u64,
    owner: Owner,
    renewed: Instant,
}

impl Held {
    /// `None` where the batch has ended or is another's.
    pub(super) async fn take(parts: Arc<Parts>, owner: Owner, key: &str) -> Result<Option<Self>> {
        let Some(record) = parts.records.get(BATCHES, key).await? else {
            return Ok(None);
        };
        let (batch, version) = with_version(record)?;
        let is_free = batch
            .lease
            .as_ref()
            .is_none_or(|lease| lease.is_of(&owner) || lease.until <= parts.now());
        if batch.status.is_ended() || !is_free {
            return Ok(None);
        }
        let mut held = Self {
            parts,
            batch,
            version,
            owner,
            renewed: Instant::now(),
        };
        // Not by `update`: who comes first has it.
        let taken = held.commit(held.batch.clone(), Vec::new()).await;
        match taken {
            Ok(()) => Ok(Some(held)),
            Err(error) if error.code == ErrorCode::VersionConflict => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes the batch as it now is.
    ///
    /// # Errors
    /// `version_conflict` where the lease is another's, `store_unavailable`.
    pub(super) async fn update(&mut self, change: impl Fn(&mut Batch, Timestamp)) -> Result<()> {
        for _ in 0..TRIES {
            if self.try_update(&change, Vec::new()).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// The same along with other writes. False where one of them, or the batch, was not as expected: nothing was written.
    pub(super) async fn try_update(
        &mut self,
        change: impl Fn(&mut Batch, Timestamp),
        more: Vec<RecordWrite>,
    ) -> Result<bool> {
        let mut batch = self.batch.clone();
        change(&mut batch, self.parts.now());
        match self.commit(batch, more).await {
            Ok(()) => Ok(true),
            Err(error) if error.code == ErrorCode::VersionConflict => {
                self.refresh().await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes in what others wrote, such as a cancellation, and renews the lease when it is time.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let record = self.parts.records.get(BATCHES, &self.batch.key()).await?;
        let (batch, version) = with_version(record.ok_or_else(lost)?)?;
        let is_ours = batch
            .lease
            .as_ref()
            .is_some_and(|lease| lease.is_of(&self.owner));
        if !is_ours || batch.status.is_ended() {
            return Err(lost());
        }
        (self.batch, self.version) = (batch, version);
        if self.renewed.elapsed() < RENEW_EVERY {
            return Ok(());
        }
        match self.commit(self.batch.clone(), Vec::new()).await {
            // A write in between: the next look takes it in.
            Err(error) if error.code == ErrorCode::VersionConflict => Ok(()),
            renewed => renewed,
        }
    }

    /// Does the work, and keeps the lease meanwhile.
    ///
    /// # Errors
    /// Of the work; `version_conflict` once the lease is another's.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = time::sleep(RENEW_EVERY) => self.refresh().await?,
            }
        }
    }

    async fn commit(&mut self, mut batch: Batch, more: Vec<RecordWrite>) -> Result<()> {
        batch.lease = (!batch.status.is_ended()).then(|| Lease {
            owner: self.owner.0.clone(),
            until: self.parts.now().plus(LEASE),
        });
        let mut put = batch.put(Expect::Version(self.version))?;
        let mut writes = more;
        if batch.status.is_ended() {
            put = put.expiring(self.parts.now().plus(self.parts.config.ttl));
            writes.push(batch.closing());
        }
        writes.push(put);
        self.parts.records.commit(writes).await?;
        (self.batch, self.version) = (batch, self.version + 1);
        self.renewed = Instant::now();
        Ok(())
    }
}

fn with_version(record: Record) -> Result<(Batch, u64)> {
    let version = record.version;
    Ok((read(record)?, version))
}

fn lost() -> Error {
    Error::new(
        ErrorCode::VersionConflict,
        "another server works on the batch",
    )
}
