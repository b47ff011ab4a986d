//! The processes of one model, in the catalog and towards those who ask.

use std::{sync::Arc, time::Duration};

use fusion_types::model::{ModelId, ModelStatus};

use super::{Registry, entry::Entry, entry::status};
use crate::{
    ReplicaInfo,
    catalog::Definition,
    gate::Gate,
    scheduler::{board::Model, replicas::replica_id},
};

/// A model's processes, taken together.
pub(super) struct Together {
    /// That of the process which is nearest to serving.
    pub(super) status: ModelStatus,
    pub(super) slots: u32,
    pub(super) leases: u32,
    pub(super) queued: usize,
    /// Bytes charged, weights that they share counted once.
    pub(super) bytes: u64,
    pub(super) is_resident: bool,
    /// That are loaded.
    pub(super) loaded: u32,
    pub(super) gates: Vec<Arc<Gate>>,
}

impl Registry {
    pub(super) fn together(&self, id: &ModelId) -> Together {
        let members = || self.board.members(id);
        let loaded = || members().filter(|(_, model)| model.state.is_loaded());
        let nearest = members()
            .map(|(_, model)| status(model))
            .min_by_key(|status| {
                let order = [
                    ModelStatus::Loaded,
                    ModelStatus::Loading,
                    ModelStatus::Unloading,
                    ModelStatus::Unloaded,
                ];
                order
                    .iter()
                    .position(|other| other == status)
                    .unwrap_or(order.len())
            });
        let entries = members().filter_map(|(id, _)| self.entries.get(id));
        Together {
            status: nearest.unwrap_or(ModelStatus::Unloaded),
            slots: loaded().map(|(_, model)| model.slots).sum(),
            leases: members().map(|(_, model)| model.leases).sum(),
            queued: members().map(|(id, _)| self.board.queued(id)).sum(),
            bytes: self.board.charged_for(id),
            is_resident: members().any(|(_, model)| model.state.is_resident()),
            loaded: u32::try_from(loaded().count()).unwrap_or(u32::MAX),
            gates: entries.map(|entry| entry.gate.clone()).collect(),
        }
    }

    /// As many further processes join the catalog as the model's definition wants; those beyond leave once they are idle.
    pub(super) fn adopt_replicas(&mut self, id: &ModelId) {
        let Some(first) = self.entries.get(id) else {
            return;
        };
        let (definition, tally) = (first.definition.clone(), first.tally.clone());
        let wanted: Vec<_> = (1..definition.replicas)
            .map(|number| replica_id(id, number))
            .collect();
        let Some(model) = self.board.models.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut model.replicas, wanted.clone());
        let pattern = Model {
            replica_of: Some(id.clone()),
            replicas: Vec::new(),
            predicted: model.predicted,
            weights: model.weights.clone(),
            ..Model::new(model.last_used)
        };
        let rights = (model.pinned, model.priority, model.idle_ttl);
        for id in &wanted {
            let model = self.board.models.entry(id.clone());
            let model = model.or_insert_with(|| pattern.clone());
            (model.pinned, model.priority, model.idle_ttl) = rights;
            let own = Definition {
                id: id.clone(),
                aliases: Vec::new(),
                replicas: 1,
                ..Definition::clone(&definition)
            };
            match self.entries.get_mut(id) {
                Some(entry) if entry.definition.setup == own.setup => entry.definition = own.into(),
                _ => {
                    model.predicted = pattern.predicted;
                    let gate = Gate::new(tally.clone(), self.shares.cpu());
                    let entry = Entry::new(own, None, tally.clone(), gate.into());
                    self.entries.insert(id.clone(), entry);
                }
            }
        }
        for gone in before.iter().filter(|id| !wanted.contains(id)) {
            self.retire(gone);
        }
    }

    /// The process gets no requests any more, and ends as soon as it has none.
    fn retire(&mut self, id: &ModelId) {
        let Some(model) = self.board.models.get_mut(id) else {
            return;
        };
        model.is_wanted = false;
        model.pinned = false;
        model.idle_ttl = Some(Duration::ZERO);
        self.remove_retired(id);
    }

    pub(super) fn remove_retired(&mut self, id: &ModelId) {
        let is_retired = |model: &Model| {
            let first = model.replica_of.as_ref();
            let first = first.map(|first| self.board.models.get(first));
            first.is_some_and(|first| !first.is_some_and(|first| first.replicas.contains(id)))
        };
        let is_over = |model: &Model| !model.state.is_resident() && is_retired(model);
        if self.board.models.get(id).is_some_and(is_over) {
            self.board.models.remove(id);
            self.entries.remove(id);
        }
    }

    /// The model leaves the catalog, with all of its processes.
    pub(super) fn remove(&mut self, id: &ModelId) {
        let members: Vec<_> = self.board.members(id).map(|(id, _)| id.clone()).collect();
        for id in members {
            self.board.models.remove(&id);
            self.entries.remove(&id);
        }
    }

    pub(super) fn replicas(&self, id: &ModelId) -> Vec<ReplicaInfo> {
        let told = |(id, model): (&ModelId, &Model)| {
            let entry = self.entries.get(id)?;
            Some(ReplicaInfo {
                id: id.clone(),
                status: status(model),
                pid: entry.engine.as_ref().map(|engine| engine.pid),
                footprint_bytes: model.state.bytes(),
                active_requests: model.leases,
                queued_requests: self.board.queued(id),
                recent_crashes: u32::try_from(model.backoff.recent_crashes()).unwrap_or(u32::MAX),
                last_error: entry.last_error.clone(),
            })
        };
        self.board.members(id).filter_map(told).collect()
    }
}
