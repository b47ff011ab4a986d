//! A model file made into a smaller one, by a child: an abort in C++ ends that and nothing else.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf, absolute},
    process::Output,
    time::Duration,
};

use fusion_types::{
    Error, ErrorCode, Result,
    engine::{Hello, HelloOutcome},
};
use serde::Deserialize;

use crate::{
    download::{Progress, check_room},
    engine,
};

const ENGINE: &str = "fusiond-llama";
/// How often the growing file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is to become of which file.
#[derive(Clone, Debug)]
pub struct Quantize {
    pub input: PathBuf,
    pub output: PathBuf,
    /// Such as `Q4_K_M`; an unknown one is refused with the known.
    pub kind: String,
    /// Replace what is at `output`.
    pub force: bool,
    /// Also quantize tensors that already are, which adds a second error to the first.
    pub requantize: bool,
    pub threads: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantized {
    pub input_bytes: u64,
    pub output_bytes: u64,
}

#[derive(Deserialize)]
struct Told {
    bytes: u64,
}

/// The result appears under its name whole or not at all. Dropping the future ends the work and leaves nothing behind.
///
/// # Errors
/// `invalid_value` naming `input`, `output` or `type` at fault; `engine_unavailable` without the engine; `engine_crashed` where it
/// ends early; `internal_error` for a disk that is too small or can't be written.
pub async fn quantize(
    engine_dirs: &[PathBuf],
    wanted: &Quantize,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Quantized> {
    let program = engine::find(ENGINE, engine_dirs)?;
    let input = full(&wanted.input, "input")?;
    let output = full(&wanted.output, "output")?;
    check_paths(&input, &output, wanted.force)?;
    let folder = output.parent().unwrap_or(Path::new("/"));
    let unfinished = Unfinished(hidden_beside(&output));
    let call = |dry_run: bool| {
        let mut arguments: Vec<OsString> = vec!["quantize".into(), input.clone().into()];
        arguments.extend([unfinished.0.clone().into(), "--type".into()]);
        arguments.push(wanted.kind.clone().into());
        arguments.extend(["--threads".into(), wanted.threads.to_string().into()]);
        arguments.extend(wanted.requantize.then(|| "--requantize".into()));
        arguments.extend(dry_run.then(|| "--dry-run".into()));
        engine::command(&program, arguments, wanted.threads)
    };

    let predicted = told(&run(call(true)).await?)?;
    check_room(folder, predicted)?;
    let work = run(call(false));
    let outcome = while_looking(work, &unfinished.0, &output, predicted, progress).await?;
    let output_bytes = told(&outcome)?;
    check_paths(&input, &output, wanted.force)?;
    fs::rename(&unfinished.0, &output).map_err(|error| {
        let message = format!("can't write {}: {error}", output.display());
        Error::internal(message).with_param("output")
    })?;
    Ok(Quantized {
        input_bytes: fs::metadata(&input).map_or(0, |metadata| metadata.len()),
        output_bytes,
    })
}

fn full(path: &Path, param: &str) -> Result<PathBuf> {
    absolute(path).map_err(|error| Error::invalid(param, format!("{}: {error}", path.display())))
}

fn check_paths(input: &Path, output: &Path, force: bool) -> Result<()> {
    if !input.is_file() {
        let message = format!("there is no file {}", input.display());
        return Err(Error::invalid("input", message));
    }
    let name = output.display();
    if output.is_dir() {
        return Err(Error::invalid("output", format!("{name} is a folder")));
    }
    if !output.parent().is_some_and(Path::is_dir) {
        let message = format!("the folder of {name} does not exist");
        return Err(Error::invalid("output", message));
    }
    if !output.exists() {
        return Ok(());
    }
    if fs::canonicalize(input).ok() == fs::canonicalize(output).ok() {
        let message = format!("{name} is the input itself");
        return Err(Error::invalid("output", message));
    }
    if force {
        return Ok(());
    }
    let message = format!("{name} exists already; --force replaces it");
    Err(Error::invalid("output", message))
}

/// A file that goes with this value, unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "an unfinished file stays behind");
            }
            _ => {}
        }
    }
}

fn hidden_beside(output: &Path) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!(".{name}.{}.unfinished", std::process::id()))
}

async fn run(mut command: tokio::process::Command) -> Result<Output> {
    let unavailable = |error: io::Error| {
        let message = format!("can't run {ENGINE}: {error}");
        Error::new(ErrorCode::EngineUnavailable, message)
    };
    let mut child = command.spawn().map_err(unavailable)?;
    // The child ends when this does: so also when this process is killed.
    let _input = child.stdin.take();
    child.wait_with_output().await.map_err(unavailable)
}

async fn while_looking<T>(
    work: impl Future<Output = T>,
    growing: &Path,
    output: &Path,
    total: u64,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> T {
    let file = output.file_name().unwrap_or_default().to_string_lossy();
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(LOOK_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => progress(Progress {
                file: file.to_string(),
                bytes: fs::metadata(growing).map_or(0, |metadata| metadata.len()),
                total_bytes: Some(total),
            }),
        }
    }
}

/// The bytes that the child told, or why it couldn't.
fn told(output: &Output) -> Result<u64> {
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().rev() {
        if let Ok(told) = serde_json::from_str::<Told>(line) {
            return Ok(told.bytes);
        }
        if let Ok(hello) = serde_json::from_str::<Hello>(line)
            && let HelloOutcome::Error(error) = hello.outcome
        {
            return Err(engine::refusal(error));
        }
    }
    let log = String::from_utf8_lossy(&output.stderr);
    let last = log.lines().rfind(|line| !line.trim().is_empty());
    let message = format!(
        "{ENGINE} ended with {} before it was done: {}",
        output.status,
        last.unwrap_or("it said nothing")
    );
    Err(Error::new(ErrorCode::EngineCrashed, message))
}
