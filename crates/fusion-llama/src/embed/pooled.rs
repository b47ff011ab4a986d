//! The one thread that computes sequences, each of which becomes one vector or one score.
//!
//! Requests arrive as jobs. Before each batch the thread takes in whatever has arrived, forgets the jobs whose callers have gone, and
//! lets the next job in turn lead: its sequences come first, others' fill the batch up. So small requests share batches, and none
//! waits for all of a large one.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
};

use fusion_engine::types::{Error, Result, engine::EngineStats};
use llama_cpp_4::{
    context::LlamaContext, llama_batch::LlamaBatch, model::LlamaModel, token::LlamaToken,
};
use tokio::sync::oneshot;

use super::{queue::fill, shape::PooledShape};
use crate::worker::{Shared, Worker, apply_threads, gone};

/// Jobs that may wait for each slot: its caller's own, and those that callers gave up on.
const QUEUE_PER_SLOT: usize = 4;

/// What is read of a pooled state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readout {
    /// A vector of unit length.
    UnitVector,
    /// The numbers of the classification head as they are.
    Head,
}

/// A handle on the thread.
pub(crate) struct Pooled(Worker<Job>);

struct Job {
    sequences: Vec<Vec<LlamaToken>>,
    lengths: Vec<usize>,
    outputs: Vec<Vec<f32>>,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

impl Pooled {
    /// # Errors
    /// As for [`Worker::start`].
    pub(crate) fn start(
        model: Arc<LlamaModel>,
        shape: PooledShape,
        readout: Readout,
        slots: usize,
    ) -> Result<Self> {
        let most = shape.most_sequences();
        let run = move |context: LlamaContext<'_>, inbox: &Receiver<Job>, shared: &Shared| {
            Computation::new(context, readout, most, shared).run(inbox)
        };
        let threads = shape.device.threads;
        let params = move || shape.context_params();
        Worker::start(model, threads, slots * QUEUE_PER_SLOT, params, run).map(Self)
    }

    /// One output a sequence, in their order; dropping the future drops what wasn't begun.
    ///
    /// # Errors
    /// `engine_unavailable` when too much waits, `internal_error` where the model fails.
    pub(crate) async fn run(&self, sequences: Vec<Vec<LlamaToken>>) -> Result<Vec<Vec<f32>>> {
        let (reply, answer) = oneshot::channel();
        self.0.submit(Job {
            lengths: sequences.iter().map(Vec::len).collect(),
            outputs: Vec::with_capacity(sequences.len()),
            sequences,
            reply,
        })?;
        answer.await.map_err(|_| gone())?
    }

    pub(crate) fn set_threads(&self, threads: u32) {
        self.0.set_threads(threads);
    }

    pub(crate) fn stats(&self) -> EngineStats {
        self.0.stats()
    }
}

struct Computation<'run, 'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch,
    readout: Readout,
    most_sequences: usize,
    shared: &'run Shared,
    /// In turn: the first leads the next batch.
    jobs: VecDeque<Job>,
}

impl<'run, 'model> Computation<'run, 'model> {
    fn new(
        context: LlamaContext<'model>,
        readout: Readout,
        most_sequences: usize,
        shared: &'run Shared,
    ) -> Self {
        Self {
            batch: LlamaBatch::new(context.n_batch() as usize, 1),
            context,
            readout,
            most_sequences,
            shared,
            jobs: VecDeque::new(),
        }
    }

    fn run(mut self, inbox: &Receiver<Job>) {
        while self.take_jobs(inbox) {
            self.jobs.retain(|job| !job.reply.is_closed());
            self.step();
            self.answer_the_done();
        }
    }

    /// Waits where there is nothing to do; false when there never will be.
    fn take_jobs(&mut self, inbox: &Receiver<Job>) -> bool {
        if self.jobs.is_empty() {
            match inbox.recv() {
                Ok(job) => self.jobs.push_back(job),
                Err(_) => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(job) => self.jobs.push_back(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn step(&mut self) {
        let waiting = self
            .jobs
            .iter()
            .map(|job| &job.lengths[job.outputs.len()..]);
        let taken = fill(waiting, self.most_sequences);
        let sequences: Vec<Vec<LlamaToken>> = self
            .jobs
            .iter_mut()
            .zip(&taken)
            .flat_map(|(job, count)| {
                let next = job.outputs.len();
                job.sequences[next..next + count]
                    .iter_mut()
                    .map(std::mem::take)
            })
            .collect();
        if sequences.is_empty() {
            return;
        }
        apply_threads(&mut self.context, self.shared);
        match self.compute(&sequences) {
            Ok(outputs) => {
                let mut outputs = outputs.into_iter();
                for (job, count) in self.jobs.iter_mut().zip(&taken) {
                    job.outputs.extend(outputs.by_ref().take(*count));
                }
            }
            Err(error) => self.fail(&taken, &error),
        }
        self.jobs.rotate_left(1.min(self.jobs.len()));
    }

    /// All of a batch at once, but for a long sequence that may be read in parts.
    fn compute(&mut self, sequences: &[Vec<LlamaToken>]) -> Result<Vec<Vec<f32>>> {
        self.context.clear_kv_cache();
        let most = self.context.n_batch() as usize;
        let tokens = sequences.iter().zip(0..).flat_map(|(tokens, sequence)| {
            let last = tokens.len() - 1;
            (0..).zip(tokens).map(move |(position, token)| {
                (
                    *token,
                    position,
                    sequence,
                    usize::try_from(position) == Ok(last),
                )
            })
        });
        let mut outputs = Vec::with_capacity(sequences.len());
        let mut ended = Vec::new();
        let mut tokens = tokens.peekable();
        self.batch.clear();
        while let Some((token, position, sequence, is_last)) = tokens.next() {
            self.batch
                .add(token, position, &[sequence], true)
                .map_err(|error| failed(&error))?;
            ended.extend(is_last.then_some(sequence));
            let is_full = self.batch.n_tokens() as usize == most;
            if is_full || tokens.peek().is_none() {
                self.context
                    .decode(&mut self.batch)
                    .map_err(|error| failed(&error))?;
                for sequence in ended.drain(..) {
                    outputs.push(self.read(sequence)?);
                }
                self.shared.add_tokens(self.batch.n_tokens() as usize);
                self.batch.clear();
            }
        }
        Ok(outputs)
    }

    fn read(&self, sequence: i32) -> Result<Vec<f32>> {
        let state = self
            .context
            .embeddings_seq_ith(sequence)
            .map_err(|error| failed(&error))?;
        if !state.iter().all(|value| value.is_finite()) {
            return Err(failed(&"it made numbers that aren't finite"));
        }
        Ok(match self.readout {
            Readout::UnitVector => unit_length(state),
            Readout::Head => state.to_vec(),
        })
    }

    fn answer_the_done(&mut self) {
        while let Some(at) = self
            .jobs
            .iter()
            .position(|job| job.outputs.len() == job.lengths.len())
        {
            if let Some(job) = self.jobs.remove(at) {
                // The caller may be gone, which is as good as answered.
                let _ = job.reply.send(Ok(job.outputs));
            }
        }
    }

    /// Ends every job that has a sequence in the batch, with the batch's error.
    fn fail(&mut self, taken: &[usize], error: &Error) {
        tracing::error!(%error, "a batch failed");
        let jobs = std::mem::take(&mut self.jobs);
        for (job, count) in jobs.into_iter().zip(taken) {
            if *count == 0 {
                self.jobs.push_back(job);
            } else {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }
}

/// A vector of zeros stays one.
fn unit_length(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    let length = length.max(f32::MIN_POSITIVE);
    vector.iter().map(|value| value / length).collect()
}

fn failed(why: &impl std::fmt::Display) -> Error {
    Error::internal(format!("the model could not compute a text: {why}"))
}
