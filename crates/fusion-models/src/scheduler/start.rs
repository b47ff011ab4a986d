//! Making room, and starting what is waited for.

use std::{collections::BTreeSet, time::Instant};

use fusion_types::model::ModelId;

use super::{
    Decision, Why,
    board::{Board, Model, State, Waiter, charge},
    refusal,
};
use crate::{EvictionPolicy, eviction, eviction::Candidate, eviction::Room};

/// What stands between a model and its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// There is room.
    Start,
    /// There will be, once processes that are ending have ended.
    Wait,
    /// There will be, once these are gone.
    Evict(Vec<ModelId>),
    /// Models that could go are in use, or in their turn.
    InUse,
    /// Not even with everything gone that may go.
    Never,
}

/// What a start of `need` takes, with `free` now, `coming` soon, and the `candidates` for eviction; other processes of the
/// model stay.
pub(crate) fn plan(
    board: &Board,
    model: Option<&ModelId>,
    need: Room,
    free: Room,
    coming: Room,
    candidates: Vec<Candidate>,
) -> Plan {
    if free.covers(need) {
        return Plan::Start;
    }
    let soon = free.plus(coming);
    if soon.covers(need) {
        return Plan::Wait;
    }
    match eviction::choose(candidates, need.minus(soon), board.limits.policy) {
        Some(victims) => Plan::Evict(victims),
        None if most(board, model).covers(need) => Plan::InUse,
        None => Plan::Never,
    }
}

/// The room there would be with every model gone that may ever go for `model`.
fn most(board: &Board, model: Option<&ModelId>) -> Room {
    let stays = |id: &ModelId, other: &Model| {
        let is_sibling = model.is_some_and(|model| board.are_siblings(id, model));
        other.pinned || is_sibling || board.limits.policy == EvictionPolicy::Manual
    };
    let staying = || {
        let resident = board.models.iter().filter(|(id, other)| match other.state {
            State::Loading { .. } | State::Loaded { .. } => stays(id, other),
            State::Unloaded | State::Predicting | State::Unloading { .. } => false,
        });
        resident.map(|(_, model)| model)
    };
    let whole = Room {
        bytes: board.limits.budget_bytes,
        places: board.limits.max_models.unwrap_or(usize::MAX),
    };
    whole.minus(Room {
        bytes: charge(staying()),
        places: staying().count(),
    })
}

/// Whether a model of that need could ever be started beside what stays.
pub(crate) fn could_start(board: &Board, need: u64) -> bool {
    most(board, None).covers(Room::of(need))
}

/// Goes through the models that are waited for, the longest wait first:
///
/// 1. One whose need isn't known is predicted.
/// 2. One that fits is started.
/// 3. One for which processes are ending keeps that room from those behind it.
/// 4. One that fits once idle models are gone has them evicted.
/// 5. One for which models in use would have to go waits, without holding up smaller ones; [`super::switch`] sees that it
///    doesn't wait for ever.
/// 6. One that can never fit is refused.
pub(super) fn starts(board: &Board, now: Instant) -> Vec<Decision> {
    let (mut free, mut coming) = (board.free(), board.coming());
    for id in wanted(board, now) {
        let (Some(bytes), Some(need)) = (board.models[&id].predicted, board.need(&id)) else {
            return vec![Decision::Predict { model: id }];
        };
        // A replica doesn't take the place of another of the same model.
        let mut candidates = board.may_go(now);
        candidates.retain(|candidate| !board.are_siblings(&candidate.model, &id));
        match plan(board, Some(&id), Room::of(need), free, coming, candidates) {
            Plan::Start => {
                return vec![Decision::Start { model: id, bytes }];
            }
            Plan::Wait => {
                let left = free.plus(coming).minus(Room::of(need));
                (free, coming) = (free.least(left), left.minus(free.least(left)));
            }
            Plan::Evict(victims) => {
                let evict = |model| Decision::Evict {
                    model,
                    why: Why::RoomFor(id.clone()),
                };
                return victims.into_iter().map(evict).collect();
            }
            Plan::InUse => {}
            Plan::Never => {
                let refuse = |waiter: &Waiter| Decision::Refuse {
                    waiter: waiter.id,
                    error: refusal::insufficient(board, &id, need),
                };
                return board.waiting_for(&id).map(refuse).collect();
            }
        }
    }
    Vec::new()
}

/// Models that somebody waits for and that could start, in the order of their longest wait.
pub(super) fn wanted(board: &Board, now: Instant) -> Vec<ModelId> {
    let mut seen = BTreeSet::new();
    let startable = |id: &ModelId| {
        board
            .models
            .get(id)
            .is_some_and(|model| model.state == State::Unloaded && model.backoff.is_over(now))
    };
    let first_asked = board
        .waiters
        .iter()
        .map(|waiter| &waiter.model)
        .filter(|id| seen.insert(*id));
    first_asked.filter(|id| startable(id)).cloned().collect()
}
