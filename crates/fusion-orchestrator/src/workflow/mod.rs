//! Workflows: several models on one task, each step timed.

mod capabilities;
mod definition;
mod request;

use std::sync::Arc;

use fusion_types::{
    Call, Error, Result,
    inference::{Inference, ModelPlanner},
    model::Capability,
};

use crate::rag::Rag;

pub use capabilities::{Capabilities, CapableModel};
pub use definition::WorkflowRow;
pub use request::{
    OrchestrateRequest, RunError, RunResult, RunStatus, StepError, StepStatus, TraceEntry,
};

/// A handle on workflows; clones are the same one.
#[derive(Clone)]
pub struct Workflows {
    inference: Arc<dyn Inference>,
    planner: Arc<dyn ModelPlanner>,
    rag: Rag,
}

impl Workflows {
    pub fn new(inference: Arc<dyn Inference>, planner: Arc<dyn ModelPlanner>, rag: Rag) -> Self {
        Self {
            inference,
            planner,
            rag,
        }
    }

    /// The workflows that can be run.
    pub fn list(&self) -> Vec<WorkflowRow> {
        Vec::new()
    }

    /// # Errors
    /// `workflow_not_found`; `not_implemented` for a built-in of the contract that isn't here yet.
    pub fn get(&self, _name: &str) -> Result<WorkflowRow> {
        Err(Error::not_implemented("workflows"))
    }

    /// Whether the request could start, by its text alone: what a job is refused for when it is handed in.
    ///
    /// # Errors
    /// As [`Workflows::orchestrate`], except for models.
    pub fn check(&self, _request: &OrchestrateRequest) -> Result<()> {
        Err(Error::not_implemented("workflows"))
    }

    /// Runs a workflow. A run that started is `Ok` whatever its status.
    ///
    /// # Errors
    /// What keeps it from starting: `workflow_not_found`, `invalid_value`, `engine_unavailable` where no model can play a
    /// required role, `not_implemented`.
    pub async fn orchestrate(
        &self,
        _call: &Call,
        _request: OrchestrateRequest,
    ) -> Result<RunResult> {
        Err(Error::not_implemented("workflows"))
    }

    /// Which models can do what.
    pub fn capabilities(&self, only: Option<Capability>) -> Capabilities {
        capabilities::capabilities(&self.planner.models(), only)
    }
}
