//! Threads that answer: each has a runtime of its own, and keeps its connections.
//!
//! What a request waits for arrives on the thread that waits for it, so nobody else is woken. On a runtime that all threads
//! share, each event costs a wake-up of another thread, which then often finds nothing to do: more than the work itself.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A runtime interrupts its own wait whenever a timer is set that is due before all others: a system call for each request,
/// as each sets some. With one that is always due sooner it need not.
const TICK: Duration = Duration::from_secs(1);

async fn tick() {
    loop {
        tokio::time::sleep(TICK).await;
    }
}

/// The threads end, with whatever still runs on them, when this is dropped.
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    _end: DropGuard,
}

#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) runtime: Handle,
    /// Held by every connection of the lane.
    connections: Arc<()>,
}

/// A connection's place in its lane.
pub(crate) struct Place(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl Lanes {
    /// As many as there are processors.
    ///
    /// # Errors
    /// When a thread or its runtime can't be started.
    pub(crate) fn start() -> io::Result<Self> {
        let end = CancellationToken::new();
        let count = thread::available_parallelism().map_or(1, usize::from);
        let lanes = (0..count).map(|number| Lane::start(number, end.clone()));
        Ok(Self {
            lanes: lanes.collect::<io::Result<_>>()?,
            _end: end.drop_guard(),
        })
    }

    /// The lane with the fewest connections, and a place in it.
    pub(crate) fn join(&self) -> Option<(&Lane, Place)> {
        let busy = |lane: &&Lane| Arc::strong_count(&lane.connections);
        let lane = self.lanes.iter().min_by_key(busy)?;
        Some((lane, Place(lane.connections.clone())))
    }
}

impl Lane {
    fn start(number: usize, end: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let lane = Self {
            runtime: runtime.handle().clone(),
            connections: Arc::default(),
        };
        thread::Builder::new()
            .name(format!("lane-{number}"))
            .spawn(move || runtime.block_on(end.run_until_cancelled(tick())))?;
        Ok(lane)
    }
}
