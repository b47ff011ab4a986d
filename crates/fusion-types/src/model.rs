//! Models as everybody outside fusion-models sees them.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Timestamp, engine::Adapter};

/// The name under which a model is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(Arc<str>);

impl ModelId {
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $(#[serde(rename = $text)] $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|value| value.as_str()).collect();
                    Error::new(
                        crate::ErrorCode::InvalidValue,
                        format!("{text:?} is none of {}", known.join(", ")),
                    )
                })
            }
        }
    };
}

named! {
    /// The contract's model types.
    ModelType {
        Lm = "lm",
        Multimodal = "multimodal",
        Embeddings = "embeddings",
        Rerank = "rerank",
        Whisper = "whisper",
        ImageGeneration = "image-generation",
        ImageEdit = "image-edit",
    }
}

named! {
    /// What a model can be asked for.
    Capability {
        Chat = "chat",
        Vision = "vision",
        AudioInput = "audio_input",
        Embeddings = "embeddings",
        Rerank = "rerank",
        ImageGeneration = "image_generation",
        ImageEdit = "image_edit",
        Transcription = "transcription",
        ToolCalling = "tool_calling",
        StructuredOutput = "structured_output",
        LongContext = "long_context",
    }
}

named! {
    ModelStatus {
        Unloaded = "unloaded",
        Downloading = "downloading",
        Loading = "loading",
        Loaded = "loaded",
        Unloading = "unloading",
        Failed = "failed",
    }
}

named! {
    /// Orders eviction and scheduling; `Low` goes first when room is needed.
    Priority {
        Low = "low",
        Normal = "normal",
        High = "high",
    }
}

/// A model's public record: a snapshot, advice only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    pub id: ModelId,
    pub model_type: ModelType,
    pub status: ModelStatus,
    pub family: Option<String>,
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub capabilities: Vec<Capability>,
    pub context_length: Option<u32>,
    /// Length of an embedding.
    pub dimension: Option<u32>,
    /// Identifies weights, tokenizer, pooling and prompts; known once the model was loaded.
    pub fingerprint: Option<Arc<str>>,
    /// Bytes charged to the budget now: measured when loaded, else predicted where that is known.
    pub footprint_bytes: Option<u64>,
    /// Size of the weights on disk: the stand-in for quality while nothing better is known.
    pub file_bytes: u64,
    /// Busy slots over slots, above 1 when requests wait.
    pub load: f32,
    pub slots: u32,
    pub pinned: bool,
    pub priority: Priority,
    pub aliases: Vec<String>,
    /// LoRA adapters that it is loaded with.
    pub adapters: Vec<Adapter>,
    pub created_at: Timestamp,
    pub metadata: Map<String, Value>,
}

impl ModelCard {
    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }
}
