//! The tensor engine: one sentence-transformers folder, read once and asked for vectors, scores and token spans.
//!
//! A text becomes token ids ([`tokenizer`]), waits with others of its length ([`compute`], [`batch`]), goes through the
//! transformer ([`backend`]: candle on safetensors, rten on ONNX) and is read out ([`readout`]) as one pooled vector, or as a
//! MaxSim score against a query. What a folder means is decided in [`folder`].

mod backend;
mod batch;
mod compute;
mod engine;
mod fault;
mod fingerprint;
mod folder;
mod footprint;
mod readout;
mod tokenizer;

pub use engine::Tensor;

#[cfg(test)]
mod real {
    //! The real model that some tests read.

    use std::path::PathBuf;

    /// all-MiniLM-L6-v2 under `FUSIOND_MODELS_DIR`, else in the cache folder; says so where it is missing.
    pub(crate) fn minilm(test: &str) -> Option<PathBuf> {
        let models = std::env::var_os("FUSIOND_MODELS_DIR").map(PathBuf::from);
        let home = std::env::home_dir().unwrap_or_default();
        let folder = models
            .unwrap_or_else(|| home.join(".cache/fusiond/models"))
            .join("all-MiniLM-L6-v2");
        if folder.is_dir() {
            return Some(folder);
        }
        println!("SKIPPED {test}: no model at {}", folder.display());
        None
    }
}
