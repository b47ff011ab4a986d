//! One model that can be loaded.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use fusion_types::{
    Result, Timestamp,
    model::{Capability, ModelId, ModelType, Priority},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    Config,
    engine::{self, Launch},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) id: ModelId,
    pub(crate) setup: Setup,
    pub(crate) aliases: Vec<String>,
    pub(crate) pinned: bool,
    pub(crate) priority: Priority,
    pub(crate) idle_ttl: Option<Duration>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) origin: Origin,
    /// Size of the weights on disk.
    pub(crate) file_bytes: u64,
    /// When the weights were last written.
    pub(crate) modified: i64,
}

/// What the engine is told: two definitions with the same setup are the same model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) path: PathBuf,
    pub(crate) model_type: ModelType,
    /// The name of an executable.
    pub(crate) engine: String,
    pub(crate) context_length: Option<u32>,
    pub(crate) slots: u32,
    pub(crate) options: BTreeMap<String, String>,
}

/// Who says that the model can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// It lies in the models folder.
    Found,
    Configured,
    /// It was loaded through the API.
    Loaded,
}

impl Definition {
    /// # Errors
    /// `engine_unavailable` where the engine isn't installed.
    pub(crate) fn launch(&self, config: &Config) -> Result<Launch> {
        Ok(Launch {
            program: engine::find(&self.setup.engine, &config.engine_dirs)?,
            model: self.setup.path.clone(),
            model_type: self.setup.model_type,
            context_length: self.setup.context_length,
            slots: self.setup.slots,
            threads: config.threads.max(1),
            options: self.setup.options.clone().into_iter().collect(),
        })
    }

    /// Under which what was learned of the model is kept: another file, engine or setting has another footprint.
    pub(crate) fn footprint_key(&self) -> String {
        let identity = serde_json::json!([self.setup, self.file_bytes, self.modified]).to_string();
        hex::encode(&Sha256::digest(identity)[..16])
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        Timestamp::from_millis(self.modified)
    }

    /// What models of this type usually can, until the engine has said it.
    pub(crate) fn expected_capabilities(&self) -> Vec<Capability> {
        match self.setup.model_type {
            ModelType::Lm => vec![Capability::Chat],
            ModelType::Multimodal => vec![Capability::Chat, Capability::Vision],
            ModelType::Embeddings => vec![Capability::Embeddings, Capability::Rerank],
            ModelType::Rerank => vec![Capability::Rerank],
            ModelType::Whisper => vec![Capability::Transcription],
            ModelType::ImageGeneration => vec![Capability::ImageGeneration],
            ModelType::ImageEdit => vec![Capability::ImageEdit],
        }
    }
}
