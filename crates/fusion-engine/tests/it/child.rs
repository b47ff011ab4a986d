//! A fake engine that was started and said hello.

use std::{process::Stdio, time::Duration};

use fusion_types::engine::{EngineStats, Hello, HelloOutcome};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct FakeEngine {
    pub(crate) child: Child,
    pub(crate) hello: Hello,
    pub(crate) client: reqwest::Client,
    _folder: TempDir,
}

impl FakeEngine {
    pub(crate) async fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fake-engine"))
            .args(["serve", "--model", "none", "--socket"])
            .arg(&socket)
            .args(options.iter().flat_map(|option| ["--option", option]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let client = reqwest::Client::builder()
            .unix_socket(socket)
            .build()
            .unwrap();
        Self {
            child,
            hello: serde_json::from_str(&line).unwrap(),
            client,
            _folder: folder,
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> reqwest::Response {
        self.client
            .post(format!("http://engine{path}"))
            .json(body)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn stats(&self) -> EngineStats {
        self.client
            .get("http://engine/engine/stats")
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    /// Waits until no slot is busy.
    pub(crate) async fn idle(&self) {
        timeout(DEADLINE, async {
            while self.stats().await.slots_busy > 0 {}
        })
        .await
        .unwrap();
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.hello.outcome, HelloOutcome::Ready(_))
    }
}
