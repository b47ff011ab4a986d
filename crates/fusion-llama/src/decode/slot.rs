//! One sequence of the context, and the request that uses it.

use llama_cpp_4::token::LlamaToken;

use super::{
    job::{Job, Output},
    plan::Ready,
    prefix::{Free, common_prefix},
};

/// The first `held` of `tokens` are in the KV cache; the others are still to be read.
#[derive(Default)]
pub(super) struct Slot {
    tokens: Vec<LlamaToken>,
    held: usize,
    request: Option<Request>,
    last_used: u64,
}

struct Request {
    job: Job,
    generated: usize,
}

impl Slot {
    pub(super) fn is_busy(&self) -> bool {
        self.request.is_some()
    }

    /// Whether the client has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|request| request.job.outputs.is_closed())
    }

    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn as_free(&self, slot: usize, prompt: &[LlamaToken]) -> Option<Free> {
        // The last token of a prompt is always read anew: the next one is drawn from what it answers.
        let reusable = &prompt[..prompt.len().saturating_sub(1)];
        let common = common_prefix(&self.tokens[..self.held], reusable);
        (!self.is_busy()).then_some(Free {
            slot,
            held: self.held,
            common,
            last_used: self.last_used,
        })
    }

    pub(super) fn as_ready(&self, slot: usize) -> Option<Ready> {
        // Room for a token and for the end of the generation after it.
        let has_room = self.request.as_ref()?.job.outputs.capacity() >= 2;
        has_room.then(|| Ready {
            slot,
            unread: self.tokens.len() - self.held,
        })
    }

    /// Takes a request whose first `cached` tokens are in the KV cache.
    pub(super) fn take(&mut self, mut job: Job, cached: usize, now: u64) {
        self.tokens = std::mem::take(&mut job.prompt);
        self.held = cached;
        self.last_used = now;
        self.request = Some(Request { job, generated: 0 });
        self.send(Output::Started { cached });
    }

    /// The next tokens to read, each with its position.
    pub(super) fn unread(&self, count: usize) -> impl Iterator<Item = (usize, LlamaToken)> {
        self.tokens
            .iter()
            .copied()
            .enumerate()
            .skip(self.held)
            .take(count)
    }

    /// The model has read `count` more tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.held += count;
    }

    pub(super) fn job_mut(&mut self) -> Option<&mut Job> {
        self.request.as_mut().map(|request| &mut request.job)
    }

    /// Adds a drawn token, and says whether it was the last one allowed.
    pub(super) fn push(&mut self, token: LlamaToken) -> bool {
        self.tokens.push(token);
        self.send(Output::Token(token));
        self.request.as_mut().is_none_or(|request| {
            request.generated += 1;
            request.generated >= request.job.max_tokens
        })
    }

    /// Ends the request with a last word; what the slot holds stays for the next prompt that begins alike.
    pub(super) fn end(&mut self, last: Output) {
        self.send(last);
        self.release();
    }

    /// Ends the request without a word.
    pub(super) fn release(&mut self) {
        self.request = None;
        self.tokens.truncate(self.held);
    }

    /// The KV cache holds nothing of this slot any more.
    pub(super) fn forget(&mut self) {
        self.held = 0;
        if !self.is_busy() {
            self.tokens.clear();
        }
    }

    fn send(&self, output: Output) {
        if let Some(request) = &self.request {
            // There was room when the slot joined the batch; a client that has gone is noticed before the next one.
            let _ = request.job.outputs.try_send(output);
        }
    }
}
