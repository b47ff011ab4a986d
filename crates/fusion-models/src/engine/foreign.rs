//! Servers of others that carry one model: how they are called, and when they are ready.

use std::{
    env, io,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use fusion_types::{Error, ErrorCode, Result, engine::EngineCard, model::Capability};
use http::Method;
use serde_json::Value;
use tokio::{process::Command, time::timeout};

use super::{Launch, command::command, wire::Wire};
use crate::ForeignEngine;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a server that starts may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Assumed where neither the definition nor the server says how much a slot holds.
const UNKNOWN_LENGTH: u32 = 4096;
/// Of the server's environment these are left to a foreign engine: some compile their kernels as they run.
const KEPT: [&str; 4] = ["PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"];

/// A foreign engine with the model that it is to carry.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) engine: ForeignEngine,
    /// Our own executable: its command `child` ends the engine with the server.
    pub(crate) keeper: PathBuf,
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) fingerprint: String,
}

impl Foreign {
    pub(super) fn serve(&self, launch: &Launch, port: u16) -> Command {
        let mut arguments = vec!["child".into(), "--".into(), launch.program.clone().into()];
        arguments.extend(self.arguments(launch, port).into_iter().map(Into::into));
        let mut command = command(&self.keeper, arguments, launch.threads);
        for name in KEPT {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        command.envs(&self.engine.environment);
        command
    }

    /// The name by which the server knows its model.
    pub(super) fn model_name(&self, launch: &Launch) -> String {
        filled(&self.engine.model_name, &|name| value(launch, 0, name)).unwrap_or_default()
    }

    fn arguments(&self, launch: &Launch, port: u16) -> Vec<String> {
        let of_type = self.engine.arguments.get(launch.model_type.as_str());
        let templates = self.engine.command.iter().skip(1);
        let templates = templates.chain(of_type.into_iter().flatten());
        let mut arguments: Vec<String> = Vec::new();
        for template in templates {
            match filled(template, &|name| value(launch, port, name)) {
                Some(argument) => arguments.push(argument),
                // Nothing stands there: then not the flag that announces it either.
                None => drop(arguments.pop_if(|flag| flag.starts_with('-'))),
            }
        }
        arguments
    }

    pub(super) fn card(&self, launch: &Launch, told_length: Option<u32>) -> EngineCard {
        EngineCard {
            model_type: launch.model_type,
            family: None,
            capabilities: self.capabilities.clone(),
            context_length: told_length
                .or(launch.context_length)
                .unwrap_or(UNKNOWN_LENGTH),
            slots: launch.slots,
            dimension: None,
            fingerprint: self.fingerprint.clone(),
            quantization: None,
        }
    }
}

/// A port that nobody has now.
pub(super) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Returns once the server says that it is well.
pub(super) async fn healthy(wire: &Wire, path: &str) {
    let mut pause = FIRST_PAUSE;
    while !answers(wire, path).await {
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Whether the path is answered with success.
pub(super) async fn answers(wire: &Wire, path: &str) -> bool {
    get(wire, path).await.is_some()
}

/// How many tokens a slot holds, where the list of models says it.
pub(super) async fn told_length(wire: &Wire) -> Option<u32> {
    let list: Value = serde_json::from_slice(&get(wire, "/v1/models").await?).ok()?;
    let model = list.get("data")?.get(0)?;
    let told = [model.get("max_model_len"), model.pointer("/meta/n_ctx")];
    let length = told.into_iter().flatten().find_map(Value::as_u64)?;
    u32::try_from(length).ok().filter(|&length| length > 0)
}

async fn get(wire: &Wire, path: &str) -> Option<Bytes> {
    let asked = async {
        let response = wire.send(Method::GET, path, Bytes::new()).await.ok()?;
        let good = response.status.is_success();
        response.bytes().await.ok().filter(|_| good)
    };
    timeout(ANSWER, asked).await.ok().flatten()
}

/// A program by its path, or by its name in the engine folders or on the path for programs.
///
/// # Errors
/// `engine_unavailable` where it is nowhere.
pub(crate) fn find_program(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let given = Path::new(name);
    let path = env::var_os("PATH").unwrap_or_default();
    let searched = folders.iter().cloned().chain(env::split_paths(&path));
    let candidates: Vec<_> = match given.components().count() {
        1 => searched.map(|folder| folder.join(name)).collect(),
        _ => vec![given.to_owned()],
    };
    let found = candidates.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        Error::new(
            ErrorCode::EngineUnavailable,
            format!("the program {name} is not on this machine; install it, or name its path in the configuration"),
        )
    })
}

/// What may stand in braces in a command.
pub(crate) const PLACES: [&str; 6] = [
    "model",
    "port",
    "threads",
    "slots",
    "context",
    "context_total",
];

fn value(launch: &Launch, port: u16, name: &str) -> Option<String> {
    let length = launch.context_length;
    match name {
        "model" => Some(launch.model.to_string_lossy().into_owned()),
        "port" => Some(port.to_string()),
        "threads" => Some(launch.threads.to_string()),
        "slots" => Some(launch.slots.to_string()),
        "context" => length.map(|length| length.to_string()),
        "context_total" => length.map(|length| length.saturating_mul(launch.slots).to_string()),
        _ => {
            let option = name.strip_prefix("option:")?;
            let found = launch.options.iter().find(|(key, _)| key == option)?;
            Some(found.1.clone())
        }
    }
}

/// The template with each `{name}` replaced; `None` where one has no value.
pub(crate) fn filled(template: &str, value: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}')?;
        text.push_str(before);
        text.push_str(&value(name)?);
        rest = behind;
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use fusion_types::model::ModelType;

    use super::*;

    fn launch(context_length: Option<u32>) -> Launch {
        Launch {
            program: "/bin/server".into(),
            model: "/models/a b.gguf".into(),
            model_type: ModelType::Embeddings,
            context_length,
            slots: 3,
            threads: 2,
            cache_dir: "/cache".into(),
            options: vec![("kind".to_owned(), "q8".to_owned())],
            foreign: None,
        }
    }

    #[test]
    fn a_command_is_filled_and_what_has_no_value_is_left_out() {
        let foreign = |words: &[&str]| Foreign {
            engine: ForeignEngine {
                command: words.iter().map(|word| (*word).to_owned()).collect(),
                ..ForeignEngine::llama_server()
            },
            keeper: "/bin/fusiond".into(),
            capabilities: Vec::new(),
            fingerprint: String::new(),
        };
        let words = [
            "server",
            "-m",
            "{model}",
            "--ctx",
            "{context}",
            "{slots}x{threads}",
            "--kind",
            "{option:kind}",
            "--other",
            "{option:other}",
            "--port={port}",
        ];
        let arguments = foreign(&words).arguments(&launch(None), 9);
        let kept = ["-m", "/models/a b.gguf", "3x2", "--kind", "q8", "--port=9"];
        assert_eq!(arguments[..6], kept);
        assert_eq!(arguments[6..], ["--embeddings"]);
        let arguments =
            foreign(&["server", "--ctx", "{context_total}"]).arguments(&launch(Some(8)), 9);
        assert_eq!(arguments[..2], ["--ctx", "24"]);
    }

    #[test]
    fn a_program_that_is_nowhere_is_named() {
        let error = find_program("no-such-server", &[]).unwrap_err();
        assert_eq!(error.code, ErrorCode::EngineUnavailable);
        assert!(error.message.contains("no-such-server"), "{error}");
        assert!(find_program("sh", &[]).is_ok());
    }
}
