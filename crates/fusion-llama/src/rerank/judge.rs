//! The one thread that asks a language model about documents.
//!
//! What the prompts of a request have in common, its instruction and query, is computed once and kept in sequence 0; each document
//! goes on from there in a sequence of its own, several in one batch.

use std::sync::{Arc, mpsc::Receiver};

use fusion_engine::types::{Error, Result, engine::EngineStats};
use llama_cpp_4::{
    context::{LlamaContext, params::LlamaContextParams},
    llama_batch::LlamaBatch,
    model::LlamaModel,
    token::LlamaToken,
};
use tokio::sync::oneshot;

use crate::worker::{Shared, Worker, apply_threads, gone};

/// Documents in one batch, at most.
pub(super) const MOST_DOCUMENTS: u32 = 16;
/// Jobs that may wait for each slot: its caller's own, and those that callers gave up on.
const QUEUE_PER_SLOT: usize = 4;

/// A handle on the thread.
pub(super) struct Judge(Worker<Job>);

struct Job {
    prompts: Vec<Vec<LlamaToken>>,
    reply: oneshot::Sender<Result<Vec<f32>>>,
}

impl Judge {
    /// # Errors
    /// As for [`Worker::start`].
    pub(super) fn start(
        model: Arc<LlamaModel>,
        threads: u32,
        slots: usize,
        params: impl FnOnce() -> LlamaContextParams + Send + 'static,
        (yes, no): (LlamaToken, LlamaToken),
    ) -> Result<Self> {
        let run = move |context: LlamaContext<'_>, inbox: &Receiver<Job>, shared: &Shared| {
            let batch = LlamaBatch::new(context.n_batch() as usize, 1);
            let mut computation = Computation {
                context,
                batch,
                shared,
                yes,
                no,
                held: Vec::new(),
            };
            while let Ok(job) = inbox.recv() {
                computation.answer(job);
            }
        };
        Worker::start(model, threads, slots * QUEUE_PER_SLOT, params, run).map(Self)
    }

    /// The probability of yes against no at the end of each prompt; dropping the future drops what wasn't begun.
    ///
    /// # Errors
    /// `engine_unavailable` when too much waits, `internal_error` where the model fails.
    pub(super) async fn run(&self, prompts: Vec<Vec<LlamaToken>>) -> Result<Vec<f32>> {
        let (reply, answer) = oneshot::channel();
        self.0.submit(Job { prompts, reply })?;
        answer.await.map_err(|_| gone())?
    }

    pub(super) fn set_threads(&self, threads: u32) {
        self.0.set_threads(threads);
    }

    pub(super) fn stats(&self) -> EngineStats {
        self.0.stats()
    }
}

struct Computation<'run, 'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch,
    shared: &'run Shared,
    yes: LlamaToken,
    no: LlamaToken,
    /// What sequence 0 holds.
    held: Vec<LlamaToken>,
}

impl Computation<'_, '_> {
    fn answer(&mut self, job: Job) {
        let Job { prompts, reply } = job;
        let mut scores = Vec::with_capacity(prompts.len());
        let common = common_beginning(&prompts);
        let room = (self.context.n_ctx() as usize).saturating_sub(common);
        while scores.len() < prompts.len() {
            if reply.is_closed() {
                return;
            }
            apply_threads(&mut self.context, self.shared);
            let waiting = prompts[scores.len()..]
                .iter()
                .map(|prompt| prompt.len() - common);
            let count = group(waiting, room);
            let group = &prompts[scores.len()..scores.len() + count];
            match self.score(group, common) {
                Ok(more) => scores.extend(more),
                Err(error) => {
                    self.forget();
                    tracing::error!(%error, "a batch failed");
                    // The caller may be gone, which is as good as answered.
                    let _ = reply.send(Err(error));
                    return;
                }
            }
        }
        let _ = reply.send(Ok(scores));
    }

    fn score(&mut self, prompts: &[Vec<LlamaToken>], common: usize) -> Result<Vec<f32>> {
        self.hold(prompts.first().map_or(&[][..], |prompt| &prompt[..common]))?;
        let sequences = || (1_i32..).zip(prompts);
        for (sequence, _) in sequences() {
            // The whole of sequence 0: models whose state can't be cut can share it too.
            self.context
                .copy_kv_cache_seq(0, sequence, None, None)
                .map_err(|error| failed(&error))?;
        }
        let tokens = sequences().flat_map(|(sequence, prompt)| {
            let last = prompt.len() - 1;
            let own = prompt.iter().enumerate().skip(common);
            own.map(move |(position, token)| (sequence, position, *token, position == last))
        });
        let tokens: Vec<_> = tokens.collect();
        let mut scores = Vec::with_capacity(prompts.len());
        for part in tokens.chunks(self.context.n_batch() as usize) {
            scores.extend(self.read(part)?);
        }
        for (sequence, _) in (1_u32..).zip(prompts) {
            // Clearing a whole sequence can't fail.
            let _ = self.context.clear_kv_cache_seq(Some(sequence), None, None);
        }
        self.shared.add_reused(prompts.len().saturating_sub(1));
        Ok(scores)
    }

    /// Makes sequence 0 hold exactly these tokens, from what it held before as far as they agree.
    fn hold(&mut self, wanted: &[LlamaToken]) -> Result<()> {
        let mut kept = agreeing(&self.held, wanted);
        if kept < self.held.len() {
            let end = u32::try_from(kept).ok();
            let cut = kept > 0
                && matches!(
                    self.context.clear_kv_cache_seq(Some(0), end, None),
                    Ok(true)
                );
            if !cut {
                self.forget();
                kept = 0;
            }
        }
        self.held.truncate(kept);
        let missing: Vec<_> = wanted.iter().enumerate().skip(kept).collect();
        for part in missing.chunks(self.context.n_batch() as usize) {
            let part: Vec<_> = part
                .iter()
                .map(|(position, token)| (0, *position, **token, false))
                .collect();
            self.read(&part)?;
        }
        self.held = wanted.to_vec();
        Ok(())
    }

    /// Computes one batch of (sequence, position, token, whether it ends its prompt), and the score of each that does.
    fn read(&mut self, part: &[(i32, usize, LlamaToken, bool)]) -> Result<Vec<f32>> {
        self.batch.clear();
        for (sequence, position, token, ends) in part {
            let position = i32::try_from(*position).unwrap_or(i32::MAX);
            self.batch
                .add(*token, position, &[*sequence], *ends)
                .map_err(|error| failed(&error))?;
        }
        self.context
            .decode(&mut self.batch)
            .map_err(|error| failed(&error))?;
        self.shared.add_tokens(part.len());
        let ends = (0_i32..).zip(part).filter(|(_, (.., ends))| *ends);
        ends.map(|(index, _)| self.probability(index)).collect()
    }

    /// Of yes, where only yes and no can be said.
    fn probability(&self, index: i32) -> Result<f32> {
        let logits = self.context.get_logits_ith(index);
        let logit = |token: LlamaToken| usize::try_from(token.0).ok().and_then(|at| logits.get(at));
        match (logit(self.yes), logit(self.no)) {
            (Some(yes), Some(no)) if (yes - no).is_finite() => Ok(1.0 / (1.0 + (no - yes).exp())),
            _ => Err(failed(&"it made numbers that aren't finite")),
        }
    }

    fn forget(&mut self) {
        self.context.clear_kv_cache();
        self.held.clear();
    }
}

/// Tokens that all prompts begin with, but for at least one of each.
fn common_beginning(prompts: &[Vec<LlamaToken>]) -> usize {
    let Some((first, others)) = prompts.split_first() else {
        return 0;
    };
    let most = prompts
        .iter()
        .map(Vec::len)
        .min()
        .unwrap_or(0)
        .saturating_sub(1);
    others
        .iter()
        .map(|prompt| agreeing(first, prompt))
        .fold(most, usize::min)
}

fn agreeing(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How many documents of these lengths are computed together: those that have room, and at least one.
fn group(lengths: impl Iterator<Item = usize>, room: usize) -> usize {
    let mut taken = 0;
    let fitting = lengths.take(MOST_DOCUMENTS as usize).take_while(|length| {
        taken += length;
        taken <= room
    });
    fitting.count().max(1)
}

fn failed(why: &impl std::fmt::Display) -> Error {
    Error::internal(format!("the model could not compute a document: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<LlamaToken> {
        ids.iter().copied().map(LlamaToken::new).collect()
    }

    #[test]
    fn what_prompts_share_leaves_a_token_of_each() {
        let common = |prompts: &[&[i32]]| {
            common_beginning(&prompts.iter().map(|ids| tokens(ids)).collect::<Vec<_>>())
        };
        assert_eq!(common(&[&[1, 2, 3], &[1, 2, 4]]), 2);
        assert_eq!(common(&[&[1, 2, 3], &[1, 2]]), 1);
        assert_eq!(common(&[&[1, 2, 3]]), 2);
        assert_eq!(common(&[&[1], &[2]]), 0);
        assert_eq!(common(&[]), 0);
    }

    #[test]
    fn documents_are_computed_together_as_far_as_there_is_room() {
        assert_eq!(group([10, 20, 30].into_iter(), 30), 2);
        assert_eq!(group([40, 1].into_iter(), 30), 1);
        assert_eq!(group([1; 100].into_iter(), 1000), MOST_DOCUMENTS as usize);
    }
}
