//! A models folder, a store in memory, and the fake engine in place of the real ones.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use fusion_models::{Config, LoadRequest, ModelInfo, Models};
use fusion_types::{
    Call, Error, Result, Tenant, Timestamp,
    chat::{ChatEvent, ChatRequest, FinishReason, Message, Role},
    id::RequestId,
    inference::{Generation, Inference},
    model::ModelStatus,
    record::{Record, RecordWrite},
    store::RecordStore,
};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The longest that any of these tests waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MEGABYTE: u64 = 1 << 20;

pub(crate) struct Setting {
    pub(crate) models: Models,
    pub(crate) folder: Folder,
    pub(crate) records: Arc<Records>,
    pub(crate) token: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new(names: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in names {
            folder.add(name);
        }
        folder
    }

    pub(crate) fn add(&self, name: &str) -> PathBuf {
        let path = self.path().join(format!("{name}.gguf"));
        fs::write(&path, b"GGUF, but only in name").unwrap();
        path
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            engine_dirs: vec![engine_dir()],
            runtime_parent: None,
            slots: 2,
            threads: 2,
            drain_timeout: PATIENCE,
            queue_timeout: PATIENCE,
            load_timeout: PATIENCE,
            ..Config::new(self.path(), 1000 * MEGABYTE)
        }
    }
}

/// Where cargo puts the workspace's executables: above the folder of this test's own.
pub(crate) fn engine_dir() -> PathBuf {
    let own = env::current_exe().unwrap();
    let above = own.ancestors().skip(1).take(2);
    let found = above
        .map(Path::to_owned)
        .find(|folder| folder.join("fake-engine").is_file());
    found.expect("fake-engine isn't built: cargo build -p fusion-engine --bins")
}

impl Setting {
    pub(crate) async fn new(names: &[&str]) -> Self {
        Self::with(names, |config| config).await
    }

    pub(crate) async fn with(names: &[&str], adapt: impl FnOnce(Config) -> Config) -> Self {
        let folder = Folder::new(names);
        let config = adapt(folder.config());
        Self::start(folder, config, Arc::default()).await
    }

    pub(crate) async fn start(folder: Folder, config: Config, records: Arc<Records>) -> Self {
        let (tasks, token) = (TaskTracker::new(), CancellationToken::new());
        let models = Models::start(config, records.clone(), tasks.clone(), token.clone())
            .await
            .unwrap();
        Self {
            models,
            folder,
            records,
            token,
            tasks,
        }
    }

    /// Loads a model on the fake engine.
    pub(crate) async fn load(&self, name: &str, options: Value) -> fusion_models::LoadReport {
        self.models.load(fake(name, options)).await.unwrap()
    }

    /// Makes a model known with its options, and leaves it unloaded.
    pub(crate) async fn define(&self, name: &str, options: Value) {
        self.load(name, options).await;
        self.models.unload(name, true).await.unwrap();
    }

    pub(crate) async fn chat(&self, name: &str) -> Result<Generation> {
        self.models.chat(&call(), chat(name)).await
    }

    pub(crate) async fn pid(&self, name: &str) -> u32 {
        self.models.info(name).await.unwrap().pid.unwrap()
    }

    pub(crate) fn status(&self, name: &str) -> ModelStatus {
        self.models.card(name).unwrap().status
    }

    /// Waits until the model's state is as wanted.
    pub(crate) async fn until(&self, name: &str, fits: impl Fn(&ModelInfo) -> bool) -> ModelInfo {
        let limit = Instant::now() + PATIENCE;
        loop {
            let info = self.models.info(name).await.unwrap();
            if fits(&info) {
                return info;
            }
            assert!(Instant::now() < limit, "still {info:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn fake(name: &str, options: Value) -> LoadRequest {
    let Value::Object(options) = options else {
        panic!("options are an object")
    };
    LoadRequest {
        engine: Some("fake-engine".to_owned()),
        options,
        ..LoadRequest::new(name)
    }
}

pub(crate) fn call() -> Call {
    Call::interactive(RequestId::generate(), Tenant::default())
}

pub(crate) fn chat(model: &str) -> ChatRequest {
    ChatRequest {
        model: model.to_owned(),
        messages: vec![Message::new(Role::User, "one two three")],
        ..ChatRequest::default()
    }
}

pub(crate) fn options(options: &Value) -> Map<String, Value> {
    options.as_object().cloned().unwrap()
}

/// A generation's text, when it ends whole.
pub(crate) async fn text(generation: Generation) -> Result<String> {
    let mut text = String::new();
    let mut finish = None;
    let mut events = generation.events;
    while let Some(event) = events.next().await {
        match event? {
            ChatEvent::Delta(delta) => text.extend(delta.content),
            ChatEvent::Finish(reason) => finish = Some(reason),
            ChatEvent::Usage(_) => {}
        }
    }
    assert_eq!(finish, Some(FinishReason::Stop));
    Ok(text)
}

pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("\nState:\tZ"))
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Records in memory, without versions or expiry, which this crate doesn't use.
#[derive(Default)]
pub(crate) struct Records(Mutex<BTreeMap<(String, String), Value>>);

impl Records {
    pub(crate) fn keys(&self, namespace: &str) -> Vec<String> {
        let records = self.0.lock().unwrap();
        records
            .keys()
            .filter(|(space, _)| space == namespace)
            .map(|(_, key)| key.clone())
            .collect()
    }
}

#[async_trait]
impl RecordStore for Records {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>> {
        let records = self.0.lock().unwrap();
        let value = records
            .get(&(namespace.to_owned(), key.to_owned()))
            .cloned();
        Ok(value.map(|value| Record {
            key: key.to_owned(),
            value,
            version: 1,
        }))
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        let records = self.0.lock().unwrap();
        let wanted = |(space, key): &(String, String)| {
            space == namespace
                && key.starts_with(prefix)
                && after.is_none_or(|after| key.as_str() > after)
        };
        let found = records
            .iter()
            .filter(|(key, _)| wanted(key))
            .take(limit as usize);
        Ok(found
            .map(|((_, key), value)| Record {
                key: key.clone(),
                value: value.clone(),
                version: 1,
            })
            .collect())
    }

    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()> {
        let mut records = self.0.lock().unwrap();
        for write in writes {
            let key = (write.namespace.to_owned(), write.key);
            match write.value {
                Some(value) => records.insert(key, value),
                None => records.remove(&key),
            };
        }
        Ok(())
    }

    async fn sweep(&self, _now: Timestamp) -> Result<u64> {
        Err(Error::not_implemented("sweeping"))
    }
}

pub(crate) fn slow_answer(tokens: u32, delay_ms: u32) -> Value {
    json!({ "tokens": tokens, "delay_ms": delay_ms })
}
