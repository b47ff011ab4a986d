//! A caller's work on its way to the writer and back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fusion_types::{Error, ErrorCode, Result};
use tokio::sync::oneshot;

use super::Transaction;
use crate::error::StoreError;

pub(super) trait Command: Send {
    /// Whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;

    /// Whether its changes are to be kept.
    fn run(&mut self, transaction: &Transaction<'_>) -> bool;

    /// Tells the caller, once it is known what became of the commit.
    fn answer(self: Box<Self>, commit: &Result<()>);
}

pub(super) struct Pending<T, W> {
    work: Option<W>,
    outcome: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl<T, W> Pending<T, W> {
    pub(super) fn new(work: W, answer: oneshot::Sender<Result<T>>) -> Self {
        Self {
            work: Some(work),
            outcome: None,
            answer,
        }
    }
}

impl<T, W> Command for Pending<T, W>
where
    T: Send,
    W: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send,
{
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    /// A panic is this command's failure alone: the writer serves everybody.
    fn run(&mut self, transaction: &Transaction<'_>) -> bool {
        let Some(work) = self.work.take() else {
            return false;
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(transaction)))
            .unwrap_or_else(|_| Err(Error::internal("a write of the store failed").into()))
            .map_err(Error::from);
        if outcome
            .as_ref()
            .is_err_and(|error| error.code == ErrorCode::StoreUnavailable)
        {
            transaction.write_failed.set(true);
        }
        self.outcome.insert(outcome).is_ok()
    }

    fn answer(self: Box<Self>, commit: &Result<()>) {
        let outcome = match (commit, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => return,
            (Err(error), _) => Err(error.clone()),
        };
        // Nobody may be left to hear it.
        let _ = self.answer.send(outcome);
    }
}
