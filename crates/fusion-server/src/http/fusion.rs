//! `/api/fusion`: workflows and what the models can do.

use axum::{Json, extract::State};
use fusion_orchestrator::workflow::{Capabilities, OrchestrateRequest, RunResult, WorkflowRow};
use fusion_types::{Error, model::Capability};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, App, Caller, JsonBody, PathParams, QueryParams};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OrchestrateParams {
    r#async: bool,
    dry_run: bool,
}

pub(crate) async fn orchestrate(
    State(App { workflows, .. }): State<App>,
    Caller(call): Caller,
    QueryParams(params): QueryParams<OrchestrateParams>,
    JsonBody(request): JsonBody<OrchestrateRequest>,
) -> Answer<Json<RunResult>> {
    if params.r#async {
        let instead = Error::not_implemented(
            "an asynchronous run; submit a job with operation \"workflow\": it",
        );
        return Err(instead.with_param("async").into());
    }
    if params.dry_run {
        return Err(Error::not_implemented("planning a run")
            .with_param("dry_run")
            .into());
    }
    Ok(Json(workflows.orchestrate(&call, request).await?))
}

pub(crate) async fn list(State(App { workflows, .. }): State<App>) -> Json<Value> {
    Json(json!({ "workflows": workflows.list() }))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FormatParams {
    format: Option<String>,
}

pub(crate) async fn get(
    State(App { workflows, .. }): State<App>,
    PathParams(id): PathParams<String>,
    QueryParams(FormatParams { format }): QueryParams<FormatParams>,
) -> Answer<Json<WorkflowRow>> {
    match format.as_deref() {
        None | Some("json") => Ok(Json(workflows.get(&id)?)),
        Some(_) => Err(Error::not_implemented("a workflow's picture")
            .with_param("format")
            .into()),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CapabilityParams {
    capability: Option<String>,
}

pub(crate) async fn capabilities(
    State(App { workflows, .. }): State<App>,
    QueryParams(CapabilityParams { capability }): QueryParams<CapabilityParams>,
) -> Answer<Json<Capabilities>> {
    let only = capability
        .as_deref()
        .map(str::parse::<Capability>)
        .transpose();
    let only = only.map_err(|error| error.with_param("capability"))?;
    Ok(Json(workflows.capabilities(only)))
}
