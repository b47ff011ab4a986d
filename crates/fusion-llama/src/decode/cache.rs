//! The KV cache of all slots: llama.cpp's memory, and our account of it.

use llama_cpp_4::context::LlamaContext;

use super::{ledger::Ledger, piece::Pieces};

pub(super) struct Cache<'model> {
    pub(super) context: LlamaContext<'model>,
    ledger: Ledger,
    /// Whether a slot can take over the beginning of another one's tokens.
    can_share: bool,
}

impl<'model> Cache<'model> {
    pub(super) fn new(context: LlamaContext<'model>, unified: bool) -> Self {
        // A recurrent state is that of all tokens: it has no beginning that could be shared.
        let whole = context.model.is_recurrent() || context.model.is_hybrid();
        Self {
            ledger: Ledger::new(context.n_seq_max() as usize, context.n_ctx() as usize),
            can_share: unified && !whole,
            context,
        }
    }

    pub(super) fn can_share(&self) -> bool {
        self.can_share
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Tokens of a slot that the model has read.
    pub(super) fn held(&self, slot: usize) -> usize {
        self.ledger.held(slot)
    }

    /// The model has read `tokens` more of a slot.
    pub(super) fn extend(&mut self, slot: usize, tokens: usize) {
        self.ledger.extend(slot, tokens);
    }

    /// Clears all but the first `tokens` of a slot, or all of it where the model's memory can't be cut (recurrent state) or has
    /// lost the beginning (sliding windows).
    ///
    /// `pieces` are those of the slot whose tokens are kept, here as below.
    pub(super) fn keep(&mut self, slot: usize, tokens: usize, pieces: &Pieces) {
        let end = u32::try_from(pieces.position(tokens)).ok();
        let cut = tokens > 0
            && matches!(
                self.context.clear_kv_cache_seq(Some(id(slot)), end, None),
                Ok(true)
            );
        if cut && self.is_whole(slot, tokens, pieces) {
            self.ledger.truncate(slot, tokens);
        } else {
            self.clear(slot);
        }
    }

    /// Gives a slot the first `tokens` of another one, in place of what it held. No cell is copied: they are in both.
    pub(super) fn share(&mut self, from: usize, to: usize, tokens: usize, pieces: &Pieces) {
        self.clear(to);
        let (source, target) = (sequence(from), sequence(to));
        let end = u32::try_from(pieces.position(tokens)).ok();
        let copied = self.context.copy_kv_cache_seq(source, target, Some(0), end);
        if copied.is_ok() && self.is_whole(to, tokens, pieces) {
            self.ledger.share(from, to, tokens);
        } else {
            self.clear(to);
        }
    }

    /// A slot's cells as bytes, at most so many.
    pub(super) fn copy_out(&mut self, slot: usize, most_bytes: usize) -> Option<Vec<u8>> {
        let bytes = self.context.state_seq_get_size(sequence(slot));
        if bytes == 0 || bytes > most_bytes {
            return None;
        }
        let mut state = vec![0; bytes];
        let written = self.context.state_seq_get_data(&mut state, sequence(slot));
        (written == bytes).then_some(state)
    }

    /// Gives a slot cells that were copied out with so many tokens, all of text, in place of what it held; false where they don't
    /// fit.
    pub(super) fn copy_in(&mut self, slot: usize, state: &[u8], tokens: usize) -> bool {
        if tokens > self.ledger.free() + self.ledger.alone_beyond(slot, 0) {
            return false;
        }
        self.clear(slot);
        let read = self.context.state_seq_set_data(state, sequence(slot));
        if read == 0 || !self.is_whole(slot, tokens, &Pieces::default()) {
            self.clear(slot);
            return false;
        }
        self.ledger.extend(slot, tokens);
        true
    }

    pub(super) fn clear(&mut self, slot: usize) {
        // Clearing a whole sequence can't fail.
        let _ = self.context.clear_kv_cache_seq(Some(id(slot)), None, None);
        self.ledger.truncate(slot, 0);
    }

    fn is_whole(&self, slot: usize, tokens: usize, pieces: &Pieces) -> bool {
        let sequence = sequence(slot);
        let last = usize::try_from(self.context.kv_cache_seq_pos_max(sequence));
        let expected = pieces.reached(tokens)..pieces.position(tokens);
        self.context.memory_seq_pos_min(sequence) == 0
            && last.is_ok_and(|last| expected.contains(&last))
    }
}

/// A slot's sequence, as batches name it.
pub(super) fn sequence(slot: usize) -> i32 {
    i32::try_from(slot).unwrap_or(i32::MAX)
}

/// A slot's sequence, as the KV cache's methods name it.
fn id(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
