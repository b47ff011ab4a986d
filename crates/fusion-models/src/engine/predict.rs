//! What a model would need, as its engine says.

use std::{process::Output, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result,
    engine::{Estimate, Hello, HelloError, HelloOutcome},
};

use super::{Launch, Spawner};

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// # Errors
/// What the engine says of the model, or `engine_unavailable`.
pub(crate) async fn predict(spawner: &Spawner, launch: &Launch) -> Result<u64> {
    let unavailable = |error: String| {
        Error::new(
            ErrorCode::EngineUnavailable,
            format!("no estimate: {error}"),
        )
    };
    let child = spawner
        .spawn(launch.estimate())
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let output = tokio::time::timeout(TIME_LIMIT, child.wait_with_output())
        .await
        .map_err(|_| {
            unavailable(format!(
                "the engine took more than {} s",
                TIME_LIMIT.as_secs()
            ))
        })?
        .map_err(|error| unavailable(error.to_string()))?;
    read(&output).unwrap_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or("it said nothing");
        Err(unavailable(format!(
            "the engine ended with {}: {last}",
            output.status
        )))
    })
}

fn read(output: &Output) -> Option<Result<u64>> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().rev().find_map(|line| {
        if let Ok(estimate) = serde_json::from_str::<Estimate>(line) {
            return Some(Ok(estimate.total()));
        }
        match serde_json::from_str::<Hello>(line).ok()?.outcome {
            HelloOutcome::Error(error) => Some(Err(refusal(error))),
            HelloOutcome::Ready(_) => None,
        }
    })
}

/// An engine's refusal of its model, as clients see it.
pub(crate) fn refusal(error: HelloError) -> Error {
    let code = ErrorCode::parse(&error.code).unwrap_or(ErrorCode::EngineUnavailable);
    Error {
        param: error.param,
        ..Error::new(code, error.message)
    }
}
