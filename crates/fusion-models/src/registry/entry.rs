//! What the registry keeps of one model beside what the scheduler needs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{
    Result, Timestamp,
    engine::EngineCard,
    model::{ModelCard, ModelId, ModelStatus},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{replicas::Together, view::load};
use crate::{
    ModelInfo, UnloadReport,
    catalog::Definition,
    catalog::adapters,
    engine::{Engine, LogRing},
    gate::Gate,
    memory::Learned,
    scheduler::board::{Model, State},
    tally::Tally,
};

pub(super) struct Entry {
    pub(super) definition: Arc<Definition>,
    pub(super) engine: Option<Arc<Engine>>,
    pub(super) tally: Arc<Tally>,
    pub(super) gate: Arc<Gate>,
    /// Gives up the start that is under way.
    pub(super) abort: CancellationToken,
    pub(super) log: LogRing,
    /// What the engine said of the model when it was last ready.
    pub(super) known: Option<EngineCard>,
    pub(super) estimate: Option<u64>,
    pub(super) measured: Option<u64>,
    pub(super) load_time: Option<Duration>,
    pub(super) loaded_at: Option<Timestamp>,
    pub(super) errors: u64,
    pub(super) last_error: Option<String>,
    /// Models that made room for the last start.
    pub(super) evicted: Vec<ModelId>,
    pub(super) leaving: Vec<Leaving>,
}

/// Somebody who waits for an unload.
pub(super) struct Leaving {
    pub(super) reply: oneshot::Sender<Result<UnloadReport>>,
    pub(super) since: Instant,
    pub(super) bytes: u64,
}

impl Entry {
    pub(super) fn new(
        definition: Definition,
        learned: Option<Learned>,
        tally: Arc<Tally>,
        gate: Arc<Gate>,
    ) -> Self {
        let estimate = learned.as_ref().map(|learned| learned.need.estimate);
        Self {
            definition: Arc::new(definition),
            engine: None,
            tally,
            gate,
            abort: CancellationToken::new(),
            log: LogRing::default(),
            known: learned.map(|learned| learned.card),
            estimate,
            measured: None,
            load_time: None,
            loaded_at: None,
            errors: 0,
            last_error: None,
            evicted: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// The same id with another setup: what is known of the old one doesn't hold, what happened did.
    pub(super) fn set_up_anew(&mut self, definition: Definition, learned: Option<Learned>) {
        let fresh = Self::new(definition, learned, self.tally.clone(), self.gate.clone());
        self.definition = fresh.definition;
        self.known = fresh.known;
        self.estimate = fresh.estimate;
        self.measured = None;
        self.load_time = None;
    }

    pub(super) fn note_error(&mut self, message: &str) {
        self.errors += 1;
        self.last_error = Some(message.to_owned());
    }

    pub(super) fn card(&self, model: &Model, together: &Together) -> ModelCard {
        let definition = &self.definition;
        let known = self.known.as_ref();
        let slots = match together.slots {
            0 => definition.setup.slots.saturating_mul(definition.replicas),
            slots => slots,
        };
        let charged = Some(together.bytes).filter(|_| together.is_resident);
        ModelCard {
            id: definition.id.clone(),
            model_type: definition.setup.model_type,
            status: together.status,
            family: known.and_then(|card| card.family.clone()),
            description: None,
            tags: known
                .and_then(|card| card.quantization.clone())
                .into_iter()
                .collect(),
            capabilities: known.map_or_else(
                || definition.expected_capabilities(),
                |card| card.capabilities.clone(),
            ),
            context_length: known
                .map(|card| card.context_length)
                .or(definition.setup.context_length),
            dimension: known.and_then(|card| card.dimension),
            fingerprint: known.map(|card| card.fingerprint.as_str().into()),
            footprint_bytes: charged.or(model.predicted),
            file_bytes: definition.file_bytes,
            load: load(together.leases, together.queued, slots),
            slots,
            pinned: definition.pinned,
            priority: definition.priority,
            aliases: definition.aliases.clone(),
            adapters: adapters::of(&definition.setup.options),
            created_at: definition.created_at(),
            metadata: definition.metadata.clone(),
        }
    }

    pub(super) fn info(&self, model: &Model, together: &Together) -> ModelInfo {
        let count = self.tally.count();
        ModelInfo {
            card: self.card(model, together),
            engine: self.definition.setup.engine.clone(),
            path: self.definition.setup.path.display().to_string(),
            pid: self.engine.as_ref().map(|engine| engine.pid),
            replicas: Vec::new(),
            predicted_bytes: self.estimate,
            measured_bytes: self.measured,
            load_time: self.load_time,
            loaded_at: self.loaded_at,
            last_used_at: count.last_used_at,
            active_requests: together.leases,
            queued_requests: together.queued,
            request_count: count.requests,
            error_count: self.errors,
            stats: count.stats,
            recent_crashes: u32::try_from(model.backoff.recent_crashes()).unwrap_or(u32::MAX),
            last_error: self.last_error.clone(),
            log_tail: self.log.tail(),
            last_eviction: None,
            plan: None,
        }
    }
}

pub(super) fn status(model: &Model) -> ModelStatus {
    match model.state {
        State::Unloaded if model.backoff.has_failed() => ModelStatus::Failed,
        State::Unloaded => ModelStatus::Unloaded,
        State::Predicting | State::Loading { .. } => ModelStatus::Loading,
        State::Loaded { .. } => ModelStatus::Loaded,
        State::Unloading { .. } => ModelStatus::Unloading,
    }
}
