//! What everybody may look at without asking: a snapshot, made anew after each change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fusion_types::model::{ModelCard, ModelId};

use super::Registry;
use crate::{ModelQueue, QueueStats, catalog::Definition, routing, scheduler};

#[derive(Default)]
pub(crate) struct View {
    pub(crate) cards: Arc<[ModelCard]>,
    /// Longest loaded first.
    pub(crate) loaded: Vec<ModelId>,
    pub(crate) definitions: BTreeMap<ModelId, Arc<Definition>>,
    pub(crate) queues: QueueStats,
    pub(crate) outlooks: BTreeMap<ModelId, Outlook>,
    pub(crate) budget_bytes: u64,
}

/// What a new request to a model would meet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outlook {
    pub(crate) wait: Duration,
    pub(crate) run: Duration,
    pub(crate) free_slots: u32,
    pub(crate) runnable: bool,
}

impl View {
    pub(crate) fn routable(&self) -> routing::Models<'_> {
        routing::Models {
            cards: &self.cards,
            loaded: &self.loaded,
            budget_bytes: self.budget_bytes,
        }
    }
}

pub(super) fn view(registry: &Registry) -> View {
    let board = &registry.board;
    let mut view = View {
        budget_bytes: board.limits.budget_bytes,
        queues: QueueStats {
            max_queue: board.limits.max_queue,
            ..QueueStats::default()
        },
        ..View::default()
    };
    let mut cards = Vec::with_capacity(registry.entries.len());
    for (id, entry) in &registry.entries {
        let Some(model) = board.models.get(id) else {
            continue;
        };
        let queued = board.queued(id);
        cards.push(entry.card(model, queued));
        view.definitions
            .insert(id.clone(), entry.definition.clone());
        let slots = if model.state.is_loaded() {
            model.slots
        } else {
            0
        };
        if slots > 0 || queued > 0 {
            view.queues.models.insert(
                id.clone(),
                ModelQueue {
                    running: model.leases,
                    queued,
                    slots,
                },
            );
        }
        view.queues.running += model.leases;
        view.queues.queued += queued;
        view.queues.slots += slots;
        view.outlooks
            .insert(id.clone(), outlook(registry, id, queued));
    }
    view.cards = cards.into();
    let mut loaded: Vec<_> = registry
        .entries
        .iter()
        .filter(|(id, _)| board.models[*id].state.is_loaded())
        .collect();
    loaded.sort_by_key(|(_, entry)| entry.loaded_at);
    view.loaded = loaded.into_iter().map(|(id, _)| id.clone()).collect();
    view
}

fn outlook(registry: &Registry, id: &ModelId, queued: usize) -> Outlook {
    let board = &registry.board;
    let model = &board.models[id];
    let free_slots = if model.state.is_loaded() && queued == 0 {
        model.slots.saturating_sub(model.leases)
    } else {
        0
    };
    let run = model.service.unwrap_or_default();
    let wait = if free_slots > 0 {
        Duration::ZERO
    } else {
        scheduler::refusal::wait(model, queued)
    };
    let runnable = !model.backoff.has_failed()
        && (model.state.is_resident()
            || scheduler::could_start(board, model.predicted.unwrap_or(0)));
    Outlook {
        wait,
        run,
        free_slots,
        runnable,
    }
}
