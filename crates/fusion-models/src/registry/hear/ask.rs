//! What people want to know.

use fusion_types::{Result, model::ModelId};

use crate::{
    Diagnostics, LoadPlan,
    memory::Need,
    registry::{Registry, entry::Entry},
    scheduler::board::Model,
};

impl Registry {
    pub(super) fn info(&self, id: &ModelId) -> Result<crate::ModelInfo> {
        match (self.entries.get(id), self.board.models.get(id)) {
            (Some(entry), Some(model)) => Ok(crate::ModelInfo {
                last_eviction: self.history.last_of(id).cloned(),
                plan: self.plan_of(entry, model),
                replicas: self.replicas(id),
                ..entry.info(model, &self.together(id))
            }),
            _ => Err(self.unknown(id)),
        }
    }

    pub(super) fn plan_of(&self, entry: &Entry, model: &Model) -> Option<LoadPlan> {
        let bytes = model.predicted?;
        let need = Need {
            bytes,
            estimate: entry.estimate.unwrap_or(bytes),
            mapped: model.weights.as_ref().map_or(0, |weights| weights.bytes),
        };
        self.plan(&entry.definition, need).ok()
    }

    pub(super) fn diagnostics(&self) -> Diagnostics {
        Diagnostics {
            uptime: self.started.elapsed(),
            machine: None,
            memory_of: self.services.config.memory_of(),
            configured_bytes: self.services.config.budget_bytes,
            budget_bytes: self.board.limits.budget_bytes,
            charged_bytes: self.board.charged(),
            free_bytes: self.board.free().bytes,
            evictions: self.history.evictions(),
            errors: self.history.errors(),
        }
    }
}
