//! What the scheduler knows: plain data, changed only by what happened and by decisions carried out.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{
    Class, Error, Tenant,
    model::{ModelId, Priority},
};

use super::{Decision, Why, backoff::Backoff, order::Turns, switch::Yield};
use crate::{
    EvictionPolicy,
    eviction::{Candidate, Room, Share},
};

pub(crate) type WaiterId = u64;

/// Counts a model's processes, so that news of an ended one isn't taken for news of its successor.
pub(crate) type Incarnation = u64;

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) budget_bytes: u64,
    pub(crate) max_models: Option<usize>,
    pub(crate) policy: EvictionPolicy,
    pub(crate) max_queue: usize,
    pub(crate) queue_timeout: Duration,
    /// How long a model that was just loaded serves its requests before others may have its room.
    pub(crate) least_turn: Duration,
    /// How long a request waits for room that a busy model holds, before that model must yield it.
    pub(crate) switch_after: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) limits: Limits,
    pub(crate) models: BTreeMap<ModelId, Model>,
    /// In order of arrival.
    pub(crate) waiters: Vec<Waiter>,
    /// Nothing new is accepted or started, and what is idle ends.
    pub(crate) draining: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Waiter {
    pub(crate) id: WaiterId,
    pub(crate) model: ModelId,
    pub(crate) want: Want,
    pub(crate) tenant: Tenant,
    pub(crate) class: Class,
    pub(crate) since: Instant,
    /// The caller's own; the queue's limit is beside it.
    pub(crate) deadline: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// A slot of the loaded model.
    Slot,
    /// That the model is loaded, nothing more.
    Loaded,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) state: State,
    /// When a start began, or ended.
    pub(crate) changed_at: Instant,
    pub(crate) incarnation: Incarnation,
    /// What a start would be charged; `None` until the engine was asked.
    pub(crate) predicted: Option<u64>,
    /// The part of it that other processes of the same file have in common with this one.
    pub(crate) weights: Option<Weights>,
    /// Of which model this is a further process.
    pub(crate) replica_of: Option<ModelId>,
    /// Its further processes.
    pub(crate) replicas: Vec<ModelId>,
    /// Whether it is to run whenever there is room and its model runs.
    pub(crate) is_wanted: bool,
    /// Whether it is to run even if nobody uses its model.
    pub(crate) keep_warm: bool,
    pub(crate) pinned: bool,
    pub(crate) priority: Priority,
    pub(crate) idle_ttl: Option<Duration>,
    pub(crate) slots: u32,
    pub(crate) leases: u32,
    pub(crate) last_used: Instant,
    /// Mean time for which a lease is out.
    pub(crate) service: Option<Duration>,
    /// What the last start took.
    pub(crate) load_time: Option<Duration>,
    pub(crate) turns: Turns,
    pub(crate) yields: Option<Yield>,
    pub(crate) backoff: Backoff,
}

/// Mapped weights, which lie in memory once however many processes map them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weights {
    pub(crate) file: Arc<Path>,
    pub(crate) bytes: u64,
}

/// What a process's gate has counted.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub(crate) incarnation: Incarnation,
    pub(crate) slots: u32,
    /// Out now.
    pub(crate) leases: u32,
    pub(crate) last_used: Option<Instant>,
    /// Mean time for which a lease was out.
    pub(crate) service: Option<Duration>,
    /// The tenants who were served, in that order.
    pub(crate) served: Vec<Tenant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Unloaded,
    /// The engine is being asked how many bytes the model needs.
    Predicting,
    Loading {
        bytes: u64,
    },
    Loaded {
        bytes: u64,
    },
    /// The process is ending; its bytes count until it is gone.
    Unloading {
        bytes: u64,
    },
}

impl State {
    /// Bytes charged to the budget.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Unloaded | Self::Predicting => 0,
            Self::Loading { bytes } | Self::Loaded { bytes } | Self::Unloading { bytes } => bytes,
        }
    }

    pub(crate) fn is_resident(self) -> bool {
        !matches!(self, Self::Unloaded | Self::Predicting)
    }

    pub(crate) fn is_loaded(self) -> bool {
        matches!(self, Self::Loaded { .. })
    }
}

impl Model {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: State::Unloaded,
            changed_at: now,
            incarnation: 0,
            predicted: None,
            weights: None,
            replica_of: None,
            replicas: Vec::new(),
            is_wanted: false,
            keep_warm: false,
            pinned: false,
            priority: Priority::Normal,
            idle_ttl: None,
            slots: 1,
            leases: 0,
            last_used: now,
            service: None,
            load_time: None,
            turns: Turns::default(),
            yields: None,
            backoff: Backoff::default(),
        }
    }
}

impl Board {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            models: BTreeMap::new(),
            waiters: Vec::new(),
            draining: false,
        }
    }

    /// Bytes charged now.
    pub(crate) fn charged(&self) -> u64 {
        charge(self.models.values())
    }

    /// Bytes charged for all processes of a model.
    pub(crate) fn charged_for(&self, id: &ModelId) -> u64 {
        charge(self.members(id).map(|(_, model)| model))
    }

    /// Bytes that a start of the model would take now; `None` until the engine was asked.
    pub(crate) fn need(&self, id: &ModelId) -> Option<u64> {
        let model = self.models.get(id)?;
        let there = |weights: &Weights| {
            let others = self.models.values().filter(|other| other.holds(weights));
            others.filter_map(Model::shared).min().unwrap_or(0)
        };
        let shared = model.weights.as_ref().map_or(0, there);
        Some(
            model
                .predicted?
                .saturating_sub(shared.min(model.shared().unwrap_or(0))),
        )
    }

    /// Room for a start. An ending process has left its place, but holds its bytes until it is gone: so where there is memory
    /// enough for both, one model goes while the other comes.
    pub(crate) fn free(&self) -> Room {
        let stays =
            |model: &&Model| matches!(model.state, State::Loading { .. } | State::Loaded { .. });
        Room {
            bytes: self.limits.budget_bytes.saturating_sub(self.charged()),
            places: self
                .limits
                .max_models
                .unwrap_or(usize::MAX)
                .saturating_sub(self.models.values().filter(stays).count()),
        }
    }

    /// Room that ending processes will give back.
    pub(crate) fn coming(&self) -> Room {
        let leaves = |model: &&Model| matches!(model.state, State::Unloading { .. });
        let staying = charge(self.models.values().filter(|model| !leaves(model)));
        Room {
            bytes: self.charged().saturating_sub(staying),
            places: 0,
        }
    }

    /// Models that may be evicted now.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let evictable = self.models.iter().filter(|(_, model)| model.is_evictable());
        evictable
            .map(|(id, model)| self.candidate(id, model))
            .collect()
    }

    pub(super) fn candidate(&self, id: &ModelId, model: &Model) -> Candidate {
        let stays =
            |other: &&Model| matches!(other.state, State::Loading { .. } | State::Loaded { .. });
        let share = model.weights.as_ref().map(|weights| {
            let holders = || {
                let resident = self.models.values().filter(stays);
                resident.filter(|other| other.holds(weights))
            };
            Share {
                file: weights.file.clone(),
                bytes: holders().filter_map(Model::shared).min().unwrap_or(0),
                holders: holders().count(),
            }
        });
        // The others go on serving: of a model's idle processes all but the last used one, or all while any is busy.
        let others = || self.members(id).filter(|(other, _)| *other != id);
        let is_spare = others().any(|(other, sibling)| {
            sibling.state.is_loaded()
                && (sibling.leases > 0 || (sibling.last_used, other) > (model.last_used, id))
        });
        Candidate {
            model: id.clone(),
            bytes: model.state.bytes(),
            share,
            is_spare,
            priority: model.priority,
            last_used: model.last_used,
        }
    }

    /// Resident models that may not be evicted now.
    pub(crate) fn protected(&self) -> Vec<ModelId> {
        let kept = |model: &Model| {
            matches!(model.state, State::Loading { .. } | State::Loaded { .. })
                && (self.limits.policy == EvictionPolicy::Manual || !model.is_evictable())
        };
        self.models
            .iter()
            .filter(|(_, model)| kept(model))
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(crate) fn waiting_for(&self, id: &ModelId) -> impl Iterator<Item = &Waiter> {
        self.waiters
            .iter()
            .filter(move |waiter| waiter.model == *id)
    }

    pub(crate) fn slot_waiters(&self, id: &ModelId) -> impl Iterator<Item = &Waiter> {
        self.waiting_for(id)
            .filter(|waiter| waiter.want == Want::Slot)
    }

    pub(crate) fn queued(&self, id: &ModelId) -> usize {
        self.slot_waiters(id).count()
    }

    /// When the scheduler must look again although nothing happens until then.
    pub(crate) fn next_wake(&self, now: Instant) -> Option<Instant> {
        let waits = self
            .waiters
            .iter()
            .flat_map(|waiter| [waiter.deadline, Some(self.patience(waiter))]);
        let backoffs = self
            .waiters
            .iter()
            .map(|waiter| self.models.get(&waiter.model)?.backoff.not_before());
        let idle = self.models.values().map(|model| model.looks_idle_at(now));
        let all = waits.chain(backoffs).chain(idle).flatten();
        // What is due already was looked at already.
        all.chain(self.switches()).filter(|at| *at > now).min()
    }

    /// Until when the queue lets a request wait.
    pub(crate) fn patience(&self, waiter: &Waiter) -> Instant {
        waiter.since + self.limits.queue_timeout
    }
}

/// Bytes that processes hold together: weights that several of them map count once.
pub(super) fn charge<'a>(models: impl Iterator<Item = &'a Model>) -> u64 {
    let mut total: u64 = 0;
    let mut files: BTreeMap<&Path, (u64, u64)> = BTreeMap::new();
    for model in models {
        total = total.saturating_add(model.state.bytes());
        if let (true, Some(Weights { file, bytes })) = (model.state.is_resident(), &model.weights) {
            let (more, least) = files.entry(file).or_insert((0, *bytes));
            if *more == 0 {
                *more = 1;
            } else {
                *least = (*least).min(*bytes);
                *more += 1;
            }
        }
    }
    let twice = files.values().map(|(holders, bytes)| (holders - 1) * bytes);
    total.saturating_sub(twice.sum())
}

impl Model {
    fn shared(&self) -> Option<u64> {
        self.weights.as_ref().map(|weights| weights.bytes)
    }

    /// Whether its process maps the same file.
    fn holds(&self, weights: &Weights) -> bool {
        let same = |own: &Weights| own.file == weights.file;
        self.state.is_resident() && self.weights.as_ref().is_some_and(same)
    }

    pub(crate) fn is_evictable(&self) -> bool {
        self.state.is_loaded() && self.leases == 0 && !self.pinned
    }

    /// When idleness unloads it, if nothing uses it before.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.is_evictable()
            .then_some(self.last_used + self.idle_ttl?)
    }

    /// When it can be idle for long enough at the earliest; leases may go and come without the scheduler until then.
    fn looks_idle_at(&self, now: Instant) -> Option<Instant> {
        let is_busy = self.state.is_loaded() && self.leases > 0 && !self.pinned;
        if is_busy {
            self.idle_ttl.map(|ttl| now + ttl)
        } else {
            self.expires()
        }
    }
}

/// What happened.
impl Board {
    pub(crate) fn ask(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
    }

    pub(crate) fn withdraw(&mut self, id: WaiterId) {
        self.waiters.retain(|waiter| waiter.id != id);
    }

    /// What happened at the model's gate since it was looked at last.
    pub(crate) fn used(&mut self, id: &ModelId, usage: &Usage) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == usage.incarnation)
        else {
            return;
        };
        model.leases = usage.leases;
        model.slots = usage.slots;
        model.last_used = usage
            .last_used
            .map_or(model.last_used, |at| at.max(model.last_used));
        model.service = usage.service.or(model.service);
        for tenant in &usage.served {
            model.turns.served(tenant);
        }
    }

    pub(crate) fn predicted(&mut self, id: &ModelId, outcome: Result<u64, Error>, now: Instant) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.state == State::Predicting)
        else {
            return;
        };
        model.state = State::Unloaded;
        match outcome {
            Ok(bytes) => {
                model.predicted = Some(bytes);
                self.tell_siblings(id);
            }
            Err(error) => model.backoff.refused(error, now),
        }
    }

    /// The start succeeded, and the process holds `bytes`.
    pub(crate) fn started(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        bytes: u64,
        slots: u32,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        if matches!(model.state, State::Loading { .. }) {
            model.state = State::Loaded { bytes };
            model.predicted = Some(bytes);
            model.backoff.started();
            model.slots = slots.max(1);
            model.last_used = now;
            model.load_time = Some(now.saturating_duration_since(model.changed_at));
            model.changed_at = now;
            self.tell_siblings(id);
            let members: Vec<_> = self.members(id).map(|(id, _)| id.clone()).collect();
            for member in members {
                if let Some(model) = self.models.get_mut(&member) {
                    model.is_wanted = true;
                }
            }
        }
    }

    /// What one process of a model taught holds for those of which nothing is known.
    pub(crate) fn tell_siblings(&mut self, id: &ModelId) {
        let Some(model) = self.models.get(id) else {
            return;
        };
        let (predicted, weights) = (model.predicted, model.weights.clone());
        let ignorant = self
            .members(id)
            .filter(|(_, model)| model.predicted.is_none());
        let ignorant: Vec<_> = ignorant.map(|(id, _)| id.clone()).collect();
        for id in ignorant {
            if let Some(model) = self.models.get_mut(&id) {
                (model.predicted, model.weights) = (predicted, weights.clone());
            }
        }
    }

    /// A process that was loading is gone; `crashed` tells a death from an orderly refusal.
    pub(crate) fn start_failed(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        error: Error,
        crashed: bool,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        let wanted = matches!(model.state, State::Unloading { .. });
        model.state = State::Unloaded;
        model.leases = 0;
        if wanted {
            return;
        }
        if crashed {
            model.backoff.crashed(&error.message, now);
        }
        model.backoff.refused(error, now);
    }

    pub(crate) fn measured(&mut self, id: &ModelId, incarnation: Incarnation, bytes: u64) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        if model.state.is_loaded() {
            model.state = State::Loaded { bytes };
            model.predicted = Some(bytes);
        }
    }

    /// A loaded model's process is gone, whether it was told to or not.
    pub(crate) fn ended(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        why: &str,
        now: Instant,
    ) {
        let Some(model) = self
            .models
            .get_mut(id)
            .filter(|model| model.incarnation == incarnation)
        else {
            return;
        };
        let wanted = matches!(model.state, State::Unloading { .. });
        model.state = State::Unloaded;
        model.leases = 0;
        if !wanted {
            model.backoff.crashed(why, now);
        }
    }

    /// A process is to end because somebody said so; its bytes count until it has.
    pub(crate) fn unload(&mut self, id: &ModelId) {
        let Some(model) = self.models.get_mut(id) else {
            return;
        };
        if let State::Loading { bytes } | State::Loaded { bytes } = model.state {
            model.state = State::Unloading { bytes };
            model.yields = None;
        }
    }
}

#[cfg(test)]
impl Board {
    /// A lease came back after `held`, as a gate would count it.
    pub(crate) fn release(
        &mut self,
        id: &ModelId,
        incarnation: Incarnation,
        held: Duration,
        now: Instant,
    ) {
        let Some(model) = self.models.get(id) else {
            return;
        };
        let usage = Usage {
            incarnation,
            slots: model.slots,
            leases: model.leases.saturating_sub(1),
            last_used: Some(now),
            service: Some(model.service.map_or(held, |mean| (mean * 7 + held) / 8)),
            served: Vec::new(),
        };
        self.used(id, &usage);
    }
}

/// A decision carried out.
impl Board {
    pub(crate) fn apply(&mut self, decision: &Decision, now: Instant) {
        match decision {
            Decision::Grant { waiter, model } => self.granted(*waiter, model, now),
            Decision::Report { waiter, .. } | Decision::Refuse { waiter, .. } => {
                self.withdraw(*waiter)
            }
            Decision::Predict { model } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.state = State::Predicting;
                }
            }
            Decision::Start { model, bytes } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.state = State::Loading { bytes: *bytes };
                    model.changed_at = now;
                    model.incarnation += 1;
                    model.leases = 0;
                }
            }
            Decision::Evict { model, why } => {
                self.unload(model);
                if let (Why::Idle, Some(model)) = (why, self.models.get_mut(model)) {
                    model.is_wanted = false;
                }
            }
            Decision::Move { waiter, to } => {
                let moved = self.waiters.iter_mut().find(|other| other.id == *waiter);
                if let Some(waiter) = moved {
                    waiter.model = to.clone();
                }
            }
            Decision::Yield { model, to } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.yields = Some(Yield {
                        to: to.clone(),
                        since: now,
                    });
                }
            }
            Decision::Resume { model } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.yields = None;
                }
            }
        }
    }

    fn granted(&mut self, id: WaiterId, model: &ModelId, now: Instant) {
        let waiter = self.waiters.iter().position(|waiter| waiter.id == id);
        let waiter = waiter.map(|index| self.waiters.remove(index));
        if let (Some(waiter), Some(model)) = (waiter, self.models.get_mut(model)) {
            model.leases += 1;
            model.last_used = now;
            model.turns.served(&waiter.tenant);
        }
    }
}
