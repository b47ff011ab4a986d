//! Reading images and sounds into the KV cache: their vectors, where text has tokens.

use std::time::Instant;

use fusion_engine::types::{Error, ErrorCode, chat::FinishReason};
use llama_cpp_4::llama_batch_ext::{EmbeddingRows, LlamaBatchExt, LlamaProcessType};

use super::{cache::sequence, decoder::Decoder, job::Output};

/// Cells of a piece that are read next.
struct Portion {
    slot: usize,
    cells: usize,
}

impl Decoder<'_> {
    /// Has vectors made for the requests that run, and ends those whose can't be.
    pub(super) fn ask_for_vectors(&mut self) {
        for slot in 0..self.slots.len() {
            let held = self.cache.held(slot);
            if self.slots[slot].is_running() {
                self.slots[slot].pieces().ask(held);
            }
            let piece = self.slots[slot].pieces().at(held);
            let failed = piece.and_then(|piece| piece.encoding.as_ref()?.vectors()?.err());
            if let Some(error) = failed {
                self.slots[slot].end(Output::Failed(error));
            }
        }
    }

    /// Whether some cells of images could be read now.
    pub(super) fn sees(&self) -> bool {
        self.next_seen().is_some()
    }

    /// Reads a portion for the request taken first: in one go where nobody streams, else as much as a stream can wait for.
    pub(super) fn see(&mut self) {
        let Some(slot) = self.next_seen() else { return };
        let Some(portion) = self.portion(slot) else {
            return;
        };
        let began = Instant::now();
        match self.read(&portion) {
            Ok(()) => {
                self.cache.extend(slot, portion.cells);
                self.observe(portion.cells, began);
            }
            Err(error) => {
                tracing::error!(error, "cells of an image or a sound can't be read");
                self.cache.clear(slot);
                let message = format!("an image or a sound can't be read: {error}");
                let failed = Error::new(ErrorCode::InternalError, message);
                self.slots[slot].end(Output::Failed(failed));
            }
        }
    }

    fn next_seen(&self) -> Option<usize> {
        let has_vectors = |&slot: &usize| {
            let piece = self.slots[slot].pieces().at(self.cache.held(slot));
            let encoding = piece.and_then(|piece| piece.encoding.as_ref());
            encoding.is_some_and(|encoding| matches!(encoding.vectors(), Some(Ok(_))))
        };
        (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_ready())
            .filter(has_vectors)
            .min_by_key(|&slot| self.slots[slot].last_used())
    }

    /// How much of a slot's next piece is read, once there is room for it.
    fn portion(&mut self, slot: usize) -> Option<Portion> {
        let held = self.cache.held(slot);
        let piece = self.slots[slot].pieces().at(held)?;
        let (left, whole) = (piece.end() - held, piece.whole);
        let wanted = if whole {
            left
        } else {
            left.min(self.allowance())
        };
        while self.cache.ledger().free() < wanted && self.slots[slot].is_running() {
            if !self.reclaim() {
                break;
            }
        }
        // Its own cells may have been those that had to go.
        if !self.slots[slot].is_running() || self.cache.held(slot) != held {
            return None;
        }
        let cells = wanted.min(self.cache.ledger().free());
        if cells == 0 || (whole && cells < left) {
            self.slots[slot].end(Output::Finished(FinishReason::Length));
            return None;
        }
        Some(Portion { slot, cells })
    }

    fn read(&mut self, portion: &Portion) -> Result<(), String> {
        let &Portion { slot, cells } = portion;
        let mut batch =
            LlamaBatchExt::new(&self.cache.context).map_err(|error| error.to_string())?;
        let whole = self.fill_with_vectors(&mut batch, slot, cells)?;
        let mix = self.slots[slot].mix().clone();
        self.adapters.apply(&self.cache.context, &mix)?;
        if whole {
            self.cache.context.set_causal_attn(false);
        }
        let outcome = self
            .cache
            .context
            .process(&mut batch, LlamaProcessType::Decode);
        if whole {
            self.cache.context.set_causal_attn(true);
        }
        outcome.map_err(|error| error.to_string())
    }

    /// Says whether the piece's cells look in both directions.
    fn fill_with_vectors(
        &self,
        batch: &mut LlamaBatchExt,
        slot: usize,
        cells: usize,
    ) -> Result<bool, String> {
        let held = self.cache.held(slot);
        let piece = self.slots[slot].pieces().at(held).ok_or("it has gone")?;
        let vectors = piece
            .encoding
            .as_ref()
            .and_then(|encoding| encoding.vectors());
        let Some(Ok(vectors)) = vectors else {
            return Err("it has no vectors".to_owned());
        };
        let (width, sections) = (vectors.len() / piece.cells, batch.n_pos_per_embd());
        let from = held - piece.start;
        let rows = vectors
            .chunks_exact(width.max(1))
            .enumerate()
            .skip(from)
            .take(cells);
        for (cell, row) in rows {
            let entry = batch
                .add_embedding(EmbeddingRows::row(row), sequence(slot))
                .map_err(|error| error.to_string())?;
            batch
                .set_positions(entry, &piece.position_of(cell)[..sections])
                .map_err(|error| error.to_string())?;
        }
        Ok(piece.whole)
    }
}
