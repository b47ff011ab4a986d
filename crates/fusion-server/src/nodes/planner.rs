//! Which model a job would get, be it at another server.

use std::sync::Arc;

use fusion_types::{
    ErrorCode, Result,
    inference::{Choice, ModelPlanner, Needs, WorkEstimate, WorkSize},
    model::{ModelCard, ModelId},
    model_ref::ModelRef,
};

use super::Node;

/// A job for a model that only another server has is taken in here, and runs there.
pub(crate) struct Everywhere {
    pub(crate) here: Arc<dyn ModelPlanner>,
    pub(crate) node: Node,
}

impl ModelPlanner for Everywhere {
    fn models(&self) -> Arc<[ModelCard]> {
        self.here.models()
    }

    /// Of the models here: nothing else can run here.
    fn names(&self) -> Vec<String> {
        self.here.names()
    }

    fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Choice> {
        let chosen = self.here.choose(model, needs);
        let is_unknown = chosen
            .as_ref()
            .is_err_and(|error| error.code == ErrorCode::ModelNotFound);
        let name = model.to_string();
        if is_unknown && self.node.is_known_elsewhere(&name) {
            return Ok(Choice {
                model: ModelId::new(&name),
                reason: "at another server".to_owned(),
            });
        }
        chosen
    }

    fn estimate(&self, model: &ModelId, work: &WorkSize) -> WorkEstimate {
        self.here.estimate(model, work)
    }
}
