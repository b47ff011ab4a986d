//! Several processes of one model. To the rest of the scheduler each is a model of its own, with its own room, slots, queue
//! and misfortunes; here is what makes them one.

use std::time::Instant;

use fusion_types::model::ModelId;

use super::{
    Decision,
    board::{Board, Model, State, Waiter, Want},
    order::in_order,
};
use crate::eviction::Room;

/// The name of a model's process beside its first. No model that anybody names has a `#` in it.
pub(crate) fn replica_id(model: &ModelId, number: u32) -> ModelId {
    ModelId::new(&format!("{model}#{number}"))
}

impl Board {
    /// The processes of a model, the first one first; of a replica, those of its model.
    pub(crate) fn members(&self, id: &ModelId) -> impl Iterator<Item = (&ModelId, &Model)> {
        let first = self.models.get_key_value(id).map(|(id, model)| {
            let first = model.replica_of.as_ref().unwrap_or(id);
            self.models.get_key_value(first).unwrap_or((id, model))
        });
        let others = first
            .into_iter()
            .flat_map(|(_, model)| &model.replicas)
            .filter_map(|id| self.models.get_key_value(id));
        first.into_iter().chain(others)
    }

    pub(super) fn are_siblings(&self, one: &ModelId, other: &ModelId) -> bool {
        let first = |id| self.members(id).next().map(|(id, _)| id);
        first(one) == first(other)
    }

    /// Requests that use a process or wait for it, for each of its slots, and whether any of its slots is free.
    fn crowd(&self, id: &ModelId, model: &Model) -> f64 {
        let waiting = self.queued(id) as f64;
        (f64::from(model.leases) + waiting) / f64::from(model.slots.max(1))
    }

    /// The process that a new request for the model waits for: the least busy one that is loaded, else one that is coming,
    /// else the first that may be started. `likes` chooses among equals.
    pub(crate) fn route(&self, id: &ModelId, likes: Option<u64>, now: Instant) -> ModelId {
        let rank = |model: &Model| match model.state {
            State::Loaded { .. } if model.yields.is_none() => 0,
            State::Loading { .. } | State::Predicting => 1,
            _ if model.backoff.answer(now).is_some() || !model.backoff.is_over(now) => 3,
            _ => 2,
        };
        let count = self.members(id).count().max(1) as u64;
        let liked = likes.map(|likes| likes % count);
        let best = (0..).zip(self.members(id)).min_by(|(a, one), (b, other)| {
            let ranks = rank(one.1).cmp(&rank(other.1));
            let crowds = || {
                self.crowd(one.0, one.1)
                    .total_cmp(&self.crowd(other.0, other.1))
            };
            ranks
                .then_with(crowds)
                .then_with(|| (Some(*a) != liked).cmp(&(Some(*b) != liked)))
        });
        best.map_or_else(|| id.clone(), |(_, (id, _))| id.clone())
    }
}

/// Requests whose process can't serve them while another of the same model can: it is gone, yields or is full.
pub(super) fn moves(board: &Board, _now: Instant) -> Vec<Decision> {
    let serves = |model: &Model| model.state.is_loaded() && model.yields.is_none();
    let has_room = |id: &ModelId, model: &Model| {
        serves(model) && model.leases < model.slots && board.slot_waiters(id).next().is_none()
    };
    let better = |waiter: &Waiter| {
        let own = board.models.get(&waiter.model)?;
        let mut others = board
            .members(&waiter.model)
            .filter(|(id, _)| **id != waiter.model);
        if serves(own) {
            others.find(|(id, model)| has_room(id, model))
        } else {
            others
                .filter(|(_, model)| serves(model))
                .min_by(|one, other| {
                    let crowd = |(id, model): &(&ModelId, &Model)| board.crowd(id, model);
                    crowd(one).total_cmp(&crowd(other))
                })
        }
    };
    // One at a time: where one goes the next may not.
    let moved = board
        .waiters
        .iter()
        .filter(|waiter| waiter.want == Want::Slot && is_full(board, &waiter.model))
        .find_map(|waiter| {
            let (to, _) = better(waiter)?;
            let turns = &board.models.get(&waiter.model)?.turns;
            let first = in_order(board.slot_waiters(&waiter.model), turns).next()?;
            Some(Decision::Move {
                waiter: first.id,
                to: to.clone(),
            })
        });
    moved.into_iter().collect()
}

fn is_full(board: &Board, id: &ModelId) -> bool {
    board.models.get(id).is_some_and(|model| {
        !model.state.is_loaded() || model.yields.is_some() || model.leases >= model.slots
    })
}

/// Starts what is to run without being asked for, where there is room and nobody waits for any: a replica missing beside its
/// model, and a model that is kept warm.
pub(super) fn grow(board: &Board, now: Instant) -> Vec<Decision> {
    let waits_for_room = |waiter: &Waiter| {
        let model = board.models.get(&waiter.model);
        !model.is_some_and(|model| model.state.is_loaded())
    };
    if board.draining || board.waiters.iter().any(waits_for_room) {
        return Vec::new();
    }
    let is_missing = |(id, model): &(&ModelId, &Model)| {
        model.is_wanted
            && model.state == State::Unloaded
            && model.backoff.is_over(now)
            && !model.backoff.was_refused()
            && !model.backoff.has_failed()
            && (model.keep_warm || board.members(id).any(|(_, other)| other.state.is_loaded()))
    };
    let fits = |id: &ModelId| {
        let need = board.need(id)?;
        let room = Room {
            bytes: need,
            places: 1,
        };
        board.free().covers(room).then_some(())
    };
    let mut unknown = board
        .models
        .iter()
        .filter(is_missing)
        .filter(|(_, model)| model.predicted.is_none());
    if let Some((id, _)) = unknown.next() {
        return vec![Decision::Predict { model: id.clone() }];
    }
    let found = board
        .models
        .iter()
        .filter(is_missing)
        .find(|(id, _)| fits(id).is_some());
    let start = found.and_then(|(id, model)| {
        Some(Decision::Start {
            model: id.clone(),
            bytes: model.predicted?,
        })
    });
    start.into_iter().collect()
}
