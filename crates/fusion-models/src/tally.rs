//! What a model's requests came to, counted where they happen, for all its processes together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fusion_types::{Timestamp, model::ModelId};

use crate::{
    ModelStats,
    stats::{Counters, Sample, Stats},
};

pub(crate) struct Tally {
    seen: Mutex<Seen>,
    counters: Counters,
}

#[derive(Default)]
struct Seen {
    requests: u64,
    last_used_at: Option<Timestamp>,
    stats: Stats,
}

/// What was counted so far.
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) stats: ModelStats,
}

impl Tally {
    pub(crate) fn of(model: &ModelId) -> Self {
        Self {
            seen: Mutex::default(),
            counters: Counters::of(model),
        }
    }

    /// A slot was given to a request.
    pub(crate) fn count_request(&self) {
        self.counters.count_request();
        let mut seen = self.lock();
        seen.requests += 1;
        seen.last_used_at = Some(Timestamp::now());
    }

    /// A request was answered whole.
    pub(crate) fn count_sample(&self, sample: Sample) {
        self.counters.count_sample(&sample);
        self.lock().stats.add(sample);
    }

    pub(crate) fn count(&self) -> Count {
        let seen = self.lock();
        Count {
            requests: seen.requests,
            last_used_at: seen.last_used_at,
            stats: seen.stats.report(),
        }
    }

    /// Nothing is ever left half done inside.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
