//! A thread of its own for one context: whoever embeds or scores hands it jobs.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::abort,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
};

use fusion_engine::types::{Error, ErrorCode, Result, engine::EngineStats};
use llama_cpp_4::{
    context::{LlamaContext, params::LlamaContextParams},
    model::LlamaModel,
};

use crate::llama;

/// A handle on the thread, which ends once this is dropped and what it has begun is done.
pub(crate) struct Worker<J> {
    jobs: Option<SyncSender<J>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    memory: EngineStats,
}

/// What crosses between the thread and everybody else while it runs.
#[derive(Default)]
pub(crate) struct Shared {
    threads: AtomicU32,
    tokens: AtomicU64,
    reused: AtomicU64,
}

impl Shared {
    pub(crate) fn threads(&self) -> u32 {
        self.threads.load(Relaxed)
    }

    pub(crate) fn add_tokens(&self, count: usize) {
        self.tokens.fetch_add(count as u64, Relaxed);
    }

    /// A beginning was computed once for several texts.
    pub(crate) fn add_reused(&self, count: usize) {
        self.reused.fetch_add(count as u64, Relaxed);
    }
}

impl<J: Send + 'static> Worker<J> {
    /// Starts the thread, and waits until it has made its context; `run` then has it until the last job is done.
    ///
    /// # Errors
    /// `engine_unavailable` where the context can't be made: most often, not enough memory.
    pub(crate) fn start(
        model: Arc<LlamaModel>,
        threads: u32,
        queue: usize,
        params: impl FnOnce() -> LlamaContextParams + Send + 'static,
        run: impl FnOnce(LlamaContext<'_>, &Receiver<J>, &Shared) + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.threads.store(threads, Relaxed);
        let (jobs, inbox) = mpsc::sync_channel(queue);
        let (ready, made) = mpsc::sync_channel(1);
        let work = {
            let shared = Arc::clone(&shared);
            move || match context(&model, params()) {
                Ok(context) => {
                    if ready.send(Ok(memory(&context))).is_ok() {
                        run(context, &inbox, &shared);
                    }
                }
                // Whoever started this waits for it.
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = thread::Builder::new()
            .name("compute".to_owned())
            .spawn(move || guarded(work))
            .map_err(|error| unavailable(format!("can't start the compute thread: {error}")))?;
        let memory = made
            .recv()
            .map_err(|_| unavailable("the compute thread ended early"))??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            shared,
            memory,
        })
    }

    /// # Errors
    /// `engine_unavailable` when too much waits, `engine_crashed` where the thread has ended.
    pub(crate) fn submit(&self, job: J) -> Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => unavailable("the engine's queue is full"),
            TrySendError::Disconnected(_) => gone(),
        })
    }

    pub(crate) fn set_threads(&self, threads: u32) {
        self.shared.threads.store(threads, Relaxed);
    }

    /// Bytes by llama.cpp's own account, and what was computed so far.
    pub(crate) fn stats(&self) -> EngineStats {
        EngineStats {
            tokens_in: self.shared.tokens.load(Relaxed),
            prefix_cache_hits: self.shared.reused.load(Relaxed),
            ..self.memory.clone()
        }
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends the process rather than panic.
            let _ = thread.join();
        }
    }
}

/// Follows the threads that the server allows.
pub(crate) fn apply_threads(context: &mut LlamaContext<'_>, shared: &Shared) {
    let wanted = i32::try_from(shared.threads()).unwrap_or(i32::MAX);
    if context.n_threads() != wanted {
        context.set_n_threads(wanted, wanted);
    }
}

pub(crate) fn gone() -> Error {
    Error::new(ErrorCode::EngineCrashed, "the compute thread has ended")
}

fn context(model: &LlamaModel, params: LlamaContextParams) -> Result<LlamaContext<'_>> {
    let backend = llama::backend()?;
    llama::attempt(|| model.new_context(backend, params))
        .map_err(|why| unavailable(format!("can't make a context: {why}")))
}

fn memory(context: &LlamaContext) -> EngineStats {
    let mut stats = EngineStats::default();
    for entry in context.memory_breakdown() {
        stats.weights_bytes += entry.model as u64;
        stats.kv_reserved_bytes += entry.context as u64;
        stats.scratch_bytes += entry.compute as u64;
    }
    stats
}

/// An engine without its compute thread can only refuse; a process that ends is noticed and started again.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("the compute thread panicked");
        abort();
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::EngineUnavailable, message)
}
