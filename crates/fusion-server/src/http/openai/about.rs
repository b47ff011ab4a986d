//! What stands in every chunk and answer, and in its headers.

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use fusion_orchestrator::choices::Choices;
use fusion_types::{Call, Timestamp, id::RequestId, job::Job};

const MODEL: HeaderName = HeaderName::from_static("x-fusion-model");
const ROUTE: HeaderName = HeaderName::from_static("x-fusion-route");

#[derive(Clone)]
pub(super) struct About {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) request_id: String,
}

impl About {
    /// `prefix` says what kind of answer the id is of.
    pub(super) fn new(prefix: &str, call: &Call, choices: &Choices) -> Self {
        let model = choices.model.to_string();
        Self::at(prefix, &call.request_id, model, Timestamp::now())
    }

    /// Of an answer that a job made.
    pub(super) fn of_job(prefix: &str, job: &Job, model: String) -> Self {
        let made = job.completed_at.unwrap_or(job.created_at);
        Self::at(prefix, &job.request_id, model, made)
    }

    fn at(prefix: &str, request_id: &RequestId, model: String, made: Timestamp) -> Self {
        let request_id = request_id.to_string();
        let own = request_id.strip_prefix("req-").unwrap_or(&request_id);
        Self {
            id: [prefix, "-", own].concat(),
            created: made.as_seconds(),
            model,
            request_id,
        }
    }
}

pub(super) fn name_model(response: &mut Response, model: &str, route: Option<&str>) {
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(MODEL, model);
    if let Some(route) = route {
        set(ROUTE, route);
    }
}
