//! What the server's configuration says about models.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use fusion_types::{
    Error,
    model::{ModelId, ModelType, Priority},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    MemoryOf, MemoryReader,
    engine::{PLACES, filled},
};

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
    /// The memory that the budget is of, which can make the budget smaller where less of it is left; when not given, it is the
    /// machine's, and nobody looks what is left.
    pub memory: Option<MemoryReader>,
    /// The most models that may be loaded together; one that is ending has left its place.
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
    /// Servers of others that models can name as their engine.
    pub foreign: Vec<ForeignEngine>,
    /// The executable whose command `child -- COMMAND` keeps a foreign engine; without it there are none.
    pub keeper: Option<PathBuf>,
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
            foreign: ForeignEngine::known(),
            keeper: None,
        }
    }

    pub(crate) fn memory_of(&self) -> MemoryOf {
        let reader = self.memory.as_ref();
        reader.map_or(MemoryOf::Machine, MemoryReader::memory_of)
    }
}

/// A server of somebody else's that carries one model and speaks the OpenAI dialect on a TCP port of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignEngine {
    pub name: String,
    /// The program and its arguments. `{model}` is the model's path, `{port}` where it must listen on 127.0.0.1, `{slots}`,
    /// `{threads}`, `{context}` (tokens of a slot), `{context_total}` (of all), and `{option:NAME}` an option of the model's
    /// definition. An argument that has no value is left out, with the flag before it.
    pub command: Vec<String>,
    /// Further arguments for models of a type.
    #[serde(default)]
    pub arguments: BTreeMap<String, Vec<String>>,
    /// The path that is answered with success once the server can be used.
    #[serde(default = "health")]
    pub health: String,
    /// How requests name the model.
    #[serde(default = "model_name")]
    pub model_name: String,
    /// Beside what every engine gets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

fn health() -> String {
    "/health".to_owned()
}

fn model_name() -> String {
    "{model}".to_owned()
}

impl ForeignEngine {
    /// The servers that people have anyway.
    pub fn known() -> Vec<Self> {
        let python = |name: &str, program: &str, model_name: &str| {
            let words = [
                program,
                "--model",
                "{model}",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
            ];
            Self {
                model_name: model_name.to_owned(),
                ..Self::of(name, &words)
            }
        };
        vec![
            Self::llama_server(),
            python("mlx_lm", "mlx_lm.server", "default_model"),
            python("mlx_vlm", "mlx_vlm.server", "{model}"),
        ]
    }

    pub(crate) fn llama_server() -> Self {
        let words = [
            "llama-server",
            "--model",
            "{model}",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--parallel",
            "{slots}",
            "--ctx-size",
            "{context_total}",
            "--threads",
            "{threads}",
            "--n-gpu-layers",
            "{option:gpu_layers}",
            "--device",
            "{option:device}",
        ];
        let of_type = |flag: &str| vec![flag.to_owned()];
        Self {
            arguments: BTreeMap::from([
                ("embeddings".to_owned(), of_type("--embeddings")),
                ("rerank".to_owned(), of_type("--reranking")),
            ]),
            ..Self::of("llama-server", &words)
        }
    }

    fn of(name: &str, words: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            arguments: BTreeMap::new(),
            health: health(),
            model_name: model_name(),
            environment: BTreeMap::new(),
        }
    }

    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let known =
            |name: &str| (PLACES.contains(&name) || name.starts_with("option:")).then(String::new);
        let words = self.command.iter().chain(self.arguments.values().flatten());
        let mut words = words.chain([&self.model_name]);
        match () {
            () if self.name.is_empty() || !self.name.bytes().all(plain) => {
                Some("name: letters, digits, dots, dashes and underscores".to_owned())
            }
            () if self.name.starts_with("fusiond") => {
                Some("name: fusiond's own engines begin so".to_owned())
            }
            () if self.command.is_empty() => Some("command: the program is missing".to_owned()),
            () if !self.health.starts_with('/') => Some("health: must begin with /".to_owned()),
            () => words
                .find(|word| filled(word, &known).is_none())
                .map(|word| {
                    format!(
                        "{word:?} has something in braces that is none of {PLACES:?} or option:NAME"
                    )
                }),
        }
    }
}

/// How many requests a model runs side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or \"auto\"")]
pub enum Concurrency {
    Slots(u32),
    /// As many as a foreign engine is found to be good for. Our own engines have as many as the configuration says.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    Auto,
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
    /// The name of an engine executable or of a foreign engine, instead of the one that fits the path.
    pub engine: Option<String>,
    pub context_length: Option<u32>,
    pub concurrency: Option<Concurrency>,
    /// Processes of it that run side by side; more than one where requests should not wait for each other's computation.
    pub replicas: u32,
    /// Strings, numbers and booleans, handed to the engine.
    pub options: Map<String, Value>,
    /// LoRA adapters, as a load request has them.
    pub adapters: Vec<Value>,
    /// A smaller model that guesses ahead of this one.
    pub draft_model: Option<String>,
    pub aliases: Vec<String>,
    /// Never evicted for room or for idleness.
    pub pinned: bool,
    /// Loaded whenever there is room for it, and never unloaded for idleness. Unlike a pinned model it makes room for others.
    pub keep_warm: bool,
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
            replicas: 1,
            options: Map::new(),
            adapters: Vec::new(),
            draft_model: None,
            aliases: Vec::new(),
            pinned: false,
            keep_warm: false,
            priority: Priority::Normal,
            idle_ttl: None,
            preload: false,
        }
    }
}
