//! The handle of the decode thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::abort,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle, Thread},
};

use fusion_engine::types::{Error, ErrorCode, Result, engine::EngineStats};
use llama_cpp_4::{context::LlamaContext, model::LlamaModel};

use super::{
    decoder::Decoder,
    draft::{Draft, DraftModel},
    job::Job,
    shared::Shared,
};
use crate::{
    adapters::{Adapters, LoadedAdapters},
    llama,
    shape::{Kv, Shape},
};

/// Dropping it ends the thread after the step in progress; streams that still run end with an error.
pub(crate) struct DecodeThread {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    waker: Waker,
    shared: Arc<Shared>,
    memory: Memory,
}

/// Bytes, by llama.cpp's own account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) weights: u64,
    pub(crate) context: u64,
    pub(crate) compute: u64,
    /// What may be kept of idle slots outside the KV cache, at most.
    pub(crate) stowed: u64,
    /// Tokens that a slot can hold.
    pub(crate) context_length: u32,
    /// Tokens that all slots together can hold.
    pub(crate) cells: u32,
}

/// Makes the decode thread look again.
#[derive(Clone)]
pub(crate) struct Waker(Thread);

impl Waker {
    pub(crate) fn wake(&self) {
        self.0.unpark();
    }
}

impl DecodeThread {
    /// Starts the thread, and waits until it has made its context.
    ///
    /// # Errors
    /// `engine_unavailable` where the context can't be made: most often, not enough memory.
    pub(crate) fn start(
        model: Arc<LlamaModel>,
        shape: Shape,
        adapters: Adapters,
        draft: Option<Arc<LlamaModel>>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.threads.store(shape.device.threads, Relaxed);
        let (jobs, inbox) = mpsc::sync_channel(shape.slots as usize);
        let (ready, made) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("decode".to_owned())
            .spawn({
                let shared = shared.clone();
                move || {
                    let parts = Parts {
                        model: &model,
                        adapters: &adapters,
                        draft: draft.as_deref(),
                    };
                    guarded(|| decode(&parts, shape, shared, &ready, &inbox))
                }
            })
            .map_err(|error| unavailable(format!("can't start the decode thread: {error}")))?;
        let memory = made
            .recv()
            .map_err(|_| unavailable("the decode thread ended early"))??;
        let waker = Waker(thread.thread().clone());
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            waker,
            shared,
            memory,
        })
    }

    /// # Errors
    /// `engine_unavailable` where more jobs wait than there are slots.
    pub(crate) fn submit(&self, job: Job) -> Result<()> {
        let jobs = self
            .jobs
            .as_ref()
            .ok_or_else(|| unavailable("the engine is ending"))?;
        jobs.try_send(job)
            .map_err(|_| unavailable("all slots are busy"))?;
        self.waker.wake();
        Ok(())
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(crate) fn set_threads(&self, threads: u32) {
        self.shared.threads.store(threads.max(1), Relaxed);
    }

    pub(crate) fn memory(&self) -> Memory {
        self.memory
    }

    pub(crate) fn stats(&self) -> EngineStats {
        let Memory {
            weights,
            context,
            compute,
            stowed,
            cells,
            ..
        } = self.memory;
        let cell_bytes = context / u64::from(cells.max(1));
        EngineStats {
            weights_bytes: weights,
            kv_used_bytes: self.shared.tokens_held.load(Relaxed) * cell_bytes,
            kv_reserved_bytes: context,
            scratch_bytes: compute + stowed,
            stowed_bytes: self.shared.stowed_bytes.load(Relaxed),
            slots_busy: self.shared.slots_busy.load(Relaxed),
            tokens_in: self.shared.tokens_in.load(Relaxed),
            tokens_out: self.shared.tokens_out.load(Relaxed),
            decode_steps: self.shared.decode_steps.load(Relaxed),
            prefix_cache_hits: self.shared.prefix_cache_hits.load(Relaxed),
            draft_tokens: self.shared.draft_tokens.load(Relaxed),
            draft_accepted: self.shared.draft_accepted.load(Relaxed),
        }
    }
}

impl Drop for DecodeThread {
    fn drop(&mut self) {
        self.jobs = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It ends the process rather than panic.
            let _ = thread.join();
        }
    }
}

/// What is loaded.
struct Parts<'a> {
    model: &'a LlamaModel,
    adapters: &'a Adapters,
    draft: Option<&'a LlamaModel>,
}

fn decode(
    parts: &Parts,
    shape: Shape,
    shared: Arc<Shared>,
    ready: &SyncSender<Result<Memory>>,
    jobs: &Receiver<Job>,
) {
    let made = make(parts, shape);
    let sent = match made {
        Ok((context, adapters, draft)) => {
            let mut memory = memory(&context, shape);
            memory.add(parts.adapters, &draft);
            let sent = ready.send(Ok(memory));
            if sent.is_ok() {
                let unified = shape.kv == Kv::Shared;
                let draft = (draft, shape.speculation.most);
                Decoder::new(context, unified, memory.stowed, adapters, draft, shared).run(jobs);
            }
            sent
        }
        Err(error) => ready.send(Err(error)),
    };
    if sent.is_err() {
        tracing::debug!("nobody waits for the model any more");
    }
}

/// The context, with what goes with it.
type Made<'model> = (LlamaContext<'model>, LoadedAdapters, Draft<'model>);

fn make<'a>(parts: &Parts<'a>, shape: Shape) -> Result<Made<'a>> {
    let backend = llama::backend()?;
    let context = |model: &'a LlamaModel, params| {
        llama::attempt(|| model.new_context(backend, params))
            .map_err(|why| unavailable(format!("can't make a context: {why}")))
    };
    let adapters = LoadedAdapters::load(parts.model, parts.adapters)?;
    let draft = match parts.draft {
        Some(model) => {
            let context = context(model, shape.draft_params())?;
            Draft::Model(DraftModel::new(
                context,
                shape.speculation.least_probability,
            ))
        }
        None if shape.speculation.by_ngram => Draft::Ngram,
        None => Draft::Nobody,
    };
    Ok((
        context(parts.model, shape.context_params())?,
        adapters,
        draft,
    ))
}

impl Memory {
    /// What stands beside the model and its context.
    fn add(&mut self, adapters: &Adapters, draft: &Draft) {
        self.weights += adapters.bytes;
        for entry in draft.memory() {
            self.weights += entry.model as u64;
            self.compute += (entry.context + entry.compute) as u64;
        }
    }
}

fn memory(context: &LlamaContext, shape: Shape) -> Memory {
    let mut memory = Memory {
        context_length: context.n_ctx_seq(),
        cells: context.n_ctx(),
        ..Memory::default()
    };
    for entry in context.memory_breakdown() {
        memory.weights += entry.model as u64;
        memory.context += entry.context as u64;
        memory.compute += entry.compute as u64;
    }
    memory.stowed = shape.stowed_bytes(memory.context);
    memory
}

/// An engine without its decode thread can only refuse; a process that ends is noticed and started again.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("the decode thread panicked");
        abort();
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::EngineUnavailable, message)
}
