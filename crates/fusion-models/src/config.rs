//! What the server's configuration says about models.

use std::{path::PathBuf, str::FromStr, time::Duration};

use fusion_types::{
    Error,
    model::{ModelId, ModelType, Priority},
};
use serde_json::{Map, Value};

use crate::MemoryReader;

/// How models are found, run and kept within their budget.
#[derive(Clone, Debug)]
pub struct Config {
    /// Searched for model files and folders, three levels deep.
    pub models_dir: PathBuf,
    /// Searched as well.
    pub known_folders: KnownFolders,
    /// Where this run's folder of sockets is made; `$XDG_RUNTIME_DIR` or the temporary folder when not given.
    pub runtime_parent: Option<PathBuf>,
    /// Where engine executables are looked for, in this order.
    pub engine_dirs: Vec<PathBuf>,
    /// The most bytes that all resident models may hold together.
    pub budget_bytes: u64,
    /// Where the machine's own memory is read, which can make the budget smaller; not looked at when not given.
    pub memory: Option<MemoryReader>,
    /// The most models that may be resident together.
    pub max_models: Option<usize>,
    pub eviction: EvictionPolicy,
    /// A model unused for so long is unloaded; never when not given.
    pub idle_ttl: Option<Duration>,
    /// Requests that one model serves side by side, where its definition doesn't say.
    pub slots: u32,
    /// Requests that may wait for one model.
    pub max_queue: usize,
    /// The longest that a request may wait.
    pub queue_timeout: Duration,
    /// A model that was just loaded serves its waiting requests for so long, or as long as loading it took, before another
    /// may have its room.
    pub least_turn: Duration,
    /// A request for a model that isn't loaded waits so long for room that busy models hold. Then they are given no new
    /// requests until it got the room.
    pub switch_after: Duration,
    /// The longest that an engine may take to say that it is ready.
    pub load_timeout: Duration,
    /// An engine that is silent for so long in the middle of an answer is ended.
    pub hang_timeout: Duration,
    /// How long the drain waits for leases once the token is cancelled, before it ends the engines anyway.
    pub drain_timeout: Duration,
    /// CPU cores that the busy engines share.
    pub threads: u32,
    pub definitions: Vec<ModelDefinition>,
}

impl Config {
    /// The contract's defaults, with every core of the machine.
    pub fn new(models_dir: impl Into<PathBuf>, budget_bytes: u64) -> Self {
        Self {
            models_dir: models_dir.into(),
            known_folders: KnownFolders::default(),
            runtime_parent: None,
            engine_dirs: Vec::new(),
            budget_bytes,
            memory: None,
            max_models: None,
            eviction: EvictionPolicy::Lru,
            idle_ttl: Some(Duration::from_secs(3600)),
            slots: 4,
            max_queue: 100,
            queue_timeout: Duration::from_secs(300),
            least_turn: Duration::from_secs(2),
            switch_after: Duration::from_secs(5),
            load_timeout: Duration::from_secs(300),
            hang_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(30),
            threads: std::thread::available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
            definitions: Vec::new(),
        }
    }
}

/// Where other programs keep models on this machine. Those that aren't there are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFolders {
    /// With `models--OWNER--NAME` in them.
    pub hugging_face: Vec<PathBuf>,
    /// With `PUBLISHER/REPOSITORY` in them.
    pub lm_studio: Vec<PathBuf>,
    /// With `manifests` and `blobs` in them.
    pub ollama: Vec<PathBuf>,
}

/// Who goes when room is needed, among models without lease or pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EvictionPolicy {
    /// The least recently used.
    #[default]
    Lru,
    /// The lowest priority, then the least recently used.
    Priority,
    /// Nobody: what doesn't fit is refused.
    Manual,
}

impl EvictionPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Priority => "priority",
            Self::Manual => "manual",
        }
    }
}

impl FromStr for EvictionPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Lru, Self::Priority, Self::Manual]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(
                    "eviction_policy",
                    format!("{text:?} is none of lru, priority, manual"),
                )
            })
    }
}

/// A model that the configuration file names.
#[derive(Clone, Debug)]
pub struct ModelDefinition {
    pub id: ModelId,
    /// A file or folder; relative to the models folder.
    pub path: PathBuf,
    /// Guessed from what lies at the path when not given.
    pub model_type: Option<ModelType>,
    /// The name of an engine executable, instead of the one that fits the path.
    pub engine: Option<String>,
    pub context_length: Option<u32>,
    pub concurrency: Option<u32>,
    /// Strings, numbers and booleans, handed to the engine.
    pub options: Map<String, Value>,
    /// LoRA adapters, as a load request has them.
    pub adapters: Vec<Value>,
    /// A smaller model that guesses ahead of this one.
    pub draft_model: Option<String>,
    pub aliases: Vec<String>,
    /// Never evicted for room or for idleness.
    pub pinned: bool,
    pub priority: Priority,
    /// Instead of [`Config::idle_ttl`].
    pub idle_ttl: Option<Duration>,
    /// Loaded when the server starts.
    pub preload: bool,
}

impl ModelDefinition {
    pub fn new(id: &str, path: impl Into<PathBuf>) -> Self {
        Self {
            id: ModelId::new(id),
            path: path.into(),
            model_type: None,
            engine: None,
            context_length: None,
            concurrency: None,
            options: Map::new(),
            adapters: Vec::new(),
            draft_model: None,
            aliases: Vec::new(),
            pinned: false,
            priority: Priority::Normal,
            idle_ttl: None,
            preload: false,
        }
    }
}
