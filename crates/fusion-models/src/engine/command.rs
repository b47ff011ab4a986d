//! How an engine is called.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf, absolute},
    process::Stdio,
};

use fusion_types::{Error, ErrorCode, Result, model::ModelType};
use tokio::process::Command;

use super::Foreign;

/// One model's call, for `serve` and for `estimate` alike.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) model_type: ModelType,
    pub(crate) context_length: Option<u32>,
    pub(crate) slots: u32,
    pub(crate) threads: u32,
    /// For what engines make of models and can make again.
    pub(crate) cache_dir: PathBuf,
    pub(crate) options: Vec<(String, String)>,
    /// Set where the program is somebody else's server.
    pub(crate) foreign: Option<Foreign>,
}

impl Launch {
    pub(super) fn serve(&self, socket: &Path) -> Command {
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--socket".into(), socket.into()];
        arguments.extend(self.arguments());
        command(&self.program, arguments, self.threads)
    }

    pub(super) fn estimate(&self) -> Command {
        let mut arguments: Vec<OsString> = vec!["estimate".into()];
        arguments.extend(self.arguments());
        command(&self.program, arguments, self.threads)
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--model".into(), self.model.clone().into()];
        let mut add = |flag: &str, value: String| {
            arguments.extend([OsString::from(flag), OsString::from(value)])
        };
        add("--model-type", self.model_type.as_str().to_owned());
        if let Some(length) = self.context_length {
            add("--context-length", length.to_string());
        }
        add("--slots", self.slots.to_string());
        add("--threads", self.threads.to_string());
        arguments.extend(["--cache-dir".into(), self.cache_dir.clone().into()]);
        for (key, value) in &self.options {
            arguments.extend(["--option".into(), format!("{key}={value}").into()]);
        }
        arguments
    }
}

/// A child in a process group of its own, with an empty environment but for what keeps it quiet: an abort in ggml would
/// start a debugger, idle OpenMP threads would spin, and candle would split its work over all cores whatever its threads. In a
/// build for CUDA it also has what it needs to see the devices.
pub(crate) fn command(program: &Path, arguments: Vec<OsString>, threads: u32) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("GGML_NO_BACKTRACE", "1")
        .env("OMP_WAIT_POLICY", "passive")
        .env("RAYON_NUM_THREADS", threads.to_string())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(filter) = env::var_os("FUSIOND_LOG") {
        command.env("FUSIOND_LOG", filter);
    }
    #[cfg(feature = "cuda")]
    command.envs(crate::cuda::environment());
    command
}

/// The executable of that name in the first folder that has it.
///
/// # Errors
/// `engine_unavailable` where no folder has it.
pub(crate) fn find(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let mut candidates = folders.iter().map(|folder| folder.join(name));
    let found = candidates.find(|path| path.is_file()).map(absolute);
    match found {
        Some(Ok(path)) => Ok(path),
        Some(Err(error)) => Err(unavailable(name, &error)),
        None => Err(unavailable(name, &io::Error::from(io::ErrorKind::NotFound))),
    }
}

fn unavailable(name: &str, error: &io::Error) -> Error {
    Error::new(
        ErrorCode::EngineUnavailable,
        format!("the engine {name} isn't installed: {error}"),
    )
}
