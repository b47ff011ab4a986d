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
use llama_cpp_4::{DecodeError, context::LlamaContext, llama_batch::LlamaBatch, token::LlamaToken};

use super::{
    cache::{Cache, sequence},
    draft::{Draft, MOST_STREAMS},
    job::{Job, Output},
    likely::likely,
    mixes,
    pace::Pace,
    piece::number,
    plan::{Ready, Room, Share, plan},
    shared::{Shared, add},
    slot::{PATIENCE, Slot},
    stowed::Stowed,
};
use crate::adapters::{LoadedAdapters, Mix};

pub(super) struct Decoder<'model> {
    pub(super) cache: Cache<'model>,
    pub(super) slots: Vec<Slot>,
    pub(super) stowed: Stowed,
    pub(super) adapters: LoadedAdapters,
    draft: Draft<'model>,
    /// Tokens guessed at once for a stream, at most.
    most_guesses: usize,
    /// Those of the last batch.
    mix: Mix,
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
    /// `unified`: the context was made with one KV cache for all slots. `stowed_bytes`: how much of what idle slots held may be
    /// kept outside of it.
    pub(super) fn new(
        context: LlamaContext<'model>,
        unified: bool,
        stowed_bytes: u64,
        adapters: LoadedAdapters,
        (draft, most_guesses): (Draft<'model>, usize),
        shared: Arc<Shared>,
    ) -> Self {
        let limit = context.n_batch() as usize;
        Self {
            batch: LlamaBatch::new(limit, 1),
            slots: (0..context.n_seq_max()).map(|_| Slot::default()).collect(),
            stowed: Stowed::new(usize::try_from(stowed_bytes).unwrap_or(usize::MAX)),
            adapters,
            draft,
            most_guesses,
            mix: Mix::default(),
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
            self.ask_for_vectors();
            let shares = self.plan();
            if shares.is_empty() && !self.sees() {
                self.publish();
                self.wait();
                continue;
            }
            if !shares.is_empty() {
                self.stow_idle(&shares);
                self.step(&shares);
            }
            self.see();
            self.publish();
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
                .map(|slot| self.ready(slot))
                .filter(|ready| ready.unread > 0)
                .collect();
            let free = self.cache.ledger().free();
            let (ready, streams_elsewhere) = self.next_mix(ready);
            let shares = plan(&ready, self.room(self.limit, streams_elsewhere));
            if shares.iter().map(|share| share.tokens).sum::<usize>() <= free {
                return shares;
            }
            if self.reclaim() {
                continue;
            }
            // Nobody is left who could make room.
            if free > 0 {
                return plan(&ready, self.room(free.min(self.limit), streams_elsewhere));
            }
            for slot in ready {
                self.slots[slot.slot].end(Output::Finished(FinishReason::Length));
            }
            self.resume();
        }
    }

    /// Of the slots that can run, those with the adapters whose turn it is; and whether streams are among the others.
    fn next_mix(&mut self, ready: Vec<Ready>) -> (Vec<Ready>, bool) {
        let mixes: Vec<&Mix> = ready.iter().map(|it| self.slots[it.slot].mix()).collect();
        if let Some(mix) = mixes::next(&mixes, &self.mix) {
            self.mix = mix.clone();
        }
        let (now, later): (Vec<_>, Vec<_>) = ready
            .into_iter()
            .partition(|it| *self.slots[it.slot].mix() == self.mix);
        let streams_elsewhere = later.iter().any(|it| it.unread == 1);
        (now, streams_elsewhere)
    }

    fn room(&self, batch: usize, streams_elsewhere: bool) -> Room {
        Room {
            batch,
            prefill_beside_streams: self.pace.prefill_beside_streams(self.limit),
            streams_elsewhere,
        }
    }

    /// The text that a slot has to read, up to the next image or sound.
    ///
    /// With a seed the last token of a prompt comes by itself, as it does where the others were remembered: read together with
    /// them, it is computed in another order, and what is drawn may differ.
    fn ready(&self, slot: usize) -> Ready {
        let unread = self.unread(slot);
        let text = self.slots[slot].pieces().text_from(self.cache.held(slot));
        let last = usize::from(self.slots[slot].is_seeded() && text >= unread && unread > 1);
        let text = text.min(unread - last);
        Ready {
            slot,
            class: self.slots[slot].class(),
            unread: text,
            more: text < unread,
            skipped: self.slots[slot].skipped(),
        }
    }

    /// Cells of an image that may be read at once.
    pub(super) fn allowance(&self) -> usize {
        let streams =
            (0..self.slots.len()).any(|slot| self.slots[slot].is_ready() && self.unread(slot) == 1);
        let room = self.room(self.limit, false);
        if streams {
            room.prefill_beside_streams.min(room.batch)
        } else {
            room.batch
        }
    }

    /// So many cells of an image were read since then.
    pub(super) fn observe(&mut self, cells: usize, began: Instant) {
        self.pace.observe(0, cells, began.elapsed());
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
            self.draft.set_threads(wanted);
        }
    }

    fn step(&mut self, shares: &[Share]) {
        let began = Instant::now();
        self.count_skipped(shares);
        let guesses = self.guess(shares);
        let outcome = self
            .fill(shares, &guesses)
            .and_then(|()| {
                let applied = self.adapters.apply(&self.cache.context, &self.mix);
                applied.map_err(Failure::Other)
            })
            .and_then(|()| Ok(self.cache.context.decode(&mut self.batch)?));
        match outcome {
            Ok(()) => {
                self.limit = self.cache.context.n_batch() as usize;
                self.draw(shares, &guesses);
                self.measure(shares, began);
            }
            Err(Failure::NoRoom) => self.make_room(shares),
            Err(Failure::Other(error)) => self.fail(shares, &error),
        }
    }

    /// Who could have gone on and was left out goes first another time.
    fn count_skipped(&mut self, shares: &[Share]) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let left_out = slot.is_ready() && !shares.iter().any(|share| share.slot == index);
            slot.note_turn(left_out);
        }
    }

    /// For each share the tokens that may follow it: none beside prompts, nor beside many streams.
    fn guess(&mut self, shares: &[Share]) -> Vec<Vec<LlamaToken>> {
        let mut guesses = vec![Vec::new(); shares.len()];
        let streams = shares.iter().all(|share| share.draws && share.tokens == 1);
        if self.draft.is_nobody() || !streams || shares.len() > MOST_STREAMS {
            return guesses;
        }
        let mut free = self.cache.ledger().free().saturating_sub(shares.len());
        for (guesses, share) in guesses.iter_mut().zip(shares) {
            let slot = &self.slots[share.slot];
            let most = self.most_guesses.min(slot.most_guesses()).min(free);
            // Whoever guesses reads tokens, and an image has none.
            if most > 0 && slot.pieces().is_plain() {
                *guesses = self.draft.propose(share.slot, slot.tokens(), most);
                free -= guesses.len();
            }
        }
        let count = guesses.iter().map(Vec::len).sum();
        add(&self.shared.draft_tokens, count);
        guesses
    }

    fn fill(&mut self, shares: &[Share], guesses: &[Vec<LlamaToken>]) -> Result<(), Failure> {
        self.batch.clear();
        for (share, guesses) in shares.iter().zip(guesses) {
            let held = self.cache.held(share.slot);
            let unread = self.slots[share.slot].unread(held, share.tokens);
            let slot = &self.slots[share.slot];
            let guessed = (held + share.tokens..)
                .map(|cell| slot.pieces().position(cell))
                .zip(guesses.iter().copied());
            for (index, (position, token)) in unread.chain(guessed).enumerate() {
                let draws = share.draws && index + 1 >= share.tokens;
                let position = number(position);
                self.batch
                    .add(token, position, &[sequence(share.slot)], draws)
                    .map_err(|error| Failure::Other(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Draws the next token of every slot that has read all of its own, and those after it while they were guessed.
    fn draw(&mut self, shares: &[Share], guesses: &[Vec<LlamaToken>]) {
        let mut next = 0;
        let mut drawn = 0;
        for (share, guesses) in shares.iter().zip(guesses) {
            let held = self.cache.held(share.slot) + share.tokens;
            let first = next + share.tokens - 1;
            next += share.tokens + guesses.len();
            self.cache.extend(share.slot, share.tokens + guesses.len());
            if !share.draws {
                continue;
            }
            let mut right = 0;
            while self.draw_one(share.slot, first + right, &mut drawn)
                == guesses.get(right).copied()
                && right < guesses.len()
            {
                right += 1;
            }
            if right < guesses.len() {
                self.forget_guesses(share.slot, held + right);
            }
            add(&self.shared.draft_accepted, right);
        }
    }

    /// Draws the next token of a slot from an output of the batch; none where the request ended without it.
    fn draw_one(&mut self, slot: usize, output: usize, drawn: &mut usize) -> Option<LlamaToken> {
        let slot = &mut self.slots[slot];
        let job = slot.job_mut()?;
        let output = i32::try_from(output).unwrap_or(i32::MAX);
        match job.sampler.sample(&mut self.cache.context, output, false) {
            Ok(token) if self.cache.context.model.is_eog_token(token) => {
                slot.end(Output::Finished(FinishReason::Stop));
                None
            }
            Ok(token) => {
                job.sampler.accept(token, true);
                let logits = || self.cache.context.get_logits_ith(output);
                let likely = job.top_logprobs.map(|top| likely(logits(), token, top));
                // Counted before they are sent, so that who has seen a token sees it counted.
                add(&self.shared.decode_steps, usize::from(*drawn == 0));
                add(&self.shared.tokens_out, 1);
                *drawn += 1;
                if slot.push(token, likely) {
                    slot.end(Output::Finished(FinishReason::Length));
                }
                Some(token)
            }
            Err(error) => {
                let error = Error::internal(format!("sampling failed: {error}"));
                slot.end(Output::Failed(error));
                None
            }
        }
    }

    /// Takes wrong guesses out of the cache.
    fn forget_guesses(&mut self, slot: usize, held: usize) {
        let pieces = self.slots[slot].pieces();
        self.cache.keep(slot, held, pieces);
        if self.cache.held(slot) != held {
            tracing::warn!("this model's memory can't be cut, so nothing is guessed any more");
            self.draft = Draft::Nobody;
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
        let stowed = self.stowed.bytes();
        self.shared.stowed_bytes.store(stowed as u64, Relaxed);
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
