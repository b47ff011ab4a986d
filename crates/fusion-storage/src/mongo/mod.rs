//! The store on MongoDB: a replica set that several servers share.
//!
//! Writes are acknowledged by a majority and journalled, reads see what a majority has. Time is the server's own.

mod blobs;
mod deadline;
pub(crate) mod documents;
pub(crate) mod files;
mod import;
pub(crate) mod jobs;
pub(crate) mod records;
mod schema;
mod transaction;
mod value;

use std::time::Duration;

use fusion_types::{Error, Result, Timestamp, page::Window};
use futures::TryStreamExt;
use mongodb::{
    Client, Collection, Database,
    bson::{DateTime, Document, RawDocument, RawDocumentBuf, doc},
    options::{
        Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
    },
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::error::{StoreError, unavailable};

/// Until a server must have been found, so that neither a start nor a request hangs on one that is gone.
const FIND_SERVER: Duration = Duration::from_secs(5);
/// What a write may wait for the majority.
const MAJORITY: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(2);

/// Where the shared store is.
#[derive(Clone)]
pub struct MongoConfig {
    /// May hold a password, and is never shown.
    pub uri: String,
    pub database: String,
}

impl std::fmt::Debug for MongoConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MongoConfig")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Mongo {
    client: Client,
    database: Database,
}

/// What is read of a server's greeting.
#[derive(Deserialize)]
struct Hello {
    #[serde(rename = "localTime")]
    local_time: DateTime,
    #[serde(rename = "setName")]
    set_name: Option<String>,
    /// `isdbgrid` where a router of a sharded cluster answers.
    msg: Option<String>,
}

impl Mongo {
    /// # Errors
    /// As [`Mongo::connect`]; `store_unavailable` where the store in it isn't whole.
    pub(crate) async fn open(config: &MongoConfig) -> Result<Self> {
        let store = Self::connect(config).await?;
        store.check_whole().await?;
        Ok(store)
    }

    /// # Errors
    /// `store_unavailable` where no server answers in time, or one that can't do transactions.
    pub(crate) async fn connect(config: &MongoConfig) -> Result<Self> {
        let mut options = ClientOptions::parse(&config.uri)
            .await
            .map_err(|error| unavailable(format!("state.mongo_uri can't be read: {error}")))?;
        options.app_name.get_or_insert_with(|| "fusiond".to_owned());
        options.server_selection_timeout.get_or_insert(FIND_SERVER);
        options.connect_timeout.get_or_insert(FIND_SERVER);
        options.read_concern = Some(ReadConcern::majority());
        options.write_concern = Some(durable());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let servers = options
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let unreachable = |error: &dyn std::fmt::Display| {
            unavailable(format!(
                "MongoDB can't be used at {servers}: {error}; see that it runs and that state.mongo_uri (MONGO_URI, --mongo-uri) \
                 is right, or leave that out to use the embedded store"
            ))
        };
        let client = Client::with_options(options).map_err(|error| unreachable(&error))?;
        let store = Self {
            database: client.database(&config.database),
            client,
        };
        let hello = store.hello().await.map_err(|error| unreachable(&error))?;
        if hello.set_name.is_none() && hello.msg.as_deref() != Some("isdbgrid") {
            let wanted = "it is no replica set, and only these have transactions (one member will do: start it with --replSet \
                          and run rs.initiate())";
            return Err(unreachable(&wanted));
        }
        schema::prepare(&store.database)
            .await
            .map_err(|error| unreachable(&error))?;
        Ok(store)
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }

    fn raw(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(name)
    }

    async fn hello(&self) -> mongodb::error::Result<Hello> {
        let answer = self.database.run_command(doc! { "hello": 1 }).await?;
        Ok(mongodb::bson::deserialize_from_document(answer)?)
    }

    /// The server's clock.
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(time(self.hello().await?.local_time))
    }

    /// Ends the connections. What is asked of the store from now on fails.
    pub(crate) async fn close(&self) {
        self.client.clone().shutdown().immediate(true).await;
    }

    pub(crate) async fn is_connected(&self) -> bool {
        let ping = self.database.run_command(doc! { "ping": 1 });
        tokio::time::timeout(PING, ping)
            .await
            .is_ok_and(|answer| answer.is_ok())
    }
}

/// How much later the server's clock is than this machine's; zero where they are about the same. What this machine made of its own
/// clock is true of the server's once this is added.
fn clock_offset(now: Timestamp) -> i64 {
    const ABOUT_THE_SAME: i64 = 2_000;
    let offset = now.as_millis() - Timestamp::now().as_millis();
    if offset.abs() > ABOUT_THE_SAME {
        offset
    } else {
        0
    }
}

/// Survives the loss of any one server.
fn durable() -> WriteConcern {
    let mut concern = WriteConcern::majority();
    concern.journal = Some(true);
    concern.w_timeout = Some(MAJORITY);
    debug_assert_eq!(concern.w, Some(Acknowledgment::Majority));
    concern
}

fn time(stored: DateTime) -> Timestamp {
    Timestamp::from_millis(stored.timestamp_millis())
}

fn stored_time(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.as_millis())
}

fn unexpired(now: Timestamp) -> Document {
    doc! { "$not": { "$lte": stored_time(now) } }
}

/// BSON's integers are signed; nothing counted here gets near the border.
fn to_stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_stored(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn bounds(window: Window) -> (i64, u64) {
    (i64::from(window.limit.min(Window::MOST)), window.offset)
}

fn read<T: DeserializeOwned>(document: &RawDocument) -> Result<T, StoreError> {
    mongodb::bson::deserialize_from_slice(document.as_bytes())
        .map_err(|error| StoreError::Mongo(error.into()))
}

fn written(value: &impl serde::Serialize) -> Result<Document, StoreError> {
    mongodb::bson::serialize_to_document(value).map_err(|error| StoreError::Mongo(error.into()))
}

async fn all<T>(cursor: mongodb::Cursor<T>) -> Result<Vec<T>, StoreError>
where
    T: DeserializeOwned + Send + Unpin,
{
    Ok(cursor.try_collect().await?)
}

const DUPLICATE_KEY: i32 = 11_000;

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    error_code(error) == Some(DUPLICATE_KEY)
}

/// The server's number for what went wrong: for the first thing that isn't a duplicate, where several did.
fn error_code(error: &mongodb::error::Error) -> Option<i32> {
    use mongodb::error::{ErrorKind, WriteFailure};
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(error) => error
            .write_errors
            .iter()
            .flatten()
            .map(|error| error.code)
            .reduce(|first, code| if first == DUPLICATE_KEY { code } else { first }),
        _ => None,
    }
}

/// What clients are told where the database failed; the details go to the log, which must not hold what they sent.
pub(crate) fn public(error: &mongodb::error::Error) -> Error {
    use mongodb::error::ErrorKind;
    /// Not primary, shutting down, stepping down, timed out, no majority in time: by the driver's list of retryable codes.
    const PASSING: [i32; 15] = [
        6, 7, 50, 64, 89, 91, 134, 189, 262, 9001, 10_107, 11_600, 11_602, 13_435, 13_436,
    ];
    let is_passing = matches!(
        &*error.kind,
        ErrorKind::Io(_)
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::Authentication { .. }
            | ErrorKind::Shutdown
    ) || error_code(error).is_some_and(|code| PASSING.contains(&code))
        || error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR)
        || error.contains_label(mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT);
    let code = error_code(error);
    if is_passing {
        tracing::warn!(code, "the database can't be used now");
        return unavailable("the store can't be reached or written now");
    }
    tracing::error!(code, kind = kind(error), "the database failed");
    Error::internal("the store failed")
}

/// The error's kind without its text, which may quote a document.
fn kind(error: &mongodb::error::Error) -> &'static str {
    use mongodb::error::ErrorKind;
    match &*error.kind {
        ErrorKind::InvalidArgument { .. } => "invalid argument",
        ErrorKind::BsonDeserialization(_)
        | ErrorKind::BsonSerialization(_)
        | ErrorKind::Bson(_) => "bson",
        ErrorKind::InsertMany(_) | ErrorKind::Write(_) | ErrorKind::BulkWrite(_) => "write",
        ErrorKind::Command(_) => "command",
        ErrorKind::InvalidResponse { .. } => "invalid response",
        ErrorKind::Transaction { .. } => "transaction",
        ErrorKind::IncompatibleServer { .. } => "incompatible server",
        _ => "other",
    }
}
