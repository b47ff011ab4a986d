//! One sequence of the context, and the request that uses it.

use std::time::{Duration, Instant};

use fusion_engine::types::Class;
use llama_cpp_4::token::LlamaToken;

use super::{
    job::{Job, Output},
    likely::Likely,
    piece::Pieces,
};
use crate::adapters::Mix;

/// A client that has left its channel full for so long is not waited for when others need the room.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The first of `tokens`, as many as the cache holds of this slot, were read; the others are still to be.
#[derive(Default)]
pub(super) struct Slot {
    tokens: Vec<LlamaToken>,
    /// The adapters that they were and will be read with.
    mix: Mix,
    /// Images and sounds among them.
    pieces: Pieces,
    request: Option<Request>,
    last_used: u64,
}

struct Request {
    job: Job,
    generated: usize,
    /// In the batch; a request that isn't waits for room in the cache.
    running: bool,
    was_started: bool,
    full_since: Option<Instant>,
    /// Steps that it was left out of, one after the other.
    skipped: usize,
}

impl Slot {
    pub(super) fn is_busy(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.running)
    }

    /// Whether it has a request that is not in the batch.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_busy() && !self.is_running()
    }

    /// Whether the client has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|request| request.job.outputs.is_closed())
    }

    /// Notices whether the client reads.
    pub(super) fn look_at_client(&mut self) {
        if let Some(request) = &mut self.request {
            // Room for a token and for the end of the generation after it.
            if request.job.outputs.capacity() >= 2 {
                request.full_since = None;
            } else {
                request.full_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Whether it runs, and its client has room for the next token.
    pub(super) fn is_ready(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| request.running && request.full_since.is_none())
    }

    /// Whether the client has read nothing for a while.
    pub(super) fn is_stalled(&self) -> bool {
        let since = self.request.as_ref().and_then(|request| request.full_since);
        since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Whose request it is; without one it hardly matters.
    pub(super) fn class(&self) -> Class {
        self.request
            .as_ref()
            .map_or(Class::Ingest, |request| request.job.class)
    }

    /// Steps that its request was left out of since its last one.
    pub(super) fn skipped(&self) -> usize {
        self.request.as_ref().map_or(0, |request| request.skipped)
    }

    pub(super) fn note_turn(&mut self, left_out: bool) {
        if let Some(request) = &mut self.request {
            request.skipped = if left_out { request.skipped + 1 } else { 0 };
        }
    }

    pub(super) fn tokens(&self) -> &[LlamaToken] {
        &self.tokens
    }

    pub(super) fn is_seeded(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|request| request.job.is_seeded)
    }

    pub(super) fn mix(&self) -> &Mix {
        &self.mix
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// When it was given its last request; higher is later.
    pub(super) fn last_used(&self) -> u64 {
        self.last_used
    }

    /// Tokens that its request may still generate.
    pub(super) fn remaining(&self) -> usize {
        self.request
            .as_ref()
            .map_or(0, |request| request.job.max_tokens - request.generated)
    }

    /// Tokens beyond the next one that it could take in one step.
    pub(super) fn most_guesses(&self) -> usize {
        let Some(request) = &self.request else {
            return 0;
        };
        // A token is drawn after the last guess, and then there is the end.
        let room = request.job.outputs.capacity().saturating_sub(2);
        room.min(self.remaining().saturating_sub(1))
    }

    /// Takes a request, which waits until it is started.
    pub(super) fn take(&mut self, mut job: Job, now: u64) {
        self.tokens = std::mem::take(&mut job.prompt);
        self.mix = std::mem::take(&mut job.mix);
        self.pieces = std::mem::take(&mut job.pieces);
        self.last_used = now;
        self.request = Some(Request {
            job,
            generated: 0,
            running: false,
            was_started: false,
            full_since: None,
            skipped: 0,
        });
    }

    /// Lets the request run, `cached` of whose tokens need not be read; says whether it does so for the first time.
    pub(super) fn start(&mut self, cached: usize) -> bool {
        let Some(request) = &mut self.request else {
            return false;
        };
        request.running = true;
        let first = !std::mem::replace(&mut request.was_started, true);
        if first {
            self.send(Output::Started { cached });
        }
        first
    }

    /// Takes the request out of the batch until it is started again.
    pub(super) fn pause(&mut self) {
        if let Some(request) = &mut self.request {
            request.running = false;
        }
    }

    /// The next tokens to read after those that are `held`, each with its position.
    pub(super) fn unread(
        &self,
        held: usize,
        count: usize,
    ) -> impl Iterator<Item = (usize, LlamaToken)> {
        self.tokens
            .iter()
            .copied()
            .enumerate()
            .skip(held)
            .take(count)
            .map(|(cell, token)| (self.pieces.position(cell), token))
    }

    pub(super) fn job_mut(&mut self) -> Option<&mut Job> {
        self.request.as_mut().map(|request| &mut request.job)
    }

    /// Adds a drawn token, and says whether it was the last one allowed.
    pub(super) fn push(&mut self, token: LlamaToken, likely: Option<Likely>) -> bool {
        self.tokens.push(token);
        self.send(Output::Token(token, likely));
        self.request.as_mut().is_none_or(|request| {
            request.generated += 1;
            request.generated >= request.job.max_tokens
        })
    }

    /// Ends the request with a last word; what the cache holds of it stays for the next prompt that begins alike.
    pub(super) fn end(&mut self, last: Output) {
        self.send(last);
        self.release();
    }

    /// Ends the request without a word.
    pub(super) fn release(&mut self) {
        self.request = None;
        self.pieces.forget_vectors();
    }

    fn send(&self, output: Output) {
        if let Some(request) = &self.request {
            // There was room when the slot joined the batch; a client that has gone is noticed before the next one.
            let _ = request.job.outputs.try_send(output);
        }
    }
}
