//! The one writer: a thread that owns the writing connection and commits whatever waits together.
//!
//! One sync of the disk serves a whole group, so that many callers at once cost little more than one; a caller alone never waits
//! for others to join. Each command runs in a savepoint of its own: one that fails takes nobody with it.

mod command;
mod thread;

use std::{
    cell::{Cell, RefCell},
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use fusion_types::{Error, Result, job::JobStatus};
use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::jobs::counts::Tally;

use self::{
    command::{Command, Pending},
    thread::Owner,
};
use crate::{
    Inputs,
    error::{StoreError, closed, unavailable},
    job_state::JobState,
    lock::FolderLock,
};

/// Commands that may wait; more wait for room.
const QUEUE: usize = 1024;
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_secs(30);
const LONGEST_CLOSE: Duration = Duration::from_secs(10);

pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    can_write: Arc<AtomicBool>,
    newest_change: watch::Receiver<u64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Run(Box<dyn Command>, OwnedSemaphorePermit),
    Close,
}

/// What a command works on, and what it has to tell beside its answer.
pub(super) struct Transaction<'a> {
    connection: &'a Connection,
    inputs: Inputs,
    newest_change: Cell<u64>,
    payload_deleted: Cell<bool>,
    write_failed: Cell<bool>,
    tally: RefCell<Tally>,
    room_for_inputs: Cell<Option<u64>>,
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Transaction<'_> {
    pub(super) fn inputs(&self) -> Inputs {
        self.inputs
    }

    /// `more` jobs like this one in the status; fewer where it is negative.
    pub(super) fn count(&self, state: &JobState, status: JobStatus, more: i64) {
        let mut tally = self.tally.borrow_mut();
        tally.add(&state.tenant, &state.job, status, more);
    }

    /// Where the next input may begin, in a part that this transaction has made.
    pub(super) fn room_for_inputs(&self) -> Option<u64> {
        self.room_for_inputs.get()
    }

    pub(super) fn set_room_for_inputs(&self, from: Option<u64>) {
        self.room_for_inputs.set(from);
    }

    /// Wakes those who wait for changes, once this is committed.
    pub(super) fn announce_change(&self, seq: u64) {
        self.newest_change.set(seq);
    }

    /// The write-ahead log must be emptied soon: it holds what was deleted.
    pub(super) fn scrub_soon(&self) {
        self.payload_deleted.set(true);
    }
}

impl Writer {
    /// The lock is let go when the thread has closed its connection.
    pub(super) fn start(connection: Connection, inputs: Inputs, lock: FolderLock) -> Result<Self> {
        let (queue, waiting) = mpsc::channel();
        let (announce, newest_change) =
            watch::channel(newest_change(&connection).map_err(Error::from)?);
        let can_write = Arc::new(AtomicBool::new(true));
        let owner = Owner::new(
            connection,
            inputs,
            waiting,
            announce,
            Arc::clone(&can_write),
        );
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                owner.serve();
                drop(lock);
            })
            .map_err(|error| unavailable(format!("can't start the store's writer: {error}")))?;
        let room = Arc::new(Semaphore::new(QUEUE));
        Ok(Self {
            queue,
            room,
            can_write,
            newest_change,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// A command whose caller has gone before it began doesn't run.
    pub(super) async fn run<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let permit = timeout(
            LONGEST_WAIT_FOR_ROOM,
            Arc::clone(&self.room).acquire_owned(),
        )
        .await
        .map_err(|_| unavailable("the store has too many writes waiting"))?
        .map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let command = Box::new(Pending::new(work, answer));
        self.queue
            .send(Message::Run(command, permit))
            .map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    pub(super) fn newest_change(&self) -> watch::Receiver<u64> {
        self.newest_change.clone()
    }

    /// Whether the thread lives and its last commit succeeded.
    pub(super) fn is_healthy(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && self.can_write.load(Ordering::Relaxed)
    }

    /// Commits what waits and closes the connection.
    pub(super) async fn close(&self) -> Result<()> {
        self.room.close();
        let _ = self.queue.send(Message::Close);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return Ok(()) };
        match timeout(LONGEST_CLOSE, spawn_blocking(|| thread.join())).await {
            Ok(Ok(Ok(()))) => Ok(()),
            _ => Err(unavailable("the store couldn't be closed in time")),
        }
    }
}

fn newest_change(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes'";
    Ok(connection.query_row(sql, [], |row| row.get(0).map(super::from_stored))?)
}
