//! Decisions carried out.

use std::time::Instant;

use fusion_types::model::ModelId;

use super::{Board, State, WaiterId};
use crate::scheduler::{Decision, Why, switch::Yield};

impl Board {
    pub(crate) fn apply(&mut self, decision: &Decision, now: Instant) {
        match decision {
            Decision::Grant { waiter, model } => self.granted(*waiter, model, now),
            Decision::Report { waiter, .. } | Decision::Refuse { waiter, .. } => {
                self.withdraw(*waiter)
            }
            Decision::Predict { model } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.state = State::Predicting;
                }
            }
            Decision::Start { model, bytes } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.state = State::Loading { bytes: *bytes };
                    model.changed_at = now;
                    model.incarnation += 1;
                    model.leases = 0;
                }
            }
            Decision::Evict { model, why } => {
                self.unload(model);
                if let Some(model) = self.models.get_mut(model) {
                    model.left(now);
                    model.is_wanted &= *why != Why::Idle;
                }
            }
            Decision::Move { waiter, to } => {
                let moved = self.waiters.iter_mut().find(|other| other.id == *waiter);
                if let Some(waiter) = moved {
                    waiter.model = to.clone();
                }
            }
            Decision::Yield { model, to } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.yields = Some(Yield {
                        to: to.clone(),
                        since: now,
                    });
                }
            }
            Decision::Resume { model } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.yields = None;
                }
            }
        }
    }

    fn granted(&mut self, id: WaiterId, model: &ModelId, now: Instant) {
        let waiter = self.waiters.iter().position(|waiter| waiter.id == id);
        let waiter = waiter.map(|index| self.waiters.remove(index));
        if let (Some(waiter), Some(model)) = (waiter, self.models.get_mut(model)) {
            model.leases += 1;
            model.last_used = now;
            model.turns.served(&waiter.tenant);
        }
    }
}
