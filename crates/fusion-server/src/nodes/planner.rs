//! Which model a request would get, be it at another server.

use std::sync::Arc;

use fusion_types::{
    ErrorCode, Result,
    inference::{Choice, ModelPlanner, Needs, WorkEstimate, WorkSize},
    model::{ModelCard, ModelId},
    model_ref::ModelRef,
};

use super::Node;

/// What only another server has can be chosen, too.
pub(crate) struct Everywhere {
    pub(crate) here: Arc<dyn ModelPlanner>,
    pub(crate) node: Node,
}

impl ModelPlanner for Everywhere {
    fn models(&self) -> Arc<[ModelCard]> {
        self.here.models()
    }

    /// Of the models here: a job that names another is left to a server that has it.
    fn names(&self) -> Vec<String> {
        self.here.names()
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let chosen = self.here.choose(model, needs);
        let is_unknown = chosen
            .as_ref()
            .is_err_and(|error| error.code == ErrorCode::ModelNotFound);
        let elsewhere = is_unknown.then(|| self.node.choose_elsewhere(model, needs));
        elsewhere.flatten().unwrap_or(chosen)
    }

    fn estimate(&self, model: &ModelId, work: &WorkSize) -> WorkEstimate {
        self.here.estimate(model, work)
    }
}
