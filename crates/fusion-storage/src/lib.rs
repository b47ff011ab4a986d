//! The state store, and the indexes derived from it.
//!
//! The store is the truth: what it acknowledged is committed and synced. Indexes live in memory, follow the store's log of
//! chunk changes, and are safe to lose.

mod backup;
mod blobs;
mod error;
mod index;
mod inputs;
mod job_state;
mod kick;
mod lock;
mod migrate;
mod mongo;
mod queue;
mod rate;
mod redis;
mod sqlite;

pub use backup::{Copied, backup, restore};
pub use migrate::{Migrated, migrate};

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use fusion_types::{
    Result,
    blob::BlobStore,
    store::{ChunkIndex, DocumentStore, JobStore, RecordStore},
};

use crate::{
    blobs::folder::FolderBlobs,
    index::{exact::ExactIndex, keyword::KeywordIndex},
    kick::Kick,
    mongo::Mongo,
    redis::{Hinted, Link},
    sqlite::Sqlite,
};

pub use crate::{inputs::Inputs, mongo::MongoConfig, rate::Rate, redis::RedisConfig};

/// Which backend keeps the state, and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// Made where it is missing; one server at a time can use it.
    pub data_dir: PathBuf,
    /// Where servers share the state; `None` keeps it in the data folder.
    pub mongo: Option<MongoConfig>,
    /// Beside MongoDB: says at once what else a server would find out by looking.
    pub redis: Option<RedisConfig>,
    pub inputs: Inputs,
}

impl Config {
    /// Everything in the folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            mongo: None,
            redis: None,
            inputs: Inputs::default(),
        }
    }
}

/// The open store by its parts, and its indexes.
#[derive(Clone)]
pub struct Storage {
    pub jobs: Arc<dyn JobStore>,
    pub documents: Arc<dyn DocumentStore>,
    pub records: Arc<dyn RecordStore>,
    /// Files, with the state: in a folder beside SQLite, in MongoDB in parts.
    pub blobs: Arc<dyn BlobStore>,
    /// Records that are this server's own, such as its models; [`Storage::records`] where the store isn't shared.
    pub own_records: Arc<dyn RecordStore>,
    /// Exact nearest neighbours; empty at start, filled from [`DocumentStore::index_changes`].
    pub dense: Arc<dyn ChunkIndex>,
    /// BM25; empty at start, filled from [`DocumentStore::index_changes`].
    pub keyword: Arc<dyn ChunkIndex>,
    rates: Arc<rate::Local>,
    backend: Backend,
}

/// What keeps the state.
#[derive(Clone)]
enum Backend {
    Sqlite(Arc<Sqlite>),
    Mongo(Arc<Shared>),
}

/// What belongs to a store that servers share.
struct Shared {
    store: Arc<Mongo>,
    link: Option<Arc<Link>>,
    /// Of this server alone, like the folder that it locks.
    own: Arc<Sqlite>,
}

/// Whether what the state is kept in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// `None` where it isn't used.
    pub sqlite: Option<bool>,
    pub mongo: Option<bool>,
    pub redis: Option<bool>,
}

impl Health {
    /// Whether the truth can be read and written; Redis is not needed for that.
    pub fn is_good(&self) -> bool {
        self.sqlite.unwrap_or(true) && self.mongo.unwrap_or(true)
    }
}

/// Opens the store, or makes a new one.
///
/// # Errors
/// `store_unavailable` when another server uses the folder, when it can't be read or written, when a newer version wrote it, or
/// when it is damaged; and when the database doesn't answer.
pub async fn open(config: &Config) -> Result<Storage> {
    match &config.mongo {
        None => open_sqlite(config).await,
        Some(mongo) => open_mongo(config, mongo).await,
    }
}

async fn open_sqlite(config: &Config) -> Result<Storage> {
    let store = Arc::new(Sqlite::open(&config.data_dir, config.inputs).await?);
    // After the folder's lock: what is swept there is nobody else's.
    let blobs = FolderBlobs::open(&config.data_dir.join("blobs")).await?;
    let records: Arc<dyn RecordStore> = Arc::new(sqlite::records::Records::new(Arc::clone(&store)));
    Ok(Storage {
        jobs: Arc::new(sqlite::jobs::Jobs::new(Arc::clone(&store))),
        documents: Arc::new(sqlite::documents::Documents::new(Arc::clone(&store))),
        own_records: Arc::clone(&records),
        records,
        blobs: Arc::new(blobs),
        dense: Arc::new(ExactIndex::default()),
        keyword: Arc::new(KeywordIndex::default()),
        rates: Arc::default(),
        backend: Backend::Sqlite(store),
    })
}

async fn open_mongo(config: &Config, mongo: &MongoConfig) -> Result<Storage> {
    let own = Arc::new(Sqlite::open(&config.data_dir, config.inputs).await?);
    let store = match Mongo::open(mongo).await {
        Ok(store) => Arc::new(store),
        Err(error) => {
            // For whoever tries again at once.
            own.close().await?;
            return Err(error);
        }
    };
    let kick = Kick::default();
    let queue = Arc::new(mongo::jobs::Jobs::new(
        Arc::clone(&store),
        config.inputs,
        kick.clone(),
    ));
    let (jobs, link): (Arc<dyn JobStore>, _) = match &config.redis {
        None => (queue, None),
        Some(redis) => {
            let link = Link::open(redis, &mongo.database).await?;
            link.start(queue.clone(), kick);
            (Arc::new(Hinted::new(queue, Arc::clone(&link))), Some(link))
        }
    };
    Ok(Storage {
        jobs,
        documents: Arc::new(mongo::documents::Documents::new(Arc::clone(&store))),
        records: Arc::new(mongo::records::Records::new(Arc::clone(&store))),
        blobs: Arc::new(mongo::files::Files::new(Arc::clone(&store))),
        own_records: Arc::new(sqlite::records::Records::new(Arc::clone(&own))),
        dense: Arc::new(ExactIndex::default()),
        keyword: Arc::new(KeywordIndex::default()),
        rates: Arc::default(),
        backend: Backend::Mongo(Arc::new(Shared { store, link, own })),
    })
}

impl Storage {
    /// SQLite's last write tells, which fails while the disk is full or gone, and after [`Storage::close`]; others are asked.
    pub async fn health(&self) -> Health {
        match &self.backend {
            Backend::Sqlite(store) => Health {
                sqlite: Some(store.is_healthy()),
                mongo: None,
                redis: None,
            },
            Backend::Mongo(shared) => Health {
                sqlite: Some(shared.own.is_healthy()),
                mongo: Some(shared.store.is_connected().await),
                redis: match &shared.link {
                    Some(link) => Some(link.is_connected().await),
                    None => None,
                },
            },
        }
    }

    /// Whether the truth can be read and written.
    pub async fn is_healthy(&self) -> bool {
        self.health().await.is_good()
    }

    /// Whether other servers may use the same state.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Mongo(..))
    }

    /// Counts a client's request: at all servers together where they share a Redis, and here while that is away.
    ///
    /// # Errors
    /// How long to wait where it comes too early.
    pub async fn admit(&self, client: &str, rate: Rate) -> std::result::Result<(), Duration> {
        if let Backend::Mongo(shared) = &self.backend
            && let Some(link) = &shared.link
            && let Some(answer) = link.admit(client, rate).await
        {
            return answer;
        }
        self.rates.admit(client, rate, Instant::now())
    }

    /// Commits what waits, empties the write-ahead log into the database, and gives the folder free. Whoever still holds a part of
    /// the store gets `store_unavailable` from it.
    ///
    /// # Errors
    /// `store_unavailable` when that takes longer than ten seconds; what was acknowledged is safe all the same.
    pub async fn close(self) -> Result<()> {
        match self.backend {
            Backend::Sqlite(store) => store.close().await,
            Backend::Mongo(shared) => {
                if let Some(link) = &shared.link {
                    link.close().await;
                }
                shared.store.close().await;
                shared.own.close().await
            }
        }
    }
}
