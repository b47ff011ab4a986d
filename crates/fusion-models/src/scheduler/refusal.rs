//! The errors that a scheduling decision can end in.

use std::time::{Duration, Instant};

use fusion_types::{Error, ErrorCode, model::ModelId};
use serde_json::json;

use super::board::{Board, Model};

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

/// How long the request at `position` of the queue (from 0) is expected to wait.
pub(crate) fn wait(model: &Model, position: usize) -> Duration {
    let rounds = position / usize::try_from(model.slots.max(1)).unwrap_or(1) + 1;
    model.service.unwrap_or(UNKNOWN_SERVICE) * u32::try_from(rounds).unwrap_or(u32::MAX)
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
pub(super) fn out_of_patience(board: &Board, id: &ModelId, position: usize, now: Instant) -> Error {
    let Some(model) = board.models.get(id) else {
        return gone(id);
    };
    match model.predicted {
        Some(needed) if !model.state.is_resident() && model.backoff.is_over(now) => {
            insufficient(board, id, needed)
        }
        _ => queue_timeout(model, position),
    }
}
