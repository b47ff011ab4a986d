//! The loop of the decode thread.

use std::{
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::Instant,
};

use fusion_engine::types::{Error, ErrorCode, chat::FinishReason};
use llama_cpp_4::{DecodeError, context::LlamaContext, llama_batch::LlamaBatch};

use super::{
    job::{Job, Output},
    pace::Pace,
    plan::{Room, Share, plan},
    prefix,
    shared::{Shared, add},
    slot::Slot,
};

pub(super) struct Decoder<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch,
    slots: Vec<Slot>,
    /// Tokens in a batch, at most: fewer after the KV cache had no room.
    limit: usize,
    pace: Pace,
    /// Requests taken so far: the clock of the slots.
    taken: u64,
    threads: u32,
    shared: Arc<Shared>,
}

impl<'model> Decoder<'model> {
    pub(super) fn new(context: LlamaContext<'model>, shared: Arc<Shared>) -> Self {
        let limit = context.n_batch() as usize;
        Self {
            batch: LlamaBatch::new(limit, 1),
            slots: (0..context.n_seq_max()).map(|_| Slot::default()).collect(),
            limit,
            pace: Pace::default(),
            taken: 0,
            threads: 0,
            context,
            shared,
        }
    }

    /// Runs until the senders of jobs are gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while self.admit(jobs) {
            self.apply_threads();
            let ready: Vec<_> = self
                .slots
                .iter()
                .enumerate()
                .filter_map(|(index, slot)| slot.as_ready(index))
                .collect();
            let room = Room {
                batch: self.limit,
                prefill_beside_streams: self.pace.prefill_beside_streams(self.limit),
            };
            let shares = plan(&ready, room);
            if shares.is_empty() {
                self.publish();
                thread::park();
            } else {
                self.step(&shares);
                self.publish();
            }
        }
    }

    /// Frees the slots whose clients have gone and gives slots to new requests; false when there will be none any more.
    fn admit(&mut self, jobs: &Receiver<Job>) -> bool {
        loop {
            let next = jobs.try_recv();
            // After the receive: a client that made room for this request has gone by now.
            for slot in self.slots.iter_mut().filter(|slot| slot.is_abandoned()) {
                slot.release();
            }
            match next {
                Ok(job) => self.place(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn place(&mut self, job: Job) {
        let free: Vec<_> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(index, slot)| slot.as_free(index, &job.prompt))
            .collect();
        let Some(chosen) = prefix::choose(&free) else {
            // Admission counts streams, so this can't be; a client waits for an answer all the same.
            let refused = Error::new(ErrorCode::EngineUnavailable, "all slots are busy");
            let _ = job.outputs.try_send(Output::Failed(refused));
            return;
        };
        let cached = self.keep_prefix(chosen.slot, chosen.common);
        self.taken += 1;
        add(&self.shared.tokens_in, job.prompt.len());
        add(&self.shared.prefix_cache_hits, usize::from(cached > 0));
        self.slots[chosen.slot].take(job, cached, self.taken);
    }

    /// Clears all but the first `common` tokens of a sequence, and says how many are left: none where the model's memory can't
    /// be cut (recurrent state), or has lost the beginning (sliding windows).
    fn keep_prefix(&mut self, slot: usize, common: usize) -> usize {
        let (sequence, id) = (sequence(slot), id(slot));
        let end = u32::try_from(common).ok();
        let cut = common > 0
            && matches!(
                self.context.clear_kv_cache_seq(Some(id), end, None),
                Ok(true)
            );
        let whole = self.context.memory_seq_pos_min(sequence) == 0
            && usize::try_from(self.context.kv_cache_seq_pos_max(sequence))
                .is_ok_and(|last| last + 1 == common);
        if cut && whole {
            return common;
        }
        self.clear(slot);
        0
    }

    fn clear(&mut self, slot: usize) {
        // Clearing a whole sequence can't fail.
        let _ = self.context.clear_kv_cache_seq(Some(id(slot)), None, None);
        self.slots[slot].forget();
    }

    fn apply_threads(&mut self) {
        let wanted = self.shared.threads.load(Relaxed);
        if wanted != self.threads {
            self.threads = wanted;
            let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
            self.context.set_n_threads(wanted, wanted);
        }
    }

    fn step(&mut self, shares: &[Share]) {
        let began = Instant::now();
        let outcome = self
            .fill(shares)
            .and_then(|()| self.context.decode(&mut self.batch).map_err(Failure::from));
        match outcome {
            Ok(()) => {
                self.limit = self.context.n_batch() as usize;
                self.draw(shares);
                self.measure(shares, began);
            }
            Err(Failure::NoRoom) => self.make_room(shares),
            Err(Failure::Other(error)) => self.fail(shares, &error),
        }
    }

    fn fill(&mut self, shares: &[Share]) -> Result<(), Failure> {
        self.batch.clear();
        for share in shares {
            let unread = self.slots[share.slot].unread(share.tokens);
            for (index, (position, token)) in unread.enumerate() {
                let draws = share.draws && index + 1 == share.tokens;
                let position = i32::try_from(position).unwrap_or(i32::MAX);
                self.batch
                    .add(token, position, &[sequence(share.slot)], draws)
                    .map_err(|error| Failure::Other(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Draws the next token of every slot that has read all of its own.
    fn draw(&mut self, shares: &[Share]) {
        let mut last = 0;
        let mut first = true;
        for share in shares {
            last += share.tokens;
            let slot = &mut self.slots[share.slot];
            slot.advance(share.tokens);
            let Some(job) = slot.job_mut().filter(|_| share.draws) else {
                continue;
            };
            let index = i32::try_from(last - 1).unwrap_or(i32::MAX);
            match job.sampler.sample(&mut self.context, index, false) {
                Ok(token) if self.context.model.is_eog_token(token) => {
                    slot.end(Output::Finished(FinishReason::Stop))
                }
                Ok(token) => {
                    job.sampler.accept(token, true);
                    // Counted before they are sent, so that who has seen a token sees it counted.
                    add(&self.shared.decode_steps, usize::from(first));
                    add(&self.shared.tokens_out, 1);
                    first = false;
                    if slot.push(token) {
                        slot.end(Output::Finished(FinishReason::Length));
                    }
                }
                Err(error) => slot.end(Output::Failed(Error::internal(format!(
                    "sampling failed: {error}"
                )))),
            }
        }
    }

    fn measure(&mut self, shares: &[Share], began: Instant) {
        let streams = shares.iter().filter(|share| share.tokens == 1).count();
        let prompts: usize = shares
            .iter()
            .map(|share| share.tokens)
            .filter(|tokens| *tokens > 1)
            .sum();
        let took = began.elapsed();
        tracing::trace!(streams, prompts, ?took, "step");
        self.pace.observe(streams, prompts, took);
    }

    /// The KV cache has no room for the batch: gives up what free slots hold and tries half of it, down to a single token.
    fn make_room(&mut self, shares: &[Share]) {
        let tokens: usize = shares.iter().map(|share| share.tokens).sum();
        tracing::warn!(tokens, "the KV cache has no room");
        for slot in 0..self.slots.len() {
            if !self.slots[slot].is_busy() && self.slots[slot].held() > 0 {
                self.clear(slot);
            }
        }
        if tokens > 1 {
            self.limit = tokens / 2;
        } else {
            self.fail(shares, "the KV cache is full");
        }
    }

    /// Ends the requests of a batch that couldn't be computed: what their sequences hold now is unknown.
    fn fail(&mut self, shares: &[Share], error: &str) {
        tracing::error!(error, "a batch failed");
        for share in shares {
            let error = Error::new(
                ErrorCode::EngineUnavailable,
                format!("the model could not go on: {error}"),
            );
            self.slots[share.slot].end(Output::Failed(error));
            self.clear(share.slot);
        }
    }

    fn publish(&self) {
        let busy = self.slots.iter().filter(|slot| slot.is_busy()).count();
        let held: usize = self.slots.iter().map(Slot::held).sum();
        self.shared
            .slots_busy
            .store(u32::try_from(busy).unwrap_or(u32::MAX), Relaxed);
        self.shared.tokens_held.store(held as u64, Relaxed);
    }
}

enum Failure {
    NoRoom,
    Other(String),
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::NoKvCacheSlot => Self::NoRoom,
            error => Self::Other(error.to_string()),
        }
    }
}

/// A slot's sequence, as batches name it.
fn sequence(slot: usize) -> i32 {
    i32::try_from(slot).unwrap_or(i32::MAX)
}

/// A slot's sequence, as the KV cache's methods name it.
fn id(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}
