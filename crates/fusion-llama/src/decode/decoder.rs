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
    cache::{Cache, sequence},
    job::{Job, Output},
    pace::Pace,
    plan::{Ready, Room, Share, plan},
    shared::{Shared, add},
    slot::{PATIENCE, Slot},
};

pub(super) struct Decoder<'model> {
    pub(super) cache: Cache<'model>,
    pub(super) slots: Vec<Slot>,
    batch: LlamaBatch,
    /// Tokens in a batch, at most: fewer after the KV cache had no room.
    limit: usize,
    pace: Pace,
    /// Requests taken so far: the clock of the slots.
    pub(super) taken: u64,
    threads: u32,
    pub(super) shared: Arc<Shared>,
}

impl<'model> Decoder<'model> {
    /// `unified`: the context was made with one KV cache for all slots.
    pub(super) fn new(context: LlamaContext<'model>, unified: bool, shared: Arc<Shared>) -> Self {
        let limit = context.n_batch() as usize;
        Self {
            batch: LlamaBatch::new(limit, 1),
            slots: (0..context.n_seq_max()).map(|_| Slot::default()).collect(),
            limit,
            pace: Pace::default(),
            taken: 0,
            threads: 0,
            cache: Cache::new(context, unified),
            shared,
        }
    }

    /// Runs until the senders of jobs are gone.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while self.admit(jobs) {
            self.apply_threads();
            self.slots.iter_mut().for_each(Slot::look_at_client);
            self.resume();
            let shares = self.plan();
            if shares.is_empty() {
                self.publish();
                self.wait();
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

    /// Until somebody wakes this thread, or a client has been slow for too long for one that waits for its room.
    fn wait(&self) {
        if self.slots.iter().any(Slot::is_waiting) {
            thread::park_timeout(PATIENCE);
        } else {
            thread::park();
        }
    }

    /// The next batch, for which there is room in the KV cache.
    fn plan(&mut self) -> Vec<Share> {
        loop {
            let ready: Vec<_> = (0..self.slots.len())
                .filter(|&slot| self.slots[slot].is_ready())
                .map(|slot| Ready {
                    slot,
                    unread: self.unread(slot),
                })
                .collect();
            let free = self.cache.ledger().free();
            let shares = plan(&ready, self.room(self.limit));
            if shares.iter().map(|share| share.tokens).sum::<usize>() <= free {
                return shares;
            }
            if self.reclaim() {
                continue;
            }
            // Nobody is left who could make room.
            if free > 0 {
                return plan(&ready, self.room(free.min(self.limit)));
            }
            for slot in ready {
                self.slots[slot.slot].end(Output::Finished(FinishReason::Length));
            }
            self.resume();
        }
    }

    fn room(&self, batch: usize) -> Room {
        Room {
            batch,
            prefill_beside_streams: self.pace.prefill_beside_streams(self.limit),
        }
    }

    /// Tokens of a slot's request that the model hasn't read.
    pub(super) fn unread(&self, slot: usize) -> usize {
        self.slots[slot].tokens().len() - self.cache.held(slot)
    }

    fn apply_threads(&mut self) {
        let wanted = self.shared.threads.load(Relaxed);
        if wanted != self.threads {
            self.threads = wanted;
            let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
            self.cache.context.set_n_threads(wanted, wanted);
        }
    }

    fn step(&mut self, shares: &[Share]) {
        let began = Instant::now();
        let outcome = self
            .fill(shares)
            .and_then(|()| Ok(self.cache.context.decode(&mut self.batch)?));
        match outcome {
            Ok(()) => {
                self.limit = self.cache.context.n_batch() as usize;
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
            let held = self.cache.held(share.slot);
            let unread = self.slots[share.slot].unread(held, share.tokens);
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
            self.cache.extend(share.slot, share.tokens);
            let slot = &mut self.slots[share.slot];
            let Some(job) = slot.job_mut().filter(|_| share.draws) else {
                continue;
            };
            let index = i32::try_from(last - 1).unwrap_or(i32::MAX);
            match job.sampler.sample(&mut self.cache.context, index, false) {
                Ok(token) if self.cache.context.model.is_eog_token(token) => {
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

    /// The KV cache has no room for the batch, for all that we know of it: takes room from others, then tries half the batch,
    /// down to a single token.
    fn make_room(&mut self, shares: &[Share]) {
        let tokens: usize = shares.iter().map(|share| share.tokens).sum();
        tracing::warn!(tokens, "the KV cache has no room");
        if self.reclaim() {
            return;
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
            self.cache.clear(share.slot);
        }
    }

    fn publish(&self) {
        let busy = self.slots.iter().filter(|slot| slot.is_busy()).count();
        self.shared
            .slots_busy
            .store(u32::try_from(busy).unwrap_or(u32::MAX), Relaxed);
        let held = self.cache.ledger().used();
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
