//! The configuration: flags over environment over `fusiond.toml` over defaults, checked once, every problem at once.

mod folders;
mod jobs;
mod known_folders;
mod launch;
mod limits;
mod models;
mod reader;
mod server;
mod setting;
mod state;

use std::{path::PathBuf, time::Duration};

use fusion_models::ForeignEngine;
use fusion_storage::Rate;

pub(crate) use folders::default_file;
pub(crate) use jobs::{Jobs, Payloads};
pub(crate) use known_folders::known_folders;
pub(crate) use launch::Launch;
pub(crate) use models::{Definition, Eviction, Models};
pub(crate) use reader::Reader;
pub(crate) use server::Server;
pub(crate) use setting::{SETTINGS, WITHOUT_EFFECT};
pub(crate) use state::State;

use folders::{cache_home, data_home, folder};

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
            foreign: models::foreign(reader),
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
    fn an_advertised_url_and_a_rate_are_checked() {
        for wrong in ["box:8000", "ftp://box", "http://box/v1", "httpx://box"] {
            assert!(
                read(&[("server.advertise", wrong)], &[], "").is_err(),
                "{wrong}"
            );
        }
        let file = "[limits]\nrequests_per_minute = 120\nburst = 5";
        let config = read(&[("server.advertise", "http://box:8000/")], &[], file).unwrap();
        assert_eq!(config.server.advertise.as_deref(), Some("http://box:8000"));
        let rate = config.rate.unwrap();
        assert_eq!((rate.interval, rate.burst), (Duration::from_millis(500), 5));
        assert!(read(&[], &[], "").unwrap().rate.is_none());
        assert!(read(&[], &[], "[limits]\nburst = 0").is_err());
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
