//! What handlers are given.

use std::sync::Arc;

use fusion_models::Models;
use fusion_orchestrator::{jobs::Jobs, rag::Rag, webhook::Webhooks, workflow::Workflows};
use fusion_storage::Storage;
use fusion_types::inference::Inference;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Features, nodes::Node};

/// Cheap handles; every handler takes the few that it needs.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) models: Models,
    pub(crate) inference: Arc<dyn Inference>,
    pub(crate) rag: Rag,
    pub(crate) workflows: Workflows,
    pub(crate) jobs: Jobs,
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

/// Sizes in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_body: usize,
    pub(crate) max_upload: usize,
}
