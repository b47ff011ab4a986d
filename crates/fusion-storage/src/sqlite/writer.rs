//! The one writer: a thread that owns the writing connection and commits whatever waits together.
//!
//! One sync of the disk serves a whole group, so that many callers at once cost little more than one; a caller alone never waits
//! for others to join. Each command runs in a savepoint of its own: one that fails takes nobody with it.

use std::{
    cell::Cell,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use fusion_types::{Error, Result};
use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    error::{StoreError, closed, unavailable},
    lock::FolderLock,
};

/// Commands that may wait; more wait for room.
const QUEUE: usize = 1024;
/// Commands in one commit, so that the first of them needn't wait for ever.
const LARGEST_GROUP: usize = 256;
const LONGEST_WAIT_FOR_ROOM: Duration = Duration::from_secs(30);
const LONGEST_CLOSE: Duration = Duration::from_secs(10);
/// From the deletion of a payload to the emptying of the write-ahead log, which still holds it. Longer than a commit takes, so
/// that many deletions share one; well under the promised second.
const SCRUB_AFTER: Duration = Duration::from_millis(250);
/// How long the emptying may wait for readers, which all commands wait for meanwhile, and when it is tried again.
const SCRUB_PATIENCE: Duration = Duration::from_millis(50);
const PROBE_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    healthy: Arc<AtomicBool>,
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
    newest_change: Cell<u64>,
    payload_deleted: Cell<bool>,
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Transaction<'_> {
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
    pub(super) fn start(connection: Connection, lock: FolderLock) -> Result<Self> {
        let (queue, waiting) = mpsc::channel();
        let newest = newest_change(&connection).map_err(Error::from)?;
        let (announce, newest_change) = watch::channel(newest);
        let healthy = Arc::new(AtomicBool::new(true));
        let mut owner = Owner {
            connection,
            waiting,
            announce,
            healthy: Arc::clone(&healthy),
            scrub_at: None,
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                owner.serve();
                owner.healthy.store(false, Ordering::Relaxed);
                drop(owner);
                drop(lock);
            })
            .map_err(|error| unavailable(format!("can't start the store's writer: {error}")))?;
        let room = Arc::new(Semaphore::new(QUEUE));
        Ok(Self {
            queue,
            room,
            healthy,
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
        let command = Box::new(Pending {
            work: Some(work),
            outcome: None,
            answer,
        });
        self.queue
            .send(Message::Run(command, permit))
            .map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    pub(super) fn newest_change(&self) -> watch::Receiver<u64> {
        self.newest_change.clone()
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
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

trait Command: Send {
    fn is_wanted(&self) -> bool;
    /// Whether its changes are to be kept.
    fn run(&mut self, transaction: &Transaction<'_>) -> bool;
    fn answer(self: Box<Self>, commit: &Result<()>);
}

struct Pending<T, W> {
    work: Option<W>,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, W> Command for Pending<T, W>
where
    T: Send,
    W: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn run(&mut self, transaction: &Transaction<'_>) -> bool {
        let Some(work) = self.work.take() else {
            return false;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(transaction)))
            .unwrap_or_else(|_| Err(Error::internal("a write of the store failed").into()));
        let outcome = self.outcome.insert(outcome.map_err(Error::from));
        outcome.is_ok()
    }

    fn answer(self: Box<Self>, commit: &Result<()>) {
        let outcome = match (commit, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => return,
            (Err(error), _) => Err(error.clone()),
        };
        let _ = self.answer.send(outcome);
    }
}

/// What the thread owns.
struct Owner {
    connection: Connection,
    waiting: mpsc::Receiver<Message>,
    announce: watch::Sender<u64>,
    healthy: Arc<AtomicBool>,
    scrub_at: Option<Instant>,
}

impl Owner {
    fn serve(&mut self) {
        loop {
            match self.next_message() {
                Ok(Message::Run(command, permit)) => {
                    drop(permit);
                    if !self.serve_group(command) {
                        break;
                    }
                }
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.scrub_at.is_some_and(|at| at <= Instant::now()) {
                self.scrub();
            }
            if !self.healthy.load(Ordering::Relaxed) {
                self.probe();
            }
        }
        self.scrub();
    }

    fn next_message(&self) -> Result<Message, RecvTimeoutError> {
        let until_scrub = self
            .scrub_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        let until_probe = (!self.healthy.load(Ordering::Relaxed)).then_some(PROBE_EVERY);
        match until_scrub.into_iter().chain(until_probe).min() {
            Some(at_most) => self.waiting.recv_timeout(at_most),
            None => self
                .waiting
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Commits the command together with those that wait; false when the store is to be closed then.
    fn serve_group(&mut self, first: Box<dyn Command>) -> bool {
        let mut group = vec![first];
        let mut goes_on = true;
        while group.len() < LARGEST_GROUP {
            match self.waiting.try_recv() {
                Ok(Message::Run(command, _permit)) => group.push(command),
                Ok(Message::Close) => {
                    goes_on = false;
                    break;
                }
                Err(_) => break,
            }
        }
        group.retain(|command| command.is_wanted());
        let commit = self.commit(&mut group).map_err(|error| unwritable(&error));
        self.healthy.store(commit.is_ok(), Ordering::Relaxed);
        for command in group {
            command.answer(&commit);
        }
        goes_on
    }

    fn commit(&mut self, group: &mut [Box<dyn Command>]) -> rusqlite::Result<()> {
        let effects = run_group(&self.connection, *self.announce.borrow(), group);
        let (newest, payload_deleted) = match effects {
            Ok(effects) => effects,
            Err(error) => {
                if !self.connection.is_autocommit() {
                    let _ = self.connection.execute_batch("ROLLBACK");
                }
                return Err(error);
            }
        };
        if payload_deleted {
            self.scrub_at.get_or_insert(Instant::now() + SCRUB_AFTER);
        }
        self.announce.send_if_modified(|known| {
            let newer = newest > *known;
            *known = newest;
            newer
        });
        Ok(())
    }

    /// Moves the write-ahead log into the database and cuts it to nothing, so that what was deleted is in no file.
    fn scrub(&mut self) {
        let emptied = self.connection.busy_timeout(SCRUB_PATIENCE).and_then(|()| {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.connection
                .query_row(sql, [], |row| row.get::<_, bool>(0))
                .map(|busy| !busy)
        });
        let _ = self.connection.busy_timeout(super::schema::BUSY_TIMEOUT);
        match emptied {
            Ok(true) => self.scrub_at = None,
            Ok(false) => self.scrub_at = Some(Instant::now() + SCRUB_PATIENCE),
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log can't be emptied");
                self.scrub_at = Some(Instant::now() + PROBE_EVERY);
            }
        }
    }

    /// Finds out whether the disk takes writes again, where nobody else tries.
    fn probe(&self) {
        let sql = "BEGIN IMMEDIATE; UPDATE probe SET writes = writes + 1; COMMIT";
        let written = self.connection.execute_batch(sql);
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.healthy.store(written.is_ok(), Ordering::Relaxed);
    }
}

/// The newest change, and whether a payload was deleted, once everything is committed.
fn run_group(
    connection: &Connection,
    newest_change: u64,
    group: &mut [Box<dyn Command>],
) -> rusqlite::Result<(u64, bool)> {
    let execute = |sql| connection.prepare_cached(sql)?.execute([]);
    let newest_change = Cell::new(newest_change);
    let transaction = Transaction {
        connection,
        newest_change,
        payload_deleted: Cell::new(false),
    };
    execute("BEGIN IMMEDIATE")?;
    for command in group {
        let newest_before = transaction.newest_change.get();
        execute("SAVEPOINT command")?;
        if !command.run(&transaction) {
            // A full disk may have ended the whole transaction, and then this fails as it should.
            execute("ROLLBACK TO command")?;
            transaction.newest_change.set(newest_before);
        }
        execute("RELEASE command")?;
    }
    execute("COMMIT")?;
    Ok((
        transaction.newest_change.get(),
        transaction.payload_deleted.get(),
    ))
}

fn unwritable(error: &rusqlite::Error) -> Error {
    tracing::error!(%error, "the store can't write");
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => unavailable("the store's disk is full"),
        _ => unavailable("the store can't write now"),
    }
}

fn newest_change(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes'";
    Ok(connection.query_row(sql, [], |row| row.get(0).map(super::from_stored))?)
}
