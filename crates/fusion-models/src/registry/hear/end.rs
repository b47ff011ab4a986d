//! Models that are unloaded or forgotten, and processes that end.

use std::time::{Duration, Instant};

use fusion_types::{Error, ErrorCode, Result, model::ModelId};
use tokio::sync::oneshot;

use crate::{
    EvictionReason, UnloadReport,
    catalog::Origin,
    engine::{End, Stop},
    registry::{Registry, entry::Leaving},
    scheduler::board::{Incarnation, Model, State},
};

impl Registry {
    pub(super) fn unload(
        &mut self,
        id: &ModelId,
        force: bool,
        reply: oneshot::Sender<Result<UnloadReport>>,
    ) {
        if !self.board.models.contains_key(id) {
            let _ = reply.send(Err(self.unknown(id)));
            return;
        }
        let together = self.together(id);
        let members: Vec<_> = self.board.members(id).map(|(id, _)| id.clone()).collect();
        let waiting: Vec<_> = members
            .iter()
            .flat_map(|id| self.board.waiting_for(id).map(|waiter| waiter.id))
            .collect();
        if !force && (together.leases > 0 || !waiting.is_empty()) {
            let message = format!(
                "{} requests use the model {id}",
                together.leases as usize + waiting.len()
            );
            let _ = reply.send(Err(Error::new(ErrorCode::ModelInUse, message)));
            return;
        }
        let bytes = together.bytes;
        if !together.is_resident {
            let report = UnloadReport {
                model_id: id.clone(),
                freed_bytes: 0,
                unload_time: Duration::ZERO,
            };
            let _ = reply.send(Ok(report));
        } else if let Some(entry) = self.entries.get_mut(id) {
            entry.leaving.push(Leaving {
                reply,
                since: Instant::now(),
                bytes,
            });
        }
        for waiter in waiting {
            self.board.withdraw(waiter);
            if let Some(reply) = self.replies.remove(&waiter) {
                reply.refuse(Error::new(
                    ErrorCode::EngineUnavailable,
                    "the model was unloaded",
                ));
            }
        }
        for id in &members {
            self.end_process(id, force);
        }
    }

    pub(super) fn end_process(&mut self, id: &ModelId, force: bool) {
        let Some(model) = self.board.models.get_mut(id) else {
            return;
        };
        model.is_wanted = false;
        if !model.state.is_resident() {
            return;
        }
        let bytes = model.state.bytes();
        self.history.evicted(id, EvictionReason::Requested, bytes);
        self.board.unload(id);
        self.stop(id, if force { Stop::Force } else { Stop::Unload });
    }

    pub(super) fn forget(&mut self, id: &ModelId) -> Result<()> {
        let Some(entry) = self.entries.get(id) else {
            return Err(self.unknown(id));
        };
        let is_down = |(id, model): (&ModelId, &Model)| {
            model.state == State::Unloaded && self.board.waiting_for(id).next().is_none()
        };
        if !self.board.members(id).all(is_down) {
            let message = format!("the model {id} is being loaded again");
            return Err(Error::new(ErrorCode::ModelInUse, message));
        }
        if entry.definition.origin != Origin::Configured {
            self.remove(id);
        }
        Ok(())
    }

    pub(super) fn ended(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        end: &End,
        now: Instant,
    ) {
        if end.crashed
            && let Some(entry) = self.entries.get_mut(id)
        {
            entry.last_error = Some(end.error.message.clone());
            self.history.failed(id, &end.error.message);
        }
        self.board.ended(id, incarnation, &end.error.message, now);
        self.left(id);
    }

    /// The process is gone: whoever waited for that is told.
    pub(super) fn left(&mut self, id: &ModelId) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.engine = None;
        entry.gate.detach();
        entry.evicted.clear();
        let first = self.board.members(id).next().map(|(id, _)| id.clone());
        self.remove_retired(id);
        let id = &first.unwrap_or_else(|| id.clone());
        if self.together(id).is_resident {
            return;
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        for Leaving {
            reply,
            since,
            bytes,
        } in entry.leaving.drain(..)
        {
            let report = UnloadReport {
                model_id: id.clone(),
                freed_bytes: bytes,
                unload_time: since.elapsed(),
            };
            let _ = reply.send(Ok(report));
        }
    }
}
