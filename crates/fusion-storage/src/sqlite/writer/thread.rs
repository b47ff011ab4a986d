//! What the writer's thread does: commit, scrub, and look whether a failed disk works again.

use std::{
    cell::{Cell, RefCell},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use fusion_types::{Error, Result};
use rusqlite::{Connection, ErrorCode};
use tokio::sync::watch;

use super::{
    super::{jobs::counts::Tally, schema::BUSY_TIMEOUT},
    Message, Transaction,
    command::Command,
};
use crate::{Inputs, error::unavailable};

/// Commands in one commit, so that the first of them needn't wait for ever.
const LARGEST_GROUP: usize = 256;
/// From the deletion of a payload to the emptying of the write-ahead log, which still holds it. Longer than a commit takes, so
/// that many deletions share one; well under the promised second.
const SCRUB_AFTER: Duration = Duration::from_millis(250);
/// How long the emptying may wait for readers, which all commands wait for meanwhile, and when it is tried again.
const SCRUB_PATIENCE: Duration = Duration::from_millis(50);
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What the thread owns.
pub(super) struct Owner {
    connection: Connection,
    inputs: Inputs,
    waiting: Receiver<Message>,
    announce: watch::Sender<u64>,
    can_write: Arc<AtomicBool>,
    scrub_at: Option<Instant>,
}

/// What a group did, beside its answers.
struct Effects {
    newest_change: u64,
    payload_deleted: bool,
    write_failed: bool,
}

impl Owner {
    pub(super) fn new(
        connection: Connection,
        inputs: Inputs,
        waiting: Receiver<Message>,
        announce: watch::Sender<u64>,
        can_write: Arc<AtomicBool>,
    ) -> Self {
        Self {
            connection,
            inputs,
            waiting,
            announce,
            can_write,
            scrub_at: None,
        }
    }

    /// Until the store is closed, or nobody can send any more.
    pub(super) fn serve(mut self) {
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
            if !self.can_write.load(Ordering::Relaxed) {
                self.probe();
            }
        }
        self.scrub();
    }

    fn next_message(&self) -> Result<Message, RecvTimeoutError> {
        let until_scrub = self
            .scrub_at
            .map(|at| at.saturating_duration_since(Instant::now()));
        let until_probe = (!self.can_write.load(Ordering::Relaxed)).then_some(PROBE_EVERY);
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
        let effects = self.commit(&mut group).map_err(|error| unwritable(&error));
        let can_write = effects.as_ref().is_ok_and(|effects| !effects.write_failed);
        self.can_write.store(can_write, Ordering::Relaxed);
        let commit = effects.map(|effects| self.follow_up(&effects));
        for command in group {
            command.answer(&commit);
        }
        goes_on
    }

    fn commit(&self, group: &mut [Box<dyn Command>]) -> rusqlite::Result<Effects> {
        let effects = run_group(
            &self.connection,
            self.inputs,
            *self.announce.borrow(),
            group,
        );
        if effects.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        effects
    }

    fn follow_up(&mut self, effects: &Effects) {
        if effects.payload_deleted {
            self.scrub_at.get_or_insert(Instant::now() + SCRUB_AFTER);
        }
        self.announce.send_if_modified(|known| {
            let is_newer = effects.newest_change > *known;
            *known = effects.newest_change;
            is_newer
        });
    }

    /// Moves the write-ahead log into the database and cuts it to nothing, so that what was deleted is in no file.
    fn scrub(&mut self) {
        let emptied = self.connection.busy_timeout(SCRUB_PATIENCE).and_then(|()| {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.connection
                .query_row(sql, [], |row| row.get::<_, bool>(0))
                .map(|is_busy| !is_busy)
        });
        let _ = self.connection.busy_timeout(BUSY_TIMEOUT);
        self.scrub_at = match emptied {
            Ok(true) => None,
            Ok(false) => Some(Instant::now() + SCRUB_PATIENCE),
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log can't be emptied");
                Some(Instant::now() + PROBE_EVERY)
            }
        };
    }

    /// Finds out whether the disk takes writes again, where nobody else tries.
    fn probe(&self) {
        let sql = "BEGIN IMMEDIATE; UPDATE probe SET writes = writes + 1; COMMIT";
        let written = self.connection.execute_batch(sql);
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.can_write.store(written.is_ok(), Ordering::Relaxed);
    }
}

/// What was done, once everything is committed.
fn run_group(
    connection: &Connection,
    inputs: Inputs,
    newest_change: u64,
    group: &mut [Box<dyn Command>],
) -> rusqlite::Result<Effects> {
    let execute = |sql| connection.prepare_cached(sql)?.execute([]);
    let transaction = Transaction {
        connection,
        inputs,
        newest_change: Cell::new(newest_change),
        payload_deleted: Cell::new(false),
        write_failed: Cell::new(false),
        tally: RefCell::default(),
        room_for_inputs: Cell::new(None),
    };
    let mut tally = Tally::default();
    execute("BEGIN IMMEDIATE")?;
    // A full disk may have ended the whole transaction, and then going back fails as it should.
    if let [command] = group {
        // A savepoint would cost a copy of every page that it changes.
        if !command.run(&transaction) {
            execute("ROLLBACK")?;
            transaction.newest_change.set(newest_change);
            return Ok(transaction.effects());
        }
        tally = transaction.tally.take();
    } else {
        for command in group {
            let newest_before = transaction.newest_change.get();
            execute("SAVEPOINT command")?;
            let is_kept = command.run(&transaction);
            let counted = transaction.tally.take();
            if is_kept {
                tally.merge(counted);
            } else {
                execute("ROLLBACK TO command")?;
                transaction.newest_change.set(newest_before);
                transaction.room_for_inputs.set(None);
            }
            execute("RELEASE command")?;
        }
    }
    tally.write(connection)?;
    execute("COMMIT")?;
    Ok(transaction.effects())
}

impl Transaction<'_> {
    fn effects(&self) -> Effects {
        Effects {
            newest_change: self.newest_change.get(),
            payload_deleted: self.payload_deleted.get(),
            write_failed: self.write_failed.get(),
        }
    }
}

fn unwritable(error: &rusqlite::Error) -> Error {
    tracing::error!(%error, "the store can't write");
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => unavailable("the store's disk is full"),
        _ => unavailable("the store can't write now"),
    }
}
