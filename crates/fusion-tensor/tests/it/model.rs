//! Engines to test, and what is asked of them again and again.

use std::path::{Path, PathBuf};

use fusion_engine::{
    Engine, Launch,
    types::{
        Result,
        embedding::{EmbedRequest, Vectors},
        model::ModelType,
    },
};
use fusion_tensor::Tensor;

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

pub(crate) fn launch(model: &Path) -> Launch {
    Launch {
        model: model.to_owned(),
        model_type: ModelType::Embeddings,
        context_length: None,
        slots: 4,
        threads: 1,
        cache_dir: None,
        options: Vec::new(),
    }
}

pub(crate) fn load(model: &Path, backend: &str) -> Result<Tensor> {
    let options = vec![("backend".to_owned(), backend.to_owned())];
    Tensor::load(&Launch {
        options,
        ..launch(model)
    })
}

pub(crate) async fn embed(engine: &Tensor, texts: &[&str]) -> Result<Vectors> {
    engine.embed(request(texts, false)).await
}

pub(crate) fn request(texts: &[&str], truncate: bool) -> EmbedRequest {
    EmbedRequest {
        model: "m".to_owned(),
        input: texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
            .into(),
        truncate,
    }
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

pub(crate) fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}
