//! Small JSON records.

use std::sync::Arc;

use async_trait::async_trait;
use fusion_types::{
    Error, ErrorCode, Result, Timestamp,
    record::{Expect, Record, RecordWrite},
    store::RecordStore,
};
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Sqlite, from_json, from_stored, to_json, to_stored, writer::Transaction};
use crate::{error::StoreError, migrate::moved::MovedRecord};

/// Records that one answer holds at most, and that one transaction sweeps.
const MOST: u32 = 1000;

pub(crate) struct Records {
    store: Arc<Sqlite>,
}

impl Records {
    pub(crate) fn new(store: Arc<Sqlite>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl RecordStore for Records {
    async fn get(&self, namespace: &str, key: &str) -> Result<Option<Record>> {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.store
            .read(move |connection| find(connection, &namespace, &key, Timestamp::now()))
            .await
    }

    async fn list(
        &self,
        namespace: &str,
        prefix: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Record>> {
        let (namespace, prefix) = (namespace.to_owned(), prefix.to_owned());
        let after = after.map(str::to_owned);
        self.store
            .read(move |connection| list(connection, &namespace, &prefix, after.as_deref(), limit))
            .await
    }

    async fn commit(&self, writes: Vec<RecordWrite>) -> Result<()> {
        self.store
            .write(move |transaction| {
                let now = Timestamp::now();
                writes
                    .iter()
                    .try_for_each(|write| apply(transaction, write, now))
            })
            .await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64> {
        let mut removed = 0;
        loop {
            let some = self
                .store
                .write(move |transaction| sweep(transaction, now))
                .await?;
            removed += some;
            if some < u64::from(MOST) {
                return Ok(removed);
            }
        }
    }
}

impl Sqlite {
    /// Of all namespaces, those behind this one that haven't expired.
    pub(crate) async fn records_after(
        &self,
        after: Option<(String, String)>,
        limit: u32,
    ) -> Result<Vec<MovedRecord>> {
        self.read(move |connection| records_after(connection, after.unwrap_or_default(), limit))
            .await
    }
}

fn records_after(
    connection: &Connection,
    after: (String, String),
    limit: u32,
) -> Result<Vec<MovedRecord>, StoreError> {
    let sql = "SELECT key, value, version, namespace, expires_at FROM records WHERE (namespace, key) > (?1, ?2) \
               AND (expires_at IS NULL OR expires_at > ?3) ORDER BY namespace, key LIMIT ?4";
    let mut statement = connection.prepare_cached(sql)?;
    let now = Timestamp::now().as_millis();
    let mut rows = statement.query((after.0, after.1, now, limit))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let Record {
            key,
            value,
            version,
        } = read(row)?;
        records.push(MovedRecord {
            namespace: row.get(3)?,
            key,
            value,
            version,
            expires_at: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_millis),
        });
    }
    Ok(records)
}

fn find(
    connection: &Connection,
    namespace: &str,
    key: &str,
    now: Timestamp,
) -> Result<Option<Record>, StoreError> {
    let sql = "SELECT key, value, version FROM records \
               WHERE namespace = ?1 AND key = ?2 AND (expires_at IS NULL OR expires_at > ?3)";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row((namespace, key, now.as_millis()), |row| Ok(read(row)))
        .optional()?
        .transpose()
}

fn read(row: &Row<'_>) -> Result<Record, StoreError> {
    let value = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
    Ok(Record {
        key: row.get(0)?,
        value: from_json(value)?,
        version: from_stored(row.get(2)?),
    })
}

fn list(
    connection: &Connection,
    namespace: &str,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Record>, StoreError> {
    let sql = "SELECT key, value, version FROM records WHERE namespace = ?1 AND key >= ?2 AND (?3 IS NULL OR key > ?3) \
               AND (expires_at IS NULL OR expires_at > ?4) ORDER BY key LIMIT ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let limit = limit.min(MOST);
    let mut rows = statement.query((
        namespace,
        prefix,
        after,
        Timestamp::now().as_millis(),
        limit,
    ))?;
    let mut records = Vec::new();
    // Keys with the prefix stand together, so the first without it ends them.
    while let Some(row) = rows.next()?
        && row
            .get_ref(0)?
            .as_str()
            .is_ok_and(|key| key.starts_with(prefix))
    {
        records.push(read(row)?);
    }
    Ok(records)
}

fn apply(
    transaction: &Transaction<'_>,
    write: &RecordWrite,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "SELECT version FROM records WHERE namespace = ?1 AND key = ?2 AND (expires_at IS NULL OR expires_at > ?3)";
    let version = transaction
        .prepare_cached(sql)?
        .query_row((write.namespace, &write.key, now.as_millis()), |row| {
            row.get(0)
        })
        .optional()?
        .map(from_stored);
    if !is_as_expected(write.expect, version) {
        let message = format!(
            "{} {} was changed by somebody else",
            write.namespace, write.key
        );
        return Err(Error::new(ErrorCode::VersionConflict, message).into());
    }
    match &write.value {
        Some(value) => {
            let sql = "INSERT OR REPLACE INTO records (namespace, key, value, version, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)";
            let version = to_stored(version.unwrap_or(0) + 1);
            let expires_at = write.expires_at.map(Timestamp::as_millis);
            transaction.prepare_cached(sql)?.execute((
                write.namespace,
                &write.key,
                to_json(value)?,
                version,
                expires_at,
            ))?;
        }
        None => {
            let sql = "DELETE FROM records WHERE namespace = ?1 AND key = ?2";
            transaction
                .prepare_cached(sql)?
                .execute((write.namespace, &write.key))?;
        }
    }
    Ok(())
}

fn is_as_expected(expect: Expect, version: Option<u64>) -> bool {
    match expect {
        Expect::Anything => true,
        Expect::Absent => version.is_none(),
        Expect::Version(expected) => version == Some(expected),
    }
}

fn sweep(transaction: &Transaction<'_>, now: Timestamp) -> Result<u64, StoreError> {
    let sql = "DELETE FROM records WHERE (namespace, key) IN \
               (SELECT namespace, key FROM records WHERE expires_at <= ?1 LIMIT ?2)";
    Ok(transaction.execute(sql, (now.as_millis(), MOST))? as u64)
}
