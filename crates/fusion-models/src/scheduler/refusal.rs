//! The errors that a scheduling decision can end in.

use std::time::{Duration, Instant};

use fusion_types::{Error, ErrorCode, model::ModelId};
use serde_json::json;

use super::{
    board::{Board, Model, Waiter},
    order::in_order,
};
use crate::LoadPlan;

/// How long a lease is taken to be out while no request was served yet.
const UNKNOWN_SERVICE: Duration = Duration::from_secs(1);

pub(super) fn queue_full(model: &Model, position: usize) -> Error {
    let error = Error::new(
        ErrorCode::QueueFull,
        "too many requests wait for this model",
    );
    with_position(error, model, position)
}

pub(super) fn queue_timeout(model: &Model, position: usize) -> Error {
    let error = Error::new(
        ErrorCode::QueueFull,
        "the request waited too long for a free slot of this model",
    );
    with_position(error, model, position)
}

fn with_position(error: Error, model: &Model, position: usize) -> Error {
    let eta = wait(model, position);
    let seconds = eta.as_secs().clamp(1, 60);
    let eta_ms = u64::try_from(eta.as_millis()).unwrap_or(u64::MAX);
    error
        .with_details(json!({ "position": position, "eta_ms": eta_ms }))
        .with_retry_after(Duration::from_secs(seconds))
}

/// How long the request at `position` of the queue (from 0) is expected to wait, for a start too where the model needs one.
pub(crate) fn wait(model: &Model, position: usize) -> Duration {
    let rounds = position / usize::try_from(model.slots.max(1)).unwrap_or(1) + 1;
    let served = model.service.unwrap_or(UNKNOWN_SERVICE);
    let start = model.load_time.filter(|_| !model.state.is_loaded());
    served * u32::try_from(rounds).unwrap_or(u32::MAX) + start.unwrap_or_default()
}

pub(super) fn insufficient(board: &Board, id: &ModelId, needed: u64) -> Error {
    let budget = board.limits.budget_bytes;
    let protected = board.protected();
    let message = match board.limits.max_models {
        Some(most) if needed <= budget => {
            format!(
                "{id} needs {needed} bytes, and a place among the {most} models that may be loaded together"
            )
        }
        _ => format!("{id} needs {needed} bytes, and the budget of {budget} has no room for it"),
    };
    Error::new(ErrorCode::InsufficientVram, message).with_details(json!({
        "needed_bytes": needed,
        "budget_bytes": budget,
        "free_bytes": board.free().bytes,
        "protected": protected,
    }))
}

/// A load that could not be carried out whole.
pub(crate) fn too_large(plan: &LoadPlan) -> Error {
    let (id, replicas) = (&plan.model_id, plan.replicas);
    let (needed, budget) = (plan.needed_bytes, plan.budget_bytes);
    let message = format!(
        "{replicas} replicas of {id} need {needed} bytes more, and the budget of {budget} has no room for them"
    );
    Error::new(ErrorCode::InsufficientVram, message).with_details(json!({
        "needed_bytes": needed,
        "budget_bytes": budget,
        "free_bytes": plan.free_bytes,
        "protected": plan.protected,
    }))
}

pub(super) fn timeout() -> Error {
    Error::new(ErrorCode::Timeout, "the request's deadline has passed")
}

pub(crate) fn draining() -> Error {
    Error::new(ErrorCode::EngineUnavailable, "the server is shutting down")
}

pub(super) fn gone(id: &ModelId) -> Error {
    Error::new(
        ErrorCode::ModelNotFound,
        format!("there is no model {id} any more"),
    )
    .with_param("model")
}

/// Of what the queue's limit is the answer, for a request that reached it.
pub(super) fn out_of_patience(board: &Board, waiter: &Waiter, now: Instant) -> Error {
    let id = &waiter.model;
    let Some(model) = board.models.get(id) else {
        return gone(id);
    };
    match model.predicted {
        Some(needed) if !model.state.is_resident() && model.backoff.is_over(now) => {
            insufficient(board, id, needed)
        }
        _ => {
            let mut line = in_order(board.slot_waiters(id), &model.turns);
            let position = line.position(|other| other.id == waiter.id).unwrap_or(0);
            queue_timeout(model, position)
        }
    }
}
