-- One row that the writer changes to find out whether the disk takes writes.
CREATE TABLE probe (writes INTEGER NOT NULL);
INSERT INTO probe VALUES (0);

-- `record` is the public record as JSON, without `result`. The columns beside it repeat what is searched.
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    status TEXT NOT NULL,
    operation TEXT NOT NULL,
    model_id TEXT,
    job_group TEXT,
    created_at INTEGER NOT NULL,
    completed_at INTEGER,
    failed_at INTEGER,
    -- Set once the job is finished; it counts as gone from then on.
    expires_at INTEGER,
    run_at INTEGER NOT NULL,
    sort_key INTEGER NOT NULL,
    timeout_ms INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    ttl_ms INTEGER NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until INTEGER,
    cancel_wanted INTEGER NOT NULL DEFAULT 0,
    -- Its input: these rows of job_payloads; null once that is gone.
    payload_first INTEGER,
    payload_parts INTEGER,
    idempotency_key TEXT,
    body_hash TEXT,
    callback_url TEXT,
    record TEXT NOT NULL,
    result TEXT
);
CREATE UNIQUE INDEX jobs_idempotency ON jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_claim ON jobs (sort_key, number, run_at) WHERE status = 'queued';
CREATE INDEX jobs_lease ON jobs (lease_until) WHERE status = 'processing';
CREATE INDEX jobs_expiry ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_failed_payload ON jobs (failed_at) WHERE status = 'failed' AND payload_first IS NOT NULL;
CREATE INDEX jobs_history ON jobs (tenant, created_at, number);

-- An input in parts of equal size, each too large to share a page of the file. Deleting a part frees its whole page, which
-- secure_delete overwrites; rows that share pages would leave copies behind where the tree moves them about.
CREATE TABLE job_payloads (part INTEGER PRIMARY KEY, body BLOB NOT NULL);

CREATE TABLE job_counts (status TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO job_counts VALUES ('queued', 0), ('processing', 0), ('completed', 0), ('failed', 0), ('cancelled', 0);
CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs + 1 WHERE status = new.status;
END;
CREATE TRIGGER jobs_counted_over AFTER UPDATE OF status ON jobs WHEN new.status <> old.status BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE status = old.status;
    UPDATE job_counts SET jobs = jobs + 1 WHERE status = new.status;
END;
CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET jobs = jobs - 1 WHERE status = old.status;
END;

-- `record` is the public record right after the transition, without `result`: that never changes and stays with the job.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX changes_of_job ON changes (job);

CREATE TABLE records (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;
CREATE INDEX records_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE collections (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    embedding_model TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    document_count INTEGER NOT NULL DEFAULT 0,
    chunk_count INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    UNIQUE (tenant, name)
);
-- Collections that are gone for everybody, and whose content is yet to be deleted, some at a time.
CREATE TABLE dropped_collections (number INTEGER PRIMARY KEY);

CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    filename TEXT,
    content_hash TEXT NOT NULL,
    metadata TEXT NOT NULL,
    chunk_count INTEGER NOT NULL,
    ingested_at INTEGER NOT NULL,
    text TEXT NOT NULL,
    UNIQUE (collection, id)
);

CREATE TABLE chunks (
    number INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL,
    document INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    char_start INTEGER NOT NULL,
    char_end INTEGER NOT NULL,
    page INTEGER,
    -- Its Add in index_changes.
    added INTEGER NOT NULL,
    text TEXT NOT NULL,
    -- Little-endian f32.
    embedding BLOB NOT NULL,
    UNIQUE (collection, id)
);
CREATE INDEX chunks_of_document ON chunks (document, position);

-- Adds and removals of chunks in commit order. The Add of a chunk goes when the chunk does.
CREATE TABLE index_changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL,
    chunk_id TEXT NOT NULL
);
CREATE INDEX index_changes_of_collection ON index_changes (collection, seq);
