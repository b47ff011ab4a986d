//! The few numbers that cross between the decode thread and everybody else.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Written by the decode thread, but for `threads`; each number is true by itself.
#[derive(Default)]
pub(crate) struct Shared {
    /// Computation threads wanted from the next step on.
    pub(crate) threads: AtomicU32,
    pub(crate) slots_busy: AtomicU32,
    /// Cells of the KV cache in use, those of free slots included.
    pub(crate) tokens_held: AtomicU64,
    /// What idle slots held, kept outside the KV cache.
    pub(crate) stowed_bytes: AtomicU64,
    pub(crate) tokens_in: AtomicU64,
    pub(crate) tokens_out: AtomicU64,
    pub(crate) decode_steps: AtomicU64,
    pub(crate) prefix_cache_hits: AtomicU64,
    /// Tokens guessed, and those of them that were right.
    pub(crate) draft_tokens: AtomicU64,
    pub(crate) draft_accepted: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Relaxed);
}
