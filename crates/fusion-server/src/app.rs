//! The composition root: builds the parts, runs them, and ends them in order.

use std::{
    env,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use fusion_models::{EvictionPolicy, KnownFolders, ModelDefinition, Models};
use fusion_orchestrator::{
    batch::{self, Batches},
    files::{Files, FilesConfig},
    jobs::{self, Jobs, LocalOperations, RunnerConfig},
    rag::{Rag, RagConfig},
    webhook::{self, Webhooks},
    workflow::Workflows,
};
use fusion_storage::Storage;
use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    id::RequestId,
    inference::{Inference, ModelPlanner},
    job::Owner,
    model::{ModelId, Priority},
    outgoing::Outgoing,
};
use tokio::net::TcpListener;

use crate::{
    config::{Config, Definition, Eviction, known_folders},
    drain::{Group, asked_to_stop},
    http,
    leader::Candidate,
    media::{MediaLimits, Spool, WithMedia},
    memory,
    nodes::{Anywhere, Everywhere, Node},
    outgoing::{Allow, Guarded},
    payload_key, secret,
    state::{App, Limits},
    telemetry,
};

/// The groups of tasks, in the order in which they end.
#[derive(Clone, Default)]
struct Groups {
    /// Connections, and streams to clients.
    requests: Group,
    /// The job runner, the webhook dispatcher, the sweeper.
    workers: Group,
    /// The registry and its engines.
    models: Group,
}

const SWEEP_EVERY: Duration = Duration::from_secs(60);
const WORKERS_END: Duration = Duration::from_secs(10);

/// Runs the server until it is asked to stop.
///
/// # Errors
/// What keeps it from starting.
pub(crate) async fn serve(config: Config) -> Result<()> {
    let prometheus =
        telemetry::start_metrics().map_err(|error| Error::internal(error.to_string()))?;
    let listener = listen(&config).await?;
    let storage = fusion_storage::open(&storage_config(&config)).await?;
    let groups = Groups::default();
    let models = start_models(&config, &storage, &groups.models).await?;

    let owner = Owner(format!("{}-{}", std::process::id(), RequestId::generate()));
    let listening = url(&listener)?;
    let node = node(&config, &storage, &models, &owner, &listening)?;
    let guarded = Arc::new(guarded(&config)?);
    let files = files(&config, &storage);
    let here = with_media(&config, &models, &files, &guarded)?;
    let (inference, planner) = anywhere(&here, &models, &node, &storage);
    let outgoing: Arc<dyn Outgoing> = guarded;
    let rag = start_rag(&inference, &planner, &storage, &files);
    let workflows = Workflows::new(planner.clone(), rag.clone());
    let operations = LocalOperations::new(inference.clone(), planner.clone())
        .with_workflows(workflows.clone())
        .with_rag(rag.clone());
    let jobs = Jobs::new(
        storage.jobs.clone(),
        planner,
        outgoing.clone(),
        Arc::new(operations),
        jobs_config(&config)?,
    );
    let batches = Batches::new(
        storage.records.clone(),
        files.clone(),
        jobs.clone(),
        Arc::new(http::OpenAi),
        batch_config(&config),
    );
    let webhooks = Webhooks::new(
        storage.records.clone(),
        storage.jobs.clone(),
        outgoing,
        webhook_config(&config, &storage).await?,
    );
    start_workers(owner, &jobs, &webhooks, &storage, &groups.workers).await?;
    groups
        .workers
        .spawn(node.clone().run(groups.workers.token.clone()));
    start_batches(&batches, &files, &storage, &groups.workers).await?;

    let limits = Limits {
        rate: config.rate,
        max_body: config.server.max_body,
        max_upload: config.server.max_upload,
    };
    let app = App {
        models,
        inference,
        here,
        rag,
        workflows,
        jobs,
        files,
        batches,
        webhooks,
        storage: storage.clone(),
        node,
        features: config.features,
        limits,
        prometheus,
        tasks: groups.requests.tasks.clone(),
        draining: groups.requests.token.clone(),
    };
    let lanes = http::Lanes::start()
        .map_err(|error| Error::internal(format!("can't start a thread: {error}")))?;
    announce(&listening);
    answer(listener, app, &groups.requests, lanes, config.server.drain).await;
    groups.workers.end("workers", WORKERS_END).await;
    groups.models.end("models", config.server.drain).await;
    storage.close().await
}

pub(crate) fn storage_config(config: &Config) -> fusion_storage::Config {
    fusion_storage::Config {
        mongo: config.state.mongo.clone(),
        redis: config.state.redis.clone(),
        inputs: config.jobs.inputs(),
        ..fusion_storage::Config::new(&config.data_dir)
    }
}

async fn listen(config: &Config) -> Result<TcpListener> {
    let address = (config.server.host, config.server.port);
    TcpListener::bind(address).await.map_err(|error| {
        let (host, port) = address;
        Error::new(
            ErrorCode::EngineUnavailable,
            format!("can't listen on {host}:{port}: {error}"),
        )
    })
}

/// One line on standard output, once requests are answered.
fn announce(url: &str) {
    let mut output = io::stdout().lock();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(output, "fusiond is listening on {url}").and_then(|()| output.flush());
}

fn url(listener: &TcpListener) -> Result<String> {
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(format!("http://{address}"))
}

/// Answers until asked to stop; then running requests have until the end of the drain.
async fn answer(
    listener: TcpListener,
    app: App,
    requests: &Group,
    lanes: http::Lanes,
    drain: Duration,
) {
    let stop = requests.token.clone();
    requests.spawn(async move {
        asked_to_stop().await;
        stop.cancel();
    });
    http::serve(listener, http::router(app), requests, &lanes).await;
    tracing::info!("draining");
    requests.end("requests", drain).await;
}

async fn start_models(config: &Config, storage: &Storage, group: &Group) -> Result<Models> {
    let (records, tasks, token) = (
        storage.own_records.clone(),
        group.tasks.clone(),
        group.token.clone(),
    );
    Models::start(models_config(config)?, records, tasks, token).await
}

fn models_config(config: &Config) -> Result<fusion_models::Config> {
    let settings = &config.models;
    let memory = memory::budgeted();
    let budget = settings
        .budget
        .or_else(|| memory::default_budget(&memory))
        .ok_or_else(|| {
            Error::invalid(
                "models.max_vram_gb",
                "how much memory there is isn't known; set it",
            )
        })?;
    tracing::info!(
        memory = memory.memory_of().as_str(),
        bytes = budget,
        "models have a memory budget"
    );
    let mut definitions: Vec<_> = config.definitions.iter().map(definition).collect();
    definitions.extend(config.launch.as_ref().map(|launch| {
        let path = PathBuf::from(&launch.model_path);
        let name = path.file_stem().map_or_else(
            || launch.model_path.clone().into(),
            |stem| stem.to_string_lossy(),
        );
        let mut definition = ModelDefinition::new(&name, &launch.model_path);
        definition.model_type = Some(launch.model_type);
        definition.context_length = launch.context_length;
        definition.adapters.clone_from(&launch.adapters);
        definition.preload = true;
        definition
    }));
    let defaults = fusion_models::Config::new(&config.models_dir, budget);
    Ok(fusion_models::Config {
        engine_dirs: engine_dirs(config),
        memory: Some(memory),
        max_models: settings.max_loaded,
        eviction: match settings.eviction {
            Eviction::Lru => EvictionPolicy::Lru,
            Eviction::Priority => EvictionPolicy::Priority,
            Eviction::Manual => EvictionPolicy::Manual,
        },
        idle_ttl: settings.ttl,
        slots: settings.concurrency,
        max_queue: settings.max_queue,
        queue_timeout: settings.queue_timeout,
        load_timeout: settings.load_timeout,
        hang_timeout: settings.hang_timeout,
        drain_timeout: config.server.drain,
        threads: settings.threads.unwrap_or(defaults.threads),
        known_folders: if settings.search_known_folders {
            known_folders(|name| env::var_os(name).map(PathBuf::from))
        } else {
            KnownFolders::default()
        },
        definitions,
        foreign: config.foreign.clone(),
        keeper: env::current_exe().ok(),
        ..defaults
    })
}

fn definition(definition: &Definition) -> ModelDefinition {
    let options = definition
        .options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone().into()));
    ModelDefinition {
        id: ModelId::new(&definition.id),
        path: definition.path.clone(),
        model_type: Some(definition.model_type),
        engine: definition.engine.clone(),
        context_length: definition.context_length,
        concurrency: definition.concurrency,
        replicas: definition.replicas.unwrap_or(1),
        options: options.collect(),
        adapters: definition.adapters.clone(),
        draft_model: definition.draft_model.clone(),
        aliases: definition.aliases.clone(),
        pinned: definition.pinned,
        keep_warm: definition.keep_warm,
        priority: definition.priority.unwrap_or(Priority::Normal),
        idle_ttl: None,
        preload: definition.preload,
    }
}

/// Beside this executable, then where the configuration says.
pub(crate) fn engine_dirs(config: &Config) -> Vec<PathBuf> {
    let beside = env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(PathBuf::from));
    beside
        .into_iter()
        .chain(config.engine_dirs.iter().cloned())
        .collect()
}

fn guarded(config: &Config) -> Result<Guarded> {
    let allow = Allow::parse(&config.outgoing_allow)
        .map_err(|why| Error::invalid("outgoing.allow", why))?;
    Guarded::new(allow)
}

/// The models, with images and sounds in chats kept on disk for them.
fn with_media(
    config: &Config,
    models: &Models,
    files: &Files,
    guarded: &Arc<Guarded>,
) -> Result<Arc<dyn Inference>> {
    let spool = Spool::open(&config.data_dir.join("spool")).map_err(|error| {
        let message = format!("can't make the folder for files of requests: {error}");
        Error::new(ErrorCode::StoreUnavailable, message)
    })?;
    let limits = MediaLimits {
        file: config.media.file,
        request: config.server.max_upload,
        fetch: config.media.fetch,
    };
    let models = Arc::new(models.clone());
    let (planner, guarded, files) = (models.clone(), guarded.clone(), files.clone());
    Ok(Arc::new(WithMedia::new(
        models, planner, guarded, files, spool, limits,
    )))
}

/// The models of all servers that share the store.
fn anywhere(
    here: &Arc<dyn Inference>,
    models: &Models,
    node: &Node,
    storage: &Storage,
) -> (Arc<dyn Inference>, Arc<dyn ModelPlanner>) {
    let (inference, planner) = (here.clone(), Arc::new(models.clone()));
    if !storage.is_shared() {
        return (inference, planner);
    }
    let anywhere = Anywhere {
        here: inference,
        node: node.clone(),
    };
    let everywhere = Everywhere {
        here: planner,
        node: node.clone(),
    };
    (Arc::new(anywhere), Arc::new(everywhere))
}

/// This server among those that share the store.
fn node(
    config: &Config,
    storage: &Storage,
    models: &Models,
    owner: &Owner,
    listening: &str,
) -> Result<Node> {
    let url = config.server.advertise.as_deref().unwrap_or(listening);
    let (records, id) = (storage.records.clone(), owner.0.clone());
    Node::new(records, models.clone(), id, url.to_owned())
}

fn files(config: &Config, storage: &Storage) -> Files {
    let settings = FilesConfig {
        ttl: config.files.ttl,
    };
    Files::new(storage.records.clone(), storage.blobs.clone(), settings)
}

fn start_rag(
    inference: &Arc<dyn Inference>,
    planner: &Arc<dyn ModelPlanner>,
    storage: &Storage,
    files: &Files,
) -> Rag {
    Rag::new(
        inference.clone(),
        planner.clone(),
        storage.documents.clone(),
        Some(files.clone()),
        storage.dense.clone(),
        storage.keyword.clone(),
        RagConfig::default(),
    )
}

fn jobs_config(config: &Config) -> Result<jobs::Config> {
    let seal = payload_key::seal(&config.jobs, &config.data_dir)?;
    Ok(jobs::Config {
        job_ttl: config.jobs.ttl,
        max_queued: config.jobs.max_queued,
        default_timeout: config.jobs.timeout,
        max_attempts: config.jobs.max_attempts,
        parallel: config.jobs.parallel,
        seal: seal.map(Arc::new),
        ..jobs::Config::default()
    })
}

fn batch_config(config: &Config) -> batch::Config {
    batch::Config {
        most_lines: config.batches.most_lines,
        window: config.batches.window,
        ttl: config.batches.ttl,
    }
}

async fn webhook_config(config: &Config, storage: &Storage) -> Result<webhook::Config> {
    let default_secret = match &config.webhooks.secret {
        Some(secret) => secret.clone(),
        None if storage.is_shared() => secret::shared(&config.data_dir, &*storage.records).await?,
        None => secret::of_folder(&config.data_dir)?,
    };
    webhook::check_secret(&default_secret).map_err(|error| error.with_param("webhooks.secret"))?;
    Ok(webhook::Config {
        timeout: config.webhooks.timeout,
        retry_count: config.webhooks.retry_count,
        disable_after: config.webhooks.disable_after,
        default_secret,
        job_ttl: config.jobs.ttl,
    })
}

async fn start_workers(
    owner: Owner,
    jobs: &Jobs,
    webhooks: &Webhooks,
    storage: &Storage,
    group: &Group,
) -> Result<()> {
    // Where the store is this server's alone, none but a run before can hold a lease.
    let released = storage.jobs.release_all_leases().await?;
    if released > 0 {
        tracing::info!(jobs = released, "jobs of the run before go on");
    }
    let runner = jobs.runner(RunnerConfig::new(owner.clone()));
    group.spawn(runner.run(group.tasks.clone(), group.token.clone()));
    let (webhooks, tasks) = (webhooks.clone(), group.tasks.clone());
    let deliver = move |token| webhooks.dispatcher().run(tasks.clone(), token);
    if storage.is_shared() {
        // One server delivers for all: each would send everything.
        let candidate = Candidate::new(storage.records.clone(), "webhooks", owner.0);
        group.spawn(candidate.run(group.token.clone(), deliver));
    } else {
        group.spawn(deliver(group.token.clone()));
    }
    group.spawn(sweep(storage.clone(), group.token.clone()));
    Ok(())
}

async fn start_batches(
    batches: &Batches,
    files: &Files,
    storage: &Storage,
    group: &Group,
) -> Result<()> {
    // In a store that others use as well, a lease may be one of theirs, and runs out by itself.
    if !storage.is_shared() {
        batches.release_all_leases().await?;
    }
    let owner = Owner(format!("{}-{}", std::process::id(), RequestId::generate()));
    let worker = batches.worker(owner);
    group.spawn(worker.run(group.tasks.clone(), group.token.clone()));
    group.spawn(sweep_files(files.clone(), group.token.clone()));
    Ok(())
}

/// Removes files that have expired, and bytes that never became a file.
async fn sweep_files(files: Files, token: tokio_util::sync::CancellationToken) {
    loop {
        if let Err(error) = files.sweep().await {
            tracing::warn!(%error, "can't sweep files");
        }
        let pause = tokio::time::sleep(SWEEP_EVERY);
        if token.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// Removes what has expired, for as long as the server runs.
async fn sweep(storage: Storage, token: tokio_util::sync::CancellationToken) {
    while token
        .run_until_cancelled(tokio::time::sleep(SWEEP_EVERY))
        .await
        .is_some()
    {
        for swept in [
            storage.jobs.sweep().await,
            storage.records.sweep(Timestamp::now()).await,
            storage.own_records.sweep(Timestamp::now()).await,
        ] {
            if let Err(error) = swept {
                tracing::warn!(%error, "can't sweep");
            }
        }
    }
}
