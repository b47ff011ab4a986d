//! Small JSON records. An object's fields are the document's, so that webhooks look in the database as people expect them.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    record::{Expect, Record, RecordWrite},
    store::RecordStore,
};
use mongodb::{
    ClientSession, Collection,
    bson::{Bson, Document, doc, oid::ObjectId},
};
use serde_json::{Map, Value};

use super::{
    Mongo, all,
    deadline::within,
    from_stored, is_duplicate,
    schema::{RECORDS, WEBHOOKS},
    stored_time, to_stored,
    transaction::{Work, pause},
    unexpired,
    value::{from_bson, from_document, to_bson},
};
use crate::{
    error::{StoreError, unavailable},
    migrate::moved::MovedRecord,
};

/// Records that one answer holds at most, and that one round sweeps.
const MOST: u32 = 1000;
/// The document's own fields. A record that has one of these, or is no object, is kept whole under the last.
const OWN: [&str; 6] = [
    "_id",
    "record_namespace",
    "record_key",
    "record_version",
    "ttl_expire_at",
    VALUE,
];
/// Others that may write the same record in between.
const TRIES: u32 = 30;
const VALUE: &str = "record_value";
/// Above every character that a key may go on with.
const LAST: char = char::MAX;

pub(crate) struct Records {
    store: Arc<Mongo>,
}

/// All writes, or none.
struct Commit<'a> {
    writes: &'a [RecordWrite],
}

impl Records {
    pub(crate) fn new(store: Arc<Mongo>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl RecordStore for Records {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>> {
        within(get(&self.store, namespace, key)).await
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        within(list(&self.store, namespace, prefix, after, limit)).await
    }

    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()> {
        match &writes[..] {
            [one] => within(commit_one(&self.store, one)).await,
            writes => within(self.store.transaction(&Commit { writes })).await,
        }
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        let mut removed = 0;
        for name in [RECORDS, WEBHOOKS] {
            removed += sweep(&self.store, name, now).await?;
        }
        Ok(removed)
    }
}

#[async_trait]
impl Work for Commit<'_> {
    type Output = ();

    async fn run(&self, store: &Mongo, session: &mut ClientSession) -> Result<(), StoreError> {
        let now = store.now().await?;
        for write in self.writes {
            apply(store, session, write, now).await?;
        }
        Ok(())
    }
}

async fn apply(
    store: &Mongo,
    session: &mut ClientSession,
    write: &RecordWrite,
    now: Timestamp,
) -> Result<(), StoreError> {
    let collection = collection(store, write.namespace);
    let found = collection
        .find_one(named(write.namespace, &write.key))
        .session(&mut *session)
        .await?;
    match decide(found.as_ref(), write, now)? {
        Change::Insert(document) => {
            collection.insert_one(document).session(session).await?;
        }
        Change::Replace(place, document) => {
            collection
                .replace_one(place, document)
                .session(session)
                .await?;
        }
        Change::Delete(place) => {
            collection.delete_one(place).session(session).await?;
        }
        Change::Nothing => {}
    }
    Ok(())
}

/// A single write needs no transaction: it happens where the record is still what was looked at, or looks again.
async fn commit_one(store: &Mongo, write: &RecordWrite) -> Result<(), StoreError> {
    let collection = collection(store, write.namespace);
    for attempt in 0..TRIES {
        let found = collection
            .find_one(named(write.namespace, &write.key))
            .await?;
        let is_done = match decide(found.as_ref(), write, store.now().await?)? {
            Change::Insert(document) => match collection.insert_one(document).await {
                Err(error) if is_duplicate(&error) => false,
                inserted => inserted.map(|_| true)?,
            },
            Change::Replace(place, document) => {
                let replaced = collection.replace_one(place, document).await?;
                replaced.matched_count == 1
            }
            Change::Delete(place) => collection.delete_one(place).await?.deleted_count == 1,
            Change::Nothing => true,
        };
        if is_done {
            return Ok(());
        }
        pause(attempt).await;
    }
    Err(unavailable("the store is too busy").into())
}

/// What a write does to what is stored. A place is the stored document, as it was looked at.
enum Change {
    Nothing,
    Insert(Document),
    Replace(Document, Document),
    Delete(Document),
}

/// # Errors
/// `version_conflict` when the record isn't as expected.
fn decide(
    found: Option<&Document>,
    write: &RecordWrite,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let live = found.filter(|found| !is_expired(found, now));
    let version = live.and_then(|live| live.get_i64("record_version").ok());
    if !is_as_expected(write.expect, version.map(from_stored)) {
        let message = format!(
            "{} {} was changed by somebody else",
            write.namespace, write.key
        );
        return Err(Error::new(ErrorCode::VersionConflict, message).into());
    }
    let id = found.and_then(|found| found.get_object_id("_id").ok());
    let place = found.map(|found| {
        let as_it_was = ["_id", "record_version", "ttl_expire_at"];
        let fields = as_it_was.map(|name| (name, found.get(name).cloned().unwrap_or(Bson::Null)));
        Document::from_iter(fields.map(|(name, value)| (name.to_owned(), value)))
    });
    let next = version.unwrap_or(0) + 1;
    Ok(match (&write.value, id, place) {
        (Some(value), Some(id), Some(place)) => {
            Change::Replace(place, document(id, write, value, next)?)
        }
        (Some(value), ..) => Change::Insert(document(ObjectId::new(), write, value, next)?),
        (None, _, Some(place)) => Change::Delete(place),
        (None, ..) => Change::Nothing,
    })
}

fn is_as_expected(expect: Expect, version: Option<u64>) -> bool {
    match expect {
        Expect::Anything => true,
        Expect::Absent => version.is_none(),
        Expect::Version(expected) => version == Some(expected),
    }
}

fn document(
    id: ObjectId,
    write: &RecordWrite,
    value: &Value,
    version: i64,
) -> Result<Document, StoreError> {
    let mut document = named(write.namespace, &write.key);
    document.insert("_id", id);
    whole(document, value, version, write.expires_at)
}

fn whole(
    mut document: Document,
    value: &Value,
    version: i64,
    expires_at: Option<Timestamp>,
) -> Result<Document, StoreError> {
    document.insert("record_version", version);
    document.insert("ttl_expire_at", expires_at.map(stored_time));
    match to_bson(value)? {
        Bson::Document(fields) if !OWN.iter().any(|own| fields.contains_key(own)) => {
            document.extend(fields);
        }
        value => {
            document.insert(VALUE, value);
        }
    }
    Ok(document)
}

/// A record that another store had, as it was there.
pub(super) async fn take(store: &Mongo, moved: &MovedRecord) -> Result<(), StoreError> {
    let named = named(&moved.namespace, &moved.key);
    let version = to_stored(moved.version);
    let expires_at = moved.expires_at;
    let document = whole(named.clone(), &moved.value, version, expires_at)?;
    collection(store, &moved.namespace)
        .replace_one(named, document)
        .upsert(true)
        .await?;
    Ok(())
}

fn record(mut document: Document) -> Result<Record, StoreError> {
    let key = document
        .get_str("record_key")
        .unwrap_or_default()
        .to_owned();
    let version = from_stored(document.get_i64("record_version").unwrap_or_default());
    let value = match document.remove(VALUE) {
        Some(value) => from_bson(value)?,
        None => {
            for own in OWN {
                document.remove(own);
            }
            let fields: Map<String, Value> = from_document(document)?;
            Value::Object(fields)
        }
    };
    Ok(Record {
        key,
        value,
        version,
    })
}

async fn get(store: &Mongo, namespace: &str, key: &str) -> Result<Option<Record>, StoreError> {
    let found = collection(store, namespace)
        .find_one(named(namespace, key))
        .await?;
    let Some(found) = found else {
        return Ok(None);
    };
    // Most never expire, and need no look at the clock.
    if found.get_datetime("ttl_expire_at").is_ok() && is_expired(&found, store.now().await?) {
        return Ok(None);
    }
    Ok(Some(record(found)?))
}

fn is_expired(found: &Document, now: Timestamp) -> bool {
    let expires_at = found.get_datetime("ttl_expire_at");
    expires_at.is_ok_and(|at| super::time(*at) <= now)
}

async fn list(
    store: &Mongo,
    namespace: &str,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Record>, StoreError> {
    let mut keys = doc! { "$gte": prefix };
    if !prefix.is_empty() {
        keys.insert("$lte", format!("{prefix}{LAST}"));
    }
    if let Some(after) = after {
        keys.insert("$gt", after);
    }
    let filter = doc! {
        "record_namespace": namespace,
        "record_key": keys,
        "ttl_expire_at": unexpired(store.now().await?),
    };
    let cursor = collection(store, namespace)
        .find(filter)
        .sort(doc! { "record_key": 1 })
        .limit(i64::from(limit.min(MOST)))
        .await?;
    all(cursor).await?.into_iter().map(record).collect()
}

async fn sweep(store: &Mongo, name: &str, now: Timestamp) -> Result<u64, StoreError> {
    let expired = doc! { "ttl_expire_at": { "$lte": stored_time(now) } };
    Ok(store
        .collection(name)
        .delete_many(expired)
        .await?
        .deleted_count)
}

/// Webhooks have a collection of their own.
fn collection(store: &Mongo, namespace: &str) -> Collection<Document> {
    store.collection(match namespace {
        WEBHOOKS => WEBHOOKS,
        _ => RECORDS,
    })
}

fn named(namespace: &str, key: &str) -> Document {
    doc! { "record_namespace": namespace, "record_key": key }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was() {
        for value in [
            json!({"url": "http://x", "n": 1}),
            json!({"record_key": "mine"}),
            json!({"a.b": 1}),
            json!({}),
            json!([1]),
            json!(null),
        ] {
            let write = RecordWrite::put("webhooks", "k", value.clone());
            let stored = document(ObjectId::new(), &write, &value, 7).unwrap();
            assert_eq!(stored.get("ttl_expire_at"), Some(&Bson::Null));
            let expected = Record {
                key: "k".to_owned(),
                value,
                version: 7,
            };
            assert_eq!(record(stored).unwrap(), expected);
        }
    }
}
