//! Which flag and which environment variables set which key of the configuration file.

/// One setting that can be given outside the file. The first environment variable that is set wins.
pub(crate) struct Setting {
    pub(crate) key: &'static str,
    /// A flag without a value means true.
    pub(crate) is_switch: bool,
    pub(crate) flag: &'static str,
    pub(crate) environment: &'static [&'static str],
    pub(crate) help: &'static str,
}

const fn setting(
    key: &'static str,
    flag: &'static str,
    environment: &'static [&'static str],
    help: &'static str,
) -> Setting {
    Setting {
        key,
        is_switch: false,
        flag,
        environment,
        help,
    }
}

const fn switch(
    key: &'static str,
    flag: &'static str,
    environment: &'static [&'static str],
    help: &'static str,
) -> Setting {
    Setting {
        is_switch: true,
        ..setting(key, flag, environment, help)
    }
}

pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "server.host",
        "host",
        &["SERVER_HOST"],
        "address to listen on",
    ),
    setting(
        "server.port",
        "port",
        &["SERVER_PORT"],
        "port to listen on; 0 picks a free one",
    ),
    switch(
        "server.insecure",
        "insecure",
        &[],
        "allow an address that others can reach",
    ),
    setting(
        "server.advertise",
        "advertise",
        &["SERVER_ADVERTISE"],
        "URL by which other servers reach this one",
    ),
    setting(
        "paths.data",
        "data-dir",
        &["FUSIOND_DATA_DIR"],
        "folder of the state store",
    ),
    setting(
        "paths.models",
        "models-dir",
        &["FUSIOND_MODELS_DIR"],
        "folder of the models",
    ),
    setting(
        "paths.engines",
        "engines-dir",
        &["FUSIOND_ENGINES_DIR"],
        "folders with engine executables, comma-separated",
    ),
    setting(
        "models.max_vram_gb",
        "max-vram-gb",
        &["MAX_VRAM_GB"],
        "memory for all loaded models, in GB",
    ),
    setting(
        "models.max_loaded",
        "max-models",
        &["MAX_MODELS"],
        "most models loaded at once",
    ),
    setting(
        "models.eviction_policy",
        "eviction-policy",
        &["MODEL_EVICTION_POLICY"],
        "lru, priority or manual",
    ),
    setting(
        "models.ttl_seconds",
        "model-ttl-seconds",
        &["MODEL_TTL_SECONDS"],
        "idle models are unloaded after this time",
    ),
    setting(
        "models.concurrency",
        "concurrency",
        &["DEFAULT_CONCURRENCY", "MAX_CONCURRENCY"],
        "requests that one model runs side by side",
    ),
    setting(
        "models.max_queue_size",
        "queue-size",
        &["MAX_QUEUE_SIZE", "QUEUE_SIZE"],
        "requests that may wait for one model",
    ),
    setting(
        "models.queue_timeout_seconds",
        "queue-timeout",
        &["QUEUE_TIMEOUT_SECONDS", "QUEUE_TIMEOUT"],
        "how long a request may wait",
    ),
    setting(
        "models.hang_timeout_seconds",
        "hang-timeout",
        &[],
        "a generation silent for longer has hung",
    ),
    switch(
        "models.search_known_folders",
        "search-known-folders",
        &["FUSIOND_SEARCH_KNOWN_FOLDERS"],
        "find what lies in the folders of Hugging Face, LM Studio and Ollama",
    ),
    setting(
        "launch.model_path",
        "model-path",
        &["MODEL_PATH"],
        "a model to load at start",
    ),
    setting(
        "launch.model_type",
        "model-type",
        &["MODEL_TYPE"],
        "its type",
    ),
    setting(
        "launch.context_length",
        "context-length",
        &["CONTEXT_LENGTH"],
        "its context length",
    ),
    setting(
        "launch.lora_paths",
        "lora-paths",
        &["LORA_PATHS"],
        "its LoRA adapters, comma-separated",
    ),
    setting(
        "launch.lora_scales",
        "lora-scales",
        &["LORA_SCALES"],
        "how strongly they are applied, comma-separated",
    ),
    switch(
        "features.fusion",
        "enable-fusion",
        &["ENABLE_FUSION"],
        "serve /api/fusion",
    ),
    switch(
        "features.rag",
        "enable-rag",
        &["ENABLE_RAG"],
        "serve /api/rag",
    ),
    switch(
        "features.mcp",
        "enable-mcp",
        &["ENABLE_MCP"],
        "serve /api/mcp",
    ),
    setting(
        "jobs.ttl_days",
        "job-ttl-days",
        &["JOB_TTL_DAYS"],
        "finished jobs are kept for this long",
    ),
    setting(
        "jobs.max_queued",
        "max-queued-jobs",
        &["MAX_QUEUED_JOBS"],
        "jobs that may wait",
    ),
    setting(
        "jobs.payloads",
        "job-payloads",
        &["JOB_PAYLOADS"],
        "inputs of jobs: until_done, encrypted or keep",
    ),
    setting(
        "jobs.payload_key",
        "job-payload-key",
        &["JOB_PAYLOAD_KEY"],
        "what inputs of jobs are encrypted with",
    ),
    setting(
        "jobs.failed_payload_hours",
        "failed-payload-hours",
        &["FAILED_PAYLOAD_HOURS"],
        "a failed job's input is kept for this long",
    ),
    setting(
        "webhooks.timeout_seconds",
        "webhook-timeout-seconds",
        &["WEBHOOK_TIMEOUT_SECONDS"],
        "of one delivery attempt",
    ),
    setting(
        "webhooks.retry_count",
        "webhook-retry-count",
        &["WEBHOOK_RETRY_COUNT"],
        "delivery attempts after the first",
    ),
    setting(
        "webhooks.disable_after_hours",
        "webhook-disable-after-hours",
        &[],
        "a webhook that fails for this long is disabled",
    ),
    setting(
        "webhooks.secret",
        "webhook-secret",
        &["WEBHOOK_SECRET"],
        "signs the calls to a job's callback_url",
    ),
    setting(
        "outgoing.allow",
        "outgoing-allow",
        &["OUTGOING_ALLOW"],
        "private networks and hosts that webhooks may reach, comma-separated",
    ),
    setting(
        "telemetry.log_level",
        "log-level",
        &["LOG_LEVEL"],
        "error, warn, info, debug or trace",
    ),
    setting(
        "state.mongo_uri",
        "mongo-uri",
        &["MONGO_URI"],
        "keep the state in MongoDB, for several servers; mongodb://host:27017",
    ),
    setting(
        "state.mongo_db",
        "mongo-db",
        &["MONGO_DB_NAME"],
        "the database's name there",
    ),
    setting(
        "state.redis_uri",
        "redis-uri",
        &["REDIS_URI"],
        "tell the others at once, beside MongoDB; redis://host:6379",
    ),
    setting(
        "state.redis_db",
        "redis-db",
        &["REDIS_DB"],
        "the number of Redis's database",
    ),
    setting(
        "state.vector_db_type",
        "vector-db-type",
        &["VECTOR_DB_TYPE"],
        "embedded",
    ),
];

/// Launch options of the predecessor that do nothing yet: the log says so where one is set.
pub(crate) const WITHOUT_EFFECT: &[&str] = &[
    "ALLOWED_ORIGINS",
    "CONFIG_NAME",
    "DISABLE_AUTO_RESIZE",
    "ENABLE_AUTO_TOOL_CHOICE",
    "LOG_FILE",
    "MLX_WARMUP",
    "NO_LOG_FILE",
    "QUANTIZE",
    "REASONING_PARSER",
    "TOOL_CALL_PARSER",
    "TRUST_REMOTE_CODE",
    "VECTOR_DB_PATH",
];
