//! One job as it happens: its changes from the log, and in between what it says where it runs here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fusion_types::{
    Result, Tenant,
    id::JobId,
    job::{Change, Seq},
};
use futures::{Stream, stream};
use serde::Serialize;
use tokio::sync::watch;

use super::{Parts, SyncEvent, changes::wait_for_changes, live::Attempt, operation::Partial};

/// Changes read at once.
const BATCH: u32 = 200;
/// Between looks at a log in which nothing happens.
const TICK: Duration = Duration::from_secs(30);

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum JobUpdate {
    Changed(Box<SyncEvent>),
    Delta(JobDelta),
}

/// More of the output. Another `attempt` begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobDelta {
    /// Always `delta`.
    pub event: &'static str,
    pub job_id: JobId,
    pub attempt: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reasoning_content: String,
}

pub(super) struct Follower {
    parts: Arc<Parts>,
    tenant: Tenant,
    id: JobId,
    cursor: Seq,
    ready: VecDeque<JobUpdate>,
    watched: Option<Watched>,
    last_attempt: u32,
    is_over: bool,
}

/// The running attempt, and how much of its output was told.
struct Watched {
    number: u32,
    output: watch::Receiver<Partial>,
    content: usize,
    reasoning: usize,
}

impl Follower {
    pub(super) fn new(parts: Arc<Parts>, tenant: Tenant, id: JobId, cursor: Seq) -> Self {
        Self {
            parts,
            tenant,
            id,
            cursor,
            ready: VecDeque::new(),
            watched: None,
            last_attempt: 0,
            is_over: false,
        }
    }

    /// Told first, ahead of the log.
    pub(super) fn beginning_with(mut self, event: SyncEvent) -> Self {
        self.take(event);
        self
    }

    /// Ends after the change that ends the job, or with an error of the store.
    pub(super) fn into_stream(self) -> impl Stream<Item = Result<JobUpdate>> + Send {
        stream::unfold(Some(self), |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(Some(update)) => Some((Ok(update), Some(follower))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<JobUpdate>> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Ok(Some(update));
            }
            if self.is_over {
                return Ok(None);
            }
            let changes = self.parts.store.changes(self.cursor, BATCH).await?;
            if changes.is_empty() {
                self.wait().await;
            }
            for change in changes {
                self.cursor = change.seq;
                if change.job.job_id == self.id && change.tenant == self.tenant {
                    self.take(event(change));
                }
            }
        }
    }

    fn take(&mut self, event: SyncEvent) {
        // What was said before comes before.
        self.tell_output();
        self.is_over = event.job.status.is_terminal();
        self.ready.push_back(JobUpdate::Changed(Box::new(event)));
    }

    async fn wait(&mut self) {
        let parts = Arc::clone(&self.parts);
        // The log tells of an attempt before it runs: one that begins after the look below is waited for.
        let begun = parts.live.begun();
        if self.watched.is_none() {
            self.watched = parts
                .live
                .of(&self.id)
                .filter(|attempt| attempt.number > self.last_attempt)
                .map(Watched::new);
            self.tell_output();
        }
        let changes = wait_for_changes(&*parts.store, self.cursor, TICK);
        let Some(watched) = &mut self.watched else {
            tokio::select! {
                () = begun => {}
                () = changes => {}
            }
            return;
        };
        let has_ended = tokio::select! {
            changed = watched.output.changed() => changed.is_err(),
            () = changes => false,
        };
        self.tell_output();
        if has_ended && let Some(ended) = self.watched.take() {
            self.last_attempt = ended.number;
        }
    }

    fn tell_output(&mut self) {
        let delta = self
            .watched
            .as_mut()
            .and_then(|watched| watched.more(&self.id));
        self.ready.extend(delta.map(JobUpdate::Delta));
    }
}

impl Watched {
    fn new(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            output: attempt.output,
            content: 0,
            reasoning: 0,
        }
    }

    /// What was added since the last look.
    fn more(&mut self, id: &JobId) -> Option<JobDelta> {
        let now = self.output.borrow_and_update();
        let content = now.content[self.content..].to_owned();
        let reasoning_content = now.reasoning_content[self.reasoning..].to_owned();
        (self.content, self.reasoning) = (now.content.len(), now.reasoning_content.len());
        let has_more = !content.is_empty() || !reasoning_content.is_empty();
        has_more.then(|| JobDelta {
            event: "delta",
            job_id: id.clone(),
            attempt: self.number,
            content,
            reasoning_content,
        })
    }
}

pub(super) fn event(change: Change) -> SyncEvent {
    SyncEvent {
        event: change.event,
        seq: change.seq,
        at: change.at,
        job: change.job,
    }
}
