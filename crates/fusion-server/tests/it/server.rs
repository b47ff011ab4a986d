//! A server that was started for one test, and ends with it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, interval, timeout},
};

/// The longest that a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A data folder, a models folder and a configuration, over which servers can be started one after the other.
pub(crate) struct Home {
    folder: TempDir,
    models_dir: PathBuf,
    config: String,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models_dir = folder.path().join("models");
        fs::create_dir(&models_dir).unwrap();
        let config = "[outgoing]\nallow = [\"127.0.0.0/8\"]\n\
                      [models]\nsearch_known_folders = false\n"
            .to_owned();
        Self {
            folder,
            models_dir,
            config,
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Over the real models, where they have been fetched.
    pub(crate) fn with_real_models() -> Option<Self> {
        let named = std::env::var_os("FUSIOND_MODELS_DIR").map(PathBuf::from);
        let cache =
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/fusiond/models"));
        let models_dir = named
            .or(cache)
            .filter(|folder| folder.join("all-MiniLM-L6-v2").is_dir())?;
        Some(Self {
            models_dir,
            ..Self::new()
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn models_dir(&self) -> &Path {
        &self.models_dir
    }

    /// Defines a model that the fake engine plays.
    pub(crate) fn fake(mut self, id: &str, kind: &str, options: &[(&str, &str)]) -> Self {
        fs::write(self.models_dir.join(id), "not a real model").unwrap();
        let options: Vec<_> = options
            .iter()
            .map(|(key, value)| format!("{key} = \"{value}\""))
            .collect();
        let options = options.join(", ");
        writeln!(
            self.config,
            "[[model]]\nid = \"{id}\"\npath = \"{id}\"\ntype = \"{kind}\"\nengine = \"fake-engine\"\noptions = {{ {options} }}"
        )
        .unwrap();
        self
    }

    /// Adds to the configuration file.
    pub(crate) fn configured(mut self, text: &str) -> Self {
        writeln!(self.config, "{text}").unwrap();
        self
    }

    pub(crate) fn argument(mut self, flag: &str, value: &str) -> Self {
        self.arguments
            .extend([format!("--{flag}"), value.to_owned()]);
        self
    }

    /// For a start with others.
    pub(crate) fn without_arguments(mut self) -> Self {
        self.arguments.clear();
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: &Path) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) async fn start(&self) -> Server {
        let config = self.path().join("fusiond.toml");
        fs::write(&config, &self.config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fusiond"))
            .args([
                "serve",
                "--port",
                "0",
                "--log-level",
                "info,fusion_models=debug",
                "--config",
            ])
            .arg(&config)
            .arg("--data-dir")
            .arg(self.path().join("data"))
            .arg("--models-dir")
            .arg(&self.models_dir)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, output.next_line())
            .await
            .unwrap()
            .unwrap()
            .expect("the server ended at its start");
        let url = line.split_whitespace().last().unwrap().to_owned();
        Server {
            child,
            url,
            _output: output,
        }
    }
}

pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    _output: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Ends the server as a power failure would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(mut self) {
        timeout(DEADLINE, self.child.wait()).await.unwrap().unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

pub(crate) fn kill_hard(pid: u64) {
    kill_process(to_pid(pid), Signal::KILL).unwrap();
}

pub(crate) fn is_alive(pid: u64) -> bool {
    // A process that has ended but wasn't waited for yet still answers; only its state tells.
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'));
    test_kill_process(to_pid(pid)).is_ok() && !zombie
}

fn to_pid(pid: u64) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

/// Looks again and again until it holds, or the test has failed.
pub(crate) async fn until(what: &str, at_most: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(10));
    while !holds().await {
        assert!(
            started.elapsed() < at_most,
            "{what} did not happen within {at_most:?}"
        );
        ticks.tick().await;
    }
}
