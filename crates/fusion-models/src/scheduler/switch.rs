//! When a model that is in use must make room for another: without thrash, and without letting anybody wait for ever.

use std::time::{Duration, Instant};

use fusion_types::model::ModelId;

use super::{
    Decision,
    board::{Board, Limits, Model, State},
    start::{Plan, plan, wanted},
};
use crate::{EvictionPolicy, eviction, eviction::Candidate, eviction::Room};

/// How long a model may be without a request in its turn before the turn counts as over: clients that ask one thing after
/// the other need a moment between two. Where nobody came in such a moment the last time, the next one isn't waited for, until a request
/// comes that would have been in time.
const PAUSE: Duration = Duration::from_millis(100);

/// No new slots of the model are handed out, so that it falls idle and can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Yield {
    pub(crate) to: ModelId,
    pub(crate) since: Instant,
}

impl Model {
    /// When the turn is over that a model has once it is loaded: as long as loading it took, within the limits.
    fn turn_ends(&self, limits: &Limits) -> Instant {
        let turn = limits.least_turn.max(self.load_time.unwrap_or_default());
        self.changed_at + turn.min(limits.switch_after)
    }

    /// Until when an idle model isn't evicted for another.
    pub(super) fn stays_until(&self, limits: &Limits) -> Instant {
        let was_used = self.last_used > self.changed_at;
        let pause = if was_used && !self.is_asked_again {
            Duration::ZERO
        } else {
            PAUSE
        };
        self.turn_ends(limits).min(self.last_used + pause)
    }

    /// Somebody asks for it.
    pub(super) fn asked(&mut self, now: Instant) {
        self.is_asked_again |= now < self.last_used + PAUSE;
    }

    /// It is evicted.
    pub(super) fn left(&mut self, now: Instant) {
        self.is_asked_again &= now < self.last_used + PAUSE;
    }

    /// Whether it could be made to yield.
    fn may_yield(&self, limits: &Limits, now: Instant) -> bool {
        self.state.is_loaded() && !self.pinned && now >= self.turn_ends(limits)
    }
}

impl Board {
    /// Models that may be evicted for another now.
    pub(super) fn may_go(&self, now: Instant) -> Vec<Candidate> {
        let mut candidates = self.candidates();
        candidates.retain(|candidate| {
            self.models
                .get(&candidate.model)
                .is_some_and(|model| now >= model.stays_until(&self.limits))
        });
        candidates
    }

    /// When a decision of this file can be due.
    pub(super) fn switches(&self) -> impl Iterator<Item = Instant> {
        let waiting: Vec<_> = self
            .waiters
            .iter()
            .filter(|waiter| {
                self.models
                    .get(&waiter.model)
                    .is_some_and(|model| model.state == State::Unloaded)
            })
            .map(|waiter| waiter.since + self.limits.switch_after)
            .collect();
        let loaded = self
            .models
            .values()
            .filter(|model| model.state.is_loaded() && !waiting.is_empty());
        let turns: Vec<_> = loaded
            .flat_map(|model| {
                [
                    model.turn_ends(&self.limits),
                    model.stays_until(&self.limits),
                ]
            })
            .collect();
        waiting.into_iter().chain(turns)
    }
}

/// Models that need not yield any more: whoever they yielded to is being started, or isn't waited for.
pub(super) fn resume(board: &Board, _now: Instant) -> Vec<Decision> {
    let needed = |other: &ModelId| {
        let waits = board
            .models
            .get(other)
            .is_some_and(|model| !model.state.is_resident());
        waits && board.waiting_for(other).next().is_some()
    };
    let over = board.models.iter().filter(|(_, model)| {
        let to = model.yields.as_ref().map(|yields| &yields.to);
        to.is_some_and(|to| !needed(to))
    });
    over.map(|(id, _)| Decision::Resume { model: id.clone() })
        .collect()
}

/// Makes models in use yield to the one that has waited the longest, once that is longer than the limit. Only one is
/// yielded to at a time.
pub(super) fn yields(board: &Board, now: Instant) -> Vec<Decision> {
    if board.limits.policy == EvictionPolicy::Manual {
        return Vec::new();
    }
    let overdue = |id: &ModelId| {
        let first = board.waiting_for(id).map(|waiter| waiter.since).min();
        first.is_some_and(|since| now >= since + board.limits.switch_after)
    };
    let (free, coming) = (board.free(), board.coming());
    let stuck = wanted(board, now)
        .into_iter()
        .filter(overdue)
        .find_map(|id| {
            let need = Room::of(board.need(&id)?);
            let mut candidates = board.may_go(now);
            candidates.retain(|candidate| !board.are_siblings(&candidate.model, &id));
            let plan = plan(board, Some(&id), need, free, coming, candidates);
            (plan == Plan::InUse).then_some((id, need))
        });
    let Some((to, need)) = stuck else {
        return Vec::new();
    };
    let missing = need.minus(free.plus(coming));
    let mut able = could_yield(board, now);
    able.retain(|candidate| !board.are_siblings(&candidate.model, &to));
    let victims = eviction::choose(able, missing, board.limits.policy);
    victims
        .unwrap_or_default()
        .into_iter()
        .filter(|id| board.models[id].yields.is_none())
        .map(|model| Decision::Yield {
            model,
            to: to.clone(),
        })
        .collect()
}

/// Models that could be made to go, idle or not. One that yields already has stopped at that moment, so that the choice
/// stays with it.
fn could_yield(board: &Board, now: Instant) -> Vec<Candidate> {
    let able = board
        .models
        .iter()
        .filter(|(_, model)| model.may_yield(&board.limits, now));
    able.map(|(id, model)| Candidate {
        last_used: model
            .yields
            .as_ref()
            .map_or(model.last_used, |yields| yields.since),
        ..board.candidate(id, model)
    })
    .collect()
}
