//! The thread that runs the projector, beside the decode thread.

use std::sync::{
    Arc, OnceLock, PoisonError, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc::{Receiver, Sender},
};

use fusion_engine::types::{Error, Result};
use llama_cpp_4::mtmd::MtmdInputChunks;

use super::projector::Shared;
use crate::{decode::Waker, llama};

/// The pieces of one prompt, prepared for the projector.
pub(super) struct Chunks(pub(super) MtmdInputChunks);

// SAFETY: the list owns its chunks, which are plain memory; nothing in them is tied to the thread that made them.
#[expect(unsafe_code, reason = "the wrapper says nothing about threads")]
unsafe impl Send for Chunks {}

// SAFETY: once it is made the list is only read, and reading changes nothing in it.
#[expect(unsafe_code, reason = "the wrapper says nothing about threads")]
unsafe impl Sync for Chunks {}

/// Vectors of one piece, to be made when they are asked for.
pub(crate) struct Encoding {
    vectors: Arc<OnceLock<Result<Vec<f32>>>>,
    was_asked: AtomicBool,
    chunks: Arc<Chunks>,
    index: usize,
    requests: Sender<Request>,
}

pub(super) struct Request {
    /// Nobody waits once it has gone.
    vectors: Weak<OnceLock<Result<Vec<f32>>>>,
    chunks: Arc<Chunks>,
    index: usize,
}

impl Encoding {
    pub(super) fn new(chunks: Arc<Chunks>, index: usize, requests: Sender<Request>) -> Self {
        Self {
            vectors: Arc::default(),
            was_asked: AtomicBool::new(false),
            chunks,
            index,
            requests,
        }
    }

    /// Has the vectors made, unless they are already, or soon will be. Never waits.
    pub(crate) fn ask(&self) {
        if self.was_asked.swap(true, Relaxed) {
            return;
        }
        let request = Request {
            vectors: Arc::downgrade(&self.vectors),
            chunks: self.chunks.clone(),
            index: self.index,
        };
        if self.requests.send(request).is_err() {
            let _ = self.vectors.set(Err(ending()));
        }
    }

    /// `None` while they aren't made.
    pub(crate) fn vectors(&self) -> Option<Result<&[f32]>> {
        let made = self.vectors.get()?;
        Some(made.as_deref().map_err(Clone::clone))
    }
}

/// Encodes piece by piece, for as long as somebody could ask.
pub(super) fn run(shared: &Shared, requests: &Receiver<Request>, waker: &Waker) {
    while let Ok(request) = requests.recv() {
        let Some(vectors) = request.vectors.upgrade() else {
            continue;
        };
        let _ = vectors.set(encode(shared, &request));
        waker.wake();
    }
}

fn encode(shared: &Shared, request: &Request) -> Result<Vec<f32>> {
    let chunk = request
        .chunks
        .0
        .get(request.index)
        .ok_or_else(|| Error::internal("a piece of the prompt is missing"))?;
    let mut context = shared
        .context
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    llama::attempt(|| context.encode_chunk(&shared.model, &chunk))
        .map_err(|why| Error::internal(format!("an image or a sound can't be encoded: {why}")))?;
    let vectors = context.output_embd();
    if vectors.is_empty() {
        return Err(Error::internal("the projector made nothing"));
    }
    Ok(vectors.to_vec())
}

fn ending() -> Error {
    use fusion_engine::types::ErrorCode;
    Error::new(ErrorCode::EngineUnavailable, "the engine is ending")
}
