//! CPU cores are a second budget: the busy engines share them.
//!
//! Two engines with as many threads as there are cores take twice as long as two that have half of them each.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use fusion_types::{engine::EngineLimits, model::ModelId};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::entry::Entry;
use crate::{engine::Engine, gate::Cpu, scheduler::board::Board};

/// The engines that are busy now, and how many threads each may use.
#[derive(Clone, Default)]
struct Busy {
    threads: u32,
    engines: Vec<Arc<Engine>>,
}

pub(super) struct Shares {
    cpu: Cpu,
    busy: watch::Sender<Busy>,
}

impl Shares {
    pub(super) fn start(cores: u32, tasks: &TaskTracker) -> Self {
        let (busy, seen) = watch::channel(Busy::default());
        tasks.spawn(tell(seen));
        let cpu = Cpu {
            busy: Arc::default(),
            cores: share(cores, 1),
        };
        Self { cpu, busy }
    }

    /// What gates need to know when the shares may have to change.
    pub(super) fn cpu(&self) -> Cpu {
        self.cpu.clone()
    }

    /// Notes which engines are busy. When none is, the last shares stand.
    pub(super) fn balance(&self, board: &Board, entries: &BTreeMap<ModelId, Entry>) {
        let is_busy = |id: &ModelId| board.models.get(id).is_some_and(|model| model.leases > 0);
        let engines: Vec<_> = entries
            .iter()
            .filter(|(id, _)| is_busy(id))
            .filter_map(|(_, entry)| entry.engine.clone())
            .collect();
        if engines.is_empty() {
            return;
        }
        let threads = share(self.cpu.cores, engines.len());
        self.busy.send_if_modified(|busy| {
            let same = busy
                .engines
                .iter()
                .map(|engine| engine.pid)
                .eq(engines.iter().map(|engine| engine.pid));
            if !same {
                *busy = Busy { threads, engines };
            }
            !same
        });
    }
}

fn share(cores: u32, busy: usize) -> u32 {
    (cores / u32::try_from(busy).unwrap_or(u32::MAX).max(1)).max(1)
}

/// Tells each engine its share when that has changed. Only the latest state matters, so a burst of changes costs one round.
async fn tell(mut seen: watch::Receiver<Busy>) {
    while seen.changed().await.is_ok() {
        let Busy { threads, engines } = seen.borrow_and_update().clone();
        for engine in engines
            .iter()
            .filter(|engine| engine.threads.load(Relaxed) != threads)
        {
            match engine.client.limit(EngineLimits { threads }).await {
                Ok(()) => engine.threads.store(threads, Relaxed),
                Err(error) => {
                    tracing::debug!(pid = engine.pid, %error, "can't limit an engine's threads")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_busy_engine_has_a_thread_and_all_have_the_same() {
        assert_eq!(
            [share(8, 1), share(8, 3), share(2, 5), share(0, 0)],
            [8, 2, 1, 1]
        );
    }
}
