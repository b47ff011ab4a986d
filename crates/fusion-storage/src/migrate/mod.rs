//! `fusiond migrate`: a data folder's store moves into MongoDB.
//!
//! Everything is read from one SQLite store that no server uses, and put where it isn't yet: interrupted, the whole can be done
//! again. A mark in the database keeps servers away until it is done.

pub(crate) mod moved;

use std::{fs, sync::Arc};

use fusion_types::{
    Error, Result,
    blob::BlobStore,
    document::{CollectionRef, NewCollection},
    id::BlobId,
    job::Seq,
    page::Window,
    record::RecordWrite,
    store::{DocumentStore, JobStore, RecordStore},
};

use crate::{
    Config, MongoConfig,
    blobs::folder::FolderBlobs,
    mongo::{Mongo, documents, files::Files},
    sqlite::{self, Sqlite, jobs::Jobs, records::Records},
};

/// Jobs, changes and records that move together.
const AT_ONCE: u32 = 200;
/// Where the store keeps the name that tells it from others.
const NAMESPACE: &str = "migration";
const KEY: &str = "source";

/// How much has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    pub files: u64,
    pub records: u64,
    pub collections: u64,
    pub documents: u64,
    pub jobs: u64,
    pub changes: u64,
}

/// Moves what is in the folder to MongoDB, and tells now and then how far it is. Records of the namespaces `own` belong to the
/// server and stay. The folder stays as it is.
///
/// # Errors
/// `invalid_value` where there is no store, or something else in the database; `store_unavailable` where a server uses the folder,
/// or MongoDB doesn't answer.
pub async fn migrate(
    config: &Config,
    mongo: &MongoConfig,
    own: &[&str],
    tell: &(dyn Fn(Migrated) + Sync),
) -> Result<Migrated> {
    if !config.data_dir.join(sqlite::FILE).is_file() {
        let message = format!("there is no store in {}", config.data_dir.display());
        return Err(Error::invalid("data_dir", message));
    }
    let from = Arc::new(Sqlite::open(&config.data_dir, config.inputs).await?);
    let moved = async {
        let moving = Moving {
            to: Arc::new(Mongo::connect(mongo).await?),
            from: Arc::clone(&from),
            moved: Migrated::default(),
            tell,
        };
        moving.run(config, own).await
    };
    let moved = moved.await;
    from.close().await?;
    moved
}

struct Moving<'a> {
    from: Arc<Sqlite>,
    to: Arc<Mongo>,
    moved: Migrated,
    tell: &'a (dyn Fn(Migrated) + Sync),
}

impl Moving<'_> {
    async fn run(mut self, config: &Config, own: &[&str]) -> Result<Migrated> {
        let is_done = self.to.begin_taking(&self.source().await?).await?;
        if is_done {
            let message =
                "this store is in the database already; start servers with state.mongo_uri";
            return Err(Error::invalid("state.mongo_db", message));
        }
        self.files(config).await?;
        self.records(own).await?;
        self.collections().await?;
        self.jobs().await?;
        self.changes().await?;
        self.to.end_taking().await?;
        self.to.close().await;
        Ok(self.moved)
    }

    /// The name of this store, made when it is first moved.
    async fn source(&self) -> Result<String> {
        let records = Records::new(Arc::clone(&self.from));
        if let Some(known) = records.get(NAMESPACE, KEY).await? {
            return Ok(known.value.as_str().unwrap_or_default().to_owned());
        }
        let name = format!("{:032x}", rand::random::<u128>());
        let write = RecordWrite::put(NAMESPACE, KEY, name.clone().into());
        records.commit(vec![write]).await?;
        Ok(name)
    }

    async fn files(&mut self, config: &Config) -> Result<()> {
        let folder = config.data_dir.join("blobs");
        let from = FolderBlobs::open(&folder).await?;
        let to = Files::new(Arc::clone(&self.to));
        let unreadable = |error| Error::internal(format!("{}: {error}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with(BlobId::PREFIX) {
                continue;
            }
            let id = BlobId::from_text(&name);
            if to.get(&id, 0).await.is_err() {
                // Parts of it, should it have been begun.
                to.delete(&id).await?;
                to.put(&id, from.get(&id, 0).await?).await?;
            }
            self.moved.files += 1;
            (self.tell)(self.moved);
        }
        Ok(())
    }

    async fn records(&mut self, own: &[&str]) -> Result<()> {
        let mut last = None;
        loop {
            let some = self.from.records_after(last, AT_ONCE).await?;
            let Some(end) = some.last() else {
                return Ok(());
            };
            last = Some((end.namespace.clone(), end.key.clone()));
            let shared: Vec<_> = some
                .into_iter()
                .filter(|record| {
                    record.namespace != NAMESPACE && !own.contains(&record.namespace.as_str())
                })
                .collect();
            self.to.take_records(&shared).await?;
            self.moved.records += shared.len() as u64;
            (self.tell)(self.moved);
        }
    }

    async fn collections(&mut self) -> Result<()> {
        let to = documents::Documents::new(Arc::clone(&self.to));
        for (key, collection) in self.from.all_collections().await? {
            to.create_collection(NewCollection {
                key: key.clone(),
                embedding_model: collection.embedding_model,
                fingerprint: collection.fingerprint,
                dimension: collection.dimension,
                metadata: collection.metadata,
                created_at: collection.created_at,
            })
            .await?;
            self.documents(&key, &to).await?;
            self.moved.collections += 1;
        }
        Ok(())
    }

    async fn documents(&mut self, key: &CollectionRef, to: &dyn DocumentStore) -> Result<()> {
        let from = sqlite::documents::Documents::new(Arc::clone(&self.from));
        let mut offset = 0;
        loop {
            let window = Window {
                limit: Window::MOST,
                offset,
            };
            let page = from.documents(key, window).await?.items;
            if page.is_empty() {
                return Ok(());
            }
            offset += page.len() as u64;
            for info in page {
                let there = to.document(key, &info.document_id).await?;
                let is_there =
                    there.is_some_and(|there| there.info.content_hash == info.content_hash);
                if !is_there && let Some(version) = self.from.document_version(key, &info).await? {
                    to.commit(version).await?;
                }
                self.moved.documents += 1;
                (self.tell)(self.moved);
            }
        }
    }

    async fn jobs(&mut self) -> Result<()> {
        let mut last = 0;
        loop {
            let some = self.from.jobs_after(last, AT_ONCE).await?;
            let Some(end) = some.last() else {
                return Ok(());
            };
            last = end.number;
            self.to.take_jobs(&some).await?;
            self.moved.jobs += some.len() as u64;
            (self.tell)(self.moved);
        }
    }

    /// After the jobs, without which no change is shown.
    async fn changes(&mut self) -> Result<()> {
        let mut last = Seq(self.to.last_taken_change().await?);
        loop {
            let some = self.from.changes_after(last, AT_ONCE).await?;
            let Some(end) = some.last() else {
                break;
            };
            last = end.change.seq;
            self.to.take_changes(&some).await?;
            self.moved.changes += some.len() as u64;
            (self.tell)(self.moved);
        }
        let head = Jobs::new(Arc::clone(&self.from)).head().await?;
        Ok(self.to.number_changes_from(head.0).await?)
    }
}
