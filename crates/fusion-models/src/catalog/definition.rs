//! One model that can be loaded.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    model::{Capability, ModelId, ModelType, Priority},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::inspect::LLAMA;
use crate::{
    Config, ForeignEngine,
    engine::{self, Foreign, Launch},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) id: ModelId,
    pub(crate) setup: Setup,
    pub(crate) aliases: Vec<String>,
    /// Processes of it that run side by side.
    #[serde(default = "one")]
    pub(crate) replicas: u32,
    pub(crate) pinned: bool,
    /// Loaded whenever there is room for it.
    #[serde(default)]
    pub(crate) keep_warm: bool,
    pub(crate) priority: Priority,
    pub(crate) idle_ttl: Option<Duration>,
    pub(crate) metadata: Map<String, Value>,
    pub(crate) origin: Origin,
    /// Size of the weights on disk.
    pub(crate) file_bytes: u64,
    /// When the weights were last written.
    pub(crate) modified: i64,
}

fn one() -> u32 {
    1
}

/// What the engine is told: two definitions with the same setup are the same model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) path: PathBuf,
    pub(crate) model_type: ModelType,
    /// The name of an executable, or of a foreign engine.
    pub(crate) engine: String,
    pub(crate) context_length: Option<u32>,
    pub(crate) slots: u32,
    /// Whether the number of slots is found while it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) auto_slots: bool,
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
        let named = |engine: &&ForeignEngine| engine.name == self.setup.engine;
        let foreign = config.foreign.iter().find(named);
        let program = match foreign.and_then(|foreign| foreign.command.first()) {
            Some(program) => engine::find_program(program, &config.engine_dirs)?,
            None => engine::find(&self.setup.engine, &config.engine_dirs)?,
        };
        Ok(Launch {
            program,
            model: self.setup.path.clone(),
            model_type: self.setup.model_type,
            context_length: self.setup.context_length,
            slots: self.setup.slots,
            threads: config.threads.max(1),
            // Beside the models, on the disk that has room for them, where no scan looks.
            cache_dir: config.models_dir.join(".repacked"),
            options: self.setup.options.clone().into_iter().collect(),
            foreign: foreign
                .map(|foreign| self.foreign(foreign, config))
                .transpose()?,
        })
    }

    fn foreign(&self, engine: &ForeignEngine, config: &Config) -> Result<Foreign> {
        let keeper = config.keeper.clone().ok_or_else(|| {
            Error::new(
                ErrorCode::EngineUnavailable,
                "foreign engines can't be run here: there is nothing to keep them",
            )
        })?;
        Ok(Foreign {
            engine: engine.clone(),
            keeper,
            capabilities: self.expected_capabilities(),
            // What it makes of the file is its own affair: another engine, another fingerprint.
            fingerprint: format!("{}:{}", engine.name, self.footprint_key()),
        })
    }

    /// What a foreign engine, which can't be asked, is thought to need: its weights, a tenth more, and its program.
    pub(crate) fn guessed_bytes(&self) -> u64 {
        const PROGRAM: u64 = 256 << 20;
        self.file_bytes
            .saturating_add(self.file_bytes / 10)
            .saturating_add(PROGRAM)
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
            ModelType::Multimodal => {
                vec![Capability::Chat, Capability::Vision, Capability::AudioInput]
            }
            // Only the tensor engine compares token by token.
            ModelType::Embeddings if self.setup.engine == LLAMA => vec![Capability::Embeddings],
            ModelType::Embeddings => vec![Capability::Embeddings, Capability::Rerank],
            ModelType::Rerank => vec![Capability::Rerank],
            ModelType::Whisper => vec![Capability::Transcription],
            ModelType::ImageGeneration => vec![Capability::ImageGeneration],
            ModelType::ImageEdit => vec![Capability::ImageEdit],
        }
    }
}
