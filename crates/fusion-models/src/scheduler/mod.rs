//! What to do next, decided from everything that is known and nothing else. The registry carries it out.
//!
//! The scheduler looks at the whole [`Board`] instead of at single events, so it doesn't matter which event brought a
//! state about, and a decision that failed is simply made again.

mod backoff;
pub(crate) mod board;
mod order;
pub(crate) mod refusal;
pub(crate) mod replicas;
#[cfg(test)]
mod simulation;
mod start;
mod switch;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Instant};

use fusion_types::{Error, model::ModelId};

pub(crate) use self::start::{Plan, could_start, plan};
use self::{
    board::{Board, Model, State, Waiter, WaiterId, Want},
    order::{beyond, in_order},
};
use crate::{EvictionPolicy, eviction, eviction::Room};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// The waiter gets a slot.
    Grant {
        waiter: WaiterId,
        model: ModelId,
    },
    /// The model that the waiter wanted loaded is loaded.
    Report {
        waiter: WaiterId,
        model: ModelId,
    },
    Refuse {
        waiter: WaiterId,
        error: Error,
    },
    /// The waiter waits for another process of its model from now on.
    Move {
        waiter: WaiterId,
        to: ModelId,
    },
    /// Ask the engine how many bytes the model needs.
    Predict {
        model: ModelId,
    },
    /// Start a process, charged with so many bytes.
    Start {
        model: ModelId,
        bytes: u64,
    },
    /// End the model's process.
    Evict {
        model: ModelId,
        why: Why,
    },
    /// Hand out no more slots of this model, so that another gets its room.
    Yield {
        model: ModelId,
        to: ModelId,
    },
    /// Hand out its slots again.
    Resume {
        model: ModelId,
    },
}

impl Decision {
    /// Whether it may change what everybody sees of the models, beside who uses them.
    pub(crate) fn changes_catalog(&self) -> bool {
        match self {
            Self::Grant { .. }
            | Self::Report { .. }
            | Self::Refuse { .. }
            | Self::Move { .. }
            | Self::Yield { .. }
            | Self::Resume { .. } => false,
            Self::Predict { .. } | Self::Start { .. } | Self::Evict { .. } => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    RoomFor(ModelId),
    /// Models grew beyond what they were admitted with.
    OverBudget,
    Idle,
    Draining,
}

/// Decides and applies until nothing is left to decide; the registry carries the decisions out in this order.
pub(crate) fn settle(board: &mut Board, now: Instant) -> Vec<Decision> {
    let mut all = Vec::new();
    loop {
        let decisions = decide(board, now);
        if decisions.is_empty() {
            return all;
        }
        for decision in &decisions {
            board.apply(decision, now);
        }
        all.extend(decisions);
    }
}

/// The next decisions, none of which depends on another of them:
///
/// 1. Let those wait elsewhere whose model has a process that would serve them sooner.
/// 2. Answer those who can't or won't wait any longer.
/// 3. Hand out free slots, in the order of classes, tenants and arrival.
/// 4. Refuse those beyond the end of a queue.
/// 5. While draining, end what is idle; else make room and start what is waited for,
/// 6. let busy models yield to what has waited too long,
/// 7. end what outgrew the budget or has been idle too long, and
/// 8. start replicas that are missing.
pub(crate) fn decide(board: &Board, now: Instant) -> Vec<Decision> {
    let steps = [
        replicas::moves,
        refuse,
        switch::resume,
        grant,
        cut_queues,
        drain,
        start::starts,
        switch::yields,
        shrink,
        expire,
        replicas::grow,
    ];
    steps
        .iter()
        .map(|step| step(board, now))
        .find(|decisions| !decisions.is_empty())
        .unwrap_or_default()
}

/// Whether a request for the model that came now would get one of its free slots at once, as would each after it: then
/// they needn't be decided one by one. No longer so when somebody waits for the model, or for the room it has.
pub(crate) fn is_open(board: &Board, id: &ModelId) -> bool {
    let waits_for_room = |waiter: &Waiter| {
        let model = board.models.get(&waiter.model);
        !model.is_some_and(|model| model.state.is_loaded())
    };
    let is_waited_for =
        |waiter: &Waiter| waits_for_room(waiter) || board.are_siblings(&waiter.model, id);
    board
        .models
        .get(id)
        .is_some_and(|model| model.state.is_loaded() && model.yields.is_none())
        && !board.draining
        && board.charged() <= board.limits.budget_bytes
        && !board.waiters.iter().any(is_waited_for)
}

fn refuse(board: &Board, now: Instant) -> Vec<Decision> {
    let mut refusals = Vec::new();
    for waiter in &board.waiters {
        let Some(model) = board.models.get(&waiter.model) else {
            refusals.push(Decision::Refuse {
                waiter: waiter.id,
                error: refusal::gone(&waiter.model),
            });
            continue;
        };
        let error = if board.draining {
            Some(refusal::draining())
        } else if waiter.deadline.is_some_and(|deadline| now >= deadline) {
            Some(refusal::timeout())
        } else if let (State::Unloaded, Some(error)) = (model.state, model.backoff.answer(now)) {
            Some(error.clone())
        } else if now >= board.patience(waiter) && !loads(waiter, model) {
            Some(refusal::out_of_patience(board, waiter, now))
        } else {
            None
        };
        refusals.extend(error.map(|error| Decision::Refuse {
            waiter: waiter.id,
            error,
        }));
    }
    refusals
}

/// An explicit load whose start is under way: the load's own time limit holds for it, not the queue's.
fn loads(waiter: &Waiter, model: &Model) -> bool {
    waiter.want == Want::Loaded && matches!(model.state, State::Loading { .. })
}

fn grant(board: &Board, _now: Instant) -> Vec<Decision> {
    let loaded = board
        .models
        .iter()
        .filter(|(_, model)| model.state.is_loaded());
    let mut decisions = Vec::new();
    for (id, model) in loaded {
        let wanted = board
            .waiting_for(id)
            .filter(|waiter| waiter.want == Want::Loaded);
        decisions.extend(wanted.map(|waiter| Decision::Report {
            waiter: waiter.id,
            model: id.clone(),
        }));
        let free = model.slots.saturating_sub(model.leases) as usize;
        if free > 0 && model.yields.is_none() {
            let line = in_order(board.slot_waiters(id), &model.turns);
            decisions.extend(line.take(free).map(|waiter| Decision::Grant {
                waiter: waiter.id,
                model: id.clone(),
            }));
        }
    }
    decisions
}

fn cut_queues(board: &Board, _now: Instant) -> Vec<Decision> {
    if board.waiters.len() <= board.limits.max_queue {
        return Vec::new();
    }
    let mut queues: BTreeMap<&ModelId, Vec<&Waiter>> = BTreeMap::new();
    for waiter in board
        .waiters
        .iter()
        .filter(|waiter| waiter.want == Want::Slot)
    {
        queues.entry(&waiter.model).or_default().push(waiter);
    }
    let mut decisions = Vec::new();
    for (id, queue) in queues {
        let (Some(model), away) = (board.models.get(id), beyond(&queue, board.limits.max_queue))
        else {
            continue;
        };
        if away.is_empty() {
            continue;
        }
        let mut position = 0;
        for waiter in in_order(queue.into_iter(), &model.turns) {
            if away.contains(&waiter.id) {
                decisions.push(Decision::Refuse {
                    waiter: waiter.id,
                    error: refusal::queue_full(model, position),
                });
            } else {
                position += 1;
            }
        }
    }
    decisions
}

fn drain(board: &Board, _now: Instant) -> Vec<Decision> {
    let ends = |state| matches!(state, State::Loading { .. } | State::Loaded { .. });
    let idle = board
        .models
        .iter()
        .filter(|(_, model)| board.draining && ends(model.state) && model.leases == 0);
    idle.map(|(id, _)| Decision::Evict {
        model: id.clone(),
        why: Why::Draining,
    })
    .collect()
}

fn shrink(board: &Board, _now: Instant) -> Vec<Decision> {
    let over = board
        .charged()
        .saturating_sub(board.limits.budget_bytes)
        .saturating_sub(board.coming().bytes);
    if over == 0 || board.limits.policy == EvictionPolicy::Manual {
        return Vec::new();
    }
    let candidates = board.candidates();
    let most = eviction::freed(&candidates).bytes;
    let missing = Room {
        bytes: over.min(most),
        places: 0,
    };
    let victims = eviction::choose(candidates, missing, board.limits.policy).unwrap_or_default();
    victims
        .into_iter()
        .map(|model| Decision::Evict {
            model,
            why: Why::OverBudget,
        })
        .collect()
}

fn expire(board: &Board, now: Instant) -> Vec<Decision> {
    let expired = board
        .models
        .iter()
        .filter(|(_, model)| model.expires().is_some_and(|at| now >= at));
    expired
        .map(|(id, _)| Decision::Evict {
            model: id.clone(),
            why: Why::Idle,
        })
        .collect()
}
