//! What works on batches: a task for each that has not ended and is nobody else's, up to a bound.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fusion_types::{ErrorCode, Result, job::Owner};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    MOST_OPEN, Parts, Status, finish,
    hold::Held,
    line::LineError,
    progress::progress,
    record::{OPEN, Open},
    validate::validate,
};
use crate::files::read;

/// Batches that are worked on side by side; the oldest ones.
const SIDE_BY_SIDE: usize = 32;
/// Between two looks for batches whose server has died, or whose last step failed.
const TICK: Duration = Duration::from_secs(2);

/// Owns the batches that this process works on. Dropped, it drops their tasks; the store has all that they did.
pub struct Worker {
    parts: Arc<Parts>,
    owner: Owner,
    tasks: JoinSet<()>,
    under_way: HashMap<Id, String>,
}

impl Worker {
    pub(super) fn new(parts: Arc<Parts>, owner: Owner) -> Self {
        Self {
            parts,
            owner,
            tasks: JoinSet::new(),
            under_way: HashMap::new(),
        }
    }

    /// Works until the token is cancelled.
    pub async fn run(mut self, tracker: TaskTracker, token: CancellationToken) {
        let parts = Arc::clone(&self.parts);
        while !token.is_cancelled() {
            if let Err(error) = self.look(&tracker).await {
                tracing::warn!(%error, "batches can't be looked for");
            }
            tokio::select! {
                () = token.cancelled() => {}
                Some(ended) = self.tasks.join_next_with_id() => self.settle(&ended),
                () = parts.more.notified() => {}
                () = time::sleep(TICK) => {}
            }
        }
        self.tasks.shutdown().await;
    }

    async fn look(&mut self, tracker: &TaskTracker) -> Result<()> {
        for record in self.parts.records.list(OPEN, "", None, MOST_OPEN).await? {
            if self.under_way.len() >= SIDE_BY_SIDE {
                return Ok(());
            }
            let Open { key } = read(record)?;
            if self.under_way.values().any(|known| *known == key) {
                continue;
            }
            let work = work(Arc::clone(&self.parts), self.owner.clone(), key.clone());
            let task = self.tasks.spawn(tracker.track_future(work));
            self.under_way.insert(task.id(), key);
        }
        Ok(())
    }

    fn settle(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => *task,
            Err(error) => {
                tracing::error!(%error, "the work on a batch ended unexpectedly");
                error.id()
            }
        };
        self.under_way.remove(&task);
    }
}

/// Works on the batch until it has ended, is another's, or a step fails; then it waits, so that it isn't begun again at once.
async fn work(parts: Arc<Parts>, owner: Owner, key: String) {
    match drive(parts, owner, &key).await {
        Ok(true) => return,
        Ok(false) => {}
        Err(error) if error.code == ErrorCode::VersionConflict => {
            tracing::info!(%error, "a batch was left to another server");
        }
        Err(error) => tracing::warn!(%error, "a batch can't go on now"),
    }
    time::sleep(TICK).await;
}

/// True once the batch has ended.
async fn drive(parts: Arc<Parts>, owner: Owner, key: &str) -> Result<bool> {
    let Some(mut held) = Held::take(parts, owner, key).await? else {
        return Ok(false);
    };
    while !held.batch.status.is_ended() {
        match step(&mut held).await {
            Err(error) if error.code == ErrorCode::FileNotFound => {
                let message = "The input file is not there any more.";
                let error = LineError::of_input("file_not_found", message);
                finish::fail(&mut held, vec![error]).await?;
            }
            stepped => stepped?,
        }
    }
    Ok(true)
}

async fn step(held: &mut Held) -> Result<()> {
    match held.batch.status {
        Status::Validating => validate(held).await,
        Status::InProgress => progress(held).await,
        _ => finish::finish(held).await,
    }
}
