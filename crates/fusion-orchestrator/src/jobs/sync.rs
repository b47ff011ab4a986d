//! What happened to jobs, for those who were away and those who watch.

use std::{sync::Arc, time::Duration};

use fusion_types::{
    Call, Error, ErrorCode, Result,
    id::JobId,
    job::{JobEvent, Seq},
};
use futures::{Stream, StreamExt, stream};
use serde_json::json;

use super::{
    JobUpdate, Jobs, SyncEvent, SyncPage, SyncParams,
    changes::wait_for_changes,
    follow::{Follower, event},
    window,
};

/// Between looks at a log in which nothing happens.
const TICK: Duration = Duration::from_secs(30);

impl Jobs {
    /// Every change of the tenant's jobs after the cursor, in commit order.
    ///
    /// # Errors
    /// `cursor_expired` when changes after the cursor are gone; `details.oldest` is the cursor to go on from.
    pub async fn sync(&self, call: &Call, params: SyncParams) -> Result<SyncPage> {
        let limit = window(params.limit, None)?.limit;
        let mut page = SyncPage {
            events: Vec::new(),
            cursor: params.since.unwrap_or_default(),
            more: false,
        };
        let mut first = params.since.is_some();
        loop {
            let changes = self.parts.store.changes(page.cursor, limit).await?;
            let last = changes.len() < limit as usize;
            for change in changes {
                if std::mem::take(&mut first) && change.seq.0 > page.cursor.0 + 1 {
                    return Err(cursor_expired(change.seq));
                }
                if page.events.len() == limit as usize {
                    page.more = true;
                    return Ok(page);
                }
                page.cursor = change.seq;
                if change.tenant == call.tenant {
                    page.events.push(event(change));
                }
            }
            if last {
                return Ok(page);
            }
        }
    }

    /// The same without end.
    ///
    /// # Errors
    /// As [`Jobs::sync`], at once; what goes wrong later is the stream's last item.
    pub async fn sync_stream(
        &self,
        call: &Call,
        params: SyncParams,
    ) -> Result<impl Stream<Item = Result<SyncEvent>> + Send + use<>> {
        let first = self.sync(call, params).await?;
        let (jobs, call) = (self.clone(), call.clone());
        let pages = stream::unfold(Some((Some(first), params)), move |state| {
            let (jobs, call) = (jobs.clone(), call.clone());
            async move {
                let (page, mut params) = state?;
                let page = match page {
                    Some(page) => Ok(page),
                    None => jobs.next_page(&call, params).await,
                };
                Some(match page {
                    Ok(page) => {
                        params.since = Some(page.cursor);
                        let events: Vec<_> = page.events.into_iter().map(Ok).collect();
                        (stream::iter(events), Some((None, params)))
                    }
                    Err(error) => (stream::iter(vec![Err(error)]), None),
                })
            }
        });
        Ok(pages.flatten())
    }

    async fn next_page(&self, call: &Call, params: SyncParams) -> Result<SyncPage> {
        let cursor = params.since.unwrap_or_default();
        wait_for_changes(&*self.parts.store, cursor, TICK).await;
        self.sync(call, params).await
    }

    /// The job as it is, then each of its changes, and what it says in between where it runs on this server, until it is finished.
    /// With `after`, the changes since that one.
    ///
    /// # Errors
    /// `job_not_found`, `cursor_expired`, `store_unavailable`.
    pub async fn follow(
        &self,
        call: &Call,
        id: &JobId,
        after: Option<Seq>,
    ) -> Result<impl Stream<Item = Result<JobUpdate>> + Send + use<>> {
        // Taken first, so that no change between the look and the log is missed.
        let head = self.parts.store.head().await?;
        let job = self.found(call, id).await?;
        let follower = |cursor| {
            let parts = Arc::clone(&self.parts);
            Follower::new(parts, call.tenant.clone(), id.clone(), cursor)
        };
        let Some(after) = after else {
            let now = SyncEvent {
                event: JobEvent::from(job.status),
                seq: head,
                at: (self.parts.clock)(),
                job,
            };
            return Ok(follower(head).beginning_with(now).into_stream());
        };
        let next = self.parts.store.changes(after, 1).await?.pop();
        if let Some(next) = next.filter(|next| next.seq.0 > after.0 + 1) {
            return Err(cursor_expired(next.seq));
        }
        Ok(follower(after).into_stream())
    }
}

fn cursor_expired(oldest: Seq) -> Error {
    Error::new(
        ErrorCode::CursorExpired,
        "changes after this cursor are gone; list the jobs, then go on from the oldest one",
    )
    .with_details(json!({ "oldest": oldest.0.saturating_sub(1) }))
}
