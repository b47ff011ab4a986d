//! What follows from what is known.

use std::{collections::BTreeMap, path::Path, time::Instant};

use fusion_types::model::ModelId;

use super::{Board, Limits, Model, State, Waiter, Want, Weights};
use crate::{
    EvictionPolicy,
    eviction::{Candidate, Room, Share},
};

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

    pub(in crate::scheduler) fn candidate(&self, id: &ModelId, model: &Model) -> Candidate {
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
pub(in crate::scheduler) fn charge<'a>(models: impl Iterator<Item = &'a Model>) -> u64 {
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
