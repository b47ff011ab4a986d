//! Each message, noted. What follows from it is the scheduler's to decide.

mod ask;
mod end;
mod load;

use std::time::Instant;

use fusion_types::{Error, model::ModelId};

use crate::{
    registry::{Message, Registry, Reply},
    routing,
    scheduler::{
        board::{Waiter, Want},
        replicas::replica_id,
    },
};

impl Registry {
    pub(super) fn hear(&mut self, message: Message) {
        let now = Instant::now();
        self.has_changed |= message.changes_catalog();
        match message {
            Message::Acquire {
                waiter,
                model,
                tenant,
                class,
                likes,
                deadline,
                reply,
            } => {
                let model = self.board.route(&model, likes, now);
                self.replies.insert(waiter, Reply::Slot(reply));
                self.board.ask(Waiter {
                    id: waiter,
                    model,
                    want: Want::Slot,
                    tenant,
                    class,
                    since: now,
                    deadline,
                });
            }
            Message::Load {
                waiter,
                definition,
                reply,
            } => self.load(waiter, *definition, reply),
            Message::LoadReplica {
                waiter,
                model,
                number,
                reply,
            } => self.load_replica(waiter, replica_id(&model, number), reply, now),
            Message::Plan {
                definition,
                need,
                reply,
            } => drop(reply.send(self.plan(&definition, need))),
            Message::Unload {
                model,
                force,
                reply,
            } => self.unload(&model, force, reply),
            Message::Forget { model, reply } => drop(reply.send(self.forget(&model))),
            Message::Info { model, reply } => drop(reply.send(self.info(&model))),
            Message::Diagnostics { reply } => drop(reply.send(self.diagnostics())),
            Message::Found { definitions, reply } => {
                self.take_found(definitions);
                let _ = reply.send(());
            }
            Message::Withdraw { waiter } => {
                self.board.withdraw(waiter);
                self.replies.remove(&waiter);
            }
            // The gates were looked at already.
            Message::Look => {}
            Message::Failed { model, error } => self.note_error(&model, &error),
            Message::Predicted { model, outcome } => self.predicted(&model, outcome, now),
            Message::Started {
                model,
                incarnation,
                outcome,
            } => self.started(&model, incarnation, outcome, now),
            Message::Measured {
                model,
                incarnation,
                need,
            } => {
                self.board.measured(&model, incarnation, need.bytes);
                self.note_need(&model, need);
            }
            Message::Machine { memory, held } => self.hear_of_machine(memory, held),
            Message::Ended {
                model,
                incarnation,
                end,
            } => self.ended(&model, incarnation, &end, now),
        }
    }

    /// An error that counts against the model.
    fn note_error(&mut self, id: &ModelId, message: &str) {
        let first = self
            .board
            .models
            .get(id)
            .and_then(|model| model.replica_of.clone());
        if let Some(model) = first.and_then(|first| self.entries.get_mut(&first)) {
            model.note_error(message);
        }
        if let Some(entry) = self.entries.get_mut(id) {
            entry.note_error(message);
            self.history.failed(id, message);
        }
    }

    fn unknown(&self, id: &ModelId) -> Error {
        routing::not_found(id.as_str(), self.entries.keys().map(ModelId::as_str))
    }
}
