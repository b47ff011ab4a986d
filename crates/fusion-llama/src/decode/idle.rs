//! What slots hold goes out of the KV cache while nobody needs it, and comes back when somebody does.

use super::{decoder::Decoder, piece::Pieces, plan::Share, stowed::Prefix};

/// Attention looks at this many cells in any case.
const FREE_OF_CHARGE: usize = 256;
/// So many tokens are read in a step that takes no longer than the copying.
const SOON_READ: usize = 64;

impl Decoder<'_> {
    /// Clears the idle slots' cells before others run, and keeps what they held. The rest of a prompt that is soon read goes first:
    /// its answer would begin later by the copying.
    pub(super) fn stow_idle(&mut self, shares: &[Share]) {
        let tokens: usize = shares.iter().map(|share| share.tokens).sum();
        let begins_soon = shares.iter().any(|share| share.draws && share.tokens > 1);
        if self.stowed.most_bytes() == 0
            || self.cache.ledger().used() <= FREE_OF_CHARGE
            || begins_soon && tokens <= SOON_READ
        {
            return;
        }
        for slot in 0..self.slots.len() {
            // Cells that others hold too would stay where they are.
            if !self.slots[slot].is_busy()
                && self.cache.ledger().alone_beyond(slot, 0) > 0
                && self.stow(slot)
            {
                self.cache.clear(slot);
            }
        }
    }

    /// Copies what a slot holds out of the cache; false where that is too much to keep, or not text alone.
    pub(super) fn stow(&mut self, slot: usize) -> bool {
        if self.stowed.most_bytes() == 0 || !self.slots[slot].pieces().is_plain() {
            return false;
        }
        let held = self.cache.held(slot);
        let tokens = &self.slots[slot].tokens()[..held];
        let mix = self.slots[slot].mix().clone();
        if self.stowed.holds(tokens, &mix) {
            return true;
        }
        let Some(state) = self.cache.copy_out(slot, self.stowed.most_bytes()) else {
            return false;
        };
        let tokens = tokens.to_vec();
        self.stowed.add(Prefix { tokens, mix, state });
        true
    }

    /// Gives a slot the first `common` tokens of something kept, in place of what it held; false where
    /// the cache has no room for all that was kept.
    pub(super) fn unstow(&mut self, index: usize, slot: usize, common: usize) -> bool {
        let Some(prefix) = self.stowed.touch(index) else {
            return false;
        };
        let copied = self.cache.copy_in(slot, &prefix.state, prefix.tokens.len());
        if copied {
            self.cache.keep(slot, common, &Pieces::default());
        }
        copied
    }

    /// Clears other idle slots, the one left alone longest first, until so many cells are free, and keeps what they held.
    pub(super) fn clear_idle_but(&mut self, slot: usize, cells: usize) {
        while self.cache.ledger().free() < cells {
            let idle = (0..self.slots.len())
                .filter(|&other| other != slot && !self.slots[other].is_busy())
                .filter(|&other| self.cache.held(other) > 0)
                .min_by_key(|&other| self.slots[other].last_used());
            let Some(idle) = idle else { return };
            self.stow(idle);
            self.cache.clear(idle);
        }
    }
}
