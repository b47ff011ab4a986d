//! What happened, noted.

use std::time::Instant;

use fusion_types::{Error, model::ModelId};

use super::{Board, Incarnation, State, Usage, Waiter, WaiterId};

impl Board {
    pub(crate) fn ask(&mut self, waiter: Waiter) {
        if let Some(model) = self.models.get_mut(&waiter.model) {
            model.asked(waiter.since);
        }
        self.waiters.push(waiter);
    }

    pub(crate) fn withdraw(&mut self, id: WaiterId) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    /// What happened at the model's gate since it was looked at last.
    pub(crate) fn used(&mut self, id: &ModelId, usage: &Usage) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == usage.incarnation)
        else {
            return;
        };
        model.leases = usage.leases;
        model.slots = usage.slots;
        model.last_used = usage
            .last_used
            .map_or(model.last_used, |at| at.max(model.last_used));
        model.service = usage.service.or(model.service);
        for tenant in &usage.served {
            model.turns.served(tenant);
        }
    }

    pub(crate) fn predicted(&mut self, id: &ModelId, outcome: Result<u64, Error>, now: Instant) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.state == State::Predicting)
        else {
            return;
        };
        model.state = State::Unloaded;
        match outcome {
            Ok(bytes) => {
                model.predicted = Some(bytes);
                self.tell_siblings(id);
            }
            Err(error) => model.backoff.refused(error, now),
        }
    }

    /// The start succeeded, and the process holds `bytes`.
    pub(crate) fn started(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        bytes: u64,
        slots: u32,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        if matches!(model.state, State::Loading { .. }) {
            model.state = State::Loaded { bytes };
            model.predicted = Some(bytes);
            model.backoff.started();
            model.slots = slots.max(1);
            model.last_used = now;
            model.load_time = Some(now.saturating_duration_since(model.changed_at));
            model.changed_at = now;
            self.tell_siblings(id);
            let members: Vec<_> = self.members(id).map(|(id, _)| id.clone()).collect();
            for member in members {
                if let Some(model) = self.models.get_mut(&member) {
                    model.is_wanted = true;
                }
            }
        }
    }

    /// What one process of a model taught holds for those of which nothing is known.
    pub(crate) fn tell_siblings(&mut self, id: &ModelId) {
        let Some(model) = self.models.get(id) else {
            return;
        };
        let (predicted, weights) = (model.predicted, model.weights.clone());
        let ignorant = self
            .members(id)
            .filter(|(_, model)| model.predicted.is_none());
        let ignorant: Vec<_> = ignorant.map(|(id, _)| id.clone()).collect();
        for id in ignorant {
            if let Some(model) = self.models.get_mut(&id) {
                (model.predicted, model.weights) = (predicted, weights.clone());
            }
        }
    }

    /// A process that was loading is gone; `crashed` tells a death from an orderly refusal.
    pub(crate) fn start_failed(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        error: Error,
        crashed: bool,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        let wanted = matches!(model.state, State::Unloading { .. });
        model.state = State::Unloaded;
        model.leases = 0;
        if wanted {
            return;
        }
        if crashed {
            model.backoff.crashed(&error.message, now);
        }
        model.backoff.refused(error, now);
    }

    pub(crate) fn measured(&mut self, id: &ModelId, incarnation: Incarnation, bytes: u64) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        if model.state.is_loaded() {
            model.state = State::Loaded { bytes };
            model.predicted = Some(bytes);
        }
    }

    /// A loaded model's process is gone, whether it was told to or not.
    pub(crate) fn ended(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        why: &str,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        let wanted = matches!(model.state, State::Unloading { .. });
        model.state = State::Unloaded;
        model.leases = 0;
        if !wanted {
            model.backoff.crashed(why, now);
        }
    }

    /// A process is to end because somebody said so; its bytes count until it has.
    pub(crate) fn unload(&mut self, id: &ModelId) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        if let State::Loading { bytes } | State::Loaded { bytes } = model.state {
            model.state = State::Unloading { bytes };
            model.yields = None;
        }
    }
}

#[cfg(test)]
impl Board {
    /// A lease came back after `held`, as a gate would count it.
    pub(crate) fn release(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        held: std::time::Duration,
        now: Instant,
    ) {
        let Some(model) = self.models.get(id) else {
            return;
        };
        let usage = Usage {
            incarnation,
            slots: model.slots,
            leases: model.leases.saturating_sub(1),
            last_used: Some(now),
            service: Some(model.service.map_or(held, |mean| (mean * 7 + held) / 8)),
            served: Vec::new(),
        };
        self.used(id, &usage);
    }
}
