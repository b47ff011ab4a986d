//! From the change log to deliveries. The log is the only outbox: what was read of it and what was made of it commit together.

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    job::{Change, Seq},
    record::{Expect, RecordWrite},
};
use serde::{Deserialize, Serialize};

use super::{
    Parts, group,
    record::{CURSOR, CURSORS, Delivery, OUTBOX, WEBHOOKS, Webhook, all, read, written},
};

const BATCH: u32 = 200;
/// Changes that nobody wanted are read again after a restart, up to this many; saves a commit for each.
const SAVE_EVERY: u64 = 1000;

/// The place in the log.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Everything up to here was looked at.
    pub(super) cursor: Seq,
    saved: Seq,
}

#[derive(Serialize, Deserialize)]
struct Cursor {
    seq: Seq,
}

impl Intake {
    pub(super) async fn load(parts: &Parts) -> Result<Self> {
        let saved = match parts.records.get(CURSORS, CURSOR).await? {
            Some(record) => read::<Cursor>(record)?.seq,
            None => Seq::default(),
        };
        Ok(Self {
            cursor: saved,
            saved,
        })
    }

    /// Makes deliveries of the next changes; they are committed when this returns.
    ///
    /// # Errors
    /// `version_conflict` when somebody else read on: load again.
    pub(super) async fn take(&mut self, parts: &Parts) -> Result<Vec<Delivery>> {
        let changes = parts.jobs.changes(self.cursor, BATCH).await?;
        let Some(last) = changes.last().map(|change| change.seq) else {
            return Ok(Vec::new());
        };
        let webhooks = webhooks(parts).await?;
        let now = parts.now();
        let (mut made, forgotten) = group::finished(parts, &changes).await?;
        let of_jobs = changes
            .iter()
            .flat_map(|change| deliveries(change, &webhooks, now));
        made.extend(of_jobs);
        if !made.is_empty() || last.0 - self.saved.0 >= SAVE_EVERY {
            self.commit(parts, last, &made, forgotten).await?;
            self.saved = last;
        }
        self.cursor = last;
        Ok(made)
    }

    async fn commit(
        &self,
        parts: &Parts,
        last: Seq,
        made: &[Delivery],
        mut writes: Vec<RecordWrite>,
    ) -> Result<()> {
        let expect = match parts.records.get(CURSORS, CURSOR).await? {
            None => Expect::Absent,
            Some(record) => {
                let version = record.version;
                if read::<Cursor>(record)?.seq != self.saved {
                    return Err(Error::new(
                        ErrorCode::VersionConflict,
                        "the cursor was moved by somebody else",
                    ));
                }
                Expect::Version(version)
            }
        };
        let cursor = written(&Cursor { seq: last })?;
        writes.push(RecordWrite::put(CURSORS, CURSOR, cursor).expecting(expect));
        for delivery in made {
            let write = RecordWrite::put(OUTBOX, delivery.key(), written(delivery)?)
                .expecting(Expect::Absent)
                .expiring(parts.expiry(delivery));
            writes.push(write);
        }
        parts.records.commit(writes).await
    }
}

async fn webhooks(parts: &Parts) -> Result<Vec<Webhook>> {
    all(&*parts.records, WEBHOOKS, "")
        .await?
        .into_iter()
        .map(read)
        .collect()
}

/// Who is told of the change: the tenant's webhooks that asked for the event, and the job's own address once it is finished.
fn deliveries(change: &Change, webhooks: &[Webhook], now: Timestamp) -> Vec<Delivery> {
    let wanting = webhooks.iter().filter(|webhook| webhook.wants(change));
    let mut made: Vec<Delivery> = wanting
        .map(|webhook| Delivery::new(Some(webhook.webhook_id.clone()), &webhook.url, change, now))
        .collect();
    if let Some(url) = &change.callback_url
        && change.job.status.is_terminal()
    {
        made.push(Delivery::new(None, url, change, now));
    }
    made
}
