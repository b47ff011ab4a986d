//! What handlers are given.

use std::sync::Arc;

use axum::extract::FromRef;
use fusion_models::Models;
use fusion_orchestrator::{
    batch::Batches, files::Files, jobs::Jobs, rag::Rag, webhook::Webhooks, workflow::Workflows,
};
use fusion_storage::{Rate, Storage};
use fusion_types::inference::Inference;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Features, nodes::Node};

/// Cheap handles; every handler takes the few that it needs.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) inference: Arc<dyn Inference>,
    /// The models of this server alone.
    pub(crate) here: Arc<dyn Inference>,
    pub(crate) rag: Rag,
    pub(crate) workflows: Workflows,
    pub(crate) jobs: Jobs,
    pub(crate) files: Files,
    pub(crate) batches: Batches,
    pub(crate) webhooks: Webhooks,
    pub(crate) storage: Storage,
    /// This server among those that share the store.
    pub(crate) node: Node,
    pub(crate) features: Features,
    pub(crate) limits: Limits,
    pub(crate) prometheus: PrometheusHandle,
    /// Tasks that outlive a handler.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server stops taking requests.
    pub(crate) draining: CancellationToken,
}

/// The router holds it behind one pointer: to clone all of its handles for each request would cost more than most handlers
/// do, and the threads would take the counts from each other. Handlers that are called often take the pointer.
impl FromRef<Arc<App>> for App {
    fn from_ref(app: &Arc<App>) -> Self {
        Self::clone(app)
    }
}

/// Sizes in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Of one client's requests.
    pub(crate) rate: Option<Rate>,
    pub(crate) max_body: usize,
    pub(crate) max_upload: usize,
}
