//! Workflows: several models on one task, each step timed.

mod capabilities;
mod definition;
mod rag_with_rerank;
mod request;
mod roles;
mod run;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{
    Call, Error, ErrorCode, Result, Timestamp, id::RunId, inference::ModelPlanner,
    model::Capability,
};
use serde_json::Value;

use self::{definition::Definition, rag_with_rerank::Task, roles::Cast, run::Run};
use crate::rag::Rag;

pub use capabilities::{Capabilities, CapableModel};
pub use definition::WorkflowRow;
pub use request::{
    OrchestrateRequest, RunError, RunResult, RunStatus, StepError, StepStatus, TraceEntry,
};

/// Workflows that come with the program.
const BUILT_IN: &[Definition] = &[rag_with_rerank::DEFINITION];
/// Workflows of the contract that aren't here yet.
const LATER: &[&str] = &[
    "best_of_n",
    "custom",
    "mixture_of_agents",
    "multimodal_analysis",
    "parallel",
    "router",
    "sequential",
    "sequential_summarization",
];
/// Workflows within workflows.
const MOST_DEPTH: u8 = 8;

/// A handle on workflows; clones are the same one.
#[derive(Clone)]
pub struct Workflows {
    planner: Arc<dyn ModelPlanner>,
    rag: Rag,
}

impl Workflows {
    pub fn new(planner: Arc<dyn ModelPlanner>, rag: Rag) -> Self {
        Self { planner, rag }
    }

    /// The workflows that can be run.
    pub fn list(&self) -> Vec<WorkflowRow> {
        BUILT_IN.iter().map(Definition::row).collect()
    }

    /// # Errors
    /// `workflow_not_found`; `not_implemented` for a built-in of the contract that isn't here yet.
    pub fn get(&self, name: &str) -> Result<WorkflowRow> {
        find(name).map(Definition::row)
    }

    /// Whether the request could start, by its text alone: what a job is refused for when it is handed in.
    ///
    /// # Errors
    /// As [`Workflows::orchestrate`], except for models.
    pub fn check(&self, request: &OrchestrateRequest) -> Result<()> {
        prepare(request).map(drop)
    }

    /// Runs a workflow. A run that started is `Ok` whatever its status.
    ///
    /// # Errors
    /// What keeps it from starting: `workflow_not_found`, `invalid_value`, `engine_unavailable` where no model can play a
    /// required role, `not_implemented`.
    pub async fn orchestrate(&self, call: &Call, request: OrchestrateRequest) -> Result<RunResult> {
        let (definition, task) = prepare(&request)?;
        let call = &nested(call, request.timeout_ms)?;
        let cast = Cast::choose(definition, &request.models, &*self.planner)?;

        let (created_at, started) = (Timestamp::now(), Instant::now());
        let mut run = Run::new(call);
        let outcome = task.run(&mut run, &self.rag, &cast).await;
        let execution_trace = run.into_trace();
        let whole = execution_trace
            .iter()
            .all(|entry| entry.status == StepStatus::Completed);
        let (status, result, error) = match outcome {
            Ok(result) if whole => (RunStatus::Completed, result, None),
            Ok(result) => (RunStatus::Partial, result, None),
            Err(error) => (RunStatus::Failed, Value::Null, Some(error)),
        };
        Ok(RunResult {
            workflow_id: definition.id.to_owned(),
            run_id: RunId::generate(),
            status,
            result,
            execution_trace,
            total_latency_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            created_at,
            completed_at: Timestamp::now(),
            error,
        })
    }

    /// Which models can do what.
    pub fn capabilities(&self, only: Option<Capability>) -> Capabilities {
        capabilities::capabilities(&self.planner.models(), only)
    }
}

fn prepare(request: &OrchestrateRequest) -> Result<(&'static Definition, Task)> {
    let definition = find(&request.workflow).map_err(|error| error.with_param("workflow"))?;
    if request.stream {
        return Err(Error::not_implemented("a streamed workflow").with_param("stream"));
    }
    if request.steps.is_some() {
        return Err(Error::invalid(
            "steps",
            format!("{} has its own steps", definition.id),
        ));
    }
    if request.timeout_ms == Some(0) {
        return Err(Error::invalid("timeout_ms", "must be at least 1"));
    }
    roles::check_names(definition, &request.models)?;
    Ok((definition, Task::read(request)?))
}

fn find(name: &str) -> Result<&'static Definition> {
    if let Some(definition) = BUILT_IN
        .iter()
        .find(|definition| definition.answers_to(name))
    {
        return Ok(definition);
    }
    if LATER.contains(&name) {
        return Err(Error::not_implemented(format!("the workflow {name:?}")));
    }
    Err(Error::new(
        ErrorCode::WorkflowNotFound,
        format!("there is no workflow {name:?}"),
    ))
}

/// The run's own call: one deeper, and done by the earlier of both deadlines.
fn nested(call: &Call, timeout_ms: Option<u64>) -> Result<Call> {
    let mut call = call.clone();
    call.depth = call.depth.saturating_add(1);
    if call.depth > MOST_DEPTH {
        return Err(Error::invalid(
            "workflow",
            format!("workflows are nested more than {MOST_DEPTH} deep"),
        ));
    }
    let own =
        timeout_ms.and_then(|millis| Instant::now().checked_add(Duration::from_millis(millis)));
    call.deadline = call.deadline.into_iter().chain(own).min();
    Ok(call)
}
