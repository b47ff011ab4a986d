//! What happened lately, so that somebody who asks why can be told.

use std::collections::VecDeque;

use fusion_types::{Timestamp, model::ModelId};

use crate::{Eviction, EvictionReason, RecentError, scheduler::Why};

/// Entries kept of each kind.
const KEPT: usize = 100;
/// Bytes kept of an error's message.
const MESSAGE: usize = 500;

#[derive(Default)]
pub(super) struct History {
    evictions: VecDeque<Eviction>,
    errors: VecDeque<RecentError>,
}

impl History {
    pub(super) fn evicted(&mut self, model: &ModelId, reason: EvictionReason, bytes: u64) {
        let eviction = Eviction {
            at: Timestamp::now(),
            model: model.clone(),
            reason,
            bytes,
        };
        push(&mut self.evictions, eviction);
    }

    pub(super) fn failed(&mut self, model: &ModelId, message: &str) {
        let error = RecentError {
            at: Timestamp::now(),
            model: model.clone(),
            message: message[..message.floor_char_boundary(MESSAGE)].to_owned(),
        };
        push(&mut self.errors, error);
    }

    pub(super) fn last_of(&self, model: &ModelId) -> Option<&Eviction> {
        self.evictions
            .iter()
            .rfind(|eviction| eviction.model == *model)
    }

    /// The latest first.
    pub(super) fn evictions(&self) -> Vec<Eviction> {
        self.evictions.iter().rev().cloned().collect()
    }

    /// The latest first.
    pub(super) fn errors(&self) -> Vec<RecentError> {
        self.errors.iter().rev().cloned().collect()
    }
}

fn push<T>(ring: &mut VecDeque<T>, entry: T) {
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(entry);
}

impl From<&Why> for EvictionReason {
    fn from(why: &Why) -> Self {
        match why {
            Why::RoomFor(model) => Self::RoomFor(model.clone()),
            Why::OverBudget => Self::OverBudget,
            Why::Idle => Self::Idle,
            Why::Draining => Self::Draining,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept() {
        let mut history = History::default();
        let id = |nth: u64| ModelId::new(&format!("m{}", nth % 3));
        for nth in 0..250 {
            history.evicted(&id(nth), EvictionReason::Idle, nth);
            history.failed(&id(nth), &"ü".repeat(MESSAGE));
        }
        let bytes: Vec<_> = history
            .evictions()
            .iter()
            .map(|entry| entry.bytes)
            .collect();
        assert_eq!(bytes, (150..250).rev().collect::<Vec<_>>());
        assert_eq!(history.last_of(&id(1)).unwrap().bytes, 247);
        assert_eq!(history.last_of(&ModelId::new("x")), None);
        assert_eq!(history.errors().len(), KEPT);
        assert_eq!(history.errors()[0].message.len(), MESSAGE);
    }
}
