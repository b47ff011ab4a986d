//! What everybody may look at without asking: a snapshot, made anew after each change. Leases come and go without one, so
//! their counts are read at the gates.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fusion_types::{
    Result,
    inference::Needs,
    model::{ModelCard, ModelId},
    model_ref::ModelRef,
};

use super::Registry;
use crate::{
    ModelQueue, QueueStats,
    catalog::Definition,
    gate::Gate,
    routing::{self, Route},
    scheduler::{self, board::Model},
};

#[derive(Default)]
pub(crate) struct View {
    pub(crate) catalog: Arc<Catalog>,
    models: BTreeMap<ModelId, Seen>,
    max_queue: usize,
}

/// The part that requests for slots leave as it is. Making it anew for each of them would be most of their cost.
#[derive(Default)]
pub(crate) struct Catalog {
    /// Their load is that of the moment when this was made; see [`View::cards`].
    cards: Arc<[ModelCard]>,
    /// Longest loaded first.
    loaded: Vec<ModelId>,
    pub(crate) definitions: BTreeMap<ModelId, Arc<Definition>>,
    budget_bytes: u64,
}

/// One model, as a request would meet it.
struct Seen {
    /// Of its processes.
    gates: Vec<Arc<Gate>>,
    queued: usize,
    /// Zero while it isn't loaded.
    slots: u32,
    run: Duration,
    /// How long a request would wait if no slot was free.
    wait: Duration,
    runnable: bool,
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
    /// # Errors
    /// As for [`routing::choose`].
    pub(crate) fn choose(&self, model: &ModelRef, needs: &Needs) -> Result<Route> {
        let choose = |cards: &[ModelCard]| {
            let models = routing::Models {
                cards,
                loaded: &self.catalog.loaded,
                budget_bytes: self.catalog.budget_bytes,
            };
            routing::choose(&models, model, needs)
        };
        match model {
            ModelRef::Auto(_) => choose(&self.cards()),
            ModelRef::Named(_) | ModelRef::Workflow(_) => choose(&self.catalog.cards),
        }
    }

    /// All cards by id, with the load of this moment.
    pub(crate) fn cards(&self) -> Arc<[ModelCard]> {
        self.catalog
            .cards
            .iter()
            .map(|card| ModelCard {
                load: self.models.get(&card.id).map_or(card.load, |seen| {
                    load(seen.leases(), seen.queued, card.slots)
                }),
                ..card.clone()
            })
            .collect()
    }

    pub(crate) fn card(&self, id: &ModelId) -> Option<ModelCard> {
        self.cards().iter().find(|card| card.id == *id).cloned()
    }

    /// The gates of a model's processes.
    pub(crate) fn gates(&self, id: &ModelId) -> &[Arc<Gate>] {
        self.models.get(id).map_or(&[], |seen| &seen.gates)
    }

    pub(crate) fn queues(&self) -> QueueStats {
        let mut stats = QueueStats {
            max_queue: self.max_queue,
            ..QueueStats::default()
        };
        for (id, seen) in &self.models {
            let queue = ModelQueue {
                running: seen.leases(),
                queued: seen.queued,
                slots: seen.slots,
            };
            stats.running += queue.running;
            stats.queued += queue.queued;
            stats.slots += queue.slots;
            if queue.slots > 0 || queue.queued > 0 {
                stats.models.insert(id.clone(), queue);
            }
        }
        stats
    }

    pub(crate) fn outlook(&self, id: &ModelId) -> Outlook {
        let Some(seen) = self.models.get(id) else {
            return Outlook::default();
        };
        let free_slots = if seen.queued == 0 {
            seen.slots.saturating_sub(seen.leases())
        } else {
            0
        };
        Outlook {
            wait: if free_slots > 0 {
                Duration::ZERO
            } else {
                seen.wait
            },
            run: seen.run,
            free_slots,
            runnable: seen.runnable,
        }
    }
}

impl Seen {
    fn leases(&self) -> u32 {
        self.gates.iter().map(|gate| gate.leases()).sum()
    }
}

/// Requests that run or wait, per slot.
pub(super) fn load(leases: u32, queued: usize, slots: u32) -> f32 {
    let waiting = u32::try_from(queued).unwrap_or(u32::MAX);
    leases.saturating_add(waiting) as f32 / slots.max(1) as f32
}

/// What is seen of each model, beside what the catalog says.
pub(super) fn view(registry: &Registry, catalog: Arc<Catalog>) -> View {
    let board = &registry.board;
    let mut models = BTreeMap::new();
    for (id, model) in first_processes(registry) {
        let together = registry.together(id);
        let runnable = !model.backoff.has_failed()
            && (together.is_resident
                || scheduler::could_start(board, model.predicted.unwrap_or(0)));
        let seen = Seen {
            gates: together.gates,
            queued: together.queued,
            slots: together.slots,
            run: model.service.unwrap_or_default(),
            wait: scheduler::refusal::wait(model, together.queued),
            runnable,
        };
        models.insert(id.clone(), seen);
    }
    View {
        catalog,
        models,
        max_queue: board.limits.max_queue,
    }
}

pub(super) fn catalog(registry: &Registry) -> Catalog {
    let mut cards = Vec::with_capacity(registry.entries.len());
    let mut loaded = Vec::new();
    let mut definitions = BTreeMap::new();
    for (id, model) in first_processes(registry) {
        let Some(entry) = registry.entries.get(id) else {
            continue;
        };
        let together = registry.together(id);
        cards.push(entry.card(model, &together));
        definitions.insert(id.clone(), entry.definition.clone());
        if together.loaded > 0 {
            loaded.push((entry.loaded_at, id.clone()));
        }
    }
    loaded.sort();
    Catalog {
        cards: cards.into(),
        loaded: loaded.into_iter().map(|(_, id)| id).collect(),
        definitions,
        budget_bytes: registry.board.limits.budget_bytes,
    }
}

/// Of each model the process that stands for all of them.
fn first_processes(registry: &Registry) -> impl Iterator<Item = (&ModelId, &Model)> {
    let models = registry.board.models.iter();
    models.filter(|(id, model)| model.replica_of.is_none() && registry.entries.contains_key(*id))
}
