//! The one thread that computes.
//!
//! Requests arrive as jobs through a bounded queue. Before each batch the thread takes in whatever has arrived, forgets the jobs
//! whose callers have gone, and lets the next job in turn lead: its longest sequence sets the batch's length, and sequences of
//! about that length fill it up, whosever they are. So small requests share batches, and none waits for all of a large one.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread,
};

use fusion_engine::types::{Error, ErrorCode, Result};
use rten::ThreadPool;
use tokio::sync::oneshot;

use crate::{
    backend::Backend,
    batch::{Batch, fill},
    fault::contain_panic,
    readout::{Reader, Readout},
    tokenizer::Tokens,
};

/// A handle on the thread, which ends when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Compute {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
}

/// What is set and read from outside while the thread runs.
struct Shared {
    threads: AtomicU32,
    tokens: AtomicU64,
}

struct Job {
    sequences: Vec<Tokens>,
    readout: Readout,
    reply: oneshot::Sender<Result<Outputs>>,
}

/// One readout a sequence, in the job's order.
pub(crate) type Outputs = Vec<Vec<f32>>;

impl Compute {
    /// # Errors
    /// `engine_unavailable` where no thread can be started.
    pub(crate) fn start(model: Model, threads: u32, queue: usize) -> Result<Self> {
        let (jobs, inbox) = sync_channel(queue);
        let shared = Arc::new(Shared {
            threads: AtomicU32::new(threads),
            tokens: AtomicU64::new(0),
        });
        let worker = Worker {
            pool: pool(threads),
            pool_threads: threads,
            shared: Arc::clone(&shared),
            model,
            inbox,
            active: VecDeque::new(),
            rows: Vec::new(),
            next_id: 0,
        };
        thread::Builder::new()
            .name("compute".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| {
                let what = format!("can't start the compute thread: {error}");
                Error::new(ErrorCode::EngineUnavailable, what)
            })?;
        Ok(Self { jobs, shared })
    }

    /// Computes the sequences; dropping the future drops what wasn't begun.
    ///
    /// # Errors
    /// `engine_unavailable` when too much waits, `internal_error` where the model fails on a sequence.
    pub(crate) async fn run(&self, sequences: Vec<Tokens>, readout: Readout) -> Result<Outputs> {
        let (reply, answer) = oneshot::channel();
        let job = Job {
            sequences,
            readout,
            reply,
        };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::new(ErrorCode::EngineUnavailable, "the engine's queue is full")
            }
            TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }

    pub(crate) fn set_threads(&self, threads: u32) {
        self.shared.threads.store(threads.max(1), Ordering::Relaxed);
    }

    /// Tokens computed so far, padding left out.
    pub(crate) fn tokens(&self) -> u64 {
        self.shared.tokens.load(Ordering::Relaxed)
    }
}

fn gone() -> Error {
    Error::new(ErrorCode::EngineCrashed, "the compute thread has ended")
}

/// Never more threads than the machine runs at once: they would only take turns.
pub(crate) fn pool(threads: u32) -> Arc<ThreadPool> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    Arc::new(ThreadPool::with_num_threads(
        (threads as usize).clamp(1, cores),
    ))
}

/// What the thread computes with.
pub(crate) struct Model {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) reader: Reader,
    pub(crate) pad: u32,
}

struct Worker {
    model: Model,
    shared: Arc<Shared>,
    inbox: Receiver<Job>,
    pool: Arc<ThreadPool>,
    pool_threads: u32,
    /// In turn: the first leads the next batch.
    active: VecDeque<Active>,
    /// All that waits, longest first.
    rows: Vec<Row>,
    next_id: u64,
}

struct Active {
    id: u64,
    readout: Readout,
    reply: oneshot::Sender<Result<Outputs>>,
    outputs: Outputs,
    left: usize,
}

struct Row {
    job: u64,
    index: usize,
    tokens: Tokens,
}

impl Worker {
    fn run(mut self) {
        while self.take_jobs() {
            self.forget_the_gone();
            self.step();
        }
    }

    /// Waits where there is nothing to do; false when there never will be.
    fn take_jobs(&mut self) -> bool {
        if self.active.is_empty() {
            match self.inbox.recv() {
                Ok(job) => self.begin(job),
                Err(_) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(job) => self.begin(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn begin(&mut self, job: Job) {
        let Job {
            sequences,
            readout,
            reply,
        } = job;
        let id = self.next_id;
        self.next_id += 1;
        let left = sequences.len();
        if left == 0 {
            // The caller may be gone, which is as good as answered.
            let _ = reply.send(Ok(Vec::new()));
            return;
        }
        let rows = sequences.into_iter().enumerate();
        self.rows.extend(rows.map(|(index, tokens)| Row {
            job: id,
            index,
            tokens,
        }));
        self.rows.sort_by_key(|row| Reverse(row.tokens.len()));
        let outputs = vec![Vec::new(); left];
        self.active.push_back(Active {
            id,
            readout,
            reply,
            outputs,
            left,
        });
    }

    fn forget_the_gone(&mut self) {
        self.active.retain(|job| !job.reply.is_closed());
        let active = &self.active;
        self.rows
            .retain(|row| active.iter().any(|job| job.id == row.job));
    }

    fn step(&mut self) {
        self.follow_thread_limit();
        let rows = self.next_rows();
        if rows.is_empty() {
            return;
        }
        let sequences: Vec<&[u32]> = rows.iter().map(|row| row.tokens.ids.as_slice()).collect();
        let batch = Batch::new(&sequences, self.model.pad);
        match self.states(&batch) {
            Ok(states) => self.hand_out(rows, &states, batch.length),
            Err(error) => self.fail(&rows, &error),
        }
    }

    fn states(&self, batch: &Batch) -> Result<Vec<f32>> {
        let states = contain_panic(|| self.model.backend.hidden_states(batch, &self.pool))
            .map_err(|panic| Error::internal(format!("the model failed: {panic}")))??;
        if states.len() == batch.ids.len() * self.model.reader.dimension {
            Ok(states)
        } else {
            Err(Error::internal("the model's output has an unexpected size"))
        }
    }

    fn follow_thread_limit(&mut self) {
        let wanted = self.shared.threads.load(Ordering::Relaxed);
        if wanted != self.pool_threads {
            self.pool = pool(wanted);
            self.pool_threads = wanted;
        }
    }

    /// Takes the next batch out of those that wait, and ends the leader's turn.
    fn next_rows(&mut self) -> Vec<Row> {
        let Some(leader) = self.active.front().map(|job| job.id) else {
            return Vec::new();
        };
        self.active.rotate_left(1);
        let Some(first) = self.rows.iter().position(|row| row.job == leader) else {
            return Vec::new();
        };
        let count = fill(self.rows[first..].iter().map(|row| row.tokens.len()));
        self.rows.drain(first..first + count).collect()
    }

    fn hand_out(&mut self, rows: Vec<Row>, states: &[f32], length: usize) {
        let reader = self.model.reader;
        let size = length * reader.dimension;
        for (row, states) in rows.into_iter().zip(states.chunks_exact(size)) {
            self.shared
                .tokens
                .fetch_add(row.tokens.len() as u64, Ordering::Relaxed);
            let Some(job) = self.active.iter_mut().find(|job| job.id == row.job) else {
                continue;
            };
            let own = &states[..row.tokens.len() * reader.dimension];
            job.outputs[row.index] = reader.read(&job.readout, &row.tokens, own);
            job.left -= 1;
        }
        self.answer_the_done();
    }

    fn answer_the_done(&mut self) {
        while let Some(at) = self.active.iter().position(|job| job.left == 0) {
            if let Some(job) = self.active.remove(at) {
                let _ = job.reply.send(finite(job.outputs));
            }
        }
    }

    /// Ends every job that has a row in the batch, with the batch's error.
    fn fail(&mut self, rows: &[Row], error: &Error) {
        let failed = |id: u64| rows.iter().any(|row| row.job == id);
        while let Some(at) = self.active.iter().position(|job| failed(job.id)) {
            if let Some(job) = self.active.remove(at) {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
        self.rows.retain(|row| !failed(row.job));
    }
}

fn finite(outputs: Outputs) -> Result<Outputs> {
    if outputs.iter().flatten().all(|value| value.is_finite()) {
        Ok(outputs)
    } else {
        Err(Error::internal("the model made numbers that aren't finite"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Pooling;

    /// Answers each token with its id, and panics or fails on some.
    struct Echo;

    const PANICS: u32 = 13;
    const FAILS: u32 = 14;

    impl Backend for Echo {
        fn hidden_states(&self, batch: &Batch, _: &Arc<ThreadPool>) -> Result<Vec<f32>> {
            assert!(!batch.ids.contains(&PANICS), "an unlucky token");
            if batch.ids.contains(&FAILS) {
                return Err(Error::internal("a token that fails"));
            }
            Ok(batch.ids.iter().map(|id| *id as f32).collect())
        }
    }

    fn start() -> Compute {
        let reader = Reader {
            pooling: Pooling::Max,
            normalize: false,
            dimension: 1,
        };
        let backend = Box::new(Echo);
        Compute::start(
            Model {
                backend,
                reader,
                pad: 0,
            },
            1,
            4,
        )
        .unwrap()
    }

    fn sequence(ids: &[u32]) -> Tokens {
        Tokens {
            ids: ids.to_vec(),
            body: 0..ids.len(),
        }
    }

    #[tokio::test]
    async fn outputs_come_in_the_order_of_the_sequences() {
        let compute = start();
        let lengths = [3_u32, 700, 1, 20, 900, 19, 2];
        let sequences = lengths.map(|length| sequence(&vec![length; length as usize]));
        let outputs = compute
            .run(sequences.into(), Readout::Pooled)
            .await
            .unwrap();
        assert_eq!(outputs, lengths.map(|length| vec![length as f32]));
        assert_eq!(compute.tokens(), u64::from(lengths.iter().sum::<u32>()));
    }

    #[tokio::test]
    async fn a_panic_or_failure_ends_its_own_request_only() {
        let compute = start();
        for (unlucky, words) in [(PANICS, "an unlucky token"), (FAILS, "a token that fails")] {
            let sequences = vec![sequence(&[1]), sequence(&[unlucky])];
            let error = compute.run(sequences, Readout::Pooled).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::InternalError);
            assert!(error.message.contains(words), "{error}");
            let next = compute
                .run(vec![sequence(&[2])], Readout::Pooled)
                .await
                .unwrap();
            assert_eq!(next, [[2.0]]);
        }
    }
}
