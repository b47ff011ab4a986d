//! The configuration: flags over environment over `fusiond.toml` over defaults, checked once, every problem at once.

mod jobs;
mod known_folders;
mod limits;
mod reader;
mod setting;

use std::{
    collections::BTreeMap,
    env,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use fusion_models::{Concurrency, ForeignEngine};
use fusion_storage::{MongoConfig, Rate, RedisConfig};
use fusion_types::model::{ModelType, Priority};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use jobs::{Jobs, Payloads};
pub(crate) use known_folders::known_folders;
pub(crate) use reader::Reader;
pub(crate) use setting::{SETTINGS, WITHOUT_EFFECT};

const DEFAULTS: &str = include_str!("config.default.toml");

/// Everything that the server can be told, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) server: Server,
    pub(crate) data_dir: PathBuf,
    pub(crate) state: State,
    pub(crate) models_dir: PathBuf,
    pub(crate) engine_dirs: Vec<PathBuf>,
    pub(crate) models: Models,
    pub(crate) definitions: Vec<Definition>,
    /// Servers of others that models can name, those that are known anyway included.
    pub(crate) foreign: Vec<ForeignEngine>,
    pub(crate) launch: Option<Launch>,
    pub(crate) features: Features,
    /// Of one client's requests.
    pub(crate) rate: Option<Rate>,
    pub(crate) jobs: Jobs,
    pub(crate) files: Files,
    pub(crate) batches: Batches,
    pub(crate) webhooks: Webhooks,
    pub(crate) outgoing_allow: Vec<String>,
    pub(crate) media: Media,
    pub(crate) log: Log,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    /// The URL by which other servers reach this one, where the address doesn't say it.
    pub(crate) advertise: Option<String>,
    pub(crate) drain: Duration,
    pub(crate) max_body: usize,
    pub(crate) max_upload: usize,
}

/// Where the state is kept that several servers share; none where the data folder has it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) mongo: Option<MongoConfig>,
    pub(crate) redis: Option<RedisConfig>,
}

#[derive(Clone, Debug)]
pub(crate) struct Models {
    /// Bytes; `None` takes 70 % of the machine's memory.
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

/// The model to load at start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) model_path: String,
    pub(crate) model_type: ModelType,
    pub(crate) context_length: Option<u32>,
    pub(crate) adapters: Vec<Value>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) fusion: bool,
    pub(crate) rag: bool,
    pub(crate) mcp: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Files {
    /// Of what batches read and write.
    pub(crate) ttl: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Batches {
    pub(crate) most_lines: u64,
    pub(crate) window: Duration,
    /// Of a batch that has ended.
    pub(crate) ttl: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Webhooks {
    pub(crate) timeout: Duration,
    pub(crate) retry_count: u32,
    pub(crate) disable_after: Duration,
    pub(crate) secret: Option<String>,
}

/// Images and sounds in chats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Media {
    /// Bytes of one file.
    pub(crate) file: usize,
    /// For fetching all that one request names.
    pub(crate) fetch: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) json: bool,
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has problems:\n  {}", .0.join("\n  "))]
pub(crate) struct Invalid(pub(crate) Vec<String>);

/// Where values may come from: flags by key, environment by name, the file's path.
pub(crate) struct Sources<'a> {
    pub(crate) flags: &'a [(&'static str, String)],
    pub(crate) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// # Errors
    /// With every problem found.
    pub(crate) fn read(sources: &Sources<'_>) -> Result<Self, Invalid> {
        let mut reader = Reader::new(DEFAULTS).map_err(|error| Invalid(vec![error.to_string()]))?;
        lay_over(&mut reader, sources);
        let config = Self::take(&mut reader);
        let problems = reader.finish();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Invalid(problems))
        }
    }

    fn take(reader: &mut Reader) -> Self {
        let state = State::take(reader);
        Self {
            server: Server::take(reader),
            data_dir: folder(reader, "paths.data", data_home),
            jobs: Jobs::take(reader, state.mongo.is_some()),
            state,
            models_dir: folder(reader, "paths.models", cache_home),
            engine_dirs: reader.take("paths.engines"),
            models: Models::take(reader),
            definitions: reader.take_list("model"),
            foreign: foreign(reader),
            launch: Launch::take(reader),
            features: Features {
                fusion: reader.take("features.fusion"),
                rag: reader.take("features.rag"),
                mcp: reader.take("features.mcp"),
            },
            rate: limits::rate(reader),
            files: Files {
                ttl: days(reader, "files.ttl_days"),
            },
            batches: Batches {
                most_lines: reader.take("batches.max_lines"),
                window: seconds(reader, "batches.window_seconds"),
                ttl: days(reader, "batches.ttl_days"),
            },
            webhooks: Webhooks {
                timeout: seconds(reader, "webhooks.timeout_seconds"),
                retry_count: reader.take("webhooks.retry_count"),
                disable_after: hours(reader, "webhooks.disable_after_hours"),
                secret: text(reader, "webhooks.secret"),
            },
            outgoing_allow: reader.take("outgoing.allow"),
            media: Media {
                file: megabytes(reader, "media.max_file_mb"),
                fetch: seconds(reader, "media.fetch_timeout_seconds"),
            },
            log: Log {
                level: reader.take("telemetry.log_level"),
                json: reader.take::<String>("telemetry.log_format") == "json",
            },
        }
    }
}

impl Server {
    fn take(reader: &mut Reader) -> Self {
        let host: String = reader.take("server.host");
        let host = match host.as_str() {
            "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
            address => address.parse(),
        };
        let host = host.unwrap_or_else(|_| {
            reader.problem("server.host", "is not an address");
            IpAddr::from([127, 0, 0, 1])
        });
        if !host.is_loopback() && !reader.take::<bool>("server.insecure") {
            reader.problem(
                "server.host",
                format!(
                    "{host} can be reached by others, and there is no authentication yet; \
                         set server.insecure = true (--insecure) to allow it"
                ),
            );
        }
        Self {
            host,
            port: reader.take("server.port"),
            advertise: advertise(reader),
            drain: seconds(reader, "server.drain_seconds"),
            max_body: megabytes(reader, "server.max_body_mb"),
            max_upload: megabytes(reader, "server.max_upload_mb"),
        }
    }
}

fn advertise(reader: &mut Reader) -> Option<String> {
    let url = text(reader, "server.advertise")?;
    let is_base = reqwest::Url::parse(&url).is_ok_and(|url| url.has_host() && url.path() == "/");
    if !is_base || !url.starts_with("http") {
        let problem = "must be a URL without a path, such as http://192.168.1.4:8000";
        reader.problem("server.advertise", problem);
    }
    Some(url.trim_end_matches('/').to_owned())
}

impl State {
    fn take(reader: &mut Reader) -> Self {
        let kind: String = reader.take("state.vector_db_type");
        if !matches!(kind.as_str(), "embedded" | "mlx") {
            let problem = format!("{kind:?} is not implemented yet; use \"embedded\"");
            reader.problem("state.vector_db_type", problem);
        }
        let database: String = reader.take("state.mongo_db");
        if database.is_empty()
            || database.len() > 63
            || database.contains(['/', '\\', '.', ' ', '"', '$'])
        {
            let problem =
                "must be a database's name: up to 63 bytes without / \\ . \" $ and spaces";
            reader.problem("state.mongo_db", problem);
        }
        let mongo = uri(reader, "state.mongo_uri", &["mongodb://", "mongodb+srv://"]);
        let redis = uri(
            reader,
            "state.redis_uri",
            &["redis://", "rediss://", "redis+unix://", "unix://"],
        );
        if redis.is_some() && mongo.is_none() {
            let problem = "needs state.mongo_uri: it is for servers that share a MongoDB, and one alone has its queue in its own store";
            reader.problem("state.redis_uri", problem);
        }
        Self {
            mongo: mongo.map(|uri| MongoConfig { uri, database }),
            redis: redis.map(|uri| RedisConfig {
                uri,
                database: reader.take::<u32>("state.redis_db").into(),
            }),
        }
    }
}

/// The URI is in no message: it may hold a password.
fn uri(reader: &mut Reader, key: &str, schemes: &[&str]) -> Option<String> {
    let uri = text(reader, key)?;
    if !schemes.iter().any(|scheme| uri.starts_with(scheme)) {
        reader.problem(key, format!("must start with {}", schemes.join(" or ")));
    }
    Some(uri)
}

impl Models {
    fn take(reader: &mut Reader) -> Self {
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

impl Launch {
    fn take(reader: &mut Reader) -> Option<Self> {
        let model_type: String = reader.take("launch.model_type");
        let model_type = model_type.parse().unwrap_or_else(|error| {
            reader.problem("launch.model_type", error);
            ModelType::Lm
        });
        let context_length =
            Some(reader.take("launch.context_length")).filter(|&length| length > 0);
        Some(Self {
            model_path: text(reader, "launch.model_path")?,
            model_type,
            context_length,
            adapters: lora(reader),
        })
    }
}

/// `lora_paths` and `lora_scales`, both comma-separated; an adapter without a scale is applied fully.
fn lora(reader: &mut Reader) -> Vec<Value> {
    let list = |text: Option<String>| -> Vec<String> {
        let text = text.unwrap_or_default();
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let paths = list(text(reader, "launch.lora_paths"));
    let scales = list(text(reader, "launch.lora_scales"));
    let numbers: Vec<f32> = scales
        .iter()
        .filter_map(|scale| scale.parse().ok())
        .collect();
    if numbers.len() != scales.len() || numbers.len() > paths.len() {
        reader.problem("launch.lora_scales", "must be numbers, at most one a path");
    }
    let scales = numbers.into_iter().chain(std::iter::repeat(1.0));
    let adapter = |(path, scale)| json!({ "path": path, "scale": scale });
    paths.iter().zip(scales).map(adapter).collect()
}

/// The known ones, and those that the file defines, which take the place of known ones of their name.
fn foreign(reader: &mut Reader) -> Vec<ForeignEngine> {
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

fn lay_over(reader: &mut Reader, sources: &Sources<'_>) {
    if let Some(path) = &sources.file {
        match std::fs::read_to_string(path) {
            Ok(text) => reader.overlay_file(&path.display().to_string(), &text),
            Err(error) => reader.problem(&path.display().to_string(), error),
        }
    }
    for setting in SETTINGS {
        let flag = sources
            .flags
            .iter()
            .find(|(key, _)| *key == setting.key)
            .map(|(_, value)| value.clone());
        let environment = || {
            setting
                .environment
                .iter()
                .find_map(|name| (sources.environment)(name))
        };
        if let Some(value) = flag.or_else(environment) {
            reader.overlay(setting.key, &value);
        }
    }
}

fn seconds(reader: &mut Reader, key: &str) -> Duration {
    Duration::from_secs(reader.take(key))
}

fn hours(reader: &mut Reader, key: &str) -> Duration {
    Duration::from_secs(reader.take::<u64>(key).saturating_mul(3600))
}

fn days(reader: &mut Reader, key: &str) -> Duration {
    Duration::from_secs(reader.take::<u64>(key).saturating_mul(86_400))
}

fn megabytes(reader: &mut Reader, key: &str) -> usize {
    reader.take::<usize>(key).saturating_mul(1_000_000)
}

fn text(reader: &mut Reader, key: &str) -> Option<String> {
    Some(reader.take::<String>(key)).filter(|text| !text.is_empty())
}

fn folder(reader: &mut Reader, key: &str, default: fn() -> Option<PathBuf>) -> PathBuf {
    let given = text(reader, key).map(PathBuf::from).or_else(default);
    given.unwrap_or_else(|| {
        reader.problem(
            key,
            "the platform has no such folder (HOME is not set); name one",
        );
        PathBuf::new()
    })
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
}

/// The platform's folder of a kind, by the XDG base directory specification or Apple's.
fn platform(variable: &str, linux: &str, mac: &str) -> Option<PathBuf> {
    if cfg!(target_os = "macos") {
        return Some(home()?.join("Library").join(mac).join("fusiond"));
    }
    let named = env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    Some(named.or_else(|| Some(home()?.join(linux)))?.join("fusiond"))
}

fn data_home() -> Option<PathBuf> {
    platform("XDG_DATA_HOME", ".local/share", "Application Support")
}

fn cache_home() -> Option<PathBuf> {
    platform("XDG_CACHE_HOME", ".cache", "Caches").map(|cache| cache.join("models"))
}

/// `fusiond.toml` here, else in the platform's configuration folder, where there is one.
pub(crate) fn default_file() -> Option<PathBuf> {
    let here = Path::new("fusiond.toml").to_path_buf();
    let there = platform("XDG_CONFIG_HOME", ".config", "Application Support")
        .map(|folder| folder.join("fusiond.toml"));
    [Some(here), there]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        flags: &[(&'static str, &str)],
        environment: &[(&str, &str)],
        file: &str,
    ) -> Result<Config, Invalid> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fusiond.toml");
        std::fs::write(&path, file).unwrap();
        let flags: Vec<_> = flags
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        let lookup = |name: &str| {
            environment
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Config::read(&Sources {
            flags: &flags,
            environment: &lookup,
            file: Some(path),
        })
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "[server]\nport = 1\n[models]\nconcurrency = 2\nmax_queue_size = 5\n";
        let environment = [
            ("SERVER_PORT", "3"),
            ("DEFAULT_CONCURRENCY", "4"),
            ("OUTGOING_ALLOW", "127.0.0.0/8, ::1"),
        ];
        let config = read(&[("server.port", "6")], &environment, file).unwrap();
        assert_eq!(
            (
                config.server.port,
                config.models.concurrency,
                config.models.max_queue
            ),
            (6, 4, 5)
        );
        assert_eq!(config.outgoing_allow, ["127.0.0.0/8", "::1"]);
        assert_eq!(config.jobs.ttl, Duration::from_secs(7 * 86_400));
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_key() {
        let file = "[server]\nport = 99999\ncolour = 1\n[models]\neviction_policy = \"random\"\n";
        let Invalid(problems) = read(
            &[],
            &[
                ("MAX_VRAM_GB", "much"),
                ("REDIS_URI", "redis://x"),
                ("MONGO_DB_NAME", "a.b"),
            ],
            file,
        )
        .unwrap_err();
        for key in [
            "server.port",
            "server.colour",
            "models.eviction_policy",
            "models.max_vram_gb",
            "state.redis_uri",
            "state.mongo_db",
        ] {
            assert!(
                problems.iter().any(|problem| problem.starts_with(key)),
                "{key} is missing in {problems:#?}"
            );
        }
    }

    #[test]
    fn a_shared_state_is_named_and_never_shown() {
        let mongo = ("MONGO_URI", "mongodb://me:hush@db:27017");
        let redis = ("REDIS_URI", "redis://:hush@queue:6379");
        let config = read(&[], &[mongo, redis, ("REDIS_DB", "3")], "").unwrap();
        let state = &config.state;
        assert_eq!(state.mongo.as_ref().unwrap().database, "mlx_fusion");
        assert_eq!(state.redis.as_ref().unwrap().database, 3);
        assert!(!format!("{config:?}").contains("hush"));
        let Invalid(problems) = read(&[], &[("MONGO_URI", "hush@db")], "").unwrap_err();
        assert!(problems[0].starts_with("state.mongo_uri: must start with"));
        assert!(!problems[0].contains("hush"));
    }

    #[test]
    fn foreign_engines_are_defined_and_checked() {
        let engine =
            |command: &str| format!("[[engine]]\nname = \"llama-server\"\ncommand = [{command}]\n");
        let config = read(&[], &[], &engine("\"mine\", \"{model}\", \"{port}\"")).unwrap();
        let named = |name| {
            config
                .foreign
                .iter()
                .filter(move |engine| engine.name == name)
        };
        assert_eq!(named("mlx_lm").count(), 1);
        let [mine] = named("llama-server").collect::<Vec<_>>()[..] else {
            panic!("the known one is still there")
        };
        assert_eq!(
            (mine.command[0].as_str(), mine.health.as_str()),
            ("mine", "/health")
        );
        let Invalid(problems) = read(&[], &[], &engine("\"mine\", \"{modle}\"")).unwrap_err();
        assert!(
            problems[0].contains("engine[0]") && problems[0].contains("{modle}"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_public_address_needs_a_word() {
        assert!(read(&[("server.host", "0.0.0.0")], &[], "").is_err());
        assert!(
            read(
                &[("server.host", "0.0.0.0"), ("server.insecure", "true")],
                &[],
                ""
            )
            .is_ok()
        );
    }
}
