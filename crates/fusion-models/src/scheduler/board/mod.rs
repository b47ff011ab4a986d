//! What the scheduler knows: plain data, changed only by what happened and by decisions carried out.

mod apply;
mod happened;
mod look;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{
    Class, Tenant,
    model::{ModelId, Priority},
};

use crate::{
    EvictionPolicy,
    scheduler::{backoff::Backoff, order::Turns, switch::Yield},
};

pub(super) use look::charge;

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
    /// Whether its next request is likely to come soon after the one before.
    pub(crate) is_asked_again: bool,
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
            is_asked_again: true,
            service: None,
            load_time: None,
            turns: Turns::default(),
            yields: None,
            backoff: Backoff::default(),
        }
    }
}
