//! Making room, and starting what is waited for.

use std::{collections::BTreeSet, time::Instant};

use fusion_types::model::ModelId;

use super::{
    Decision, Why,
    board::{Board, State, Waiter},
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

/// What a start of `need` takes, with `free` now, `coming` soon, and the `candidates` for eviction.
pub(crate) fn plan(
    board: &Board,
    need: u64,
    free: Room,
    coming: Room,
    candidates: Vec<Candidate>,
) -> Plan {
    let need = Room {
        bytes: need,
        places: 1,
    };
    if free.covers(need) {
        return Plan::Start;
    }
    let soon = free.plus(coming);
    if soon.covers(need) {
        return Plan::Wait;
    }
    match eviction::choose(candidates, need.minus(soon), board.limits.policy) {
        Some(victims) => Plan::Evict(victims),
        None if most(board).covers(need) => Plan::InUse,
        None => Plan::Never,
    }
}

/// The room there would be with every model gone that may ever go.
fn most(board: &Board) -> Room {
    let stays = |pinned: bool| pinned || board.limits.policy == EvictionPolicy::Manual;
    let resident = board.models.values().filter(|model| match model.state {
        State::Loading { .. } | State::Loaded { .. } => stays(model.pinned),
        State::Unloaded | State::Predicting | State::Unloading { .. } => false,
    });
    let whole = Room {
        bytes: board.limits.budget_bytes,
        places: board.limits.max_models.unwrap_or(usize::MAX),
    };
    resident.fold(whole, |room, model| {
        room.minus(Room {
            bytes: model.state.bytes(),
            places: 1,
        })
    })
}

/// Whether a model of that need could ever be started beside what stays.
pub(crate) fn could_start(board: &Board, need: u64) -> bool {
    most(board).covers(Room {
        bytes: need,
        places: 1,
    })
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
        let Some(need) = board.models[&id].predicted else {
            return vec![Decision::Predict { model: id }];
        };
        match plan(board, need, free, coming, board.may_go(now)) {
            Plan::Start => {
                return vec![Decision::Start {
                    model: id,
                    bytes: need,
                }];
            }
            Plan::Wait => {
                let left = free.plus(coming).minus(Room {
                    bytes: need,
                    places: 1,
                });
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
