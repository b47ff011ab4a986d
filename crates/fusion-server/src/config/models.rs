//! `[models]`, and the models and engines that the file defines.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use fusion_models::{Concurrency, ForeignEngine};
use fusion_types::model::{ModelType, Priority};
use serde::Deserialize;
use serde_json::Value;

use super::{Reader, seconds};

#[derive(Clone, Debug)]
pub(crate) struct Models {
    /// Bytes; `None` takes a part of the memory that there is.
    pub(crate) budget: Option<u64>,
    pub(crate) max_loaded: Option<usize>,
    pub(crate) eviction: Eviction,
    pub(crate) ttl: Option<Duration>,
    pub(crate) concurrency: u32,
    pub(crate) max_queue: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) hang_timeout: Duration,
    /// `None` takes the machine's processors.
    pub(crate) threads: Option<u32>,
    /// Whether models of other programs are found.
    pub(crate) search_known_folders: bool,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Eviction {
    #[default]
    Lru,
    Priority,
    Manual,
}

/// A model that the file defines: `[[model]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    #[serde(rename = "type")]
    pub(crate) model_type: ModelType,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    #[serde(default)]
    pub(crate) preload: bool,
    #[serde(default)]
    pub(crate) pinned: bool,
    #[serde(default)]
    pub(crate) keep_warm: bool,
    pub(crate) priority: Option<Priority>,
    pub(crate) context_length: Option<u32>,
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) replicas: Option<u32>,
    pub(crate) engine: Option<String>,
    #[serde(default)]
    pub(crate) options: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) adapters: Vec<Value>,
    pub(crate) draft_model: Option<String>,
}

impl Models {
    pub(super) fn take(reader: &mut Reader) -> Self {
        let gigabytes: f64 = reader.take("models.max_vram_gb");
        if !gigabytes.is_finite() || gigabytes < 0.0 {
            reader.problem("models.max_vram_gb", "must not be negative");
        }
        let concurrency: u32 = reader.take("models.concurrency");
        if !(1..=64).contains(&concurrency) {
            reader.problem("models.concurrency", "must be from 1 to 64");
        }
        Self {
            // Saturates, which is what an absurdly large budget means.
            budget: Some((gigabytes * 1e9) as u64).filter(|&bytes| bytes > 0),
            max_loaded: Some(reader.take("models.max_loaded")).filter(|&most| most > 0),
            eviction: reader.take("models.eviction_policy"),
            ttl: Some(seconds(reader, "models.ttl_seconds")).filter(|ttl| !ttl.is_zero()),
            concurrency,
            max_queue: reader.take("models.max_queue_size"),
            queue_timeout: seconds(reader, "models.queue_timeout_seconds"),
            load_timeout: seconds(reader, "models.load_timeout_seconds"),
            hang_timeout: seconds(reader, "models.hang_timeout_seconds"),
            threads: Some(reader.take("models.threads")).filter(|&threads| threads > 0),
            search_known_folders: reader.take("models.search_known_folders"),
        }
    }
}

/// The known ones, and those that the file defines, which take the place of known ones of their name.
pub(super) fn foreign(reader: &mut Reader) -> Vec<ForeignEngine> {
    let defined: Vec<ForeignEngine> = reader.take_list("engine");
    for (index, engine) in defined.iter().enumerate() {
        if let Some(problem) = engine.problem() {
            reader.problem(&format!("engine[{index}]"), problem);
        }
    }
    let mut all = ForeignEngine::known();
    all.retain(|known| defined.iter().all(|engine| engine.name != known.name));
    all.extend(defined);
    all
}
