//! Giving slots to requests, and turns to those that have one: what `prefix` and `crowd` decide is done here.

use std::cmp::Reverse;

use fusion_engine::types::{Error, ErrorCode};
use llama_cpp_4::token::LlamaToken;

use super::{
    crowd::{self, Stream},
    decoder::Decoder,
    job::{Job, Output},
    prefix::{self, Free, common_prefix},
    shared::add,
    slot::Slot,
};
use crate::adapters::Mix;

/// To copy into the cache pays from so many tokens on.
const WORTH_COPYING: usize = 16;
/// To wait for what another request is reading just now pays from so many tokens on.
const WORTH_WAITING: usize = 32;

impl Decoder<'_> {
    /// Gives a request a slot, where it waits for its turn.
    pub(super) fn place(&mut self, job: Job) {
        let reusable = reusable(&job.prompt);
        let kept = self
            .stowed
            .best(reusable, &job.mix)
            .map(|(_, common)| common);
        let shared = (0..self.slots.len())
            .map(|slot| self.common(slot, reusable, &job.mix))
            .max()
            .filter(|_| self.cache.can_share());
        let anywhere = shared.max(kept).unwrap_or(0);
        let free: Vec<Free> = (0..self.slots.len())
            .filter(|&slot| !self.slots[slot].is_busy())
            .map(|slot| {
                let own = self.common(slot, reusable, &job.mix);
                Free {
                    slot,
                    held: self.cache.held(slot),
                    common: anywhere.max(own),
                    lost: self.cache.ledger().alone_beyond(slot, own),
                    last_used: self.slots[slot].last_used(),
                }
            })
            .collect();
        let Some(chosen) = prefix::choose(&free) else {
            // Admission counts streams, so this can't be; a client waits for an answer all the same.
            let refused = Error::new(ErrorCode::EngineUnavailable, "all slots are busy");
            let _ = job.outputs.try_send(Output::Failed(refused));
            return;
        };
        let own = self.common(chosen.slot, reusable, &job.mix);
        if chosen.lost > 0 {
            self.stow(chosen.slot);
        }
        let pieces = self.slots[chosen.slot].pieces();
        self.cache.keep(chosen.slot, own, pieces);
        self.taken += 1;
        add(&self.shared.tokens_in, job.prompt.len());
        self.slots[chosen.slot].take(job, self.taken);
    }

    /// Starts what may run.
    pub(super) fn resume(&mut self) {
        while self.slots.iter().any(Slot::is_waiting) {
            let streams = self.streams();
            let moving = streams.iter().filter(|stream| stream.is_moving());
            let free = self
                .cache
                .ledger()
                .free_beside(moving.map(|stream| stream.slot));
            if let Some(slot) = crowd::resumed(&streams, free) {
                self.start(slot);
            } else if let Some(slot) = crowd::displaced(&streams) {
                self.take_cells(slot);
            } else {
                return;
            }
        }
    }

    fn start(&mut self, slot: usize) {
        self.take_over(slot);
        let cached = self.cache.held(slot);
        if self.slots[slot].start(cached) {
            add(&self.shared.prefix_cache_hits, usize::from(cached > 0));
        }
    }

    /// Gives a request all of its beginning that another slot holds, or that was kept outside the cache.
    fn take_over(&mut self, slot: usize) {
        if self.take_kept(slot) {
            return;
        }
        if let Some((donor, common)) = self.donor(slot) {
            let pieces = self.slots[donor].pieces();
            self.cache.share(donor, slot, common, pieces);
        }
    }

    fn take_kept(&mut self, slot: usize) -> bool {
        let held = self
            .donor(slot)
            .map_or(self.cache.held(slot), |(_, common)| common);
        let kept = |decoder: &Self| {
            let slot = &decoder.slots[slot];
            let best = decoder.stowed.best(reusable(slot.tokens()), slot.mix());
            best.filter(|&(_, common)| common >= held + WORTH_COPYING)
        };
        let Some((index, _)) = kept(self) else {
            return false;
        };
        self.clear_idle_but(slot, self.stowed.tokens(index));
        // Making room may have changed what is kept.
        kept(self).is_some_and(|(index, common)| self.unstow(index, slot, common))
    }

    /// Takes cells from somebody: an idle slot first, the one left alone longest, then a request that waits, then one that runs
    /// and from now on waits. False when there is nobody else than the one that runs.
    pub(super) fn reclaim(&mut self) -> bool {
        let holding = (0..self.slots.len()).filter(|&slot| self.cache.held(slot) > 0);
        let idle_or_waiting = holding
            .filter(|&slot| !self.slots[slot].is_running())
            .min_by_key(|&slot| self.dispensability(slot));
        let from = idle_or_waiting.or_else(|| crowd::preempted(&self.streams()));
        if let Some(slot) = from {
            self.take_cells(slot);
        }
        from.is_some()
    }

    fn take_cells(&mut self, slot: usize) {
        let tokens = self.cache.held(slot);
        let running = self.slots[slot].is_running();
        tracing::debug!(slot, tokens, running, "cells are taken for others");
        self.slots[slot].pause();
        self.stow(slot);
        self.cache.clear(slot);
    }

    /// Lowest is whose cells go first; of those idle, one whose cells nobody else holds, for only that makes room.
    fn dispensability(&self, slot: usize) -> (bool, bool, u64, Reverse<u64>) {
        let (busy, used) = (self.slots[slot].is_busy(), self.slots[slot].last_used());
        let shared = self.cache.ledger().alone_beyond(slot, 0) == 0;
        if busy {
            (true, false, 0, Reverse(used))
        } else {
            (false, shared, used, Reverse(0))
        }
    }

    fn streams(&self) -> Vec<Stream> {
        let busy = (0..self.slots.len()).filter(|&slot| self.slots[slot].is_busy());
        busy.map(|slot| {
            let it = &self.slots[slot];
            Stream {
                slot,
                class: it.class(),
                taken: it.last_used(),
                running: it.is_running(),
                stalled: it.is_stalled(),
                follows: self.follows(slot),
                unread: if it.is_running() {
                    self.unread(slot)
                } else {
                    it.tokens().len() - self.common_with_moving(slot)
                },
                remaining: it.remaining(),
            }
        })
        .collect()
    }

    /// Tokens of a waiting request that a stream in motion holds: they take no further cells.
    fn common_with_moving(&self, slot: usize) -> usize {
        if !self.cache.can_share() {
            return 0;
        }
        let reusable = reusable(self.slots[slot].tokens());
        (0..self.slots.len())
            .filter(|&other| self.slots[other].is_running() && !self.slots[other].is_stalled())
            .map(|other| self.common(other, reusable, self.slots[slot].mix()))
            .max()
            .unwrap_or(0)
    }

    /// Whether a waiting request begins like a prompt that is being read, further than anybody has read it.
    fn follows(&self, slot: usize) -> bool {
        if !self.cache.can_share() || self.slots[slot].is_running() {
            return false;
        }
        let read = self
            .donor(slot)
            .map_or(self.cache.held(slot), |(_, common)| common);
        let kept = self
            .stowed
            .best(reusable(self.slots[slot].tokens()), self.slots[slot].mix());
        let read = read.max(kept.map_or(0, |(_, common)| common));
        let reusable = reusable(self.slots[slot].tokens());
        (0..self.slots.len())
            .filter(|&other| self.slots[other].is_ready() && self.unread(other) > 1)
            .filter(|&other| self.slots[other].mix() == self.slots[slot].mix())
            .map(|other| common_prefix(self.slots[other].tokens(), reusable))
            .any(|common| common > read + WORTH_WAITING)
    }

    /// The slot that holds most of a request's tokens, and how many, where that is more than its own slot holds.
    fn donor(&self, slot: usize) -> Option<(usize, usize)> {
        if !self.cache.can_share() {
            return None;
        }
        let reusable = reusable(self.slots[slot].tokens());
        (0..self.slots.len())
            .map(|other| (other, self.common(other, reusable, self.slots[slot].mix())))
            .filter(|&(other, common)| other != slot && common > self.cache.held(slot))
            .max_by_key(|&(_, common)| common)
    }

    /// Tokens at the beginning of a prompt that a slot holds, read with the same adapters. Ends with text or a whole image.
    fn common(&self, slot: usize, reusable: &[LlamaToken], mix: &Mix) -> usize {
        let it = &self.slots[slot];
        if it.mix() != mix {
            return 0;
        }
        let held = &it.tokens()[..self.cache.held(slot)];
        it.pieces().uncut(common_prefix(held, reusable))
    }
}

/// The last token of a prompt is always read anew: the next one is drawn from what it answers.
fn reusable<T>(prompt: &[T]) -> &[T] {
    &prompt[..prompt.len().saturating_sub(1)]
}
